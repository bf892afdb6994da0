"""One part of a file as tokens, in a file of its own: what a process makes of it, and what a resume finds there."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from farm.errors import BadCorpus
from farm.files import writing_whole
from model.corpus.documents import Part, read
from model.corpus.formats import HEADER_BYTES, TOKEN, Span, array_of, header_of, span_of
from model.corpus.names import TOKEN_SUFFIXES, kind
from model.corpus.text import tokens_of
from model.corpus.tokenizer import Tokenizer

LARGEST = 2**16 - 1  # the largest token that 16 bits hold


def make(part: Part, field: str, made_by: Tokenizer, piece: Path) -> int:
    """Write the tokens of `part` to `piece`; how many. All at once, so that a kill leaves nothing.

    Raises: BadCorpus: names the file, and where in it.
    """
    count = 0
    with writing_whole(piece, lasting=True) as out:
        out.write(bytes(HEADER_BYTES))
        for tokens in _read(part, field, made_by):
            out.write(tokens.data)
            count += len(tokens)
        out.seek(0)
        out.write(header_of(count))
    return count


def count_of(piece: Path) -> int | None:
    """How many tokens a piece holds; None where it has to be made."""
    try:
        return (piece.stat().st_size - HEADER_BYTES) // TOKEN.itemsize
    except FileNotFoundError:
        return None


def span(piece: Path) -> Span:
    """Where the tokens of a piece lie, which is there."""
    return Span(piece, HEADER_BYTES, count_of(piece) or 0)


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
