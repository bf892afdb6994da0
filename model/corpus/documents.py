"""Text as documents: of parquet the one column, of JSON lines the one field, a .txt as a whole.

What is not asked for is not read, so that it may be anything, and a fault names file, row and reason.
"""

import io
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, cast

from farm.errors import BadCorpus
from model.corpus import magic
from model.corpus.names import CODECS, codec_suffix, kind, some

ROWS = 1024  # of parquet, held at a time
SET_FIELD = "Set data.text_field (farm data: --text-field) to the column that holds the documents."
MEND = "Fix that document, or leave it out."


class Document(NamedTuple):
    """A text, and where it stands: a file, and a row or line of it."""

    place: str
    text: str


class Part(NamedTuple):
    """A stretch of a text file, which is read on its own: rows of parquet, else bytes, from `start` to before `stop`.

    `line` is the number of its first line. It `closes` the document that it ends with, unless the next part goes on
    with it.
    """

    path: Path
    start: int = 0
    stop: int | None = None
    line: int = 1
    closes: bool = True


def documents(files: list[Path], field: str) -> Iterator[Document]:
    """The documents of text files, in order.

    Raises: BadCorpus: a file cannot be read, or one has a row without a text in `field`.
    """
    for path in files:
        yield from read(Part(path), field)


def read(part: Part, field: str) -> Iterator[Document]:
    """The documents of a part of a file, in order. Raises: as documents."""
    with name_file(part.path):
        check_kind(part.path)
        if kind(part.path.name) == ".parquet":
            yield from _rows(part, field)
        elif kind(part.path.name) == ".jsonl":
            yield from _lines(part, field)
        else:
            yield _whole(part)


@contextmanager
def name_file(path: Path) -> Iterator[None]:
    """Add the name of the file to what a reader raises."""
    from pyarrow.lib import ArrowException

    try:
        yield
    except (OSError, ArrowException) as error:
        said = error.strerror if isinstance(error, OSError) and error.strerror else str(error).rstrip(".")
        raise BadCorpus(f"{path}: {said}.", remedy="Copy it again, or repair it.") from None


def check_kind(path: Path) -> None:
    """Raises: BadCorpus: the file is something else than its name says."""
    expected = {".parquet": "parquet"}.get(kind(path.name))
    with path.open("rb") as file:
        found = magic.recognise(file.read(magic.HEAD_BYTES))
    if found and found[0] != expected and not (codec_suffix(path.name) and found[0].startswith("compressed")):
        raise BadCorpus(f"{path}: it is {found[0]}.", remedy=found[1])


def _rows(part: Part, field: str) -> Iterator[Document]:
    with part.path.open("rb") as file:
        table = parquet_of(part.path, file, field)
        row = 0
        for group in range(table.metadata.num_row_groups):
            behind = row + table.metadata.row_group(group).num_rows
            if behind <= part.start or (part.stop is not None and part.stop <= row):
                row = behind
                continue
            for batch in table.iter_batches(ROWS, row_groups=[group], columns=[field]):
                column = batch.column(batch.schema.get_field_index(field))
                first = max(0, part.start - row)
                last = len(column) if part.stop is None else min(len(column), max(0, part.stop - row))
                for number, value in enumerate(column[first:last], row + first):
                    place = f"{part.path}: row {number:,}"
                    yield Document(place, _text(place, _python(place, value), field))
                row += len(column)


def parquet_of(path: Path, file: BinaryIO, field: str) -> Any:
    """An open parquet file that has the column `field`.

    Raises: BadCorpus: it has not.
    """
    from pyarrow import parquet

    table = parquet.ParquetFile(file)
    columns = table.schema_arrow.names
    if field not in columns:
        raise BadCorpus(f"{path} has no column {field!r}; it has {some(columns)}.", remedy=SET_FIELD)
    return table


def _python(place: str, value: Any) -> Any:
    try:
        return value.as_py()
    except UnicodeDecodeError as error:
        raise BadCorpus(f"{place} is not UTF-8: {error}.", remedy=MEND) from None


def _lines(part: Part, field: str) -> Iterator[Document]:
    with _open(part.path) as file:
        if part.start:
            file.seek(part.start)
        at = part.start
        for number, line in enumerate(file, part.line):
            if part.stop is not None and at >= part.stop:
                return
            at += len(line)
            if line.strip():
                place = f"{part.path}: line {number:,}"
                yield Document(place, _text(place, _member(place, line, field), field))


def _member(place: str, line: bytes, field: str) -> Any:
    try:
        row = json.loads(line.decode("utf-8-sig" if place.endswith(": line 1") else "utf-8"))
    except (ValueError, RecursionError) as error:
        raise BadCorpus(f"{place} is not JSON: {error}.", remedy="Write one object per line.") from None
    if not isinstance(row, dict):
        raise BadCorpus(f"{place} is not an object.", remedy=f'Write one per line: {{"{field}": "..."}}')
    if field not in row:
        raise BadCorpus(f"{place} has no {field!r}; it has {some([*row])}.", remedy=SET_FIELD)
    return row[field]


def _whole(part: Part) -> Document:
    with _open(part.path) as file:
        if part.start:
            file.seek(part.start)
        content = file.read() if part.stop is None else file.read(part.stop - part.start)
    try:
        return Document(str(part.path), content.decode("utf-8" if part.start else "utf-8-sig"))
    except UnicodeDecodeError as error:
        where = f"byte 0x{content[error.start]:02x} in position {part.start + error.start:,}"
        raise BadCorpus(f"{part.path} is not UTF-8: {error.reason}, {where}.", remedy="Save it as UTF-8.") from None


def _text(place: str, value: Any, field: str) -> str:
    """Raises: BadCorpus: it is no text, or one that no file could hold."""
    if not isinstance(value, str):
        what = "null" if value is None else f"of type {type(value).__name__}"
        raise BadCorpus(f"{place}: {field!r} is {what}, not text.", remedy=f"{MEND} {SET_FIELD}")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        half = f"U+{ord(value[error.start]):04X} at character {error.start:,}"
        raise BadCorpus(f"{place}: {field!r} has half of a surrogate pair, {half}.", remedy=MEND) from None
    return value


def _open(path: Path) -> BinaryIO:
    """The content of a file, unpacked. Exactly this file: pyarrow would take a name for a URI."""
    file = path.open("rb")
    codec = CODECS.get(codec_suffix(path.name))
    if codec is None:
        return file
    import pyarrow

    return cast(BinaryIO, io.BufferedReader(pyarrow.CompressedInputStream(file, codec)))
