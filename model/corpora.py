"""Where tokens come from: every split becomes one file of uint16 tokens, checked, fingerprinted and memory-mapped.

`Data.source` is the language reference inside Python, a Hugging Face dataset repo, an S3 bucket, or a path. Sources
that hold tokens already are mapped where they lie; text is tokenised once, into `cache/corpora`, under the sha256 of
what went in. No torch here: the agent prepares a corpus before a training process exists.
"""

import errno
import fcntl
import hashlib
import json
import os
import re
import struct
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, NamedTuple

import numpy as np

from farm.bucket import Bucket
from farm.errors import BadCorpus, FarmError, StorageFull, StorageUnusable, Unreachable, first_line
from farm.recipe import HEAD_TOKENS, Data, Recipe, digest
from farm.result import Tokens

if TYPE_CHECKING:
    from tiktoken import Encoding

BUILTIN = "builtin:python-reference"
END_OF_TEXT = "<|endoftext|>"  # ends each document; after 256 bytes here, after 50,256 pieces in GPT-2
END_OF_BYTES, END_OF_GPT2 = 256, 50256
TOKEN = np.dtype("<u2")
NETWORK_SECONDS = 5.0  # to be told that there is no network; a download itself may take as long as it likes
SCAN_TOKENS = 4 * 2**20
TOKEN_SUFFIXES = (".safetensors", ".bin")
TEXT_SUFFIXES = {".parquet": "parquet", ".jsonl": "json", ".txt": "text"}  # and what `datasets` calls the format

# llm.c's header: 256 int32, of which [magic, version, count of tokens]. No GPT-2 stream starts like it: the magic's low
# half is 55,432 read as a token, and GPT-2's vocabulary ends at 50,256.
LLM_C_MAGIC, LLM_C_HEADER_BYTES = 20240520, 1024
SAFETENSORS_HEADER_BYTES = 100_000_000  # what the safetensors library itself accepts

# The two files behind tiktoken's "gpt2": name, sha256 as pinned in tiktoken_ext/openai_public.py.
GPT2_URL = "https://openaipublic.blob.core.windows.net/gpt-2/encodings/main/"
GPT2_FILES = {
    "vocab.bpe": "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5",
    "encoder.json": "196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783",
}


class Span(NamedTuple):
    """Where the tokens of a split lie: `tokens` of them, from byte `start` of `path`."""

    path: Path
    start: int
    tokens: int


class Scan(NamedTuple):
    """What one pass over a range of tokens found. `at` is the first position of the largest token."""

    sha256: str
    largest: int
    at: int


def open_split(data: Data, split: str, cache: Path) -> np.ndarray:
    """The tokens of a split: uint16 [count], read-only, memory-mapped, fetched or tokenised on first use.

    Raises: BadCorpus: it is not there or is damaged. Unreachable, StorageUnusable: it is neither cached nor to be
    fetched. StorageFull.
    """
    span = _span(_locate(data, split, cache))
    return np.memmap(span.path, dtype=TOKEN, mode="r", offset=span.start, shape=(span.tokens,))


def prepare(recipe: Recipe, cache: Path) -> Tokens:
    """Fetch both splits, check that this recipe can train and test on them, and say which tokens they are.

    The pass over them is paid once per file and range.

    Raises: BadCorpus: also a token outside the vocabulary, too few tokens, or a test on what was trained on.
    Unreachable, StorageFull: as open_split.
    """
    train = _span(_locate(recipe.data, recipe.data.split, cache))
    test = _span(_locate(recipe.tested_data, recipe.evaluation.split, cache))
    trained, tested = _trained(recipe, train), _tested(recipe, test)
    if train.path.resolve() == test.path.resolve():
        _check_apart(recipe, trained, tested)
    scans = []
    for span, used in ((train, trained[:HEAD_TOKENS]), (train, trained), (test, tested)):
        scans.append(_scanned(span, used, cache))
        _check_vocabulary(recipe, span, scans[-1])
    return Tokens(head=scans[0].sha256, trained=scans[1].sha256, tested=scans[2].sha256)


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


# Finding the file of a split


