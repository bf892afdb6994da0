"""A storage: a folder that every node sees, or a bucket, with the records in it and a local folder laid out alike."""

import secrets
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Protocol

from pydantic import ValidationError

from farm.errors import CheckpointInvalid, StorageUnusable, Unreadable, first_line
from farm.record import layout
from farm.record.bucket import PATIENT, Bucket, Patience
from farm.record.folder import Folder


class Records(Protocol):
    """The contract of a storage: it keeps records by name, each there in full or not at all."""

    @property
    def uri(self) -> str: ...
    def get(self, name: str) -> bytes | None: ...
    def put(self, name: str, content: bytes) -> None: ...
    def create(self, name: str, content: bytes) -> bool: ...
    def remove(self, name: str) -> None: ...
    def names(self, folder: str) -> list[str]: ...
    def check(self) -> None: ...


class Storage:
    """The storage that every node reaches: a folder, or the URI of a bucket with a local folder `work`."""

    def __init__(self, storage: Path | str, work: Path | None = None, patience: Patience = PATIENT):
        self.bucket = Bucket(storage, patience) if isinstance(storage, str) and "://" in storage else None
        self.records: Records = self.bucket or Folder(Path(storage))
        if self.bucket:
            self._root = work and work / self.bucket.bucket / self.bucket.prefix
        else:
            self._root = Path(storage)

    @property
    def root(self) -> Path:
        """The local folder that is laid out like the storage, or is it."""
        assert self._root, "a bucket needs a working folder"
        return self._root

    @property
    def uri(self) -> str:
        """The storage as FARM_STORAGE names it."""
        return self.records.uri

    @property
    def is_local(self) -> bool:
        """Whether this machine sees a storage folder. False for a bucket, which needs credentials to be asked."""
        return self.bucket is None and self.root.is_dir()

    def place(self, run_id: str) -> str:
        """Where the record of a run is, for people."""
        return f"{self.uri}/{layout.run(run_id)}"

    def folder(self, run_id: str) -> Path:
        """The run's local directory, there or not.

        Raises: NotFound: not a run id.
        """
        return self.root / layout.run(run_id)

    def attempt_folder(self, run_id: str, epoch: int) -> Path:
        """The directory that only the holder of this epoch writes in."""
        return self.root / layout.attempt(run_id, epoch)

    def path(self, relative: str) -> Path:
        """A path as checkpoints and results name it.

        Raises: CheckpointInvalid: it leads out of the storage root.
        """
        path = (self.root / relative).resolve()
        if not path.is_relative_to(self.root.resolve()):
            raise CheckpointInvalid(f"{relative!r} lies outside the storage root {self.root}.")
        return path

    def check(self) -> None:
        """Make sure that records can be written here, by writing one; and, for a bucket, working copies of them.

        Raises: StorageFull. StorageUnusable: says why not, and what to do.
        """
        self.records.check()
        if self.bucket and self._root:
            try:
                Folder(self._root).check()
            except StorageUnusable as error:
                raise StorageUnusable(error.message, remedy="Set FARM_HOME to a folder that can be written.") from None

    def mark(self) -> str:
        """The storage's own name, the same on every node that reaches it; the first to ask gives it one.

        Raises: StorageFull
        """
        self.records.create(layout.MARKER, secrets.token_hex(8).encode())
        return self.marker() or ""

    def marker(self) -> str | None:
        """The storage's own name; None if it never got one: perhaps a folder where nothing is mounted."""
        return self._word(layout.MARKER)

    def indexer(self) -> str | None:
        """The name of the last Redis that took this storage as its own; None before any did."""
        return self._word(layout.INDEX)

    def _word(self, name: str) -> str | None:
        content = self.records.get(name)
        return None if content is None else content.decode().strip()

    def take(self, redis: str) -> None:
        """Record that the Redis of this name is the index from now on; the previous one starts no more runs."""
        self.records.put(layout.INDEX, redis.encode())

    def has_records(self) -> bool:
        """Whether a farm ever wrote here."""
        folders = (layout.RUNS, layout.STUDIES, layout.IMPORTED, layout.REFERENCES)
        return any(self.records.names(folder) for folder in folders)

    def read(self, name: str, read: Any) -> Any:
        """A record as `read` understands it, or None where there is none."""
        content = self.records.get(name)
        try:
            return None if content is None else read(content.decode())
        except Unreadable as newer:
            raise CheckpointInvalid(f"{self.uri}/{name}: {newer.message}", remedy=newer.remedy) from None
        except (ValidationError, ValueError, TypeError, KeyError) as error:
            why = first_line(error)
            raise CheckpointInvalid(f"{self.uri}/{name} is damaged: {why}.", remedy="Restore it.") from None

    def readable(self, names: Iterable[str], read: Callable[[str], Any]) -> tuple[list[Any], list[str]]:
        """The records of these names that are there and can be read; and what is wrong with the others."""
        found, unread = [], []
        for name in names:
            try:
                found.append(self.read(name, read))
            except (CheckpointInvalid, OSError) as error:
                unread.append(explain(error))
        return [one for one in found if one is not None], unread


def explain(error: Exception) -> str:
    """Why a record cannot be read, and what to do."""
    if isinstance(error, OSError):
        return f"{error.filename}: {error.strerror}. Make it readable, then run farm reindex again."
    return str(error)
