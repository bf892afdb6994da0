"""Losses that were imported: of models that another program trained, as their publication or their files say.

No ledger, no fingerprint and no plan stands behind them, so they are no `Result` and never become one. What a source
does not say is None. They are ranked among themselves only (farm.verdict.table).
"""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from pydantic import Field

from farm.errors import Conflict
from farm.study.recipe import Frozen, Recipe, Seed, Seeds, digest
from farm.study.run import MachineName, Name

EVALUATION = "imported"  # the evaluation of imported rows: whatever their source measured
PREFIX = "imported-"  # of their ids
LARGEST_LOSS = 1e6  # nats per token; a uniform model of any vocabulary has 25 at most


class ImportedRun(Frozen):
    """One model that was trained elsewhere, and its loss."""

    arm: Name
    machine: MachineName
    init_seed: Seed | None = Field(None, description="None: its source does not say")
    train_seed: Seed | None = Field(None, description="None: its source does not say")
    rerun: int = Field(0, ge=0, le=9999, description="counts repetitions of the same arm, machine and seeds")
    test_loss: float = Field(ge=0, le=LARGEST_LOSS, description="nats per token, on whatever its source tested")
    hours: float | None = Field(None, gt=0, le=1e9, description="of training")
    usd: float | None = Field(None, ge=0, le=1e12)
    tokens_per_second: float | None = Field(None, gt=0, le=1e15)
    tokens: int | None = Field(None, ge=1, description="trained on")
    recipe: Recipe | None = Field(None, description="None: its source does not say")
    source: str = Field(description="the file and line that say so")

    @property
    def seeds(self) -> Seeds | None:
        """Its seed pair, where both are known."""
        if self.init_seed is None or self.train_seed is None:
            return None
        return Seeds(init=self.init_seed, train=self.train_seed)

    @property
    def seeds_told(self) -> str:
        """Both seeds for people, `42.?` where one is not known."""
        return ".".join("?" if seed is None else str(seed) for seed in (self.init_seed, self.train_seed))

    @property
    def block(self) -> Seeds | str:
        """The block that it is paired by: its seed pair; a run whose seeds are not known is a block of its own."""
        return self.seeds or self.id

    @property
    def id(self) -> str:
        """Readable and content-addressed: `imported-8xa100m40-baseline-s42.23-1f3a9c2e`, which no run of the farm's is
        called.

        The loss is part of it only where the seeds do not tell the run from others of its arm.
        """
        known: dict[str, Any] = {"arm": self.arm, "machine": self.machine, "seeds": self.seeds_told}
        known |= {"rerun": self.rerun} | ({} if self.seeds else {"test_loss": self.test_loss})
        rerun = f"-r{self.rerun}" if self.rerun else ""
        return f"{PREFIX}{self.machine}-{self.arm}-s{self.seeds_told.replace('?', 'x')}{rerun}-{digest(known)[:8]}"


class Joined(NamedTuple):
    """The effect of an import on the existing record."""

    whole: "Imported"
    new: tuple[str, ...]
    known: tuple[str, ...]


class Imported(Frozen):
    """All that was imported into a study."""

    study: Name
    runs: tuple[ImportedRun, ...] = ()

    def join(self, more: Sequence[ImportedRun]) -> Joined:
        """These and `more`; a run already there is kept once, and gains what its first source left out.

        Raises: Conflict: two sources say different things of one run.
        """
        found = {run.id: run for run in self.runs}
        new = tuple(run.id for run in more if run.id not in found)
        known = tuple(run.id for run in more if run.id in found)
        for run in more:
            found[run.id] = _together(found[run.id], run) if run.id in found else run
        return Joined(Imported(study=self.study, runs=tuple(found.values())), new, known)

    def without(self, ids: Iterable[str]) -> "Imported":
        gone = set(ids)
        return Imported(study=self.study, runs=tuple(run for run in self.runs if run.id not in gone))


def _together(one: ImportedRun, other: ImportedRun) -> ImportedRun:
    fields = [name for name in ImportedRun.model_fields if name != "source"]
    both = {name: (getattr(one, name), getattr(other, name)) for name in fields}
    for name, (had, has) in both.items():
        if None not in (had, has) and had != has:
            raise Conflict(
                f"{one.id}: {name} is {_show(had)} by {one.source} and {_show(has)} by {other.source}.",
                remedy="Correct one of them, give the second a `rerun` of its own, or import into another --study.",
            )
    missing = {name: has for name, (had, has) in both.items() if had is None and has is not None}
    return one.model_copy(update=missing)


def _show(value: Any) -> str:
    return f"one of digest {value.digest[:12]}" if isinstance(value, Recipe) else str(value)