def _locate(data: Data, split: str, cache: Path) -> Path:
    if not re.fullmatch(r"\w[\w.-]*", split):
        raise BadCorpus(f"split {split!r} is not a name.", remedy="Use letters, digits, '.', '_' and '-'.")
    if data.source.startswith("builtin:"):
        return _python_reference(data, split, cache)
    if data.source.startswith("hf:"):
        return _hugging_face(data, split, cache)
    if data.source.startswith("s3://"):
        return _in_bucket(data, split, cache)
    source = Path(data.source).expanduser()
    if not source.is_absolute():
        raise BadCorpus(
            f"data.source = {data.source!r} is a relative path, and every node has its own working folder.",
            remedy=f"Write it in full, or use {BUILTIN!r} or 'hf:OWNER/NAME'.",
        )
    try:
        return _local_file(source, data, cache) if source.is_file() else _in_folder(source, data, split, cache)
    except OSError as error:
        raise BadCorpus(f"{error.filename or source}: {error.strerror}.", remedy="Every node must see it.") from None


def _local_file(source: Path, data: Data, cache: Path) -> Path:
    """A source that is one file, whatever the split: training and test then read different parts of it."""
    if source.suffix not in (*TOKEN_SUFFIXES, *TEXT_SUFFIXES):
        known = ", ".join([*TOKEN_SUFFIXES, *TEXT_SUFFIXES])
        raise BadCorpus(f"{source} is no corpus: its name ends in none of {known}.")
    return _one_file([source], data, cache)


def _in_folder(folder: Path, data: Data, split: str, cache: Path) -> Path:
    if not folder.is_dir():
        raise BadCorpus(f"{folder} does not exist here.", remedy="Every node must see data.source under the same path.")
    there = sorted(str(path.relative_to(folder)) for pattern in ("*", "data/*") for path in folder.glob(pattern))
    files = [folder / name for name in _files_of(split, there)]
    if not files:
        raise BadCorpus(
            f"{folder} has no {split} split; it holds {_some(there)}.",
            remedy=f"Put {split}.safetensors, {split}.bin, or text as {split}*.parquet, .jsonl or .txt there.",
        )
    return _one_file(files, data, cache)


def _one_file(files: list[Path], data: Data, cache: Path) -> Path:
    """The file that holds the tokens of `files`: itself, or what tokenising made of them."""
    return files[0] if files[0].suffix in TOKEN_SUFFIXES else _tokenised(files, data, cache)


def _files_of(split: str, names: list[str]) -> list[str]:
    """Which of `names` make up a split: one file of tokens, else every text file of one format, in order of name.

    `val` is what nanoGPT and many repos write for the validation split, and data/ the folder where text lies in a repo.
    """
    called = (split, "val") if split == "validation" else (split,)
    tokens = [f"{name}{suffix}" for name in called for suffix in TOKEN_SUFFIXES]
    if found := [name for name in tokens if name in names]:
        return found[:1]
    texts = {path.removeprefix("data/"): path for path in sorted(names)}
    for name, suffix in product(called, TEXT_SUFFIXES):
        if found := [texts[t] for t in texts if t.startswith(name) and t.endswith(suffix) and "/" not in t]:
            return found
    return []


def _some(names: list[str]) -> str:
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "") if names else "nothing"


# A bucket


def _in_bucket(data: Data, split: str, cache: Path) -> Path:
    """The split below s3://bucket/prefix, brought into the cache once for as long as it does not change there.

    Where the bucket cannot be reached, what it held when it last could be: a checkpoint knows its tokens.
    """
    bucket, folder = Bucket(data.source), cache / "s3" / digest({"uri": data.source})[:16]
    try:
        there = {found.name: found for found in bucket.objects("")}
    except StorageUnusable as error:
        if error.fields.get("is_away") and (files := _brought(split, folder)):
            print(f"{error.message} Its {split} split is the one brought here when it last could be.", file=sys.stderr)
            return _one_file(files, data, cache)
        raise
    if not (wanted := _files_of(split, [*there])):
        raise BadCorpus(
            f"{data.source} has no {split} split; it holds {_some([*there])}.",
            remedy=f"Put {split}.safetensors, {split}.bin, or text as {split}*.parquet, .jsonl or .txt there.",
        )
    places = {name: folder / digest({"etag": there[name].etag, "bytes": there[name].bytes})[:16] for name in wanted}
    files = [_made_once(places[name] / name, partial(bucket.read_into, name)) for name in wanted]
    _keep_listing(split, folder, files)
    return _one_file(files, data, cache)


