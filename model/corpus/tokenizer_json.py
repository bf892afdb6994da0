"""A tokenizer.json, as the `tokenizers` library writes it: its description of itself, and its tokens."""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from farm.errors import BadCorpus

MOST = 2**16  # tokens that 16 bits can tell apart
ENDS = ("<|endoftext|>", "<|end_of_text|>", "<|end|>", "<|eos|>", "</s>", "<eos>", "[EOS]", "<eot>", "<|eot|>", "[SEP]")


class File(NamedTuple):
    """A tokenizer.json: `vocab` tokens from 0 on, one of which, `end_of_text`, is called `end`."""

    path: Path
    content: bytes
    vocab: int
    end: str
    end_of_text: int

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()

    def encoder(self) -> Callable[[list[str]], list[np.ndarray]]:
        """Return a function that gives the tokens of each text, whatever it contains: of all of it, and no others.

        Raises: BadCorpus: the library cannot read the file.
        """
        encode = partial(self._load().encode_batch_fast, add_special_tokens=False)
        return lambda texts: [np.array(encoding.ids, np.uint16) for encoding in encode(texts)]

    def decoder(self) -> Callable[[Sequence[int]], str]:
        """A function that gives the text of tokens.

        Raises: BadCorpus: as `encoder`
        """
        loaded = self._load()
        return lambda tokens: loaded.decode(list(tokens), skip_special_tokens=False)

    def _load(self) -> Any:
        from tokenizers import Tokenizer

        try:
            loaded = Tokenizer.from_buffer(self.content)
        except Exception as error:  # the library raises nothing more exact
            raise BadCorpus(f"{self.path}: {error}.", remedy="Save it again with the `tokenizers` library.") from None
        loaded.no_truncation()
        loaded.no_padding()
        loaded.encode_special_tokens = True  # the name of one inside a text is only text
        if getattr(loaded.model, "dropout", None):
            loaded.model.dropout = None  # the same text is to be the same tokens
        return loaded


def read(path: Path) -> File:
    """Read what a tokenizer.json says of itself. The library is not needed for that.

    Raises: BadCorpus: it is not there or not one, has no end-of-text, or more tokens than 16 bits hold.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise BadCorpus(
            f"data.tokenizer: {path}: {error.strerror}.", remedy="Every node must be able to read it.", is_unseen=True
        ) from None
    tokens = _tokens(path, content)
    vocab = max(tokens.values(), default=-1) + 1
    if vocab > MOST:
        raise BadCorpus(
            f"{path} has {vocab:,} tokens; a token is kept in 16 bits, which end at {MOST:,}.",
            remedy="Use a smaller vocabulary.",
        )
    for end in ENDS:
        if end in tokens:
            return File(path, content, vocab, end, tokens[end])
    raise BadCorpus(
        f"{path} has no token that ends a document; looked for {', '.join(ENDS)}.",
        remedy="Add one with the `tokenizers` library: t.add_special_tokens(['<|endoftext|>']); t.save(PATH).",
    )


def _tokens(path: Path, content: bytes) -> dict[str, int]:
    """Every token by name. The vocabulary of a Unigram is a list, that of any other model a table."""
    try:
        parsed = json.loads(content)
        vocabulary = parsed["model"]["vocab"]
        pairs = vocabulary.items() if isinstance(vocabulary, dict) else _number(vocabulary)
        added = {str(one["content"]): int(one["id"]) for one in parsed.get("added_tokens") or []}
        return {str(name): int(number) for name, number in pairs} | added
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError):
        raise BadCorpus(
            f"{path} is not a tokenizer.json: it has no model.vocab.",
            remedy='Name the file that `tokenizers` saves, or set data.tokenizer to "gpt2" or "bytes".',
        ) from None


def _number(vocabulary: list) -> Iterator[tuple[str, int]]:
    for number, piece in enumerate(vocabulary):
        yield piece[0], number
