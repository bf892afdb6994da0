"""How long does training stand still for a checkpoint?"""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch

from benchmarks.alternate import ROUNDS, heading, ratio, show
from benchmarks.sides import case, corpus, planned
from model import optim
from model.checkpoint import Identity
from model.group import join
from model.meter import Signal
from model.saver import Saver
from model.train import Trainer

STEPS = 2
STALL, BLOCKING = "copy, then write behind", "the same, waited for"
TORCH = "torch.save: no digest, no fsync"
WRITING, ALONE = f"{STEPS} steps while it is written", f"{STEPS} steps alone"


def main() -> None:
    heading("Stall of a checkpoint, 4 x 256, vocabulary 50257")
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        run = case(corpus(Path(folder), 50257), vocab=50257, width=256, precision="bf16")
        plan = planned(run)
        group = join(plan)
        trainer = Trainer(run, plan, group, Path(folder), None)
        trainer.make_ready()
        identity = Identity.of(run, plan)
        with Saver(Path(folder) / "checkpoints", identity, group, None, lambda step, path, sha256: None) as saver:
            _train(trainer)
            saver.save(trainer.state())  # the first copy also gets the buffers
            saver.settle()
            times = _alternated(trainer, saver, Path(folder))
    pairs = ((BLOCKING, STALL), (TORCH, STALL), (WRITING, ALONE))
    rows = [[a, f"{median(times[a]):.3f}", b, f"{median(times[b]):.3f}", ratio(times[a], times[b])] for a, b in pairs]
    show(["this", "seconds", "against", "seconds", "this / against"], rows)


def _alternated(trainer: Trainer, saver: Saver, folder: Path) -> dict[str, list[float]]:
    """Seconds, by round. A step after each, so that every checkpoint is of another step."""
    times: dict[str, list[float]] = {}
    for _ in range(ROUNDS):
        _note(times, STALL, lambda: saver.begin(trainer.state()))
        _note(times, WRITING, lambda: _train(trainer))
        saver.settle()
        _note(times, ALONE, lambda: _train(trainer))
        _note(times, BLOCKING, lambda: _settled(trainer, saver))
        _note(times, TORCH, lambda: _torch_saved(trainer, folder / "model.pt"))
        _train(trainer)
    return times


def _note(times: dict[str, list[float]], name: str, action: Callable[[], None]) -> None:
    began = time.perf_counter()
    action()
    times.setdefault(name, []).append(time.perf_counter() - began)


def _train(trainer: Trainer) -> None:
    for _ in range(STEPS):
        trainer.update(trainer.compute(Signal.CONTINUE, False))


def _settled(trainer: Trainer, saver: Saver) -> None:
    saver.begin(trainer.state())
    saver.settle()


def _torch_saved(trainer: Trainer, path: Path) -> None:
    torch.save({"model": trainer.gpt.state_dict(), "optimizer": optim.state(trainer.gpt, trainer.optimiser)}, path)