def _keep_listing(split: str, folder: Path, files: list[Path]) -> None:
    """Note which files were the split when it was last seen: of each, other versions may lie here, too."""
    listing, names = folder / f"{split}.listing", [file.relative_to(folder).as_posix() for file in files]
    content = json.dumps(names)
    if not listing.exists() or listing.read_text(encoding="utf-8") != content:
        draft = folder / f"{split}.listing-{os.getpid()}"
        draft.write_text(content, encoding="utf-8")
        draft.replace(listing)


def _brought(split: str, folder: Path) -> list[Path]:
    """The files of the split as it was last seen, or none unless all are here."""
    listing = folder / f"{split}.listing"
    files = [folder / name for name in json.loads(listing.read_text(encoding="utf-8"))] if listing.exists() else []
    return files if all(file.is_file() for file in files) else []


# Hugging Face


def _hugging_face(data: Data, split: str, cache: Path) -> Path:
    """The split of a dataset repo: its file of tokens, else its text files, tokenised."""
    repo = data.source.removeprefix("hf:")
    if not re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", repo):
        raise BadCorpus(f"data.source = {data.source!r} is not hf:OWNER/NAME.")
    # A commit never changes, so that a cached one needs no network; a branch or tag may move.
    pinned = re.fullmatch("[0-9a-f]{40}", data.revision or "")
    files = _cached(repo, data.revision, split) if pinned else []
    return _one_file(files or _downloaded(repo, data.revision, split), data, cache)


def _downloaded(repo: str, revision: str | None, split: str) -> list[Path]:
    """The files of the split, and no others, brought here; without a network, what the hub's cache has of them."""
    from huggingface_hub import HfApi, snapshot_download

    try:
        info = HfApi().dataset_info(repo, revision=revision, timeout=NETWORK_SECONDS)
        names = [sibling.rfilename for sibling in info.siblings or []]
        if not (wanted := _files_of(split, names)):
            raise BadCorpus(
                f"hf:{repo} has no {split} split; it holds {_some(names)}.",
                remedy=f"It needs {split}.safetensors or .bin, or text as {split}*.parquet, .jsonl or .txt.",
            )
        folder = Path(snapshot_download(repo, repo_type="dataset", revision=revision, allow_patterns=wanted))
        return [folder / name for name in wanted]
    except FarmError:
        raise
    except Exception as error:  # the hub's errors and its HTTP client's share no class below Exception
        if files := _cached(repo, revision, split):
            return files
        raise _not_fetched(repo, revision, split, error) from None


def _cached(repo: str, revision: str | None, split: str) -> list[Path]:
    """The files of the split in the hub's cache, or none unless all are there."""
    from huggingface_hub import get_cached_repo_tree, snapshot_download
    from huggingface_hub.errors import CachedRepoTreeNotFoundError, LocalEntryNotFoundError

    ask = partial(snapshot_download, repo, repo_type="dataset", revision=revision, local_files_only=True)
    try:  # for no file by name, so that it does not mind those of other splits missing
        folder = Path(ask(allow_patterns=[]))
    except LocalEntryNotFoundError:
        return []
    try:
        names = [file.path for file in get_cached_repo_tree(repo, repo_type="dataset", revision=revision)]
    except CachedRepoTreeNotFoundError:  # placed there by hand or by an older hub: what is there is all there is
        names = [path.relative_to(folder).as_posix() for path in folder.rglob("*")]
    files = [folder / name for name in _files_of(split, names)]
    return files if all(file.is_file() for file in files) else []


