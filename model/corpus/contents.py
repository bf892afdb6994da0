"""`farm data show`: how many tokens and documents a source has, their fingerprint, and how it begins."""

import hashlib
from collections.abc import Callable
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

from farm.errors import BadCorpus, FarmError
from farm.study.recipe import Data
from model.corpus import cuts, origin, tokenizer
from model.corpus.documents import documents
from model.corpus.formats import TOKEN, Span, chunks, span_of
from model.corpus.kept import identity, remember
from model.corpus.names import gaps
from model.corpus.sources import holds_tokens
from model.corpus.text import find_tokenised, tokenise
from model.corpus.token_folder import Vocabulary
from model.corpus.tokenizer import Tokenizer

SMALL_BYTES = 2**26  # of text, which is tokenised to be counted; more is left to farm data prepare
FIRST_TOKENS, FIRST_CHARACTERS = 64, 60


class Contents(NamedTuple):
    """A split: what is None is not known of text that was not tokenised yet. `largest` is the largest token."""

    split: str
    files: list[str]
    bytes: int
    tokens: int | None
    documents: int | None
    largest: int | None
    fingerprint: str | None
    first_words: str | None


class Shown(NamedTuple):
    """What a source holds, and what to know about it."""

    splits: list[Contents]
    vocabulary: int
    remarks: list[str]


Watch = Callable[[int, int], None]


def contents(data: Data, cache: Path, watch: Watch, own: Vocabulary | None = None) -> Shown:
    """What `data` holds; what is remote is fetched. `watch` is told the bytes that were read, and of how many.

    `own` is the tokenizer that made the tokens, where their folder says so and its file is not at hand.

    Raises: as open_split
    """
    made_by: Tokenizer | Vocabulary = own or tokenizer.of(data)
    remarks = [f"{own.name} made the tokens: name it with --tokenizer to see the first words"] if own else []
    splits = []
    for split, files in origin.sources(data, cache).items():
        remarks += gaps([file.name for file in files])
        size = sum(file.stat().st_size for file in files)
        spans = _spans(files, data, cache)
        told: dict[str, Any] = {"split": split, "files": [file.name for file in files], "bytes": size}
        if spans is None:
            remarks.append(
                f"the {split} part is {size / 2**20:,.0f} MiB of text, whose tokens are known once farm data prepare"
                " has made them"
            )
            first = next(documents(files, data.text_field), None)
            told |= _UNKNOWN | {"first_words": _start(first.text) if first else None}
            splits.append(Contents(**told))
            continue
        found = remember(
            {"contents": [[identity(span.path), span.start] for span in spans], "end": made_by.end_of_text},
            partial(_scan, spans, made_by.end_of_text, watch),
            cache,
        )
        if found["largest"] >= made_by.vocab:
            remarks.append(
                f"the {split} part has token {found['largest']:,}, and the tokenizer {made_by.vocab:,} tokens: name the"
                " one that made it with --tokenizer"
            )
        words = _first_words(spans[0], made_by, remarks) if isinstance(made_by, Tokenizer) else None
        splits.append(Contents(**told, **found, first_words=words))
    return Shown(splits, made_by.vocab, [*dict.fromkeys(remarks)])


_UNKNOWN = dict.fromkeys(("tokens", "documents", "largest", "fingerprint"))


def _spans(files: list[Path], data: Data, cache: Path) -> list[Span] | None:
    """Where the tokens lie; those of a little text are made, as a run would. None: much text, not tokenised yet."""
    if holds_tokens(files):
        return [span_of(file) for file in files]
    made = find_tokenised(files, data, cache)
    if made is None and sum(cuts.bytes_of(file, data.text_field) for file in files) <= SMALL_BYTES:
        made = tokenise(files, data, cache)
    return [span_of(made)] if made else None


def _scan(spans: list[Span], end: int, watch: Watch) -> dict:
    sha256, largest, ended, behind = hashlib.sha256(), -1, 0, 0
    total = sum(span.tokens for span in spans) * TOKEN.itemsize
    last = end
    for chunk in chain.from_iterable(map(chunks, spans)):
        sha256.update(chunk.data)
        largest, ended = max(largest, int(chunk.max())), ended + int((chunk == end).sum())
        last, behind = int(chunk[-1]), behind + chunk.nbytes
        watch(behind, total)
    tokens = total // TOKEN.itemsize
    return {
        "tokens": tokens,
        "documents": ended + (last != end),
        "largest": largest,
        "fingerprint": sha256.hexdigest(),
    }


def _first_words(span: Span, made_by: Tokenizer, remarks: list[str]) -> str | None:
    tokens = next(chunks(span, range(min(FIRST_TOKENS, span.tokens)))).tolist()
    try:
        return _start(made_by.decoder()([token for token in tokens if token < made_by.vocab]))
    except BadCorpus:
        raise
    except FarmError as error:  # without its files, which nothing else here needs
        remarks.append(f"no first words: {error}")
        return None


def _start(text: str) -> str:
    """The first words of a text, on one line."""
    words = " ".join(text[: 8 * FIRST_CHARACTERS].split())
    if len(words) <= FIRST_CHARACTERS:
        return words
    cut = words[:FIRST_CHARACTERS]
    return f"{cut.rpartition(' ')[0] or cut} ..."
