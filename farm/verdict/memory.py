"""Answers of pure functions, kept on this disk: what was judged before needs neither numpy nor scipy, and a table whose
study has not changed is not ranked again.

An answer is found by a sha256 of all that it follows from: the function, its arguments to the last bit, farm's source
files, Python, numpy, scipy, pydantic and the processor's kind. A file that is damaged, or somebody else's, is as none.
"""

import hashlib
import json
import os
import platform
import sys
import time
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from functools import lru_cache, wraps
from importlib.util import find_spec
from itertools import accumulate
from pathlib import Path
from typing import Any, ParamSpec, TypeVar, get_type_hints

from pydantic import BaseModel, TypeAdapter

from farm.files import write_whole

P = ParamSpec("P")
T = TypeVar("T")
FARM = Path(__file__).resolve().parent.parent
MOST = 1_000  # answers in a folder; the older half goes when there are more
MOST_BYTES = 10_000_000  # of an answer; the table of 1,000 runs, each of an arm of its own, takes 2 MB
MOST_BYTES_IN_ALL = 100_000_000  # of a folder; the older half goes when there are more
LONG = 100  # characters of a text that is told by its digest: its JSON takes ten times as long
SETTLED_SECONDS = 60.0  # a source that changed later than this before the start may not be the one that was imported
BEGAN = time.time()
OTHERS_MAY_WRITE = 0o022

_folder: ContextVar[Path | None] = ContextVar("folder", default=None)


@contextmanager
def remembering(folder: Path) -> Iterator[None]:
    """Within the block, what is `remembered` is looked up in `folder` before it is computed, and kept there."""
    token = _folder.set(folder)
    try:
        yield
    finally:
        _folder.reset(token)


def remembered(function: Callable[P, T]) -> Callable[P, T]:
    """A pure function with this memory; it computes every time but where somebody is `remembering`.

    So it does of values that are not plain: a table must never fail for want of a memory.
    """

    @wraps(function)
    def answer(*arguments: P.args, **named: P.kwargs) -> T:
        folder = _folder.get()
        if folder is None:
            return function(*arguments, **named)
        of, kind, file = f"{function.__module__}.{function.__qualname__}", _kind(function), None
        with suppress(OSError, TypeError):
            file = folder / key(of, arguments, named, version(FARM, BEGAN - SETTLED_SECONDS))
            return _read(file, kind)
        found = function(*arguments, **named)
        if file:
            with suppress(OSError):
                _keep(file, kind, found)
        return found

    return answer


def key(of: str, arguments: tuple[Any, ...], named: Mapping[str, Any], made_by: str) -> str:
    """The name of an answer's file."""
    return hashlib.sha256(f"{of}\n{_spell(arguments)}\n{_spell(named)}\n{made_by}".encode()).hexdigest()


def _spell(value: Any) -> str:
    """Plain values, each in a spelling of its own: order, type and every bit count. Raises: TypeError: not plain."""
    if isinstance(value, str) and len(value) > LONG:
        return f"sha256 {hashlib.sha256(value.encode('utf-8', 'surrogatepass')).hexdigest()}"
    if value is None or isinstance(value, bool | int | str):
        return json.dumps(value)
    if isinstance(value, float):
        return value.hex()
    if isinstance(value, BaseModel):
        return f"{type(value).__name__}{_spell(dict(value))}"
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{_spell(name)}:{_spell(one)}" for name, one in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ",".join(map(_spell, value)) + "]"
    raise TypeError(f"a {type(value).__name__} is no plain value")


@lru_cache(maxsize=4)
def version(source: Path, settled: float) -> str:
    """The code that computes: farm's own at `source`, and what it stands on, without importing that.

    Raises: OSError: some of it cannot be read, or changed after the moment `settled`.
    """
    found = hashlib.sha256(f"{sys.version}\n{platform.machine()}\n".encode())
    specs = [spec for name in ("numpy", "scipy", "pydantic") if (spec := find_spec(name))]
    libraries = [Path(spec.origin or "").with_name("version.py") for spec in specs]
    own = [os.path.join(folder, name) for folder, _, names in os.walk(source) for name in names if name.endswith(".py")]
    for file in [*sorted(own), *map(str, libraries)]:  # half the time of 120 paths
        with open(file, "rb") as content:
            if os.fstat(content.fileno()).st_mtime > settled:
                raise OSError(f"{file} has just changed")
            found.update(f"{os.path.basename(file)} {hashlib.sha256(content.read()).hexdigest()}\n".encode())
    return found.hexdigest()


@lru_cache(maxsize=100)
def _kind(function: Callable[..., Any]) -> TypeAdapter[Any]:
    return TypeAdapter(get_type_hints(function)["return"])


def _read(file: Path, kind: TypeAdapter[T]) -> T:
    """Raises: OSError: there is no such answer, or it is none that was kept here."""
    if not _is_ours(file.parent):
        raise OSError(f"{file.parent} is not this user's alone")
    digest, _, text = file.read_bytes().partition(b"\n")
    if digest != _seal(file, text):
        raise OSError(f"{file} is damaged")
    return kind.validate_json(text)


def _keep(file: Path, kind: TypeAdapter[T], answer: T) -> None:
    """Keep what reads back as it was. Raises: OSError"""
    text = kind.dump_json(answer)
    with suppress(ValueError):
        if len(text) <= MOST_BYTES and repr(kind.validate_json(text)) == repr(answer):
            file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            if _is_ours(file.parent):
                write_whole(file, _seal(file, text) + b"\n" + text, 0o600)
                _thin_out(file.parent)


def _seal(file: Path, text: bytes) -> bytes:
    return hashlib.sha256(file.name.encode() + text).hexdigest().encode()


def _is_ours(folder: Path) -> bool:
    found = folder.stat()
    return found.st_uid == os.getuid() and not found.st_mode & OTHERS_MAY_WRITE


def _thin_out(folder: Path) -> None:
    with os.scandir(folder) as there:
        files = sorted(((entry.stat(), entry.path) for entry in there), key=lambda one: one[0].st_mtime, reverse=True)
    sizes = list(accumulate(stat.st_size for stat, _ in files))
    if len(files) > MOST or sizes[-1] > MOST_BYTES_IN_ALL:
        stay = min(MOST // 2, bisect_right(sizes, MOST_BYTES_IN_ALL // 2))
        for _, path in files[stay:]:
            Path(path).unlink(missing_ok=True)