def _not_fetched(repo: str, revision: str | None, split: str, error: Exception) -> FarmError:
    from huggingface_hub import constants
    from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

    what = f"hf:{repo}" + (f" at revision {revision}" if revision else "")
    why = first_line(error)
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return _full(Path(constants.HF_HUB_CACHE))
    if isinstance(error, RepositoryNotFoundError | RevisionNotFoundError):
        return BadCorpus(f"{what}: {why}", remedy="Check data.source and data.revision; a private repo needs HF_TOKEN.")
    folder = Path(constants.HF_HUB_CACHE) / f"datasets--{repo.replace('/', '--')}"
    option = f" --revision {revision}" if revision else ""
    return Unreachable(
        f"{what}: the {split} split is not in {folder}, and {constants.ENDPOINT} cannot be reached ({why}).",
        remedy=f"Where there is a network, run `hf download --repo-type dataset{option} {repo} {split}.safetensors` and"
        f" copy that folder here (HF_HOME moves the cache), or set data.source to a folder that holds"
        f" {split}.safetensors.",
    )


# Files of tokens


def _span(path: Path) -> Span:
    """Where the tokens lie in a .safetensors or .bin file, after every check that needs no pass over them."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            read = _safetensors if path.suffix == ".safetensors" else _bin
            start, count = read(file, size)
    except OSError as error:
        raise BadCorpus(f"{path}: {error.strerror}.", remedy="Every node must be able to read it.") from None
    except _Damaged as damage:
        raise BadCorpus(f"{path}: {damage}.", remedy="Copy or make it again; docs/data.md shows the formats.") from None
    if count < 1:
        raise BadCorpus(f"{path} holds no tokens.")
    return Span(path, start, count)


class _Damaged(Exception):
    """What is wrong with a file of tokens."""


def _safetensors(file: BinaryIO, size: int) -> tuple[int, int]:
    """First byte and count of the tensor `tokens`, by the format's own rules (huggingface.co/docs/safetensors)."""
    length = int.from_bytes(file.read(8), "little")
    if size < 8 or length > min(size - 8, SAFETENSORS_HEADER_BYTES):
        raise _Damaged(f"no safetensors file: its header would be {length:,} bytes long, the file is {size:,}")
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
            raise _Damaged(f"no tensor 'tokens'; it holds {_some([str(n) for n in names if n != '__metadata__'])}")
        case _:
            raise _Damaged("no safetensors file: its header is not a JSON object")
    if first < 0 or last - first != count * TOKEN.itemsize:
        raise _Damaged(f"its header puts {count:,} tokens into bytes {first:,} to {last:,}")
    if (missing := 8 + length + last - size) > 0:
        raise _Damaged(f"truncated: {missing:,} of the {last - first:,} bytes of 'tokens' are missing")
    return 8 + length + first, count


def _bin(file: BinaryIO, size: int) -> tuple[int, int]:
    """First byte and count of a nanoGPT file, which is nothing but tokens, or of an llm.c file, which has a header."""
    magic, version, count = struct.unpack("<3i", file.read(12)) if size >= LLM_C_HEADER_BYTES else (0, 0, 0)
    if magic == LLM_C_MAGIC:
        if version != 1 or size != LLM_C_HEADER_BYTES + count * TOKEN.itemsize:
            raise _Damaged(f"llm.c header of version {version} and {count:,} tokens on a file of {size:,} bytes")
        return LLM_C_HEADER_BYTES, count
    if size % TOKEN.itemsize:
        raise _Damaged(f"{size:,} bytes are no whole number of uint16 tokens")
    return 0, size // TOKEN.itemsize


# Text, tokenised once


def _python_reference(data: Data, split: str, cache: Path) -> Path:
    """Python's language reference, byte by byte: the last tenth is `validation`, what comes before it `train`."""
    if data.source != BUILTIN:
        raise BadCorpus(f"data.source = {data.source!r} is unknown.", remedy=f"The one built in is {BUILTIN!r}.")
    try:
        from pydoc_data.topics import topics
    except ImportError:
        raise BadCorpus("this Python has no pydoc_data.topics.", remedy="Install all of its library.") from None
    tokens = np.concatenate([*_tokens_of([topics[name] for name in sorted(topics)], encoding(data))])
    cut = len(tokens) * 9 // 10
    parts = {"train": tokens[:cut], "validation": tokens[cut:]}
    if split not in parts:
        raise BadCorpus(f"{BUILTIN} has no {split} split.", remedy="It has train and validation.")
    name = f"python-reference-{hashlib.sha256(tokens.tobytes()).hexdigest()[:16]}.{split}.bin"
    return _made_once(cache / "corpora" / name, lambda file: file.write(parts[split].data))


