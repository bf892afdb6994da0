"""A run and its life: queued, held under a lease, ended."""

import re
from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from farm.study.machine import MIXED, MOST_PARTS, is_mixed, is_name, parts
from farm.study.recipe import Frozen, Recipe, Seeds, Unset, digest


def _name(text: str) -> str:
    if not is_name(text):
        raise ValueError("must be 1 to 64 of a-z, 0-9, '.', '_' and '-', the first a letter or a digit")
    return text


def _machine_name(text: str) -> str:
    if not is_mixed(text):
        return _name(text)
    named = parts(text)
    if len(text) > 64 or len(named) > MOST_PARTS or len(set(named)) < len(named) or not all(map(is_name, named)):
        raise ValueError(f"must be 2 to {MOST_PARTS} different machine classes, CLASS+CLASS, in 64 characters")
    return text


Name = Annotated[str, AfterValidator(_name)]
MachineName = Annotated[str, AfterValidator(_machine_name)]


OF = "~"  # between a run's id and the evaluation of its model
_SEEDS = re.compile(r"-s(\d+\.\d+)(?:-r(\d+))?-[0-9a-f]{8}$")  # at the end of a run's id


class State(StrEnum):
    """Where a run stands. The last three are final."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def is_final(self) -> bool:
        return self in (State.SUCCEEDED, State.FAILED, State.CANCELLED)


class Policy(Frozen):
    """How a run is treated by the farm; none of it may change the loss, so none of it is part of the run's id."""

    priority: int = Field(
        0, ge=-1000, le=1000, description="runs with a higher priority start first; among equals, first in, first out"
    )
    attempts: int = Field(3, ge=1, le=100, description="failed attempts after which the run counts as failed")
    checkpoint_seconds: float = Field(600, gt=0, description="time between checkpoints")
    usd_limit: Annotated[float | None, Unset] = Field(
        None, gt=0, description="dollar limit of the whole study; once spent, none of its runs starts"
    )
    hours_limit: Annotated[float | None, Unset] = Field(
        None, gt=0, description="node hours of the whole study, all attempts; once used up, none of its runs starts"
    )
    limit_action: Literal["stop", "no-new"] = Field(
        "stop",
        description="what running runs do once a limit is spent: save a checkpoint and wait, or go on to their end",
    )
    hang_seconds: float = Field(
        1800, gt=0, description="an attempt without a step or a test batch for this long is given up"
    )

    @property
    def is_limited(self) -> bool:
        """Whether the study may be stopped for what it costs."""
        return self.usd_limit is not None or self.hours_limit is not None


class Run(Frozen):
    """One training: a recipe, its seeds and a machine class. `rerun` counts deliberate repetitions of the same."""

    arm: Name
    recipe: Recipe
    seeds: Seeds
    machine: MachineName
    rerun: int = Field(0, ge=0, le=9999)
    policy: Policy = Policy()

    @property
    def digest(self) -> str:
        """sha256 over recipe, seeds, machine class and rerun: what makes two runs the same."""
        identity = {"recipe": self.recipe.digest, "seeds": str(self.seeds), "machine": self.machine}
        return digest(identity | ({"rerun": self.rerun} if self.rerun else {}))

    @property
    def id(self) -> str:
        """Readable and content-addressed: `8xa100m40-remove-dropout-s42.23-1f3a9c2e`.

        It names folders, jobs and objects in a bucket, in some of which `+` means a space: that is spelled out.
        """
        return self.id_with(self.digest)

    def id_with(self, digest: str) -> str:
        """The id, for callers that know the digest."""
        rerun = f"-r{self.rerun}" if self.rerun else ""
        return f"{self.machine.replace(MIXED, '_and_')}-{self.arm}-s{self.seeds}{rerun}-{digest[:8]}"


def seeds_in(run_id: str) -> tuple[str, int]:
    """The seeds and the rerun that a run's id tells. Raises: ValueError: it is not the id of a run."""
    found = _SEEDS.search(run_id)
    if not found:
        raise ValueError(f"{run_id!r} is not the id of a run")
    return found[1], int(found[2] or 0)


class Evaluating(Run):
    """The scoring of a trained model: a job of the queue like a run, which ends in a score instead of a result.

    `recipe` is the one that the model was trained by, with this evaluation as its test. One evaluation of one run is
    one job, however often it is asked for.
    """

    of: str = Field(description="id of the run that trained the model")
    evaluation: Name = Field(description="name of the evaluation")
    weights: str = Field(description="sha256 of the weights that are scored, as the result has it")

    @property
    def id(self) -> str:
        """The run's id, with a suffix that no run's id has: `8xa100m40-baseline-s42.23-1f3a9c2e~wiki-7b1c9f00`."""
        return self.id_with("")

    def id_with(self, digest: str) -> str:
        return f"{self.of}{OF}{self.recipe.evaluation_id(self.evaluation).replace('@', '-')}"


def is_evaluating(job: str) -> bool:
    """Whether that is the id of an Evaluating and not of a Run."""
    return OF in job


class Lease(Frozen):
    """The right to work at a run until `deadline` (seconds, by Redis' clock). `epoch` is the fencing token."""

    run_id: str
    epoch: int = Field(ge=1)
    deadline: float
    worker: str


class Checkpoint(Frozen):
    """The newest valid checkpoint of a run, as the queue knows it. `path` is relative to the storage root."""

    step: int = Field(ge=0)
    epoch: int = Field(ge=1)
    path: str
    sha256: str = Field(description="digest of its manifest")


class Attempt(Frozen):
    """One execution under one lease, as its folder's `attempt.json` keeps it."""

    run_id: str
    epoch: int
    worker: str
    plan: dict[str, Any] = {}
    hardware: dict[str, Any] = {}
    provenance: dict[str, Any] = {}
    resumed_from: Checkpoint | None = None
    started: float
    ended: float | None = None
    outcome: Literal["running", "succeeded", "failed", "released", "cancelled", "lost"] = "running"
    cause: str | None = None
    message: str | None = None
    step: int | None = Field(None, description="that it had reached when it failed")
    retryable: bool | None = Field(None, description="whether that may be tried again")
