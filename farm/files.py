"""Files that a reader finds whole or not at all, on the disk before anything relies on them, and locks among processes.

No other file of farm renames one into place, flushes one to the disk or locks one (tests/farm/test_files.py).
"""

import errno
import fcntl
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

from farm.errors import NotFound, Refused, StorageFull

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
PRIVATE, PUBLIC = 0o600, 0o666  # modes; the umask takes its part of the second


@contextmanager
def writing_whole(path: Path, mode: int = PUBLIC, *, lasting: bool = False) -> Iterator[BinaryIO]:
    """A file to write, which takes the place of `path` when the block ends, and is gone when it fails. `lasting`: then
    it would survive a power cut. What is no file, such as a pipe or a device, is written to and stays what it is."""
    if path.exists() and not path.is_file() and not path.is_dir():
        with path.open("wb") as open_end:
            yield open_end
        return
    draft = draft_of(path)
    try:
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
            yield file
            if lasting:
                flush(file)
        draft.replace(path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
    if lasting:
        flush_folder(path.parent)


def write_whole(path: Path, content: bytes, mode: int = PUBLIC, *, lasting: bool = False) -> None:
    """Write a file all at once, over an older one; as `writing_whole`."""
    with writing_whole(path, mode, lasting=lasting) as file:
        file.write(content)


def read_private(path: Path, *, called: str, holds: str, remedy: str) -> bytes:
    """The content of a file that only its owner may read. Errors say what it is `called`, and which secret it `holds`.

    Raises: NotFound: it cannot be read; with the `remedy`. Refused: others may read it too.
    """
    try:
        with path.open("rb") as file:
            mode, content = os.fstat(file.fileno()).st_mode, file.read()
    except OSError as error:
        raise NotFound(f"{called} cannot be read: {error.strerror}.", remedy=remedy) from None
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise Refused(
            f"{path} holds {holds}, and its mode {stat.S_IMODE(mode):04o} lets others read it.",
            remedy=f"chmod 600 {path}",
        )
    return content


def create_whole(path: Path, content: bytes) -> bool:
    """Write a file all at once unless there is one of that name; whether it was written, and would survive a power cut.

    Raises: OSError: also on a file system without hard links.
    """
    draft = draft_of(path)
    try:
        with draft.open("xb") as file:
            file.write(content)
            flush(file)
        os.link(draft, path)  # unlike rename, fails when the name is taken
    except FileExistsError:
        return False
    finally:
        draft.unlink(missing_ok=True)
    flush_folder(path.parent)
    return True


def place(draft: Path, path: Path) -> None:
    """Give a flushed file, or a folder of such, its name; return when that would survive a power cut.

    Raises: OSError: `draft` is a folder and `path` is a file, or a folder that is not empty.
    """
    draft.replace(path)
    flush_folder(path.parent)


def draft_of(path: Path) -> Path:
    """A hidden name beside `path` that no other writer uses."""
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}")


def flush(file: BinaryIO | int) -> None:
    """Return when all that was written to an open file, or descriptor, is on the disk."""
    if not isinstance(file, int):
        file.flush()
    os.fsync(file)


def flush_folder(folder: Path) -> None:
    """Return when the names in `folder` are on the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class Lock:
    """A file that processes agree by, made if need be and open for the block. What is taken or shared is let go when
    the block ends or the process does; children do not inherit it.
    """

    def __init__(self, path: Path, mode: int = PRIVATE):
        self._path, self._mode = path, mode

    def __enter__(self) -> Self:
        self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT, self._mode)  # which a child does not inherit
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        os.close(self._descriptor)

    def take(self) -> None:
        """Wait until no other process holds it, and hold it alone."""
        fcntl.flock(self._descriptor, fcntl.LOCK_EX)

    def share(self) -> None:
        """Wait until no process holds it alone, and hold it with others."""
        fcntl.flock(self._descriptor, fcntl.LOCK_SH)

    def try_take(self) -> bool:
        """Hold it alone unless another process holds it; whether it is held."""
        return self._try(fcntl.LOCK_EX)

    def try_share(self) -> bool:
        """Hold it with others unless a process holds it alone; whether it is held."""
        return self._try(fcntl.LOCK_SH)

    def _try(self, operation: int) -> bool:
        try:
            fcntl.flock(self._descriptor, operation | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


@contextmanager
def lock(path: Path, mode: int = PRIVATE) -> Iterator[None]:
    """Hold the lock at `path` alone, after waiting for it."""
    with Lock(path, mode) as held:
        held.take()
        yield


def plain(path: Path) -> BufferedReader:
    """Open a file that farm wrote: never through a symbolic link, and nothing that could block the reader.

    Raises: OSError: it is a link, a folder, a pipe or a device; or as `open`.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise OSError(errno.ELOOP, "it is a symbolic link", str(path)) from None
        raise
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "it is not a plain file", str(path))
    return os.fdopen(descriptor, "rb")


@contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """A full disk, quota or file size limit as the farm's own error.

    Raises: StorageFull
    """
    try:
        yield
    except OSError as error:
        if error.errno in FULL:
            raise StorageFull(f"cannot write {path}: {error.strerror}.", remedy="Free some space there.") from error
        raise
