"""How an attempt ended, as a value.

Signals and threads only ever ask (`Asked`), and the work only says what became of it (`Done`). `ending` decides, and
`workers.attempt.closing` carries the decision out; nothing else does either.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

from farm import errors
from farm.errors import FarmError, Hung, LeaseLost
from farm.record.result import Result
from farm.record.score import Score

DRAINED = "drained"  # the reason of a release that was asked for
Fault = Literal["run", "corpus", "node"]  # whose it is that the work broke; a corpus may be another kind of input


@dataclass(frozen=True)
class Asked:
    """The requests that others have made of an attempt so far."""

    drain: bool = False  # the machine is wanted back, or goes away
    stop: errors.Cancelled | LeaseLost | Hung | None = None  # why the lease must not be used any longer

    def __bool__(self) -> bool:
        return self.drain or self.stop is not None


@dataclass(frozen=True)
class Finished:
    """The work is done, and what came of it is on record."""

    product: Result | Score


@dataclass(frozen=True)
class Stopped:
    """The work came to an early end by itself, since it was told to or had noticed that its lease is gone."""


@dataclass(frozen=True)
class Barred:
    """The work could not begin, through no fault of the run."""

    reason: str
    above: int = 0  # an epoch that the directory holds; the next lease must be above it


@dataclass(frozen=True)
class Broken:
    """The work ended with an error."""

    error: FarmError
    fault: Fault = "run"


Done = Finished | Stopped | Barred | Broken


@dataclass(frozen=True, kw_only=True)
class _Ending:
    outcome: ClassVar[Literal["succeeded", "failed", "released", "cancelled", "lost"]]  # as attempt.json has it
    error: FarmError | None = None  # what the work ended with, if it ended with an error

    @property
    def code(self) -> int:
        """The exit code of the agent, which becomes the status of the Ray job."""
        return 0 if self.error is None else 1


@dataclass(frozen=True, kw_only=True)
class Succeeded(_Ending):
    """The work is done: the queue gets what came of it."""

    outcome = "succeeded"
    product: Result | Score


@dataclass(frozen=True, kw_only=True)
class Failed(_Ending):
    """The attempt counts against the run."""

    outcome = "failed"
    error: FarmError


@dataclass(frozen=True, kw_only=True)
class Released(_Ending):
    """The run goes back unharmed; no attempt is counted."""

    outcome = "released"
    reason: str
    above: int = 0


@dataclass(frozen=True, kw_only=True)
class Refused(_Ending):
    """As released, and what was at fault keeps others away, too: a node rests, or a corpus is paused. Otherwise one
    full disk, whose node is free again at once, would spend the attempts of every run that waits."""

    outcome = "released"
    error: FarmError
    fault: Literal["corpus", "node"]


@dataclass(frozen=True, kw_only=True)
class Cancelled(_Ending):
    """The run was cancelled, and has stopped."""

    outcome = "cancelled"


@dataclass(frozen=True, kw_only=True)
class Lost(_Ending):
    """The lease is gone: the queue is told nothing, since another may hold the run now."""

    outcome = "lost"
    why: LeaseLost | None = None  # None: the work noticed it first


Ending = Succeeded | Failed | Released | Refused | Cancelled | Lost


def ending(asked: Asked, done: Done | None) -> Ending:
    """How the attempt has ended. `done` is None while the work goes on, or stands still: then its end was asked for.

    A machine that goes down may kill the work before it stops the agent: what could be tried again is no failure then.
    """
    error = done.error if isinstance(done, Broken) else None
    stop = error if isinstance(error, errors.Cancelled | LeaseLost) else asked.stop
    match stop:
        case errors.Cancelled():
            return Cancelled(error=error)
        case LeaseLost() if not isinstance(done, Finished):  # which the next holder finds on record
            return Lost(error=error, why=stop)
    match done:
        case Finished(product):
            return Succeeded(product=product)
        case Barred(reason, above):
            return Released(reason=reason, above=above)
        case Broken(error, "node"):
            return Refused(error=error, fault="node")
        case Broken(error) if asked.drain and error.retryable:
            return Released(reason=DRAINED, error=error)
        case Broken(error, "corpus"):
            return Refused(error=error, fault="corpus")
        case Broken(error):
            return Failed(error=error)
    if asked.drain:
        return Released(reason=DRAINED, error=stop)
    if stop:
        return Failed(error=stop)
    assert done, "no end was asked for, and the work goes on"
    return Lost()  # no end was asked for, and the work has stopped
