"""The values that the queue takes and returns. They travel, and change nothing."""

from typing import NamedTuple

from pydantic import Field

from farm.record.result import Result
from farm.study.machine import Price, parts
from farm.study.recipe import Frozen
from farm.study.run import Checkpoint, Lease, Run, State


class Cause(Frozen):
    """Why an attempt failed."""

    epoch: int
    cause: str
    message: str
    step: int
    at: float
    retryable: bool


class Point(Frozen):
    """One point of a run's curve."""

    step: int = Field(ge=0)
    loss: float = Field(description="nats per token")
    lr: float
    grad_norm: float | None = None
    tokens_per_second: float
    validation_loss: float | None = Field(None, description="nats per token of held-out text, where it was looked at")


class Event(Frozen):
    """Something that happened to a run, `at` Unix seconds by Redis' clock."""

    at: float
    event: str
    epoch: int
    detail: str


class Put(Frozen):
    """The outcome of a put, by run ids."""

    new: tuple[str, ...] = Field(description="queued now")
    known: dict[str, State] = Field(description="there already")
    adopted: dict[str, str] = Field({}, description="succeeded by now -> the run whose result they have")
    twins: dict[str, str] = Field({}, description="of the new: -> a run of the same digest that is not finished")
    again: tuple[str, ...] = Field((), description="of the new: those that were forgotten before")
    replaced: dict[str, str] = Field({}, description="old -> their arm, which had another recipe, and no result")


class Forgotten(Frozen):
    """The outcome of a forget: the runs gone, with their last epochs, and those that another study still has."""

    gone: dict[str, int]
    kept: tuple[str, ...]


class Claim(Frozen):
    """A lease, and all that is needed to act on it."""

    lease: Lease
    run: Run = Field(description="or an Evaluating")
    study: str
    checkpoint: Checkpoint | None


class Status(Frozen):
    """Where a run stands. Times are Unix seconds by Redis' clock."""

    run: Run = Field(description="or an Evaluating, whose result is a score and not shown here")
    study: str = Field(description="that submitted it first; of an evaluation, that asked for it last")
    state: State
    epoch: int = Field(description="of the current or the last lease; 0 before the first")
    attempts: int = Field(description="failures that count against policy.attempts")
    step: int = Field(description="as last reported")
    submitted: float
    started: float | None = Field(description="of the current or the last lease")
    ended: float | None
    deadline: float | None = Field(description="of the current lease")
    worker: str | None
    job: str | None = Field(description="Ray submission id")
    node: str | None = Field(description="Ray's id of it; of a mixed group one for each class, in the same way")
    causes: tuple[Cause, ...]
    checkpoint: Checkpoint | None
    cancelling: bool
    not_before: float | None = Field(description="end of the back-off")
    released: str | None = Field(None, description="why its last lease was given back, if it has not begun again since")
    recalled: str | None = Field(None, description="why its lease is wanted back")
    held_seconds: float = Field(0.0, description="under leases that have ended")
    result: Result | None

    @property
    def id(self) -> str:
        return self.run.id

    @property
    def arm(self) -> str:
        return self.run.arm

    @property
    def nodes(self) -> tuple[str, ...]:
        """The Ray nodes that its current or last lease was for, one for each of its machine classes."""
        return parts(self.node) if self.node else ()


class Losses(NamedTuple):
    """The losses of a result that a listing shows."""

    train: float
    validation: float | None
    test: float

    @classmethod
    def of(cls, result: Result) -> "Losses":
        return cls(result.train_loss, result.validation[-1].loss if result.validation else None, result.test_loss)


class Listed(NamedTuple):
    """A run as a listing of thousands shows it: of its recipe no more than the steps, of its result the losses."""

    id: str
    study: str
    arm: str
    machine: str
    seeds: str
    rerun: int
    state: State
    step: int
    steps: int
    attempts: int
    submitted: float
    job: str | None
    cancelling: bool
    recalled: str | None
    losses: Losses | None
    causes: tuple[Cause, ...]  # at least the last one

    @classmethod
    def of(cls, status: Status) -> "Listed":
        run = status.run
        return cls(
            id=run.id,
            study=status.study,
            arm=run.arm,
            machine=run.machine,
            seeds=str(run.seeds),
            rerun=run.rerun,
            state=status.state,
            step=status.step,
            steps=run.recipe.steps,
            attempts=status.attempts,
            submitted=status.submitted,
            job=status.job,
            cancelling=status.cancelling,
            recalled=status.recalled,
            losses=Losses.of(status.result) if status.result else None,
            causes=status.causes,
        )


class Pause(NamedTuple):
    """Why no run of a study that reads a corpus starts (Q11)."""

    study: str
    corpus: str  # Recipe.corpus
    node: str | None  # Ray's id of the only node where none starts; None: nowhere
    reason: str


class Origin(NamedTuple):
    """The origin of a Redis, in its own words: the storage whose records it has, and its own name as their index."""

    marker: str  # Store.mark
    name: str


class Supply(Frozen):
    """The help that an autoscaler can give to a machine class."""

    most: int = Field(description="nodes that may be up at a time")
    starting: int = Field(0, description="nodes asked for and not up yet")
    since: float | None = Field(None, description="when the first of those was asked for, Unix seconds")
    trouble: str | None = Field(None, description="why the last start failed")
    price: Price | None = Field(None, description="of a node, as the cluster file says")
