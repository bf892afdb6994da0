"""The input of `train`: one attempt at a run, as a value, and a listener that follows it and may end it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from farm.record.ledger import Line
from farm.record.result import Exam, Peaks, Tokens
from farm.study.planner import Plan
from farm.study.run import Run
from farm.study.samples import Samples
from model.meter import Signal


class Resume(NamedTuple):
    """Where a run goes on: a checkpoint's folder, and the epoch of the attempt that made it."""

    checkpoint: Path
    epoch: int


@dataclass(frozen=True)
class Assignment:
    """One attempt at `run`, done as `plan` says; the same for every rank.

    `folder` is the attempt's own, `cache` where corpora lie on this node. `tokens` are those that were found in the
    corpus before; None: they are looked up here. Meanwhile the model is sampled from as `samples` says, and at the end
    it is tested, and scored by `exams`.
    """

    run: Run
    plan: Plan
    folder: Path
    cache: Path
    epoch: int = 1
    resume: Resume | None = None  # None: from the start
    tokens: Tokens | None = None
    exams: Sequence[Exam] = ()
    samples: Samples | None = None  # None: it is not


class Listener:
    """Hears what happens in a training, and says whether it goes on. This one lets it train, and keeps nothing."""

    def signal(self) -> Signal:
        """Tell training what to do; asked on rank 0 before each step."""
        return Signal.CONTINUE

    def on_peaks(self, peaks: Peaks) -> None:
        """The accelerator reaches this at its best; on rank 0 of a group of GPUs."""

    def on_step(self, line: Line) -> None:
        """An optimiser step is done, and in the ledger; on rank 0."""

    def on_saved(self, step: int, path: Path, sha256: str) -> None:
        """A checkpoint is on the disk, whose manifest has this hash; on every rank, after the same step."""

    def on_scoring(self) -> None:
        """A batch of a validation or a test comes next, on every rank; or a sample, on rank 0."""

    def on_note(self, event: str, detail: str) -> None:
        """There is something that a person should know of this run; on rank 0."""
