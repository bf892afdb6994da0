"""Text, tokenised once: into `cache/corpora`, under the sha256 of what went in."""

import hashlib
import os
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

from farm.errors import BadCorpus
from farm.recipe import Data, digest
from model.corpus.formats import TOKEN, documents
from model.corpus.kept import made_once, sha256_of
from model.corpus.tokenizer import encoding

if TYPE_CHECKING:
    from tiktoken import Encoding

BUILTIN = "builtin:python-reference"


def python_reference(data: Data, split: str, cache: Path) -> Path:
    """Python's language reference, byte by byte: the last tenth is `validation`, what comes before it `train`."""
    if data.source != BUILTIN:
        raise BadCorpus(f"data.source = {data.source!r} is unknown.", remedy=f"The one built in is {BUILTIN!r}.")
    try:
        from pydoc_data.topics import topics
    except ImportError:
        raise BadCorpus("this Python has no pydoc_data.topics.", remedy="Install all of its library.") from None
    tokens = np.concatenate([*_tokens_of([topics[name] for name in sorted(topics)], encoding(data))])
    cut = len(tokens) * 9 // 10
    parts = {"train": tokens[:cut], "validation": tokens[cut:]}
    if split not in parts:
        raise BadCorpus(f"{BUILTIN} has no {split} split.", remedy="It has train and validation.")
    name = f"python-reference-{hashlib.sha256(tokens.tobytes()).hexdigest()[:16]}.{split}.bin"
    return made_once(cache / "corpora" / name, lambda file: file.write(parts[split].data))


def tokenised(files: list[Path], data: Data, cache: Path) -> Path:
    """The tokens of text files, each document closed by end-of-text; made once for this content and tokenizer."""
    content = [[file.suffix, sha256_of(file, cache)] for file in files]
    key = digest({"content": content, "tokenizer": data.tokenizer, "field": data.text_field})

    def write(out: BinaryIO) -> None:
        for tokens in _tokens_of(documents(files, data.text_field), encoding(data)):
            out.write(tokens.data)

    return made_once(cache / "corpora" / f"{key}.bin", write)


def _tokens_of(documents: Iterable[str], encoding: "Encoding") -> Iterator[np.ndarray]:
    """Each document as uint16 tokens and the end-of-text that closes it, in order, encoded by all cores."""

    def encode(text: str) -> np.ndarray:
        tokens = encoding.encode_to_numpy(text, disallowed_special=())
        return np.append(tokens, encoding.eot_token).astype(TOKEN)

    cores = os.cpu_count() or 1
    pending: deque[Future[np.ndarray]] = deque()
    with ThreadPoolExecutor(cores) as pool:  # tiktoken lets other threads run while it encodes
        for text in documents:
            pending.append(pool.submit(encode, text))
            if len(pending) > 2 * cores:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
