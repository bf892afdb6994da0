"""Losses in a CSV, or the same rows as JSON: read, and refused with file, line and column where they make no sense."""

import csv
import io
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from math import isfinite
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from pydantic import ValidationError

from farm.errors import BadImport, in_plain_words, nearest
from farm.record.imported import ImportedRun
from farm.study.study import MAX_RUNS

MAX_BYTES = 2**24
MAX_FAULTS = 30  # that are told
NEEDED = ("arm", "machine", "init_seed", "train_seed", "test_loss")
OPTIONAL = ("hours", "usd", "tokens_per_second", "tokens", "rerun")
COLUMNS = (*NEEDED, *OPTIONAL)
WHOLE = ("init_seed", "train_seed", "tokens", "rerun")
MAY_BE_EMPTY = ("init_seed", "train_seed", *OPTIONAL)
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
_NOT_FINITE = re.compile(r"[+-]?(nan|inf|infinity)", re.IGNORECASE)


class Rows(NamedTuple):
    """The rows of a file, and the columns that were not read."""

    runs: tuple[ImportedRun, ...]
    unread: tuple[str, ...]


class _Row(NamedTuple):
    line: int
    cells: Mapping[str, Any]  # column -> text of a CSV, or a value of JSON; '' and None are empty


def read(path: Path) -> Rows:
    """The rows of a .csv, .json or .jsonl file.

    Raises: BadImport: a line for each fault, with its file, line and column.
    """
    text = _text(path)
    rows = list(_csv(path, text) if path.suffix.lower() == ".csv" else _json(path, text))
    if not rows:
        raise BadImport(f"{path}: holds no row.", remedy=f"Write one a model: {','.join(NEEDED)}")
    if len(rows) > MAX_RUNS:
        raise BadImport(f"{path}: holds {len(rows):,} rows; a study has at most {MAX_RUNS:,} runs.")
    faults: list[str] = []
    found: dict[str, tuple[int, ImportedRun]] = {}
    for row in rows:
        run = _run(path, row, faults)
        if run is None:
            continue
        if run.id in found:
            first = found[run.id][0]
            told = "loss" if run.seeds is None else "seeds"
            faults.append(
                f"{path}:{row.line}: column {'test_loss' if run.seeds is None else 'init_seed'}: the same arm, machine"
                f" and {told} as line {first}; number repetitions in a column `rerun`: 0, 1, 2."
            )
        found.setdefault(run.id, (row.line, run))
    if faults:
        _refuse(faults, path)
    named = dict.fromkeys(key for row in rows for key in row.cells)
    return Rows(tuple(run for _, run in found.values()), tuple(key for key in named if key not in COLUMNS))


def _text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
        if len(content) > MAX_BYTES:
            raise BadImport(f"{path}: over {MAX_BYTES / 2**20:g} MiB, too large for a list of losses.")
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise BadImport(f"{path}:{line}: is not UTF-8.", remedy="Save it as UTF-8.") from None
    except OSError as error:
        raise BadImport(f"{path}: {error.strerror}.") from None


def _csv(path: Path, text: str) -> Iterator[_Row]:
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        head = [name.strip() for name in next(reader, [])]
        _refuse_head(path, head)
        for cells in reader:
            if any(cell.strip() for cell in cells):
                if len(cells) != len(head):
                    _refuse_length(path, reader.line_num, head, cells)
                yield _Row(reader.line_num, dict(zip(head, (cell.strip() for cell in cells), strict=True)))
    except csv.Error as error:
        raise BadImport(
            f"{path}:{reader.line_num}: is not CSV ({error}).", remedy="Is a quotation mark not closed?"
        ) from None


def _refuse_head(path: Path, head: Sequence[str]) -> None:
    if len(head) == 1 and (between := next((mark for mark in ";\t|" if mark in head[0]), None)):
        raise BadImport(
            f"{path}:1: its columns are separated by {between!r}.",
            remedy="Separate them by commas, and write numbers with a decimal point.",
        )
    faults = [f"{path}:1: column {name} is missing{nearest(name, head)}" for name in NEEDED if name not in head]
    twice = sorted({name for name in head if head.count(name) > 1})
    faults += [f"{path}:1: column {name or '(without a name)'} is there twice." for name in twice]
    if faults:
        _refuse(faults, path)


