"""Tokens, and Python in a process of its own, for the tests of corpora."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import tiktoken

ROOT = Path(__file__).parents[1]
NOWHERE = "http://127.0.0.1:9"  # the discard port: nothing listens, so that a connection fails at once


def tokens_of(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 50257, count, dtype=np.uint16)


def python(code: str, *arguments: object, **environ: str) -> subprocess.Popen:
    """A Python of its own: for what is read at import, for its own memory, or to be one of two."""
    command = [sys.executable, "-c", code, *map(str, arguments)]
    settings = {"cwd": ROOT, "env": os.environ | environ, "text": True}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **settings)


def output(process: subprocess.Popen) -> str:
    out, error = process.communicate(timeout=60)
    assert process.returncode == 0, error
    return out.strip()


# Text


DOCUMENTS = ["Hello, world.", "", "naïve café 🙂\n\n  two\tspaces", "a <|endoftext|> inside a text is only text"]


def expected(pieces: tiktoken.Encoding, documents: list[str]) -> list[int]:
    return [token for text in documents for token in [*pieces.encode_ordinary(text), 50256]]


def small(count: int, seed: int = 0) -> np.ndarray:
    return tokens_of(count, seed) % 300
