"""Files that hold tokens, mapped where they lie."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

from farm.errors import BadCorpus
from model.corpus import magic
from model.corpus.names import some

TOKEN = np.dtype("<u2")
WINDOW, WINDOWS = 4096, 3  # tokens looked at, at the start, in the middle and at the end
FEW = 16  # tokens, of which every second may be 0 by chance
HIGH_HALF, LOW_HALF = 15, 255  # the upper half of a token in 32 bits, for up to a million; the lower is often more
CHUNK = 2**22  # tokens held at a time
HEADER_BYTES = 128  # of the safetensors that are written here, whatever the count
FORMATS = "Copy it or create it again."


class Span(NamedTuple):
    """Where the tokens of a split lie: `tokens` of them, from byte `start` of `path`; or how many there are at most."""

    path: Path
    start: int
    tokens: int
    at_most: bool = False

    def __str__(self) -> str:
        return f"{self.path} has {'at most ' if self.at_most else ''}{self.tokens:,} tokens"


def span_of(path: Path) -> Span:
    """Where the tokens lie in a .safetensors, .bin or .npy file, after every check that needs no pass over them.

    Raises: BadCorpus
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            head = file.read(magic.HEAD_BYTES)
            file.seek(0)
            start, count = _find(path, file, head, size)
            _check_width(file, start, count)
    except OSError as error:
        raise BadCorpus(
            f"{path}: {error.strerror}.", remedy="Every node must be able to read it.", is_unseen=True
        ) from None
    except _Damaged as damage:
        raise BadCorpus(f"{path}: {damage}.", remedy=damage.remedy) from None
    if count < 1:
        raise BadCorpus(f"{path} holds no tokens.")
    return Span(path, start, count)


def chunks(span: Span, used: range | None = None) -> Iterator[np.ndarray]:
    """The tokens of a span, or those at the positions `used` of it, a few at a time.

    They are read plainly: through a map, every page would count as memory of this process.
    """
    used = range(span.tokens) if used is None else used
    with span.path.open("rb") as file:
        file.seek(span.start + used.start * TOKEN.itemsize)
        for position in range(used.start, used.stop, CHUNK):
            yield np.fromfile(file, TOKEN, min(CHUNK, used.stop - position))


def header_of(count: int) -> bytes:
    """What a safetensors file of one vector of `count` tokens begins with, HEADER_BYTES of it: the tokens follow."""
    tensor = {"dtype": "U16", "shape": [count], "data_offsets": [0, count * TOKEN.itemsize]}
    text = json.dumps({"tokens": tensor}, separators=(",", ":")).encode().ljust(HEADER_BYTES - 8)
    return len(text).to_bytes(8, "little") + text


class Array(NamedTuple):
    """A vector in a .npy file: `length` numbers of `dtype`, from byte `start` on."""

    start: int
    length: int
    dtype: np.dtype


def array_of(path: Path) -> Array | None:
    """The vector that a .npy file holds; None where `path` is not one.

    Raises: BadCorpus: the file is damaged, or holds something else. OSError
    """
    with path.open("rb") as file:
        if file.read(len(magic.NUMPY)) != magic.NUMPY:
            return None
        file.seek(0)
        try:
            return _array(file, path.stat().st_size)
        except _Damaged as damage:
            raise BadCorpus(f"{path}: {damage}.", remedy=damage.remedy) from None


class _Damaged(Exception):
    """A fault of a file of tokens, and what to do about it."""

    def __init__(self, fault: str, remedy: str = FORMATS):
        super().__init__(fault)
        self.remedy = remedy


def _safetensors(file: BinaryIO, size: int) -> tuple[int, int]:
    """First byte and count of the tensor `tokens`, by the format's own rules (huggingface.co/docs/safetensors)."""
    length = int.from_bytes(file.read(8), "little")
    if size < 8 or length > min(size - 8, magic.SAFETENSORS_HEADER_BYTES):
        raise _Damaged(f"not a safetensors file: its header would be {length:,} bytes long, the file is {size:,}")
    try:
        header = json.loads(file.read(length))
    except (ValueError, RecursionError):
        header = None
    match header:
        case {"tokens": {"dtype": "U16", "shape": [int(count)], "data_offsets": [int(first), int(last)]}}:
            pass
        case {"tokens": {"dtype": dtype, "shape": shape}}:
            raise _Damaged(f"'tokens' is {dtype} {shape}, not one vector of U16")
        case {**names}:
            raise _Damaged(f"no tensor 'tokens'; it holds {some([str(n) for n in names if n != '__metadata__'])}")
        case _:
            raise _Damaged("not a safetensors file: its header is not a JSON object")
    if first < 0 or last - first != count * TOKEN.itemsize:
        raise _Damaged(f"its header puts {count:,} tokens into bytes {first:,} to {last:,}")
    if (missing := 8 + length + last - size) > 0:
        raise _Damaged(f"truncated: {missing:,} of the {last - first:,} bytes of 'tokens' are missing")
    return 8 + length + first, count


