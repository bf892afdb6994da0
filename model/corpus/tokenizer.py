"""Tokenizers: GPT-2's pieces, the bytes themselves, or a tokenizer.json."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from farm.errors import BadCorpus
from farm.study.recipe import Data, Recipe
from model.corpus import gpt2, tokenizer_json

END_OF_TEXT = "<|endoftext|>"  # ends each document; after 256 bytes here, after 50,256 pieces in GPT-2
END_OF_BYTES = 256


Encoder = Callable[[list[str]], list[np.ndarray]]
Decoder = Callable[[Sequence[int]], str]


class Tokenizer(NamedTuple):
    """`vocab` tokens from 0 on, of which `end_of_text` closes each document.

    `encoder` loads what makes one vector of tokens of each text, without the one that closes it, and `decoder` what
    makes one text of tokens below `vocab`. `identity` is what a cache knows the tokenizer by. `widens`: whether a text
    may have more tokens than bytes.
    """

    identity: Any
    vocab: int
    end_of_text: int
    encoder: Callable[[], Encoder]
    decoder: Callable[[], Decoder]
    widens: bool = False


def _byte_encoder() -> Encoder:
    return lambda texts: [np.frombuffer(text.encode(), np.uint8) for text in texts]


def _byte_decoder() -> Decoder:
    spelled = [bytes([byte]) for byte in range(END_OF_BYTES)] + [END_OF_TEXT.encode()]
    return lambda tokens: b"".join(spelled[token] for token in tokens).decode(errors="replace")


BYTES = Tokenizer("bytes", END_OF_BYTES + 1, END_OF_BYTES, _byte_encoder, _byte_decoder)
GPT2 = Tokenizer("gpt2", gpt2.VOCABULARY, gpt2.END_OF_TEXT, gpt2.encoder, gpt2.decoder)


def of(data: Data) -> Tokenizer:
    """The tokenizer of a corpus. What makes tokens is loaded by its `encoder`, not here.

    Raises: BadCorpus: data.tokenizer names a file that is not there or cannot be used.
    """
    if data.source.startswith("builtin:") or data.tokenizer == "bytes":
        return BYTES
    if data.tokenizer == "gpt2":
        return GPT2
    file = tokenizer_json.read(Path(data.tokenizer).expanduser())
    return Tokenizer({"sha256": file.sha256}, file.vocab, file.end_of_text, file.encoder, file.decoder, widens=True)


def of_model(recipe: Recipe) -> Tokenizer | str:
    """The tokenizer behind what a model reads and writes; or, where its tokens cannot be of that one, a sentence that
    says so: a corpus of tokens does not tell what made it.

    Raises: BadCorpus: as `of`
    """
    made_by = of(recipe.data)
    if recipe.model.vocab >= made_by.vocab:
        return made_by
    name = "GPT-2's" if made_by is GPT2 else f"those of {describe(made_by, recipe.data)}"
    return f"{recipe.model.vocab:,} tokens are not {name}: use the tokenizer that made {recipe.data.source}"


def check(data: Data, vocab: int | None) -> None:
    """Raises: BadCorpus: the tokenizer has more than the `vocab` tokens of a model."""
    made_by = of(data)
    if vocab is not None and made_by.vocab > vocab:
        raise BadCorpus(
            f"the tokenizer of {data.source}, {describe(made_by, data)}, has {made_by.vocab:,} tokens; model.vocab ="
            f" {vocab:,} has room for fewer.",
            remedy=f"Set model.vocab to at least {made_by.vocab:,}.",
            page="docs/data.md#tokenizers",
        )


def describe(made_by: Tokenizer, data: Data) -> str:
    """The name of the tokenizer of `data` in a message."""
    return "bytes and an end-of-text" if made_by is BYTES else data.tokenizer
