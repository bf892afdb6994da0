"""Where files are cut into parts that processes encode on their own: the same ones whatever their number."""

import re
from itertools import pairwise
from pathlib import Path
from typing import Any

from model.corpus.documents import Part, check_kind, name_file, parquet_of
from model.corpus.formats import array_of, span_of
from model.corpus.names import TOKEN_SUFFIXES, codec_suffix, kind
from model.corpus.tokenizer import BYTES, GPT2, Tokenizer

PART_BYTES = 2**22  # of text: about a million tokens, and a second of one core
WINDOW = 2**16  # bytes in which a place to cut is looked for

# Between two words, where GPT-2's pattern always begins a new piece, so that the tokens on both sides stay the same.
BETWEEN_WORDS = re.compile(rb"[A-Za-z](?= [A-Za-z])")


def cut(path: Path, field: str, made_by: Tokenizer) -> list[Part]:
    """The parts of a file of text or tokens, in order.

    Raises: BadCorpus: it is damaged, or has no column `field`.
    """
    with name_file(path):
        if kind(path.name) in TOKEN_SUFFIXES:
            return _cut_evenly(path, count_of(path), PART_BYTES // 4)
        check_kind(path)
        if kind(path.name) == ".parquet":
            return _cut_rows(path, field)
        if codec_suffix(path.name) or not path.stat().st_size:
            return [Part(path)]  # which cannot be read from the middle
        if kind(path.name) == ".jsonl":
            return _cut_lines(path)
        return _cut_text(path) if made_by in (GPT2, BYTES) else [Part(path)]


def count_of(path: Path) -> int:
    """How many tokens a file has, of 16 bits or, in a .npy, of any width."""
    array = array_of(path)
    return array.length if array else span_of(path).tokens


def bytes_of(path: Path, field: str) -> int:
    """About how much text a file holds, without reading it: of compressed text, four times its size."""
    with name_file(path):
        if kind(path.name) == ".parquet":
            with path.open("rb") as file:
                table = parquet_of(path, file, field)
                sizes = [_column_bytes(table, group, field) for group in range(table.metadata.num_row_groups)]
            return max(sum(sizes), path.stat().st_size)
        return path.stat().st_size * (4 if codec_suffix(path.name) else 1)


def _cut_evenly(path: Path, count: int, size: int) -> list[Part]:
    return [Part(path, start, min(start + size, count)) for start in range(0, count, size)]


def _cut_rows(path: Path, field: str) -> list[Part]:
    """Whole row groups where they are small, even shares of one that is large."""
    parts: list[Part] = []
    row, held = 0, PART_BYTES
    with path.open("rb") as file:
        table = parquet_of(path, file, field)
        for group in range(table.metadata.num_row_groups):
            rows, size = table.metadata.row_group(group).num_rows, _column_bytes(table, group, field)
            shares = min(rows, -(-size // PART_BYTES)) or 1
            if shares == 1 and held + size <= PART_BYTES:
                parts[-1] = parts[-1]._replace(stop=row + rows)
                held += size
            else:
                edges = [row + rows * share // shares for share in range(shares + 1)]
                parts += [Part(path, start, stop) for start, stop in pairwise(edges)]
                held = size if shares == 1 else PART_BYTES
            row += rows
    return parts


def _column_bytes(table: Any, group: int, field: str) -> int:
    """The size of a column in a row group, unpacked; that of all of it where the column is nested."""
    metadata = table.metadata.row_group(group)
    columns = [metadata.column(number) for number in range(metadata.num_columns)]
    own = [column.total_uncompressed_size for column in columns if column.path_in_schema == field]
    return own[0] if own else metadata.total_byte_size


def _cut_lines(path: Path) -> list[Part]:
    parts, start, line = [], 0, 1
    with path.open("rb") as file:
        while block := file.read(PART_BYTES):
            block += file.readline()
            parts.append(Part(path, start, start + len(block), line))
            start, line = start + len(block), line + block.count(b"\n")
    return parts


def _cut_text(path: Path) -> list[Part]:
    """One document in parts, of which only the last closes it."""
    parts, start, size = [], 0, path.stat().st_size
    with path.open("rb") as file:
        while start < size:
            stop = start + PART_BYTES
            file.seek(stop)
            while window := file.read(WINDOW):
                if match := BETWEEN_WORDS.search(window):
                    stop += match.end()
                    break
                stop += len(window)
            stop = min(stop, size)
            parts.append(Part(path, start, stop, closes=stop == size))
            start = stop
    return parts
