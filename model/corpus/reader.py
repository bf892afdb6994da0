"""Prompts as tokens, and tokens as text, by the tokenizer of a run; token ids where there is none."""

from collections.abc import Sequence
from itertools import groupby
from typing import NamedTuple

from farm.study.recipe import Recipe
from model.corpus.tokenizer import BYTES, Decoder, Encoder, of_model


class Reader(NamedTuple):
    """Reads and writes for a model of `vocab` tokens.

    `name` is the tokenizer's. Without one, prompts and texts are token ids with blanks between them, and `missing` says
    why. `start` is where a prompt without tokens begins: at the end of a text, where another would.
    """

    vocab: int
    start: int
    name: str | None = None
    encode: Encoder | None = None
    decode: Decoder | None = None
    known: int = 0  # tokens of the tokenizer; a model may have more
    missing: str | None = None

    def tokens(self, prompt: str) -> list[int]:
        """The tokens of a prompt, at least one.

        Raises: ValueError: there is no tokenizer, and the prompt is not token ids.
        """
        if self.encode:
            return self.encode([prompt])[0].tolist() or [self.start]
        found = [int(word) for word in prompt.split() if word.isascii() and word.isdecimal()]
        if len(found) < len(prompt.split()) or not all(token < self.vocab for token in found):
            raise ValueError(f"{prompt!r} is not token ids from 0 to {self.vocab - 1:,}, such as '12 7'")
        return found or [self.start]

    def text(self, tokens: Sequence[int]) -> str:
        """The text of `tokens`. One that the tokenizer does not have is its id in brackets, as <|300|>."""
        if not self.decode:
            return " ".join(map(str, tokens))
        pieces = [(is_known, list(some)) for is_known, some in groupby(tokens, lambda token: token < self.known)]
        return "".join(self.decode(some) if is_known else _ids(some) for is_known, some in pieces)

    def continuation(self, prompt: Sequence[int], tokens: Sequence[int]) -> str:
        """The text of `tokens` behind `prompt`: alone it may lack the blank before its first word."""
        if not self.decode:
            return self.text(tokens)
        whole, before = self.text([*prompt, *tokens]), self.text(prompt)
        return whole[len(before) :] if whole.startswith(before) else self.text(tokens)


def _ids(tokens: Sequence[int]) -> str:
    return "".join(f"<|{token}|>" for token in tokens)


def reader(recipe: Recipe) -> Reader:
    """The reader for a model that `recipe` trains.

    Raises: BadCorpus, Unreachable: its tokenizer is not available here.
    """
    made_by, vocab = of_model(recipe), recipe.model.vocab
    if isinstance(made_by, str):
        return without_tokenizer(recipe, made_by)
    name = "bytes" if made_by is BYTES else recipe.data.tokenizer
    encode, decode = made_by.encoder(), made_by.decoder()
    return Reader(vocab, made_by.end_of_text, name, encode, decode, made_by.vocab)


def without_tokenizer(recipe: Recipe, why: str) -> Reader:
    """The reader that takes and gives token ids."""
    return Reader(recipe.model.vocab, start=0, missing=why)
