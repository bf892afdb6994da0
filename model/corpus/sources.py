"""The place of a split: inside Python, in a Hugging Face dataset repo, in an S3 bucket, or under a path.

Sources that hold tokens already are mapped where they lie; text is tokenised once. No torch here: the agent prepares a
corpus before a training process exists.
"""

import re
import sys
from pathlib import Path

import numpy as np

from farm.errors import BadCorpus
from farm.study.recipe import Data, Recipe
from model.corpus import bucket, hub, tokenizer
from model.corpus.formats import TOKEN, span_of
from model.corpus.names import CODECS, TEXT_SUFFIXES, TOKEN_SUFFIXES, files_of, gaps, kind, requirement, some
from model.corpus.shards import join
from model.corpus.text import BUILTIN, python_reference, tokenise


def open_split(data: Data, split: str, cache: Path) -> np.ndarray:
    """The tokens of a split: uint16 [count], read-only, memory-mapped, fetched or tokenised on first use.

    Raises: BadCorpus: it is not there or is damaged. Unreachable, StorageUnusable: it is neither cached nor to be
    fetched. StorageFull.
    """
    span = span_of(locate(data, split, cache))
    return np.memmap(span.path, dtype=TOKEN, mode="r", offset=span.start, shape=(span.tokens,))


def open_test(recipe: Recipe, cache: Path) -> np.ndarray:
    """The tokens that a recipe tests a model on."""
    return open_split(recipe.tested_data, recipe.evaluation.split, cache)


def locate(data: Data, split: str, cache: Path, vocab: int | None = None) -> Path:
    """The file that holds the tokens of a split, fetched or made on first use.

    Raises: as open_split. BadCorpus: also text whose tokenizer has more tokens than `vocab`.
    """
    check_name(split)
    if data.source.startswith("builtin:"):
        tokenizer.check(data, vocab)
        return python_reference(data, split, cache)
    files = split_files(data, split, cache)
    for gap in gaps([file.name for file in files]):
        print(f"{data.source}: {gap}", file=sys.stderr)
    if holds_tokens(files):
        return join(files, cache)
    tokenizer.check(data, vocab)
    return tokenise(files, data, cache)


def split_files(data: Data, split: str, cache: Path) -> list[Path]:
    """The files of a split in a repo, a bucket or under a path, fetched if need be. Raises: as open_split."""
    if data.source.startswith("hf:"):
        return hub.files(data, split)
    if data.source.startswith("s3://"):
        return bucket.files(data, split, cache)
    return under_path(data, split)


def check_name(split: str) -> None:
    """Raises: BadCorpus: it cannot be the name of a split."""
    if not re.fullmatch(r"\w[\w.-]*", split):
        raise BadCorpus(f"{split!r} is not a valid split name.", remedy="Use letters, digits, '.', '_' and '-'.")


def holds_tokens(files: list[Path]) -> bool:
    """Whether the files of a split are its tokens; else they are text."""
    return kind(files[0].name) in TOKEN_SUFFIXES


def under_path(data: Data, split: str) -> list[Path]:
    """The files of a split in a folder or, whatever the split, the one file that is the source.

    Training and test then read different parts of it.

    Raises: BadCorpus: it is not there here (then its field `is_unseen` is true), or holds something else.
    """
    source = Path(data.source).expanduser()
    if not source.is_absolute():
        raise BadCorpus(
            f"data.source = {data.source!r} is a relative path, and every node has its own working folder.",
            remedy=f"Write the full path, or use {BUILTIN!r} or 'hf:OWNER/NAME'.",
        )
    try:
        return _the_file(source) if source.is_file() else _in_folder(source, split)
    except OSError as error:
        raise BadCorpus(
            f"{error.filename or source}: {error.strerror}.", remedy="Every node must see it.", is_unseen=True
        ) from None


def _the_file(source: Path) -> list[Path]:
    if not kind(source.name):
        known = ", ".join([*TOKEN_SUFFIXES, *TEXT_SUFFIXES, *(f".jsonl{codec}" for codec in CODECS)])
        raise BadCorpus(f"{source} is not a corpus file; expected one of {known}.")
    return [source]


def _in_folder(folder: Path, split: str) -> list[Path]:
    if not folder.is_dir():
        raise BadCorpus(
            f"{folder} does not exist here.",
            remedy="Every node must see data.source under the same path.",
            is_unseen=True,
        )
    inner = folder / "data"
    there = sorted([path.name for path in folder.iterdir()])
    there += sorted([f"data/{path.name}" for path in inner.iterdir()]) if inner.is_dir() else []
    found = [folder / name for name in files_of(split, there)]
    if not found:
        raise BadCorpus(
            f"{folder} has no {split} split; it holds {some(there)}.",
            remedy=f"Put {requirement(split)} there.",
            is_lacking=True,
        )
    return found
