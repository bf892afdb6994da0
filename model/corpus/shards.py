"""Shards: a split that lies in several files of tokens, joined once in the cache."""

from itertools import chain
from pathlib import Path
from typing import BinaryIO

from farm.study.recipe import digest
from model.corpus.formats import Span, chunks, header_of, span_of
from model.corpus.kept import make_once, sha256_of


def join(files: list[Path], cache: Path) -> Path:
    """One file with the tokens of all `files`, in their order; the file itself where there is but one.

    Raises: BadCorpus: one of them is damaged. StorageFull
    """
    if len(files) == 1:
        return files[0]
    spans = [span_of(file) for file in files]

    def write(out: BinaryIO) -> None:
        out.write(header_of(sum(span.tokens for span in spans)))
        for tokens in chain.from_iterable(map(chunks, spans)):
            out.write(tokens.data)

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
