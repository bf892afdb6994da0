"""Records as files below a folder: on one machine, or on NFS that every node mounts.

Files are written under another name, flushed and renamed, so that a reader never sees half of one.
"""

import os
import secrets
import shutil
from contextlib import suppress
from pathlib import Path

from farm.errors import CheckpointInvalid, StorageUnusable
from farm.files import create_whole, plain, storage_errors, write_whole


class Folder:
    """A storage that is a folder. Names are relative paths, with '/' between their parts."""

    def __init__(self, root: Path):
        self.root = root
        self._was_there = root.is_dir()

    @property
    def uri(self) -> str:
        return str(self.root)

    def get(self, name: str) -> bytes | None:
        """A record, or None where there is none.

        Raises: CheckpointInvalid: it leads out of the storage.
        """
        self._inside(self.root / name)
        try:
            with plain(self.root / name) as file:
                return file.read()
        except (FileNotFoundError, NotADirectoryError):
            return None

    def put(self, name: str, content: bytes) -> None:
        """Write a record all at once, over an older one.

        Raises: StorageFull
        """
        path = self._prepare(name)
        with storage_errors(path):
            write_whole(path, content, lasting=True)

    def create(self, name: str, content: bytes) -> bool:
        """Write a record all at once unless there is one of that name; whether it was written.

        Raises: StorageFull
        """
        path = self._prepare(name)
        with storage_errors(path):
            return create_whole(path, content)

    def remove(self, name: str) -> None:
        """Remove a record, or a folder with all that is in it; one that is gone is fine.

        Raises: StorageFull
        """
        path = self.root / name
        with storage_errors(path), suppress(FileNotFoundError, NotADirectoryError):
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    def names(self, folder: str) -> list[str]:
        """The names directly below `folder`, in order; none where it is not there or leads out of the storage."""
        path = self.root / folder
        if self._leads_out(path):
            return []
        return sorted(name for name in os.listdir(path) if not name.startswith(".")) if path.is_dir() else []

    def check(self) -> None:
        """Make sure that records can be written here, by writing one.

        Raises: StorageFull. StorageUnusable: says why not, and what to do.
        """
        probe = f".check-{secrets.token_hex(4)}"
        try:
            self.create(probe, b"farm")
            (self.root / probe).unlink()
        except OSError as error:
            raise StorageUnusable(
                f"the storage {self.root} cannot hold records: {error.strerror}.",
                remedy="Set FARM_STORAGE to a folder that every node may write, on a file system with hard links.",
            ) from None

    def make_folder(self, folder: str) -> Path:
        """A folder of the storage, with those above it. The storage itself is made only by who never saw it: one that
        is gone was renamed or unmounted, and another in its place would hide what it holds.

        Raises: StorageUnusable: it is gone. CheckpointInvalid: it leads out of the storage. StorageFull
        """
        path = self.root / folder
        self._inside(path)
        with storage_errors(path):
            if not self._was_there:
                self.root.mkdir(parents=True, exist_ok=True)
                self._was_there = True
            for part in (*reversed(path.relative_to(self.root).parents), path.relative_to(self.root)):
                if part.parts:
                    self._make(self.root / part)
        if not self.root.is_dir():
            raise self._unusable()
        return path

    def _make(self, path: Path) -> None:
        try:
            path.mkdir(exist_ok=True)
        except FileNotFoundError:
            raise self._unusable() from None

    def _unusable(self) -> StorageUnusable:
        return StorageUnusable(
            f"the storage {self.root} no longer exists.",
            remedy="Mount it again, or rename it back.",
            is_away=True,
        )

    def _prepare(self, name: str) -> Path:
        path = self.root / name
        self.make_folder(str(path.parent.relative_to(self.root)))
        return path

    def _leads_out(self, path: Path) -> bool:
        return not path.resolve().is_relative_to(self.root.resolve())

    def _inside(self, path: Path) -> None:
        if self._leads_out(path):
            raise CheckpointInvalid(f"{path} leads out of the storage {self.root}.", remedy="Remove the link.")