def _tokenised(files: list[Path], data: Data, cache: Path) -> Path:
    """The tokens of text files, each document closed by end-of-text; made once for this content and tokenizer."""
    content = [[file.suffix, _content(file, cache)] for file in files]
    key = digest({"content": content, "tokenizer": data.tokenizer, "field": data.text_field})

    def write(out: BinaryIO) -> None:
        for tokens in _tokens_of(_documents(files, data.text_field), encoding(data)):
            out.write(tokens.data)

    return _made_once(cache / "corpora" / f"{key}.bin", write)


def _tokens_of(documents: Iterable[str], encoding: "Encoding") -> Iterator[np.ndarray]:
    """Each document as uint16 tokens and the end-of-text that closes it, in order, encoded by all cores."""

    def encode(text: str) -> np.ndarray:
        tokens = encoding.encode_to_numpy(text, disallowed_special=())
        return np.append(tokens, encoding.eot_token).astype(TOKEN)

    cores = os.cpu_count() or 1
    pending: deque[Future[np.ndarray]] = deque()
    with ThreadPoolExecutor(cores) as pool:  # tiktoken lets other threads run while it encodes
        for text in documents:
            pending.append(pool.submit(encode, text))
            if len(pending) > 2 * cores:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()


def _documents(files: list[Path], field: str) -> Iterator[str]:
    """The documents of text files of one format, in order: rows of `field`, or a .txt as a whole."""
    import datasets

    kind = TEXT_SUFFIXES[files[0].suffix]
    options = {"sample_by": "document"} if kind == "text" else {}
    column = "text" if kind == "text" else field
    where = _some([str(file) for file in files])
    try:
        rows = datasets.load_dataset(kind, data_files=[*map(str, files)], split="train", streaming=True, **options)
        for number, row in enumerate(rows):
            if not isinstance(row.get(column), str):
                raise BadCorpus(
                    f"{where}: row {number} has no text in {column!r}; it has {_some([*row])}.",
                    remedy="Set data.text_field to the column that holds the documents.",
                )
            yield row[column]
    except FarmError:
        raise
    except Exception as error:  # whatever the reader of that format raises
        raise BadCorpus(f"{where}: {type(error).__name__}: {error}.") from error


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
    _made_once(path, lambda file: file.write(content))


# What a recipe reads of a split


def _trained(recipe: Recipe, span: Span) -> range:
    """The tokens that training reads, targets included.

    Raises: BadCorpus: there are too few.
    """
    context, batch = recipe.model.context, recipe.train.batch
    needed = recipe.steps * batch * context + 1
    if span.tokens <= context:
        raise BadCorpus(
            f"{span.path} has {span.tokens:,} tokens; one sequence is model.context + 1 = {context + 1:,}.",
            remedy="Lower model.context or train on a longer corpus.",
        )
    if needed > span.tokens and not recipe.data.repeat:
        affordable = (span.tokens - 1) // (batch * context) * batch * context
        raise BadCorpus(
            f"{span.path} has {span.tokens:,} tokens; {recipe.steps:,} steps x {batch} sequences x {context:,} tokens,"
            f" and one more to predict, need {needed:,}.",
            remedy=f"Set data.repeat = true, lower train.tokens to {affordable:,}, or train on a longer corpus."
            if affordable
            else "Set data.repeat = true, lower train.batch, or train on a longer corpus.",
        )
    whole = (span.tokens - 1) // context * context + 1
    return range(whole if recipe.data.order == "shuffled" else min(needed, whole))


def _tested(recipe: Recipe, span: Span) -> range:
    """The tokens that the evaluation reads, targets included.

    Raises: BadCorpus: the slice does not lie within the split.
    """
    evaluation, context = recipe.evaluation, recipe.tested_context
    end = evaluation.offset + evaluation.sequences * context + 1
    if end > span.tokens:
        fitting = (span.tokens - 1 - evaluation.offset) // context
        raise BadCorpus(
            f"{span.path} has {span.tokens:,} tokens; evaluation.offset {evaluation.offset:,} +"
            f" {evaluation.sequences:,} sequences x {context:,} tokens, and one more to predict, end at {end:,}.",
            remedy=f"Lower evaluation.sequences to {fitting:,} or evaluation.offset."
            if fitting > 0
            else "Lower evaluation.offset and evaluation.sequences.",
        )
    return range(evaluation.offset, end)


