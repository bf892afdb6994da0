"""What makes tokens of text: GPT-2's pieces, or the bytes themselves."""

import hashlib
import os
from pathlib import Path
from typing import TYPE_CHECKING

from farm.errors import BadCorpus, Unreachable
from farm.recipe import Data
from model.corpus.kept import made_once

if TYPE_CHECKING:
    from tiktoken import Encoding

END_OF_TEXT = "<|endoftext|>"  # ends each document; after 256 bytes here, after 50,256 pieces in GPT-2
END_OF_BYTES, END_OF_GPT2 = 256, 50256
NETWORK_SECONDS = 5.0  # to be told that there is no network; a download itself may take as long as it likes

# The two files behind tiktoken's "gpt2": name, sha256 as pinned in tiktoken_ext/openai_public.py.
GPT2_URL = "https://openaipublic.blob.core.windows.net/gpt-2/encodings/main/"
GPT2_FILES = {
    "vocab.bpe": "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5",
    "encoder.json": "196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783",
}


def encoding(data: Data) -> "Encoding":
    """The tokenizer of a corpus, for making and reading its tokens. `eot_token` ends each document.

    Raises: Unreachable: GPT-2's two files are neither cached nor to be fetched.
    """
    import tiktoken

    if data.source.startswith("builtin:"):
        ranks = {bytes([byte]): byte for byte in range(256)}
        special = {END_OF_TEXT: END_OF_BYTES}
        return tiktoken.Encoding("bytes", pat_str=r"\S+|\s+", mergeable_ranks=ranks, special_tokens=special)
    _fetch_gpt2_files()
    return tiktoken.get_encoding(data.tokenizer)


def gpt2_file(name: str) -> bytes | None:
    """One of GPT2_FILES, checked; None where it was not fetched yet."""
    path = gpt2_place(name)
    content = path.read_bytes() if path.is_file() else b""
    return content if hashlib.sha256(content).hexdigest() == GPT2_FILES[name] else None


def gpt2_place(name: str) -> Path:
    """Where tiktoken looks for one of GPT2_FILES."""
    import tempfile

    variables = [os.environ[key] for key in ("TIKTOKEN_CACHE_DIR", "DATA_GYM_CACHE_DIR") if key in os.environ]
    folder = Path((variables or [f"{tempfile.gettempdir()}/data-gym-cache"])[0])
    return folder / hashlib.sha1((GPT2_URL + name).encode()).hexdigest()


def _fetch_gpt2_files() -> None:
    """Put what tiktoken needs for "gpt2" where tiktoken looks for it: its own download has no timeout."""
    for name in GPT2_FILES:
        if gpt2_file(name) is None:
            _fetch_gpt2_file(name, gpt2_place(name))


def _fetch_gpt2_file(name: str, path: Path) -> None:
    import requests

    try:
        answer = requests.get(GPT2_URL + name, timeout=NETWORK_SECONDS)
        answer.raise_for_status()
        content = answer.content
    except requests.RequestException as error:
        raise Unreachable(
            f"the gpt2 tokenizer needs {name}, which is not at {path}, and {GPT2_URL} cannot be reached"
            f" ({type(error).__name__}).",
            remedy=f"Where there is a network, fetch {GPT2_URL}{name} and copy it to {path} here (TIKTOKEN_CACHE_DIR"
            " moves that folder).",
        ) from None
    if hashlib.sha256(content).hexdigest() != GPT2_FILES[name]:
        raise BadCorpus(f"what came from {GPT2_URL}{name} is another file.", remedy="Is a proxy in the way?")
    path.unlink(missing_ok=True)
    made_once(path, lambda file: file.write(content))
