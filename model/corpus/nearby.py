"""Corpora that lie in a folder, and how much there is to train on: for a study that is about to be written.

Names, headers and sizes are read, and text only where it is little: nothing is fetched, made or kept.
"""

from collections.abc import Iterable, Iterator
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Literal, NamedTuple

from farm.errors import BadCorpus
from farm.study.recipe import Data
from model.corpus import bucket, gpt2, hub, magic, token_folder
from model.corpus.documents import check_kind, documents
from model.corpus.formats import Span, chunks, span_of
from model.corpus.names import TEXT_SUFFIXES, TOKEN_SUFFIXES, codec_suffix, kind
from model.corpus.sources import holds_tokens, under_path
from model.corpus.text import BUILTIN, parts, topics
from model.corpus.tokenizer import BYTES, END_OF_BYTES

LITTLE_BYTES = 2**26  # of text, which is read to be counted; of tokens, which are gone through for the largest one
LARGEST_VOCAB = 65_536
WINDOW, WINDOWS = 2**16, 16  # tokens looked at in a larger file, and how often
FOLDERS = 200  # looked into, at most
LEAST_BYTES = 50_000  # of a text that no split is named after: notes and lists of packages are smaller
Kind = Literal["tokens", "text"]


class Candidate(NamedTuple):
    """A file or folder that looks like a corpus, by the names and sizes of its files."""

    place: Path
    kind: Kind
    bytes: int
    is_prepared: bool  # farm data prepare made it
    has_test: bool  # a split of its own to test on

    @property
    def told(self) -> str:
        """What it is, in words."""
        return f"{self.kind}, {size(self.bytes)}" + ("" if self.has_test else ", without a validation split")


class Nearby(NamedTuple):
    """What lies in a folder: the best corpus first, and what would be one after farm data prepare."""

    candidates: list[Candidate]
    raw: list[Path]


class Corpus(NamedTuple):
    """A corpus by its facts. `train` and `test` are tokens, at least; None where they are not known from here.

    `is_shared`: training and test read different parts of the same tokens, of which there are `train`.
    """

    source: str
    kind: Kind
    train: int | None
    test: int | None
    is_shared: bool
    split: str  # to test on
    vocab: int
    tokenizer: str
    text_field: str = "text"


def size(count: int) -> str:
    """Bytes, in words."""
    return f"{count / 2**30:,.1f} GiB" if count >= 2**30 else f"{max(1, round(count / 2**20)):,} MiB"


def nearby(folder: Path) -> Nearby:
    """The corpora in `folder` (a full path) and one level below it. Those that cannot be read are left out."""
    found, raw = [], []
    for place in _places(folder):
        with suppress(OSError, BadCorpus):
            if one := _candidate(place):
                found.append(one)
            elif place.is_dir() and _unnamed(place):
                raw.append(place)
    # Tokens before text, those that farm made before others, a split to test on before none, then the largest.
    found.sort(key=lambda one: (one.kind, one.is_prepared, one.has_test, one.bytes), reverse=True)
    loose = any(one.place.parent == folder and one.place.is_file() for one in found)
    return Nearby(found, [place for place in raw if place != folder or not loose])


def examine(source: str, cache: Path, field: str = "text") -> Corpus:
    """The facts of a corpus by its name in a study: a full path, builtin:python-reference, hf:OWNER/NAME or s3://.

    Raises: BadCorpus: no study could train on it as it is; says what to do first.
    """
    if source == BUILTIN:
        found = parts(sum(len(text.encode()) + 1 for text in topics()))
        return Corpus(
            source, "text", len(found["train"]), len(found["validation"]), False, "validation", BYTES.vocab, "bytes"
        )
    files = _splits(Data(source=source, text_field=field), cache)
    if not files:
        return Corpus(source, "tokens", None, None, False, "validation", gpt2.VOCABULARY, "gpt2")
    return _of_tokens(source, files) if holds_tokens(files["train"]) else _of_text(source, files, field)


def _places(folder: Path) -> Iterator[Path]:
    """The folder, its folders and its files, without what is hidden or an environment of Python."""
    yield folder
    inner: list[Path] = []
    with suppress(OSError):
        inner = sorted(path for path in folder.iterdir() if not path.name.startswith((".", "__")))
    folders = [path for path in inner if path.is_dir() and path.name != "node_modules"]
    yield from [path for path in folders if not (path / "pyvenv.cfg").exists()][:FOLDERS]
    taken = {file for split in ("train", "validation") for file in _in(folder, split)}
    yield from (path for path in inner if path.is_file() and path not in taken)


def _in(folder: Path, split: str) -> list[Path]:
    """The files of a split in a folder; none where it has none."""
    with suppress(BadCorpus):
        return under_path(Data(source=str(folder.absolute()), split=split), split)
    return []


def _candidate(place: Path) -> Candidate | None:
    """What `place` is, by names and first bytes. Raises: BadCorpus, OSError"""
    if place.is_file():
        return _one_file(place)
    train, test = _in(place, "train"), _in(place, "validation")
    if not train:
        return None
    sort: Kind = "tokens" if holds_tokens(train) else "text"
    return Candidate(place, sort, _bytes(train), token_folder.read(place) is not None, bool(test))


def _one_file(file: Path) -> Candidate | None:
    """A file that is named after no split: tokens if it says so itself, since any bytes may be called .bin."""
    sort, length = kind(file.name), file.stat().st_size
    if sort in TEXT_SUFFIXES and length >= LEAST_BYTES:
        check_kind(file)
        return Candidate(file, "text", length, False, False)
    if sort in TOKEN_SUFFIXES and (sort != ".bin" or _says_tokens(file)):
        return Candidate(file, "tokens", span_of(file).tokens * 2, False, False)
    return None