def _check_apart(recipe: Recipe, trained: range, tested: range) -> None:
    """No token may be learnt and then tested. The last of `trained` is learnt, the first of `tested` only read."""
    shuffled = recipe.data.order == "shuffled"
    if tested.start < trained.stop - 1:
        raise BadCorpus(
            f"training reads the first {trained.stop - 1:,} tokens{' (shuffled: all)' if shuffled else ''} of the file"
            f" that the test reads from token {tested.start:,} on.",
            remedy=f"Use another evaluation.split, or an evaluation.offset of at least {trained.stop - 1:,}.",
        )


def _check_vocabulary(recipe: Recipe, span: Span, scan: Scan) -> None:
    if scan.largest >= recipe.model.vocab:
        raise BadCorpus(
            f"{span.path} has token {scan.largest:,} at position {scan.at:,}; model.vocab = {recipe.model.vocab:,}"
            f" allows 0 to {recipe.model.vocab - 1:,}.",
            remedy=f"Set model.vocab to at least {scan.largest + 1:,}, or use the corpus of another tokenizer.",
        )


def _scanned(span: Span, used: range, cache: Path) -> Scan:
    key = {"file": _identity(span.path), "scan": [span.start, used.start, used.stop]}
    return Scan(**_remembered(key, lambda: _scan(span, used)._asdict(), cache))


def _scan(span: Span, used: range) -> Scan:
    """One pass, by plain reads: through the map, every page would count as memory of this process."""
    sha256, largest, at = hashlib.sha256(), -1, 0
    with span.path.open("rb") as file:
        file.seek(span.start + used.start * TOKEN.itemsize)
        for position in range(used.start, used.stop, SCAN_TOKENS):
            chunk = np.fromfile(file, TOKEN, min(SCAN_TOKENS, used.stop - position))
            sha256.update(chunk.data)
            if (highest := int(chunk.max())) > largest:
                largest, at = highest, position + int(chunk.argmax())
    return Scan(sha256.hexdigest(), largest, at)


# What is computed once and kept


def _identity(path: Path) -> list:
    """What tells that a file is still the one that was read."""
    stat = path.stat()
    return [str(path.resolve()), stat.st_size, stat.st_mtime_ns]


def _content(path: Path, cache: Path) -> str:
    """sha256 of a file, read once for as long as it does not change."""

    def compute() -> dict:
        with path.open("rb") as file:
            return {"sha256": hashlib.file_digest(file, "sha256").hexdigest()}

    return _remembered({"file": _identity(path)}, compute, cache)["sha256"]


def _remembered(key: dict, compute: Callable[[], dict], cache: Path) -> dict:
    """What `compute` found for `key`, then or now."""
    path = cache / "scans" / f"{digest(key)}.json"
    made = _made_once(path, lambda file: file.write(json.dumps(compute()).encode()))
    return json.loads(made.read_bytes())


def _made_once(path: Path, write: Callable[[BinaryIO], object]) -> Path:
    """`path`, written by `write` unless it is there already: whole or not at all, and by one process at a time.

    Raises: StorageFull. BadCorpus: the folder cannot be written.
    """
    if path.exists():
        return path
    unfinished = path.with_suffix(".unfinished")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.with_suffix(".lock").open("w", encoding="utf-8") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not path.exists():
                _write(unfinished, write)
                unfinished.replace(path)
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise _full(path.parent) from None
        raise BadCorpus(
            f"{error.filename or path}: {error.strerror or error}.", remedy=f"It is needed to make {path}."
        ) from None
    return path


def _write(path: Path, write: Callable[[BinaryIO], object]) -> None:
    try:
        with path.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        path.unlink(missing_ok=True)  # half a corpus may be many GiB
        raise


def _full(folder: Path) -> StorageFull:
    return StorageFull(f"{folder}: no space left for the corpus.", remedy="Free some, or move that folder.")
