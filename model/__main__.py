"""`torchrun --nproc-per-node N -m model STUDY RUN FOLDER`: one run of a study, without Ray or Redis."""

import argparse
import os
import signal
import sys
from pathlib import Path

import torch.distributed as dist

from farm.errors import NotFound
from farm.record import layout
from farm.record.ledger import FILE, Line
from farm.study import planner
from farm.study.run import Run
from farm.study.study import Study
from model import checkpoint
from model.assignment import Assignment, Listener, Resume
from model.corpus.checks import exams_of
from model.group import check, in_turn, initialise, join
from model.meter import Signal
from model.train import train


def main() -> None:
    """Train RUN in FOLDER, in a folder per attempt as a run directory has it. Called again, it resumes from the newest
    checkpoint there. SIGTERM saves and ends."""
    parser = argparse.ArgumentParser(prog="model", description="Train one run of a study.")
    parser.add_argument("study", type=Path)
    parser.add_argument("run", help="the run's id, or the beginning of it")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--cache", type=Path, default=Path("~/.cache/farm"))
    arguments = parser.parse_args()
    study = Study.load(arguments.study)
    run = _choose(study.runs(), arguments.run)
    machine = study.machine(run.machine, {})
    meets = initialise if int(os.environ.get("WORLD_SIZE", "1")) > 1 else check
    meets(on_cuda=not machine.is_cpu)
    plan = planner.plan(run.recipe, machine)
    found = checkpoint.newest_valid(arguments.folder.glob(f"*/{layout.CHECKPOINTS}"), run, plan)
    # Rank 0 creates its ledger once all ranks have met, so that they all count the same ones here.
    epoch = 1 + len(list(arguments.folder.glob(f"*/{FILE}")))
    folder = arguments.folder / str(epoch)
    folder.mkdir(parents=True, exist_ok=True)
    cache = arguments.cache.expanduser()
    group = join(plan)
    assignment = Assignment(
        run,
        plan,
        folder,
        cache,
        epoch,
        resume=found and Resume(found.path, layout.epoch_of(found.path)),
        exams=in_turn(lambda: exams_of(run.recipe, study.evaluations, cache), group),
        samples=study.samples,
    )
    outcome = train(assignment, _Terminal())
    if group.leads:
        print(outcome.model_dump_json())
    if dist.is_initialized():
        dist.destroy_process_group()


class _Terminal(Listener):
    """Says on stderr what happens, and hears SIGTERM."""

    def __init__(self) -> None:
        self._is_told_to_stop = False
        signal.signal(signal.SIGTERM, self._stop)

    def _stop(self, *_: object) -> None:
        self._is_told_to_stop = True

    def signal(self) -> Signal:
        return Signal.STOP if self._is_told_to_stop else Signal.CONTINUE

    def on_step(self, line: Line) -> None:
        print(f"step {line.step} loss {line.loss_sum / line.tokens:.4f}", file=sys.stderr)

    def on_saved(self, step: int, path: Path, sha256: str) -> None:
        print(f"step {step} saved in {path}", file=sys.stderr)

    def on_note(self, event: str, detail: str) -> None:
        print(f"{event}: {detail}", file=sys.stderr)


def _choose(runs: list[Run], beginning: str) -> Run:
    found = [run for run in runs if run.id.startswith(beginning)]
    if len(found) != 1:
        ids = ", ".join(run.id for run in (found or runs)[:8])
        raise NotFound(f"{len(found)} runs of the study begin with {beginning!r}.", remedy=f"Choose one of {ids}.")
    return found[0]


if __name__ == "__main__":
    main()
