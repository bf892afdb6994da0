"""What an attempt prints, kept beside its record."""

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def copied_to(path: Path) -> Iterator[None]:
    """Everything written to stdout and stderr meanwhile, by this process or into it by Ray, also goes to `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    read, write = os.pipe()
    keep_out, keep_err = os.dup(1), os.dup(2)
    with path.open("ab", buffering=0) as file:
        copier = threading.Thread(target=_copy, args=(read, keep_out, file.fileno()), daemon=True)
        copier.start()
        os.dup2(write, 1)
        os.dup2(write, 2)
        os.close(write)
        try:
            yield
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os.dup2(keep_out, 1)
            os.dup2(keep_err, 2)
            copier.join(timeout=5)


def _copy(source: int, *sinks: int) -> None:
    while chunk := os.read(source, 65536):
        for sink in sinks:
            os.write(sink, chunk)
    os.close(source)
