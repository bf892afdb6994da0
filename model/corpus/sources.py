"""Where a split lies: inside Python, in a Hugging Face dataset repo, in an S3 bucket, or under a path.

Sources that hold tokens already are mapped where they lie; text is tokenised once. No torch here: the agent prepares a
corpus before a training process exists.
"""

import re
from pathlib import Path

import numpy as np

from farm.errors import BadCorpus
from farm.recipe import Data
from model.corpus import bucket, hub
from model.corpus.formats import TOKEN, span_of
from model.corpus.names import TEXT_SUFFIXES, TOKEN_SUFFIXES, files_of, some
from model.corpus.text import BUILTIN, python_reference, tokenised


def open_split(data: Data, split: str, cache: Path) -> np.ndarray:
    """The tokens of a split: uint16 [count], read-only, memory-mapped, fetched or tokenised on first use.

    Raises: BadCorpus: it is not there or is damaged. Unreachable, StorageUnusable: it is neither cached nor to be
    fetched. StorageFull.
    """
    span = span_of(locate(data, split, cache))
    return np.memmap(span.path, dtype=TOKEN, mode="r", offset=span.start, shape=(span.tokens,))


def locate(data: Data, split: str, cache: Path) -> Path:
    if not re.fullmatch(r"\w[\w.-]*", split):
        raise BadCorpus(f"split {split!r} is not a name.", remedy="Use letters, digits, '.', '_' and '-'.")
    if data.source.startswith("builtin:"):
        return python_reference(data, split, cache)
    if data.source.startswith("hf:"):
        return _one_file(hub.files(data, split), data, cache)
    if data.source.startswith("s3://"):
        return _one_file(bucket.files(data, split, cache), data, cache)
    source = Path(data.source).expanduser()
    if not source.is_absolute():
        raise BadCorpus(
            f"data.source = {data.source!r} is a relative path, and every node has its own working folder.",
            remedy=f"Write it in full, or use {BUILTIN!r} or 'hf:OWNER/NAME'.",
        )
    try:
        return _local_file(source, data, cache) if source.is_file() else _in_folder(source, data, split, cache)
    except OSError as error:
        raise BadCorpus(f"{error.filename or source}: {error.strerror}.", remedy="Every node must see it.") from None


def _local_file(source: Path, data: Data, cache: Path) -> Path:
    """A source that is one file, whatever the split: training and test then read different parts of it."""
    if source.suffix not in (*TOKEN_SUFFIXES, *TEXT_SUFFIXES):
        known = ", ".join([*TOKEN_SUFFIXES, *TEXT_SUFFIXES])
        raise BadCorpus(f"{source} is no corpus: its name ends in none of {known}.")
    return _one_file([source], data, cache)


def _in_folder(folder: Path, data: Data, split: str, cache: Path) -> Path:
    if not folder.is_dir():
        raise BadCorpus(f"{folder} does not exist here.", remedy="Every node must see data.source under the same path.")
    there = sorted(str(path.relative_to(folder)) for pattern in ("*", "data/*") for path in folder.glob(pattern))
    files = [folder / name for name in files_of(split, there)]
    if not files:
        raise BadCorpus(
            f"{folder} has no {split} split; it holds {some(there)}.",
            remedy=f"Put {split}.safetensors, {split}.bin, or text as {split}*.parquet, .jsonl or .txt there.",
        )
    return _one_file(files, data, cache)


def _one_file(files: list[Path], data: Data, cache: Path) -> Path:
    """The file that holds the tokens of `files`: itself, or what tokenising made of them."""
    return files[0] if files[0].suffix in TOKEN_SUFFIXES else tokenised(files, data, cache)
