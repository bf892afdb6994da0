"""What the live view shows at one moment, as values, and what follows from them."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from cli.runs import explain
from farm.queue.budget import cost
from farm.queue.live import Training
from farm.queue.values import Status
from farm.record.result import Peaks, Result, utilisation
from farm.study.planner import Plan
from farm.study.run import Run, State

Reached = tuple[Peaks, Plan]  # by which the utilisation of a training is known


class Bar(NamedTuple):
    """A run that holds a lease. None is what is not known, or not yet."""

    status: Status
    step: int
    loss: float | None = None
    validation_loss: float | None = None
    lr: float | None = None
    tokens_per_second: float | None = None
    mfu: float | None = None
    seconds_left: float | None = None
    usd: float | None = None
    trace: Sequence[float] = ()  # the loss over the steps so far
    note: str | None = None  # why it does not step yet, or stops


class Waiting(NamedTuple):
    """A queued run, and why it waits."""

    status: Status
    why: str


class Standing(NamedTuple):
    """The table of a study as it stands, and the remarks that a reader needs."""

    study: str
    finished: int
    of: int
    rows: Sequence[Mapping[str, Any]]  # by the columns of the table
    score: str = "test loss"  # what it ranks by
    warnings: Sequence[str] = ()  # what it leaves out


class Picture(NamedTuple):
    """All that the live view shows."""

    title: str
    at: float  # Unix seconds
    counts: Mapping[State, int]
    running: Sequence[Bar] = ()
    running_count: int = 0
    waiting: Sequence[Waiting] = ()
    standing: Standing | None = None
    warnings: Sequence[str] = ()  # what cannot be read
    away: str | None = None  # why there is nothing newer


def bar(
    training: Training,
    now: float,
    usd_per_hour: float | None = None,
    trace: Sequence[float] = (),
    reached: Reached | None = None,
) -> Bar:
    """How a run does. `usd_per_hour`: of its machine class. `reached`: as `peaks` says for it."""
    status, last, validated = training
    recipe = status.run.recipe
    usd = None if usd_per_hour is None else cost(status, usd_per_hour, now)
    note = explain(status, {}, trains=last is not None)
    if last is None:
        return Bar(status, status.step, usd=usd, note=note)
    step = max(status.step, last.step)  # the curve is ahead of the heartbeat
    left = (recipe.steps - step) * recipe.tokens_per_step
    speed = last.tokens_per_second
    return Bar(
        status=status,
        step=step,
        loss=last.loss,
        validation_loss=validated.validation_loss if validated else None,
        lr=last.lr,
        tokens_per_second=speed,
        mfu=utilisation(reached[0], recipe, reached[1], speed).flops if reached else None,
        seconds_left=left / speed if speed > 0 else None,
        usd=usd,
        trace=trace,
        note=note,
    )


def peaks(results: Sequence[Result]) -> dict[tuple[str, str], Reached]:
    """The peaks that finished runs measured on their GPUs, by machine class and precision: the newest of each."""
    return {
        (result.machine, str(result.recipe.train.precision)): (result.utilisation.peaks, result.plan)
        for result in sorted(results, key=lambda result: result.ended)
        if result.utilisation
    }


def key_of(run: Run) -> tuple[str, str]:
    """Where `peaks` has those that hold for a run."""
    return run.machine, str(run.recipe.train.precision)
