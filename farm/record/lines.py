"""A file of JSON lines that grows: a line is there whole or not at all, and on the disk when that is asked for."""

import json
import os
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from farm.errors import Conflict
from farm.files import flush, storage_errors


class JsonLines:
    """Appends to a file that it creates. Use it as a context manager, or close it.

    Raises: Conflict: the file is there already. StorageFull: here and from `write` and `sync`. A line that was not
    written whole is not there at all, and the next may be tried.
    """

    def __init__(self, path: Path):
        self.path = path
        self._bytes = 0  # of whole lines
        with storage_errors(path):
            try:
                self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o644)
            except FileExistsError:
                raise Conflict(
                    f"{path} already exists.", remedy="An attempt writes it once: start another attempt."
                ) from None

    def write(self, content: dict[str, Any]) -> None:
        """Add a line. It survives the death of this process at once, and that of the machine after `sync`."""
        line = json.dumps(content, allow_nan=False, separators=(",", ":")).encode() + b"\n"
        with storage_errors(self.path):
            try:
                written = os.write(self._descriptor, line)
                while written < len(line):  # a disk that is nearly full takes a part, and then says why not the rest
                    written += os.write(self._descriptor, line[written:])
            except OSError:
                os.ftruncate(self._descriptor, self._bytes)  # half a line, with another behind it, would be damage
                raise
        self._bytes += len(line)

    def sync(self) -> None:
        """Return when every line is on the disk."""
        with storage_errors(self.path):
            flush(self._descriptor)

    def close(self) -> None:
        self.sync()
        os.close(self._descriptor)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
