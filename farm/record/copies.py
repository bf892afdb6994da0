"""Working copies of a bucket's records on this machine, fetched when they are needed and removed again.

Where the storage is a folder, its own files are used: nothing is copied or removed.
"""

import shutil
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from farm.errors import CheckpointInvalid
from farm.record import layout, ledger
from farm.record.ledger import Ledgers, Line
from farm.record.runs import Runs
from farm.record.storage import Storage

STALE_SECONDS = 86400.0


class Copies:
    """The records of a storage as files of this machine."""

    def __init__(self, storage: Storage, runs: Runs):
        self._storage, self._runs = storage, runs

    def bring(self, relative: str) -> Path:
        """A folder of the storage, such as a checkpoint's, on this machine.

        Raises: CheckpointInvalid: it leads out of the storage root. StorageUnusable. StorageFull
        """
        self._storage.path(relative)
        path = self._storage.root / relative
        if self._storage.bucket:
            shutil.rmtree(path, ignore_errors=True)
            found = {entry.name.removeprefix(f"{relative}/"): entry for entry in self._storage.bucket.objects(relative)}
            if layout.MANIFEST in found:  # else it never was complete
                for name in sorted(found):
                    if "/" not in name:
                        self._storage.bucket.download(found[name], path / name)
        return path

    def checkpoints(self, run_id: str) -> Iterator[Path]:
        """The folders of a run's checkpoints, highest step first, each brought to this machine when it is asked for."""
        for _, _, name in self._runs.checkpoints(run_id):
            with suppress(CheckpointInvalid):
                yield self.bring(name)

    def lines(self, run_id: str) -> list[Line]:
        """Every step of the run as the storage knows it.

        Raises: as ledger.read
        """
        return self.ledgers(run_id).newest()

    def ledgers(self, run_id: str) -> Ledgers:
        """The ledgers of the run's attempts that the storage has, brought to this machine."""
        kept = self._runs.epochs(run_id)  # a copy of what the storage lost is no record
        for epoch in kept:  # one that has grown is fetched again
            self._bring(layout.attempt(run_id, epoch), ledger.FILE)
        found = ledger.files(self._storage.folder(run_id))
        return Ledgers({epoch: path for epoch, path in found.items() if epoch in kept})

    def log(self, run_id: str, epoch: int) -> Path | None:
        """The file of all that an attempt has printed so far, if it is on record.

        Raises: CheckpointInvalid: it leads out of the storage root.
        """
        folder = layout.attempt(run_id, epoch)
        self._bring(folder, layout.LOG)
        self._storage.path(f"{folder}/{layout.LOG}")
        path = self._storage.root / folder / layout.LOG
        return path if path.exists() else None

    def _bring(self, folder: str, file: str) -> None:
        if self._storage.bucket and (found := self._storage.bucket.find(f"{folder}/{file}")):
            path = self._storage.root / folder / file
            if not path.exists() or path.stat().st_size < found.bytes:
                self._storage.bucket.download(found, path)

    def forget(self, run_id: str, epoch: int) -> None:
        """Remove the working copies of a run's attempts up to `epoch`; the records in the bucket stay."""
        if self._storage.bucket and self._storage.folder(run_id).is_dir():
            for copy in self._storage.folder(run_id).iterdir():
                if copy.name.isdecimal() and int(copy.name) <= epoch:
                    shutil.rmtree(copy, ignore_errors=True)

    def forget_stale(self) -> None:
        """Remove the working copies unchanged for a day: those of attempts that were killed here."""
        newest = time.time() - STALE_SECONDS
        for copy in (self._storage.root / layout.RUNS).glob("*") if self._storage.bucket else ():
            with suppress(FileNotFoundError):  # another agent removes it right now
                files = [copy, *copy.glob("*"), *copy.glob(f"*/{ledger.FILE}")]
                if all(path.stat().st_mtime < newest for path in files):
                    shutil.rmtree(copy, ignore_errors=True)
