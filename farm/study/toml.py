"""The text of a study file and the TOML tables in it."""

import json
import re
import sys
import tomllib
from contextlib import AbstractContextManager, nullcontext
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

import tomli_w

from farm.errors import BadStudy
from farm.study import meant

MAX_BYTES = 2**20
STANDARD_INPUT = Path("-")


def key(name: str) -> str:
    """A name as a key of a table: in quotes where it needs them."""
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else json.dumps(name)


def read(path: Path) -> str:
    """The text of a study file, or of standard input where `path` is "-".

    Raises: BadStudy: it is not there, not a file, not text, or too large.
    """
    if path.is_dir():
        raise BadStudy(f"{path} is a folder, not a study file.", remedy=f"Name a .toml file, e.g. {path}/study.toml.")
    try:
        with _open(path) as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise BadStudy(f"{path}: {error.strerror}.", remedy="Name a study file; examples/ has two.") from None
    if len(content) > MAX_BYTES:
        raise BadStudy(
            f"{name_of(path)} is over {MAX_BYTES:,} bytes, too large for a study.", remedy="Is it the right file?"
        )
    try:
        return content.decode("utf-8-sig")  # Windows' editors put a mark first
    except UnicodeDecodeError as error:
        raise BadStudy(
            f"{name_of(path)} is not text: byte {error.start} is not UTF-8.", remedy="Is it the right file?"
        ) from None


def _open(path: Path) -> AbstractContextManager[BinaryIO]:
    if path != STANDARD_INPUT:
        return path.open("rb")
    return nullcontext(sys.stdin.buffer if sys.stdin else BytesIO())  # None: closed by the caller


def text(tables: dict[str, Any]) -> str:
    """Tables as TOML. It has no word for None, so that is left out: a missing value means the same everywhere."""
    written = tomli_w.dumps(_without_none(tables))
    return re.sub(r"[^\n\r\t -~]", lambda found: _visible(found[0]), written)


def _visible(letter: str) -> str:
    """A letter, escaped if a reader could not see it: what a page or a terminal drops must not be lost from a file."""
    return letter if letter.isprintable() else f"\\U{ord(letter):08x}"


def _without_none(table: dict[str, Any]) -> dict[str, Any]:
    told = {key: value for key, value in table.items() if value is not None}
    return {key: _without_none(value) if isinstance(value, dict) else value for key, value in told.items()}


def name_of(path: Path) -> str:
    """The name by which errors call the file."""
    return "standard input" if path == STANDARD_INPUT else str(path)


def tables(text: str, source: str) -> dict[str, Any]:
    """The tables in `text`; `source` names it in errors. Raises: BadStudy: it is not TOML."""
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # a number of 5,000 digits is a plain ValueError
        raise BadStudy(f"{source}: not TOML: {error}{_quote(text, error)}.", remedy="See examples/demo.toml.") from None


def _quote(text: str, error: Exception) -> str:
    """The line that tomllib stopped at, and what to write there."""
    found, lines = re.search(r"at line (\d+), column", str(error)), text.splitlines()
    if not found or int(found[1]) > len(lines):
        return ""
    wrong = lines[int(found[1]) - 1].strip()
    is_twice = "overwrite" in str(error) or "twice" in str(error)
    right = "it is in the file already: leave one out" if is_twice else meant.syntax(wrong)
    return f": {wrong[:60]}" + (f"; {right}" if right else "")
