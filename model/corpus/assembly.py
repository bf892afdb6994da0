"""Pieces become the files of a token folder, in order, with their fingerprints."""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import numpy as np

from farm.errors import BadCorpus
from farm.files import flush
from model.corpus import holdout, pieces
from model.corpus.formats import chunks, header_of
from model.corpus.token_folder import Made
from model.corpus.tokenizer import Tokenizer


def join(split: str, paths: list[Path], held: float | int | None, made_by: Tokenizer, work: Path) -> dict[str, Made]:
    """The file of a split, in `work`, of its pieces; those of `train` and `validation` where some is held out.

    Raises: BadCorpus: a part would hold nothing.
    """
    total = sum(pieces.count_of(path) or 0 for path in paths)
    if held is None:
        with _Tokens(work, split, total, made_by) as out:
            for _, tokens in _chunks(paths):
                out.write(tokens)
        _check_text(split, total, out.ended)
        return {split: out.made}
    ends = _ends(paths, made_by.end_of_text)
    _check_text(split, total, len(ends))
    ends, chosen = holdout.hold_out(ends, total, held)
    validation = int(np.diff(ends, prepend=0)[chosen].sum())
    with (
        _Tokens(work, "train", total - validation, made_by) as train,
        _Tokens(work, "validation", validation, made_by) as test,
    ):
        for start, tokens in _chunks(paths):
            is_held = holdout.mask(ends, chosen, start, start + len(tokens))
            train.write(tokens[~is_held])
            test.write(tokens[is_held])
    return {"train": train.made, "validation": test.made}


def _check_text(split: str, total: int, ended: int) -> None:
    """Raises: BadCorpus: none of the tokens is of a text."""
    if total == ended:
        raise BadCorpus(f"the {split} part holds no text.", remedy="Name a source with text in it.")


def _chunks(paths: list[Path]) -> Iterator[tuple[int, np.ndarray]]:
    """The tokens of the pieces, in order, each few with the position of the first."""
    at = 0
    for path in paths:
        for tokens in chunks(pieces.span(path)):
            yield at, tokens
            at += len(tokens)


def _ends(paths: list[Path], end: int) -> np.ndarray:
    """The positions right behind each end of a document."""
    found = [np.flatnonzero(tokens == end) + (start + 1) for start, tokens in _chunks(paths)]
    return np.concatenate(found) if found else np.zeros(0, np.int64)


class _Tokens:
    """A safetensors file of `count` tokens that is being written, on the disk when the block ends."""

    def __init__(self, work: Path, split: str, count: int, made_by: Tokenizer):
        self.path, self.count, self.end = work / f"{split}.safetensors", count, made_by.end_of_text
        self.tokens, self.whole, self.ended = hashlib.sha256(), hashlib.sha256(), 0
        self.last = self.end

    def __enter__(self) -> Self:
        self.file = self.path.open("wb")
        header = header_of(self.count)
        self.file.write(header)
        self.whole.update(header)
        return self

    def write(self, tokens: np.ndarray) -> None:
        self.file.write(tokens.data)
        self.whole.update(tokens.data)
        self.tokens.update(tokens.data)
        self.ended += int((tokens == self.end).sum())
        self.last = int(tokens[-1]) if len(tokens) else self.last

    def __exit__(self, *_: object) -> None:
        with self.file:
            flush(self.file)

    @property
    def made(self) -> Made:
        return Made(
            file=self.path.name,
            tokens=self.count,
            documents=self.ended + (self.last != self.end),  # one that goes on in the other part
            bytes=self.path.stat().st_size,
            fingerprint=self.tokens.hexdigest(),
            sha256=self.whole.hexdigest(),
        )
