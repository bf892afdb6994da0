"""Text, tokenised once: into `cache/corpora`, under the sha256 of what went in."""

import hashlib
import os
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO

import numpy as np

from farm.errors import BadCorpus, FarmError, first_line
from farm.study.recipe import Data, digest
from model.corpus import tokenizer
from model.corpus.documents import Document, documents
from model.corpus.formats import TOKEN
from model.corpus.kept import known_sha256, make_once, sha256_of
from model.corpus.names import codec_suffix, kind
from model.corpus.tokenizer import BYTES, Encoder, Tokenizer

BUILTIN = "builtin:python-reference"
READING = 2  # counts up when the same files give other tokens than before, so that a cache of old ones is not used
BATCH_CHARACTERS = 2**18


def topics() -> list[str]:
    """Python's language reference, in alphabetical order of its topics.

    Raises: BadCorpus: this Python has none.
    """
    try:
        from pydoc_data.topics import topics as found
    except ImportError:
        raise BadCorpus(
            "this Python has no pydoc_data.topics.", remedy="Install its complete standard library."
        ) from None
    return [found[name] for name in sorted(found)]


def parts(tokens: int) -> dict[str, range]:
    """The splits of the built-in corpus: the last tenth is `validation`, all before it `train`."""
    cut = tokens * 9 // 10
    return {"train": range(cut), "validation": range(cut, tokens)}


def python_reference(data: Data, split: str, cache: Path) -> Path:
    """Python's language reference, byte by byte."""
    if data.source != BUILTIN:
        raise BadCorpus(f"data.source = {data.source!r} is unknown.", remedy=f"The built-in one is {BUILTIN!r}.")
    tokens = np.concatenate([*tokens_of((Document(BUILTIN, text) for text in topics()), BYTES)])
    found = parts(len(tokens))
    if split not in found:
        raise BadCorpus(f"{BUILTIN} has no {split} split.", remedy="It has train and validation.")
    part = tokens[found[split].start : found[split].stop]
    name = f"python-reference-{hashlib.sha256(tokens.tobytes()).hexdigest()[:16]}.{split}.bin"
    return make_once(cache / "corpora" / name, lambda file: file.write(part.data))


def tokenise(files: list[Path], data: Data, cache: Path) -> Path:
    """The tokens of text files, each document closed by end-of-text; made once for this content and tokenizer."""
    made_by = tokenizer.of(data)

    def write(out: BinaryIO) -> None:
        for tokens in tokens_of(documents(files, data.text_field), made_by):
            out.write(tokens.data)

    return make_once(_place([sha256_of(file, cache) for file in files], files, data, made_by, cache), write)


def find_tokenised(files: list[Path], data: Data, cache: Path) -> Path | None:
    """The tokens that `tokenise` made of text files, if the files have not changed since. Reads none of them."""
    contents = [known for file in files if (known := known_sha256(file, cache))]
    path = _place(contents, files, data, tokenizer.of(data), cache) if len(contents) == len(files) else None
    return path if path and path.exists() else None


def most_tokens(files: list[Path], data: Data) -> int | None:
    """How many tokens text files may have, if their size can say: each token stands for a byte at least."""
    if tokenizer.of(data).widens or any(codec_suffix(file.name) or kind(file.name) == ".parquet" for file in files):
        return None
    ends = sum(kind(file.name) == ".txt" for file in files)  # those of JSON lines are shorter than what surrounds them
    return sum(file.stat().st_size for file in files) + ends


def _place(contents: list[str], files: list[Path], data: Data, made_by: Tokenizer, cache: Path) -> Path:
    """Where the tokens of files with these sha256 lie, whether they are there or not."""
    content = [[kind(file.name), codec_suffix(file.name), sha256] for file, sha256 in zip(files, contents, strict=True)]
    ends = [made_by.identity, made_by.end_of_text]
    key = {"reading": READING, "content": content, "tokenizer": ends, "field": data.text_field}
    return cache / "corpora" / f"{digest(key)}.bin"


def tokens_of(found: Iterable[Document], made_by: Tokenizer, threads: int | None = None) -> Iterator[np.ndarray]:
    """Each document as uint16 tokens and the end-of-text that closes it, in order, encoded by so many threads, or by
    all cores."""
    encode, cores = made_by.encoder(), threads or os.cpu_count() or 1
    pending: deque[Future[list[np.ndarray]]] = deque()
    with ThreadPoolExecutor(cores) as pool:  # the tokenizers let other threads run while they encode
        for batch in _batches(found):
            pending.append(pool.submit(_encode, batch, encode, made_by.end_of_text))
            if len(pending) > 2 * cores:
                yield from pending.popleft().result()
        while pending:
            yield from pending.popleft().result()


def _batches(found: Iterable[Document]) -> Iterator[list[Document]]:
    batch, characters = [], 0
    for document in found:
        batch.append(document)
        characters += len(document.text) + 1
        if characters > BATCH_CHARACTERS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch


def _encode(batch: list[Document], encode: Encoder, end_of_text: int) -> list[np.ndarray]:
    try:
        found = encode([document.text for document in batch])
    except (FarmError, MemoryError):
        raise
    except BaseException as error:  # a panic in Rust is no Exception
        if len(batch) == 1:
            raise BadCorpus(
                f"{batch[0].place}: the tokenizer fails on it: {first_line(error)}.",
                remedy="Split that document, or leave it out.",
            ) from None
        return [tokens for document in batch for tokens in _encode([document], encode, end_of_text)]
    return [np.append(tokens.astype(TOKEN), end_of_text).astype(TOKEN) for tokens in found]
