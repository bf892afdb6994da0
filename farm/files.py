"""Files of the farm's own, as whoever writes, reads or shares them must: by any room, on any machine."""

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path

from farm.errors import StorageFull

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


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
        raise OSError(errno.EINVAL, "it is no plain file", str(path))
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
