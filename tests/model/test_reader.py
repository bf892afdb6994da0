"""Prompts as tokens and tokens as text, by each tokenizer, and by none."""

from pathlib import Path
from typing import Any

import pytest
import tiktoken
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from farm.errors import BadCorpus, Unreachable
from farm.study.recipe import Recipe
from model.corpus.reader import reader

TEXT = "def naïve(x):\n\treturn Ελλάδα isn't 12345 \x00 🙂"


def recipe(vocab: int, **data: Any) -> Recipe:
    return Recipe().with_patch({"model": {"vocab": vocab}, "data": {"source": "/nowhere"} | data})


def words(path: Path) -> Path:
    """A tokenizer of whole words, whose decoder drops the first blank; its end-of-text is its first token."""
    made = Tokenizer(models.WordLevel({"</s>": 0, "▁the": 1, "▁cat": 2, "▁sat": 3, "?": 4}, unk_token="?"))
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    made.decoder = decoders.Metaspace()
    made.save(str(path))
    return path


def test_bytes_are_read_and_written() -> None:
    by = reader(recipe(300, tokenizer="bytes"))
    assert (by.name, by.tokens(TEXT), by.text(by.tokens(TEXT))) == ("bytes", [*TEXT.encode()], TEXT)
    assert by.tokens("") == [256]
    assert by.text([72, 256, 105, 299, 255]) == "H<|endoftext|>i<|299|>\ufffd"


def test_gpt2s_pieces_are_read_and_written(pieces: tiktoken.Encoding) -> None:
    by = reader(recipe(50304))
    assert (by.name, by.tokens(TEXT), by.text(by.tokens(TEXT))) == ("gpt2", pieces.encode(TEXT), TEXT)
    assert by.continuation(by.tokens("Every effort"), [6100, 345, 50256, 50300]) == " moves you<|endoftext|><|50300|>"


def test_a_tokenizer_json_is_read_and_what_follows_a_prompt_keeps_its_blank(tmp_path: Path) -> None:
    by = reader(recipe(5, tokenizer=str(words(tmp_path / "words.json"))))
    assert (by.tokens("the cat"), by.tokens(""), by.text([1, 2])) == ([1, 2], [0], "the cat")
    assert by.continuation([1, 2], [3]) == " sat"


def test_a_vocabulary_that_is_smaller_than_the_tokenizers_is_of_token_ids(tmp_path: Path) -> None:
    """Though the tokenizer's end-of-text would be among them."""
    by = reader(recipe(4, tokenizer=str(words(tmp_path / "words.json"))))
    assert by.missing is not None
    assert by.missing.startswith("4 tokens are not those of")
    assert (by.tokens("3 0 1"), by.tokens(" "), by.text([3, 0]), by.continuation([1], [2, 3])) == (
        [3, 0, 1],
        [0],
        "3 0",
        "2 3",
    )
    for prompt in ("the", "4", "-1", "1.0", "²"):
        with pytest.raises(ValueError, match=r"is not token ids from 0 to 3, such as '12 7'"):
            by.tokens(prompt)


def test_a_tokenizer_that_is_not_here_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BadCorpus, match=r"gone\.json: No such file"):
        reader(recipe(300, tokenizer=str(tmp_path / "gone.json")))
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    with pytest.raises(Unreachable, match=r"the gpt2 tokenizer needs vocab\.bpe"):
        reader(recipe(50257))
