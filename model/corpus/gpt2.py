"""GPT-2's tokenizer: its two files, and tiktoken over them."""

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from farm.errors import BadCorpus, Unreachable
from model.corpus.kept import make_once

if TYPE_CHECKING:
    from tiktoken import Encoding

VOCABULARY, END_OF_TEXT = 50257, 50256
NETWORK_SECONDS = 5.0  # to be told that there is no network; a download itself may take as long as it likes

# The two files behind tiktoken's "gpt2": name, sha256 as pinned in tiktoken_ext/openai_public.py.
URL = "https://openaipublic.blob.core.windows.net/gpt-2/encodings/main/"
FILES = {
    "vocab.bpe": "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5",
    "encoder.json": "196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783",
}

# The blanks of the pattern: Unicode's White_Space, which str.isspace does not follow to the letter.
BLANKS = "\t\n\v\f\r \x85\xa0\u1680" + "".join(map(chr, range(0x2000, 0x200B))) + "\u2028\u2029\u202f\u205f\u3000"
LONG = 50_000  # blanks in a row; the pattern's stack is full somewhere between 300,000 and a million


def encoder() -> Callable[[list[str]], list[np.ndarray]]:
    """Return a function that gives the tokens of each text, whatever it contains.

    Raises: Unreachable: the two files are neither cached nor to be fetched.
    """
    encoding = _encoding()

    def encode(text: str) -> np.ndarray:
        return np.concatenate([encoding.encode_to_numpy(piece, disallowed_special=()) for piece in pieces(text)])

    return lambda texts: [encode(text) for text in texts]


def decoder() -> Callable[[Sequence[int]], str]:
    """A function that gives the text of tokens; bytes that are not UTF-8 are U+FFFD.

    Raises: Unreachable: as `encoder`
    """
    encoding = _encoding()
    return lambda tokens: encoding.decode(list(tokens))


def pieces(text: str) -> Iterator[str]:
    """`text`, cut around its longest runs of blanks where no token reaches across: the tokens of all are the same.

    The pattern takes a run that ends the text as one piece, and of a run before something else all but the last blank.
    It finds the end of the latter by backtracking, which a run of a million blanks makes too deep for it.
    """
    done = 0
    for start in range(0, len(text), LONG):  # a run of 2 * LONG holds one of these windows as a whole
        if start < done or len(text) - start < LONG or text[start : start + LONG].strip(BLANKS):
            continue
        before = text[max(done, start - LONG) : start]
        first = start - (len(before) - len(before.rstrip(BLANKS)))
        stop = _end_of_blanks(text, start + LONG)
        last = stop if stop == len(text) else stop - 1
        yield from filter(None, (text[done:first], text[first:last]))
        done = last
    yield text[done:]


def _end_of_blanks(text: str, start: int) -> int:
    while window := text[start : start + LONG]:
        if rest := window.lstrip(BLANKS):
            return start + len(window) - len(rest)
        start += len(window)
    return start


def file(name: str) -> bytes | None:
    """One of FILES, checked; None where it was not fetched yet."""
    path = place(name)
    content = path.read_bytes() if path.is_file() else b""
    return content if hashlib.sha256(content).hexdigest() == FILES[name] else None


def place(name: str) -> Path:
    """Where tiktoken looks for one of FILES."""
    import tempfile

    variables = [os.environ[key] for key in ("TIKTOKEN_CACHE_DIR", "DATA_GYM_CACHE_DIR") if key in os.environ]
    folder = Path((variables or [f"{tempfile.gettempdir()}/data-gym-cache"])[0])
    return folder / hashlib.sha1((URL + name).encode()).hexdigest()


def _encoding() -> "Encoding":
    """tiktoken's "gpt2". Its files are put where it looks for them: its own download has no timeout."""
    import tiktoken

    for name in FILES:
        if file(name) is None:
            _fetch(name, place(name))
    return tiktoken.get_encoding("gpt2")


def _fetch(name: str, path: Path) -> None:
    import requests

    try:
        answer = requests.get(URL + name, timeout=NETWORK_SECONDS)
        answer.raise_for_status()
        content = answer.content
    except requests.RequestException as error:
        raise Unreachable(
            f"the gpt2 tokenizer needs {name}, which is not at {path}, and {URL} cannot be reached"
            f" ({type(error).__name__}).",
            remedy=f"Where there is a network, fetch {URL}{name} and copy it to {path} here (TIKTOKEN_CACHE_DIR"
            " moves that folder).",
            page="docs/data.md#without-a-network",
        ) from None
    if hashlib.sha256(content).hexdigest() != FILES[name]:
        raise BadCorpus(f"{URL}{name} returned an unexpected file.", remedy="Is a proxy in the way?")
    path.unlink(missing_ok=True)
    make_once(path, lambda out: out.write(content))
