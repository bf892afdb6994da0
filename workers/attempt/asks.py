"""Requests to an attempt, by a signal or a thread. A request decides nothing: `workers.attempt.ending` does."""

import time
from collections.abc import Callable
from concurrent.futures import Future
from queue import Empty, SimpleQueue
from threading import Thread
from typing import TypeVar

from farm.errors import Cancelled, Hung, LeaseLost
from workers.attempt.ending import Asked
from workers.ray_internals.variables import STOP_WAIT_SECONDS

STOP_SECONDS = STOP_WAIT_SECONDS - 15.0  # from being asked: for a checkpoint, and then to close the lease
Made = TypeVar("Made")


class Asks:
    """All requests to one attempt, and the news that there is one.

    The news travel through a SimpleQueue, which a signal handler may use while the main thread waits at it; an Event
    would lock up.
    """

    def __init__(self) -> None:
        self._drain = False
        self._stop: Cancelled | LeaseLost | Hung | None = None
        self.since: float | None = None  # of the first, by time.monotonic
        self._news: SimpleQueue[None] = SimpleQueue()

    @property
    def asked(self) -> Asked:
        """All that was asked so far."""
        return Asked(self._drain, self._stop)

    @property
    def seconds_left(self) -> float:
        """Until the work must have come to its end; STOP_SECONDS while its end was not asked for."""
        return STOP_SECONDS if self.since is None else STOP_SECONDS - (time.monotonic() - self.since)

    def drain(self) -> None:
        """The machine is wanted back. What SIGTERM does; Ray sends SIGKILL after it."""
        self._drain = True
        self._wake()

    def stop(self, why: Cancelled | LeaseLost | Hung) -> None:
        """The lease must not be used any longer."""
        self._stop = why
        self._wake()

    def _wake(self) -> None:
        self.since = self.since or time.monotonic()
        self._news.put(None)

    def start(self, do: Callable[[], Made]) -> Future[Made]:
        """`do` in a thread of its own, since it may block for ever; `wait` notices its end."""
        doing: Future[Made] = Future()

        def run() -> None:
            try:
                doing.set_result(do())
            except BaseException as error:
                doing.set_exception(error)
            self._news.put(None)

        Thread(target=run, daemon=True).start()
        return doing

    def wait(self, until: Callable[[], bool], seconds: float | None = None) -> bool:
        """Wait for `until`, looked at whenever there is news; whether it came in time."""
        deadline = None if seconds is None else time.monotonic() + seconds
        while not until():
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                return False
            try:
                self._news.get(timeout=left)
            except Empty:
                continue
        return True
