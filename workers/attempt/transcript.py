"""The printed output of an attempt, saved beside its record."""

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import FileIO
from pathlib import Path


@contextmanager
def copy_to(path: Path) -> Iterator[None]:
    """Everything written to stdout and stderr meanwhile, by this process or into it by Ray, also goes to `path`.

    Where one of the two places cannot be written, on a full disk for one, all goes on to the other.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    keep_out, keep_err = os.dup(1), os.dup(2)
    sinks = [FileIO(os.dup(1), "wb"), FileIO(path, "ab")]
    read, write = os.pipe()
    copier = threading.Thread(target=_copy, args=(FileIO(read), sinks), daemon=True)
    copier.start()
    os.dup2(write, 1)
    os.dup2(write, 2)
    os.close(write)
    try:
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for kept, number in ((keep_out, 1), (keep_err, 2)):
            os.dup2(kept, number)
            os.close(kept)
        copier.join(timeout=5)


def _copy(source: FileIO, sinks: list[FileIO]) -> None:
    """Until no process can write into `source` any more, a surviving child included; closes all of them."""
    with source:
        while chunk := source.read(65536):
            _send(chunk, sinks)
    for sink in sinks:
        sink.close()


def _send(chunk: bytes, sinks: list[FileIO]) -> None:
    """To each of `sinks`; one that fails is left out from now on, and the others say so."""
    reasons: list[str | None] = []
    for sink in tuple(sinks):
        try:
            _write(chunk, sink)
        except OSError as error:
            reasons.append(error.strerror)
            sinks.remove(sink)
            with suppress(OSError):
                sink.close()
    for reason in reasons if sinks else ():
        _send(f"\nContinuing without a copy of this output: {reason}.\n".encode(), sinks)


def _write(chunk: bytes, sink: FileIO) -> None:
    while chunk:
        chunk = chunk[sink.write(chunk) :]
