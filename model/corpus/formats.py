"""What files hold: tokens that are mapped where they lie, and text as documents."""

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

from farm.errors import BadCorpus, FarmError
from model.corpus.names import TEXT_SUFFIXES, some

TOKEN = np.dtype("<u2")

# llm.c's header: 256 int32, of which [magic, version, count of tokens]. No GPT-2 stream starts like it: the magic's low
# half is 55,432 read as a token, and GPT-2's vocabulary ends at 50,256.
LLM_C_MAGIC, LLM_C_HEADER_BYTES = 20240520, 1024
SAFETENSORS_HEADER_BYTES = 100_000_000  # what the safetensors library itself accepts


class Span(NamedTuple):
    """Where the tokens of a split lie: `tokens` of them, from byte `start` of `path`."""

    path: Path
    start: int
    tokens: int


def span_of(path: Path) -> Span:
    """Where the tokens lie in a .safetensors or .bin file, after every check that needs no pass over them."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            read = _safetensors if path.suffix == ".safetensors" else _bin
            start, count = read(file, size)
    except OSError as error:
        raise BadCorpus(f"{path}: {error.strerror}.", remedy="Every node must be able to read it.") from None
    except _Damaged as damage:
        raise BadCorpus(f"{path}: {damage}.", remedy="Copy or make it again; docs/data.md shows the formats.") from None
    if count < 1:
        raise BadCorpus(f"{path} holds no tokens.")
    return Span(path, start, count)


class _Damaged(Exception):
    """What is wrong with a file of tokens."""


def _safetensors(file: BinaryIO, size: int) -> tuple[int, int]:
    """First byte and count of the tensor `tokens`, by the format's own rules (huggingface.co/docs/safetensors)."""
    length = int.from_bytes(file.read(8), "little")
    if size < 8 or length > min(size - 8, SAFETENSORS_HEADER_BYTES):
        raise _Damaged(f"no safetensors file: its header would be {length:,} bytes long, the file is {size:,}")
    try:
        header = json.loads(file.read(length))
    except (ValueError, RecursionError):
        header = None
    match header:
        case {"tokens": {"dtype": "U16", "shape": [int(count)], "data_offsets": [int(first), int(last)]}}:
            pass
        case {"tokens": {"dtype": dtype, "shape": shape}}:
            raise _Damaged(f"'tokens' is {dtype} {shape}, not one vector of U16")
        case {**names}:
            raise _Damaged(f"no tensor 'tokens'; it holds {some([str(n) for n in names if n != '__metadata__'])}")
        case _:
            raise _Damaged("no safetensors file: its header is not a JSON object")
    if first < 0 or last - first != count * TOKEN.itemsize:
        raise _Damaged(f"its header puts {count:,} tokens into bytes {first:,} to {last:,}")
    if (missing := 8 + length + last - size) > 0:
        raise _Damaged(f"truncated: {missing:,} of the {last - first:,} bytes of 'tokens' are missing")
    return 8 + length + first, count


def _bin(file: BinaryIO, size: int) -> tuple[int, int]:
    """First byte and count of a nanoGPT file, which is nothing but tokens, or of an llm.c file, which has a header."""
    magic, version, count = struct.unpack("<3i", file.read(12)) if size >= LLM_C_HEADER_BYTES else (0, 0, 0)
    if magic == LLM_C_MAGIC:
        if version != 1 or size != LLM_C_HEADER_BYTES + count * TOKEN.itemsize:
            raise _Damaged(f"llm.c header of version {version} and {count:,} tokens on a file of {size:,} bytes")
        return LLM_C_HEADER_BYTES, count
    if size % TOKEN.itemsize:
        raise _Damaged(f"{size:,} bytes are no whole number of uint16 tokens")
    return 0, size // TOKEN.itemsize


def documents(files: list[Path], field: str) -> Iterator[str]:
    """The documents of text files of one format, in order: rows of `field`, or a .txt as a whole."""
    import datasets

    kind = TEXT_SUFFIXES[files[0].suffix]
    options = {"sample_by": "document"} if kind == "text" else {}
    column = "text" if kind == "text" else field
    where = some([str(file) for file in files])
    try:
        rows = datasets.load_dataset(kind, data_files=[*map(str, files)], split="train", streaming=True, **options)
        for number, row in enumerate(rows):
            if not isinstance(row.get(column), str):
                raise BadCorpus(
                    f"{where}: row {number} has no text in {column!r}; it has {some([*row])}.",
                    remedy="Set data.text_field to the column that holds the documents.",
                )
            yield row[column]
    except FarmError:
        raise
    except Exception as error:  # whatever the reader of that format raises
        raise BadCorpus(f"{where}: {type(error).__name__}: {error}.") from error