def _says_tokens(file: Path) -> bool:
    with file.open("rb") as opened:
        return magic.llm_c(opened.read(magic.HEAD_BYTES)) is not None


def _unnamed(folder: Path) -> bool:
    """Whether a folder holds text that is named after no split."""
    found = [path for path in folder.iterdir() if kind(path.name) in TEXT_SUFFIXES and path.is_file()]
    return _bytes(found) >= LEAST_BYTES and not _in(folder, "validation")


def _bytes(files: Iterable[Path]) -> int:
    return sum(file.stat().st_size for file in files)


def _splits(data: Data, cache: Path) -> dict[str, list[Path]]:
    """The files of each split, as far as they are here; of a repo or bucket none unless training's are here.

    Raises: BadCorpus
    """
    if data.source.startswith("hf:"):
        found = {split: hub.here(data, split) for split in ("train", "validation")}
    elif data.source.startswith("s3://"):
        found = {split: bucket.here(data, split, cache) for split in ("train", "validation")}
    else:
        return _under(data)
    return {split: files for split, files in found.items() if files} if found["train"] and found["validation"] else {}


def _under(data: Data) -> dict[str, list[Path]]:
    """The same under a path. Raises: BadCorpus"""
    place = Path(data.source)
    try:
        train = under_path(data, "train")
    except BadCorpus as error:
        if place.is_dir() and error.fields.get("is_lacking") and _unnamed(place):
            raise _unprepared(data.source, "text that is named after no split") from None
        raise
    test = [] if place.is_file() else _in(place, "validation")
    return {"train": train} | ({"validation": test} if test else {})


def _unprepared(source: str, what: str) -> BadCorpus:
    return BadCorpus(f"{source} is {what}.", remedy=f"Make tokens of it first: farm data prepare {source} tokens")


def _of_tokens(source: str, files: dict[str, list[Path]]) -> Corpus:
    spans = {split: [span_of(file) for file in found] for split, found in files.items()}
    count = {split: sum(span.tokens for span in found) for split, found in spans.items()}
    vocab, tokenizer = _vocabulary(source, [span for found in spans.values() for span in found])
    return Corpus(source, "tokens", count["train"], count.get("validation"), *_test(source, files), vocab, tokenizer)


def _of_text(source: str, files: dict[str, list[Path]], field: str) -> Corpus:
    """Text byte by byte: then its tokens are counted at once, and nothing has to be fetched to make them."""
    each = [file for found in files.values() for file in found]
    total = sum(file.stat().st_size * (4 if codec_suffix(file.name) else 1) for file in each)
    if total > LITTLE_BYTES:
        raise _unprepared(source, f"{size(total)} of text, which each node would have to tokenise")
    count = {split: _count(source, found, field) for split, found in files.items()}
    shared = _test(source, files)
    return Corpus(source, "text", count["train"], count.get("validation"), *shared, BYTES.vocab, "bytes", field)


def _test(source: str, files: dict[str, list[Path]]) -> tuple[bool, str]:
    """Whether the test reads the same tokens as training, and its split."""
    is_shared = "validation" not in files
    return is_shared, "train" if is_shared and Path(source).is_dir() else "validation"


def _count(source: str, files: list[Path], field: str) -> int:
    """The bytes of all documents, and an end of each. Raises: BadCorpus"""
    if all(kind(file.name) == ".txt" and not codec_suffix(file.name) for file in files):
        return sum(_plain(file) for file in files)
    if find_spec("pyarrow") is None:
        raise _unprepared(source, "text that this machine cannot look into without pip install 'farm[data]'")
    return sum(len(document.text.encode()) + 1 for document in documents(files, field))


def _plain(file: Path) -> int:
    """The same of a .txt, without the libraries that read the others."""
    check_kind(file)
    try:
        return len(file.read_bytes().decode("utf-8-sig").encode()) + 1
    except UnicodeDecodeError as error:
        raise BadCorpus(f"{file} is not UTF-8: {error.reason}.", remedy="Save it as UTF-8.") from None


def _vocabulary(source: str, spans: list[Span]) -> tuple[int, str]:
    """A size of the vocabulary that has room for the tokens of `spans`, and the tokenizer that most likely made them.

    Where they are too many to go through, some are looked at; each run checks all that it reads.
    """
    manifest = token_folder.read(Path(source)) if Path(source).is_dir() else None
    if manifest:
        made_by = manifest.tokenizer
        return made_by.vocab, made_by.name if made_by.sha256 is None else "gpt2"
    is_little = sum(span.tokens for span in spans) * 2 <= LITTLE_BYTES
    looked = (chunk for span in spans for used in _looked_at(span, is_little) for chunk in chunks(span, used))
    largest = max(int(chunk.max()) for chunk in looked)
    if is_little and largest <= END_OF_BYTES:
        return (BYTES.vocab, "bytes") if largest == END_OF_BYTES else (max(2, largest + 1), "gpt2")
    return (gpt2.VOCABULARY if largest < gpt2.VOCABULARY else LARGEST_VOCAB), "gpt2"


def _looked_at(span: Span, is_all: bool) -> Iterator[range]:
    if is_all:
        yield range(span.tokens)
        return
    last = max(0, span.tokens - WINDOW)
    for part in range(WINDOWS):
        start = last * part // (WINDOWS - 1)
        yield range(start, min(start + WINDOW, span.tokens))
