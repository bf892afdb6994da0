"""Redis as the index of one storage: rebuilt if it was emptied, and never shared with another storage."""

import logging
import time

from farm.errors import BadSetting, Conflict, StorageUnusable
from farm.queue.node import Head
from farm.queue.queue import Queue
from farm.record.store import Store
from farm.reindex import reindex

LOOK_SECONDS = 2.0  # between looks whether Redis was emptied
STORAGE_SECONDS = 10.0  # between looks whether another Redis took the storage

log = logging.getLogger("farm")


def check_own(queue: Queue, store: Store) -> None:
    """Raises: BadSetting: this Redis has another storage."""
    there, index, own = queue.roster.head(), queue.index.origin(), store.mark()
    if (index and index.marker != own) or (there and there.marker != own):
        known = f"the farm on {there.host} with the storage {there.storage}" if there else "another storage"
        raise BadSetting(
            f"this Redis belongs to {known}; the storage here is {store.uri}.",
            remedy="Set FARM_STORAGE to that one, or FARM_REDIS_URL to a Redis of your own.",
            page="docs/machines/storage.md#rebuilding-redis-farm-reindex",
        )


class Indexed:
    """The Redis of `queue` as the index of `store`, which `head` describes. No run is claimed before begin()."""

    def __init__(self, queue: Queue, store: Store, head: Head):
        self._queue, self._store, self._head = queue, store, head
        self._looks_at = self._asks_at = 0.0

    def begin(self) -> None:
        """Raises: BadSetting: this Redis has another storage, or this storage another Redis."""
        check_own(self._queue, self._store)
        try:
            self.turn()
        except Conflict as error:
            raise BadSetting(error.message, remedy=error.remedy) from None

    def turn(self) -> None:
        """Read the records again where Redis was emptied.

        Raises: Conflict: another Redis is the storage's index now: no run may start from this one.
        """
        if time.monotonic() < self._looks_at:
            return
        index = self._queue.index.origin()
        if index is None:
            self._read_records()
        elif time.monotonic() >= self._asks_at:
            self._ask_storage(index.name)
        self._looks_at = time.monotonic() + LOOK_SECONDS

    def _read_records(self) -> None:
        if self._store.has_records():
            log.warning("this Redis is new or was emptied: reading the records of %s", self._store.uri)
        done = reindex(self._store, self._queue, is_own=True)
        self._queue.roster.publish(self._head)
        if done.brought:
            log.warning("%d runs are back from the records of %s", done.brought, self._store.uri)
        for what in done.unread:
            log.warning("not read: %s", what)

    def _ask_storage(self, name: str) -> None:
        try:
            there = self._store.indexer()
        except StorageUnusable:
            return  # who trains says so
        if there is not None and there != name:
            raise Conflict(
                f"the storage {self._store.uri} belongs to a farm with another Redis: no run can start from here.",
                remedy="If that farm is gone, take its storage over: farm reindex",
                page="docs/machines/storage.md#rebuilding-redis-farm-reindex",
            )
        self._asks_at = time.monotonic() + STORAGE_SECONDS
