"""Shards: a split that lies in several files of tokens, joined once in the cache."""

from pathlib import Path
from typing import BinaryIO

import numpy as np

from farm.study.recipe import digest
from model.corpus.formats import TOKEN, Span, header_of, span_of
from model.corpus.kept import make_once, sha256_of

CHUNK = 2**24  # tokens held at a time


def join(files: list[Path], cache: Path) -> Path:
    """One file with the tokens of all `files`, in their order; the file itself where there is but one.

    Raises: BadCorpus: one of them is damaged. StorageFull
    """
    if len(files) == 1:
        return files[0]
    spans = [span_of(file) for file in files]

    def write(out: BinaryIO) -> None:
        out.write(header_of(sum(span.tokens for span in spans)))
        for span in spans:
            _copy(span, out)

    key = {"joined": [sha256_of(file, cache) for file in files]}
    return make_once(cache / "corpora" / f"{digest(key)}.safetensors", write)


def span_of_all(files: list[Path]) -> Span:
    """How many tokens `files` hold in all, without joining them.

    Raises: BadCorpus: one of them is damaged.
    """
    spans = [span_of(file) for file in files]
    if len(files) == 1:
        return spans[0]
    return Span(files[0].with_name(f"{files[0].name} to {files[-1].name}"), 0, sum(span.tokens for span in spans))


def _copy(span: Span, out: BinaryIO) -> None:
    with span.path.open("rb") as file:
        file.seek(span.start)
        for at in range(0, span.tokens, CHUNK):
            out.write(np.fromfile(file, TOKEN, min(CHUNK, span.tokens - at)).data)