def _refuse_length(path: Path, line: int, head: Sequence[str], cells: Sequence[str]) -> NoReturn:
    if len(cells) < len(head):
        what = f"column {head[len(cells)]} is missing"
    else:
        what = f"column {len(head) + 1} has no name in the header"
    raise BadImport(f"{path}:{line}: {what}: the line has {len(cells)} cells and the header {len(head)}.")


def _json(path: Path, text: str) -> Iterator[_Row]:
    """An array of objects, or one object a line; each row with the line that it begins on."""
    at = _blank(text, 0)
    is_list = text[at : at + 1] == "["
    at += is_list
    decoder = json.JSONDecoder(parse_constant=lambda word: float(word), object_pairs_hook=_pairs)
    while (at := _blank(text, at)) < len(text) and not (is_list and text[at] == "]"):
        line = text.count("\n", 0, at) + 1
        try:
            row, at = decoder.raw_decode(text, at)
        except json.JSONDecodeError as error:
            column = f"column {error.colno}"
            raise BadImport(f"{path}:{error.lineno}: is not JSON at {column}: {error.msg}.") from None
        except _Twice as error:
            raise BadImport(f"{path}:{line}: column {error} is there twice.") from None
        if not isinstance(row, dict):
            raise BadImport(f"{path}:{line}: is not an object with {', '.join(NEEDED)}.")
        if faults := [f"{path}:{line}: column {name} is missing." for name in NEEDED if name not in row]:
            _refuse(faults, path)
        yield _Row(line, row)
        at = _blank(text, at)
        if is_list and text[at : at + 1] not in (",", "]"):
            raise BadImport(f"{path}:{text.count(chr(10), 0, at) + 1}: is not JSON: ',' or ']' is missing.")
        at += is_list and text[at] == ","


class _Twice(Exception):
    """A key that an object has twice."""


def _pairs(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise _Twice(next(key for index, (key, _) in enumerate(pairs) if key in dict(pairs[:index])))
    return found


def _blank(text: str, at: int) -> int:
    while at < len(text) and text[at] in " \t\r\n":
        at += 1
    return at


def _run(path: Path, row: _Row, faults: list[str]) -> ImportedRun | None:
    """A row as a run, or None where something is wrong with it."""
    before, values = len(faults), dict[str, Any]()
    for name in COLUMNS:
        given = row.cells.get(name)
        where = f"{path}:{row.line}: column {name}:"
        if given is None or given == "":
            if name not in MAY_BE_EMPTY:
                faults.append(f"{where} is empty.")
        elif name in ("arm", "machine"):
            values[name] = given
        else:
            values[name] = _number(given, where, name in WHOLE, faults)
    try:
        run = ImportedRun(**values, source=f"{path}:{row.line}")
    except ValidationError as error:
        faults += [
            f"{path}:{row.line}: column {fault['loc'][0]}: {fault['input']!r}: {_requirement(fault['msg'])}."
            for fault in error.errors()
            if values.get(str(fault["loc"][0])) is not None  # what is no number was told above
        ]
        return None
    return run if len(faults) == before else None


def _requirement(message: str) -> str:
    message = in_plain_words(message)
    return message if message.startswith("must ") else f"must be {message}"


def _number(given: Any, where: str, is_whole: bool, faults: list[str]) -> float | int | None:
    text = str(given)
    if isinstance(given, bool) or not isinstance(given, str | int | float):
        faults.append(f"{where} {json.dumps(given)[:60]} is not a number.")
    elif _NOT_FINITE.fullmatch(text):
        faults.append(f"{where} {text} is not finite.")
    elif not _NUMBER.fullmatch(text):
        more = f"; write {text.replace(',', '.')}" if re.fullmatch(r"\d+,\d+", text) else ""
        faults.append(f"{where} {text[:60]!r} is not a number{more}.")
    elif is_whole and isinstance(given, str | int) and re.fullmatch(r"[+-]?\d{1,30}", text):
        return int(text)
    elif is_whole:
        number = float(text)
        if number.is_integer() and abs(number) < 2**53:
            return int(number)
        faults.append(f"{where} {text[:60]} is not a whole number.")
    elif not isfinite(number := float(text)):
        faults.append(f"{where} {text[:60]} is not finite: it is larger than any 64-bit number.")
    else:
        return number
    return None


def _refuse(faults: Sequence[str], path: Path) -> NoReturn:
    told = list(faults[:MAX_FAULTS])
    if len(faults) > MAX_FAULTS:
        told.append(f"{path}: {len(faults) - MAX_FAULTS:,} more faults.")
    raise BadImport(told[0], also=tuple(told[1:]))
