"""The post of an agent: where it works and for whom. And how its work waits for a corpus."""

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import NamedTuple, TypeVar

from farm.errors import BadCorpus, FarmError, StorageFull, StorageUnusable, Unreachable
from farm.queue.queue import Queue
from farm.record.store import Store
from farm.site.settings import Settings
from farm.study.run import Lease
from workers.attempt.asks import Asks
from workers.attempt.group import Also

NETWORK_SECONDS = 30.0  # for a network that is away for a moment, before the corpus is given up
Fetched = TypeVar("Fetched")


class Post(NamedTuple):
    """Where an agent works, and for whom."""

    here: Settings
    queue: Queue
    store: Store
    lease: Lease
    job: str
    node: str
    also: Sequence[Also]  # the other places of a mixed group
    asks: Asks

    def note(self, event: str, detail: str) -> None:
        """Say something about this attempt, in its log and among its events if Redis hears it."""
        print(f"{event}: {detail}")
        with suppress(FarmError):
            self.queue.note(self.lease, event, detail)


class Unprepared(Exception):
    """The corpus cannot be used, or cannot be fetched."""

    def __init__(self, error: FarmError):
        self.error = error


def find_out(fetch: Callable[[], Fetched]) -> Fetched:
    """Return what `fetch` finds out about a corpus.

    Raises: Unprepared
    """
    deadline = time.monotonic() + NETWORK_SECONDS
    while True:
        try:
            return fetch()
        except (BadCorpus, StorageUnusable, StorageFull) as error:
            raise Unprepared(error) from error
        except Unreachable as error:
            if time.monotonic() > deadline:
                raise Unprepared(error) from error
            print(f"Trying again: {error}")
            time.sleep(NETWORK_SECONDS / 6)
