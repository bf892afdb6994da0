"""Tiny runs, and worlds of real processes that train them over Gloo."""

import multiprocessing
import multiprocessing.forkserver
import tempfile
import traceback
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import numpy as np
import torch

from farm.record import sample
from farm.record.ledger import Line
from farm.record.result import Exam, Outcome, Tokens
from farm.record.sample import Sample
from farm.study.planner import Plan
from farm.study.recipe import Recipe, Seeds
from farm.study.run import Run
from farm.study.samples import Samples
from model.assignment import Assignment, Listener, Resume
from model.group import initialise
from model.meter import Signal
from model.train import train

VOCAB, CONTEXT, STEPS, BATCH = 67, 8, 4, 8
TINY: dict[str, dict[str, Any]] = {
    "model": {"vocab": VOCAB, "context": CONTEXT, "width": 16, "layers": 2, "heads": 2, "dropout": 0.1},
    "train": {"batch": BATCH, "tokens": STEPS * BATCH * CONTEXT, "precision": "fp32", "learning_rate": 3e-3},
    "evaluation": {"offset": 0, "sequences": 13},
}
TINY["train"] |= {"kernels": "farm"}  # whatever this processor would choose: every promise is to hold with our own
SECONDS = 120.0

torch.set_num_threads(1)  # more would change the last bits, and wait for each other longer than they compute

# Children are forked from a server that has imported torch but computed nothing: quick, and no thread is lost.
# torch imports _dynamo when the first optimiser is made, which would take every child 2 s.
_processes = multiprocessing.get_context("forkserver")
_processes.set_forkserver_preload(["pytest", "torch._dynamo", "model.train"])


def corpus(folder: Path, tokens: int = 4000) -> Path:
    """Random tokens, but the first half of every batch is far easier: ranks have unlike shares of the loss."""
    random = np.random.default_rng(0)
    for split in ("train", "validation"):
        stream = random.integers(0, VOCAB, tokens)
        easy = np.arange(tokens) // CONTEXT % BATCH < BATCH // 2
        np.where(easy, 7, stream).astype(np.uint16).tofile(folder / f"{split}.bin")
    return folder


def tiny(folder: Path, **tables: dict[str, Any]) -> Run:
    """A run of STEPS steps on `corpus(folder)`, with changes: tiny(folder, train={"compile": True})."""
    recipe = Recipe().with_patch(TINY).with_patch({"data": {"source": str(folder)}}).with_patch(tables)
    return Run(arm="baseline", recipe=recipe, seeds=Seeds(), machine="cpu")


def canonical(folder: Path, **tables: dict[str, Any]) -> Run:
    """The same with the canonical reduction and microbatches of 1."""
    tree = {"reduction": "canonical", "canonical_microbatch": 1}
    return tiny(folder, **tables | {"train": tree | tables.get("train", {})})


def planned(run: Run, world: int, microbatch: int = 1) -> Plan:
    accumulation = run.recipe.train.batch // (world * microbatch)
    return Plan(
        machine="cpu", world=world, microbatch=microbatch, accumulation=accumulation, bytes_needed=1, basis="declared"
    )


def shared(run: Run, *shares: int) -> Plan:
    """A plan of microbatches of 1 in unequal shares, one a rank."""
    assert sum(shares) == run.recipe.train.batch
    return planned(run, 1).model_copy(
        update={"world": len(shares), "accumulation": max(shares), "shares": shares, "shares_basis": "equal"}
    )


class Told:
    """What a training said on the way."""

    def __init__(self) -> None:
        self.lines: list[Line] = []
        self.saved: list[tuple[int, Path, str]] = []
        self.notes: list[tuple[str, str]] = []

    @property
    def losses(self) -> list[float]:
        return [line.loss_sum / line.tokens for line in self.lines]

    @property
    def timeless(self) -> list[Line]:
        """The lines without what differs from run to run."""
        return [timeless(line) for line in self.lines]


