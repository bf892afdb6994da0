"""One part of a file as tokens, in a file of its own: what a process makes of it, and what a resume finds there."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file, save

from farm.errors import BadCorpus
from farm.files import write_whole
from model.corpus.documents import Part, read
from model.corpus.formats import TOKEN, array_of, span_of
from model.corpus.names import TOKEN_SUFFIXES, kind
from model.corpus.text import tokens_of
from model.corpus.tokenizer import Tokenizer

LARGEST = 2**16 - 1  # the largest token that 16 bits hold


class Size(NamedTuple):
    """How much a piece holds."""

    tokens: int
    documents: int


def make(part: Part, field: str, made_by: Tokenizer, piece: Path) -> Size:
    """Write the tokens of `part` to `piece`, and where its documents end. All at once, so that a kill leaves nothing.

    Raises: BadCorpus: names the file, and where in it.
    """
    found = [*_read(part, field, made_by)]
    tokens = np.concatenate(found) if found else np.zeros(0, TOKEN)
    ends = np.flatnonzero(tokens == made_by.end_of_text).astype(np.uint32) + 1
    write_whole(piece, save({"tokens": tokens.astype(TOKEN), "ends": ends.astype(np.uint32)}), lasting=True)
    return Size(len(tokens), len(ends))


def size_of(piece: Path) -> Size | None:
    """How much a piece holds that is there; None where it has to be made."""
    try:
        with safe_open(piece, framework="numpy") as file:
            return Size(*(file.get_slice(name).get_shape()[0] for name in ("tokens", "ends")))
    except (OSError, SafetensorError, KeyError):
        return None


def load(piece: Path) -> tuple[np.ndarray, np.ndarray]:
    """The tokens of a piece, and the positions right behind the end of each document in it."""
    found = load_file(piece)
    return found["tokens"], found["ends"].astype(np.int64)


def _read(part: Part, field: str, made_by: Tokenizer) -> Iterator[np.ndarray]:
    if kind(part.path.name) in TOKEN_SUFFIXES:
        yield _tokens(part, made_by)
        return
    for tokens in tokens_of(read(part, field), made_by, threads=1):
        yield tokens if part.closes else tokens[:-1]


def _tokens(part: Part, made_by: Tokenizer) -> np.ndarray:
    """Of a file that holds tokens already.

    Raises: BadCorpus: one of them is not a token of the tokenizer, or does not fit into 16 bits.
    """
    array = array_of(part.path)
    start, dtype = (array.start, array.dtype) if array else (span_of(part.path).start, TOKEN)
    count = (part.stop or 0) - part.start
    tokens = np.memmap(part.path, dtype, "r", start + part.start * dtype.itemsize, (count,))
    if len(wrong := np.flatnonzero((tokens >= made_by.vocab) | (tokens < 0))):
        token, at = int(tokens[wrong[0]]), part.start + int(wrong[0])
        fits = 0 <= token <= LARGEST
        raise BadCorpus(
            f"{part.path} has token {token:,} at position {at:,}; "
            + (f"the tokenizer has {made_by.vocab:,}." if fits else f"16 bits hold 0 to {LARGEST:,}."),
            remedy="Name the tokenizer that made them with --tokenizer."
            if fits
            else "Make the tokens with a tokenizer of at most 65,536.",
        )
    return np.asarray(tokens).astype(TOKEN)
