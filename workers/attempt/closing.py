"""How an attempt is closed: first its record in the run directory, then the word to the queue that ends the lease."""

import platform
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Protocol, TypeVar

from farm import errors
from farm.errors import FarmError, Hung, LeaseLost, StorageFull, StorageUnusable, Unreachable
from farm.queue.queue import Queue
from farm.queue.values import Status
from farm.record.result import Result
from farm.record.score import Score
from farm.study.run import Attempt, Lease
from workers.attempt.asks import Asks
from workers.attempt.ending import Cancelled, Ending, Failed, Lost, Refused, Released, Succeeded

PATIENCE_SECONDS = 600.0  # with a Redis or a storage that is away
LAST_SECONDS = 20.0  # with a storage, where the end is waited for, or little is lost
LEAST_SECONDS = 5.0  # with a storage, where Ray is about to send SIGKILL, or the lease is about to run out
REST_SECONDS = 120.0  # of a node whose storage cannot be used: then it is tried again
Said = TypeVar("Said")


def until_heard(say: Callable[[], Said]) -> Said:
    """Call `say` until Redis, or the storage, answers: an outage must not have a finished run trained again.

    Raises: what `say` raises; Unreachable, StorageUnusable and StorageFull only after PATIENCE_SECONDS.
    """
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            return say()
        except (Unreachable, StorageUnusable, StorageFull):
            if time.monotonic() > deadline:
                raise
            time.sleep(1.0)


class Leaving(Protocol):
    """Work that has ended, as far as its closing goes."""

    attempt: Attempt | None  # as it began; None before that was on record
    seen: int  # what `newest_step` said last, to be had without asking the storage

    def newest_step(self) -> int:
        """The newest step under this lease: one that it went on from counts."""

    def settle(self, seconds: float, is_urgent: bool) -> None:
        """Bring into the storage what it wrote, trying for so long; if that is urgent, for no longer."""

    def record(self, end: Ending) -> None:
        """Leave in the run directory how the attempt has ended."""

    def withdraw(self) -> None:
        """Record that the run was cancelled: its outcome does not count (Q8)."""

    def deliver(self, product: Result | Score) -> str:
        """Give the queue the outcome of the work. Returns a sentence about it.

        Raises: LeaseLost, Cancelled, Conflict
        """

    def complete(self) -> None:
        """Send the queue what it lacks and is only to be looked at, while the lease is held."""


class Closing:
    """Carries out how the attempt under `lease` has ended. `nodes` are those that it ran on, its own first."""

    def __init__(self, queue: Queue, lease: Lease, nodes: Sequence[str], asks: Asks):
        self._queue, self._lease, self._nodes, self._asks = queue, lease, nodes, asks

    def carry_out(self, end: Ending, work: Leaving) -> Ending:
        """Record the ending, then tell the queue. Returns how the attempt has ended after all: meanwhile the run may
        have been cancelled, or the lease lost.

        A storage that is away or full is no hindrance, since the queue knows the ending, too; one that hangs is not
        waited for once the end was asked for.
        """
        recorded = self._asks.start(lambda: self._record(end, work))
        if self._asks.wait(lambda: recorded.done() or bool(self._asks.asked)) and not recorded.done():
            self._asks.wait(recorded.done, self._record_seconds())
        if not recorded.done():
            print("Not recorded: the storage does not answer.")
        print(_line(end, work.seen))
        try:
            return self._tell(end, work)
        except LeaseLost as lost:
            print(lost)
            return Lost(error=lost)
        except FarmError as error:
            if not isinstance(end, Succeeded):
                raise
            return self.carry_out(Failed(error=error), work)  # the queue will not have what the work came to

    def _record_seconds(self) -> float:
        """How long the record may take when the end was asked for."""
        if isinstance(self._asks.asked.stop, Hung):
            return LEAST_SECONDS  # the heart has stopped
        return min(LAST_SECONDS, max(LEAST_SECONDS, self._asks.seconds_left))

    def _record(self, end: Ending, work: Leaving) -> None:
        with suppress(OSError):
            work.newest_step()
        is_urgent = bool(self._asks.asked)
        if work.attempt and not isinstance(end, Succeeded | Lost) and not isinstance(end.error, Hung):
            work.settle(self._record_seconds() / 2 if is_urgent else LAST_SECONDS, is_urgent)
        try:
            if isinstance(end, Cancelled):
                work.withdraw()
            work.record(end)
        except (FarmError, OSError) as unwritten:
            print(f"Not recorded: {unwritten}")
        if work.attempt and not isinstance(end, Lost):
            work.complete()

    def _tell(self, end: Ending, work: Leaving) -> Ending:
        """Raises: LeaseLost"""
        match end:
            case Succeeded():
                return self._finish(end, work)
            case Failed(error=error):
                what = (error.cause, str(error), work.seen, error.retryable)
                print(f"The run is {until_heard(lambda: self._queue.fail(self._lease, *what))}.")
            case Released(reason=reason, above=above):
                self._release(reason, above)
            case Refused(error=error, fault="node"):
                reason = f"on {platform.node()} {error}"
                until_heard(lambda: self._queue.roster.rest(self._nodes[0], reason, REST_SECONDS))
                self._release(reason)
            case Refused(error=error):
                self._pause(error)
            case Cancelled():
                until_heard(lambda: self._queue.acknowledge_cancel(self._lease))
        return end

    def _finish(self, end: Succeeded, work: Leaving) -> Ending:
        """It may have been cancelled in the meantime."""
        try:
            print(f"Finished: {until_heard(lambda: work.deliver(end.product))}")
        except errors.Cancelled:
            until_heard(work.withdraw)
            print("It was cancelled before its outcome was reported.")
            return self.carry_out(Cancelled(), work)
        return end

    def _release(self, reason: str, above: int = 0) -> None:
        """For `reason`, unless the lease was recalled for another."""
        print(f"Given back: {until_heard(lambda: self._queue.release(self._lease, reason, above))}.")

    def _pause(self, error: FarmError) -> None:
        """The fault would hurt every run that reads this corpus: this one goes back unharmed and none starts until
        somebody has mended it; or none on this node, where another proves at this moment that the corpus will do. For a
        mixed group units are kept free, which it could not use: it is paused everywhere."""
        own = until_heard(lambda: self._queue.listing.status(self._lease.run_id))
        elsewhere = [
            other
            for other in until_heard(self._queue.listing.running)
            if self._nodes[0] not in other.nodes and _steps(other)
        ]
        is_good = any(other.run.recipe.corpus == own.run.recipe.corpus for other in elsewhere)
        reason = f"{error.cause}: {str(error).rstrip('.')} (on {platform.node()})"
        node = self._nodes[0] if is_good and len(self._nodes) == 1 else None
        print(f"Paused{' on this node' if node else ''}: {reason}")
        until_heard(lambda: self._queue.pause(self._lease, reason, node))


def _line(end: Ending, step: int) -> str:
    """The ending as the log has it."""
    at = f" at step {step}" if step else ""
    match end:
        case Succeeded():
            return "Done."
        case Cancelled():
            return f"Cancelled{at}."
        case Lost():
            return f"Stopped{at}: {end.error or end.why or 'the lease is gone'}"
    return f"Failed{at}: {end.error}" if end.error else f"Stopped{at}: what was saved is kept."


def _steps(status: Status) -> bool:
    """Whether a running run has done a step under its lease: one that resumes begins at its checkpoint's."""
    return status.job is not None and status.step > (status.checkpoint.step if status.checkpoint else 0)