class _Hearing(Listener):
    """Keeps in `told` what it hears. `signals` is given the number of steps seen so far."""

    def __init__(self, told: Told, signals: Callable[[int], Signal]):
        self._told, self._signals = told, signals

    def signal(self) -> Signal:
        return self._signals(len(self._told.lines))

    def on_step(self, line: Line) -> None:
        self._told.lines.append(line)

    def on_saved(self, step: int, path: Path, sha256: str) -> None:
        self._told.saved.append((step, path, sha256))

    def on_note(self, event: str, detail: str) -> None:
        self._told.notes.append((event, detail))


def timeless(line: Line) -> Line:
    validation = line.validation and line.validation._replace(seconds=0.0)
    return line._replace(seconds=0.0, validation=validation)


def sampled(folder: Path) -> list[Sample]:
    """What a run said whose attempts are in `folder`, without what differs from run to run."""
    found = {int(path.parent.name): sample.parse(path.read_bytes()) for path in folder.glob(f"*/{sample.FILE}")}
    whole = sample.chain({epoch: file for epoch, file in found.items() if file})
    return [one.model_copy(update={"seconds": 0.0}) for one in whole]


SOME_TOKENS = Tokens(head="0" * 64, trained="0" * 64, tested="0" * 64, validated="0" * 64)


def attempt(
    run: Run,
    plan: Plan,
    folder: Path,
    *,
    resume: Path | None = None,
    signals: Callable[[int], Signal] = lambda step: Signal.CONTINUE,
    epoch: int = 1,
    tokens: Tokens | None = SOME_TOKENS,
    exams: Sequence[Exam] = (),
    samples: Samples | None = None,
) -> tuple[Outcome, Told]:
    """Train in this process, which is one of a world or alone. `signals` is given the number of steps seen so far."""
    told = Told()
    attempt_folder = folder / str(epoch)
    attempt_folder.mkdir(parents=True, exist_ok=True)
    start = Resume(resume, epoch - 1) if resume else None
    cache = folder.parent / "cache"
    assignment = Assignment(run, plan, attempt_folder, cache, epoch, start, tokens, exams, samples)
    outcome = train(assignment, _Hearing(told, signals))
    return outcome, told


def stop_after(step: int) -> Callable[[int], Signal]:
    return lambda seen: Signal.STOP if seen == step - 1 else Signal.CONTINUE


def in_world(world: int, task: Callable[..., Any], *arguments: Any) -> list[Any]:
    """Run `task(*arguments)` on `world` processes joined in a Gloo group; what each returned, by rank."""
    with tempfile.TemporaryDirectory() as folder:
        pipes = [_processes.Pipe(duplex=False) for _ in range(world)]
        children = [
            _processes.Process(target=_child, args=(rank, world, f"{folder}/meet", pipe, task, arguments), daemon=True)
            for rank, (_, pipe) in enumerate(pipes)
        ]
        for child in children:
            child.start()
        for _, ours in pipes:
            ours.close()
        try:
            return _collected([pipe for pipe, _ in pipes])
        finally:
            for child in children:
                child.kill()
                child.join()


def _collected(pipes: Sequence[Connection]) -> list[Any]:
    results: dict[int, Any] = {}
    while len(results) < len(pipes):
        ready = wait([pipe for rank, pipe in enumerate(pipes) if rank not in results], timeout=SECONDS)
        assert ready, f"only ranks {sorted(results)} of {len(pipes)} have ended after {SECONDS:g} s"
        for pipe in ready:
            rank = pipes.index(pipe)
            try:
                results[rank], failure = pipe.recv()
            except EOFError:
                failure = "it died"
            assert not failure, f"rank {rank}: {failure}"
    return [results[rank] for rank in range(len(pipes))]


def _child(rank: int, world: int, meeting: str, pipe: Connection, task: Callable[..., Any], arguments: tuple) -> None:
    try:
        initialise(on_cuda=False, init_method=f"file://{meeting}", rank=rank, world_size=world)
        pipe.send((task(*arguments), None))
    except BaseException:
        pipe.send((None, traceback.format_exc()))
    # A rank that leaves at once closes its connections while another may still be making them: the parent kills all.
    if parent := multiprocessing.parent_process():
        parent.join()
