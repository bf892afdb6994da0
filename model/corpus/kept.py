"""Results that are computed once and kept: files that one process makes and others find, and facts about files."""

import errno
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from farm.errors import BadCorpus, StorageFull
from farm.files import PUBLIC, flush, lock, place
from farm.study.recipe import digest


def identity(path: Path) -> list:
    """The facts that show that a file is still the one that was read."""
    stat = path.stat()
    return [str(path.resolve()), stat.st_size, stat.st_mtime_ns]


def sha256_of(path: Path, cache: Path) -> str:
    """sha256 of a file, read once for as long as it does not change."""

    def compute() -> dict:
        with path.open("rb") as file:
            return {"sha256": hashlib.file_digest(file, "sha256").hexdigest()}

    return remember({"file": identity(path)}, compute, cache)["sha256"]


def keep_sha256(path: Path, sha256: str, cache: Path) -> None:
    """Note the sha256 of a file that was computed while it was written."""
    remember({"file": identity(path)}, lambda: {"sha256": sha256}, cache)


def known_sha256(path: Path, cache: Path) -> str | None:
    """sha256 of a file if it was read before, as it is now."""
    known = _fact({"file": identity(path)}, cache)
    return json.loads(known.read_bytes())["sha256"] if known.exists() else None


def remember(key: dict, compute: Callable[[], dict], cache: Path) -> dict:
    """The value that `compute` found for `key`, now or earlier."""
    made = make_once(_fact(key, cache), lambda file: file.write(json.dumps(compute()).encode()))
    return json.loads(made.read_bytes())


def _fact(key: dict, cache: Path) -> Path:
    return cache / "scans" / f"{digest(key)}.json"


def make_once(path: Path, write: Callable[[BinaryIO], object]) -> Path:
    """`path`, written by `write` unless it is there already: whole or not at all, and by one process at a time.

    Raises: StorageFull. BadCorpus: the folder cannot be written.
    """
    if path.exists():
        return path
    unfinished = path.with_suffix(".unfinished")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with lock(path.with_suffix(".lock"), PUBLIC):
            if not path.exists():
                _write(unfinished, write)
                place(unfinished, path)
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise full(path.parent) from None
        raise BadCorpus(
            f"{error.filename or path}: {error.strerror or error}.", remedy=f"It is needed to create {path}."
        ) from None
    return path


def _write(path: Path, write: Callable[[BinaryIO], object]) -> None:
    try:
        with path.open("wb") as file:
            write(file)
            flush(file)
    except BaseException:
        path.unlink(missing_ok=True)  # half a corpus may be many GiB
        raise


def full(folder: Path) -> StorageFull:
    return StorageFull(f"{folder}: no space left for the corpus.", remedy="Free some space, or move that folder.")