def _find(path: Path, file: BinaryIO, head: bytes, size: int) -> tuple[int, int]:
    """First byte and count of the tokens, by what the file is rather than by its name."""
    if path.suffix == ".safetensors" or magic.is_safetensors(head):
        return _safetensors(file, size)
    if head.startswith(magic.NUMPY):
        return _npy(path, file, size)
    if path.suffix == ".npy" and not magic.recognise(head):
        raise _Damaged("not a .npy file: it does not begin as one")
    return _bin(head, size)


def _npy(path: Path, file: BinaryIO, size: int) -> tuple[int, int]:
    array = _array(file, size)
    if array.dtype != TOKEN:
        raise _Damaged(
            f"its numbers are {array.dtype.name}{'' if array.dtype.isnative else ', big-endian'}, not uint16",
            f"farm data prepare {path} FOLDER writes them in 16 bits.",
        )
    return array.start, array.length


def _array(file: BinaryIO, size: int) -> Array:
    """The vector of whole numbers in a .npy file, by the format's own rules (numpy.lib.format)."""
    header = np.lib.format
    readers = {(1, 0): header.read_array_header_1_0, (2, 0): header.read_array_header_2_0}
    try:
        shape, _, dtype = readers[header.read_magic(file)](file)
    except (ValueError, KeyError, TypeError, SyntaxError):
        raise _Damaged("not a .npy file: its header cannot be read") from None
    if dtype.kind not in "iu" or len(shape) != 1:
        raise _Damaged(f"an array of {dtype} {[*shape]}, not one vector of whole numbers")
    start, (count,) = file.tell(), shape
    if (missing := start + count * dtype.itemsize - size) > 0:
        raise _Damaged(f"truncated: {missing:,} of the {count * dtype.itemsize:,} bytes of its array are missing")
    return Array(start, count, dtype)


def _bin(head: bytes, size: int) -> tuple[int, int]:
    """First byte and count of a nanoGPT file, which is nothing but tokens, or of an llm.c file, which has a header."""
    if found := magic.recognise(head):
        what, remedy = found
        raise _Damaged(f"it is {what}, not tokens", remedy)
    if magic.is_text(head):
        raise _Damaged(f"it is text, not tokens: {head[:40].decode(errors='replace')!r}...", "Name it .txt.")
    if header := magic.llm_c(head):
        return _llm_c(*header, size)
    if size % TOKEN.itemsize:
        raise _Damaged(f"{size:,} bytes are not a whole number of uint16 tokens")
    return 0, size // TOKEN.itemsize


def _llm_c(number: int, version: int, count: int, size: int) -> tuple[int, int]:
    if number != magic.LLM_C_MAGIC:
        what = magic.LLM_C_KINDS.get(number, "something else")
        raise _Damaged(f"llm.c header {number}, which stands for {what}, not for tokens in 16 bits")
    if version != 1 or size != magic.LLM_C_HEADER_BYTES + count * TOKEN.itemsize:
        raise _Damaged(f"llm.c header of version {version} and {count:,} tokens on a file of {size:,} bytes")
    return magic.LLM_C_HEADER_BYTES, count


def _check_width(file: BinaryIO, start: int, count: int) -> None:
    """Raises: _Damaged: the tokens are wider than 16 bits, so that some here are only the upper half of another."""
    fours = _sample(file, start, count).reshape(-1, 4)
    lower, upper = fours[:, ::2], fours[:, 1::2]
    if fours.size < FEW or not fours.any() or (lower.any() and upper.max() > HIGH_HALF):
        return
    if lower.any() and upper.any() and lower.max() <= LOW_HALF:
        return
    bits = 32 if fours[:, 2:].any() else 64
    which = "every second value is" if bits == 32 else "the second to fourth of every four values are"
    raise _Damaged(
        f"{which} 0 or nearly so, as when tokens of {bits} bits are read as 16",
        f"Write them in 16 bits: np.fromfile(FILE, 'uint{bits}').astype('uint16').tofile('train.bin').",
    )


def _sample(file: BinaryIO, start: int, count: int) -> np.ndarray:
    """Some tokens of a file in whole fours, so that a second one stays a second one."""
    last = max(0, count - WINDOW) // 4 * 4
    parts = []
    for at in sorted({last * part // (WINDOWS - 1) // 4 * 4 for part in range(WINDOWS)}):
        file.seek(start + at * TOKEN.itemsize)
        parts.append(np.fromfile(file, TOKEN, min(WINDOW, count - at) // 4 * 4))
    return np.concatenate(parts)
