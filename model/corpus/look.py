"""A look at a recipe's data before anything is queued: as far as this machine sees it, and without making anything.

Headers and sizes are read, and what earlier runs left in the cache; no network is asked and no text is tokenised.
"""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, TypeVar

from farm.errors import BadCorpus
from farm.study.recipe import Data, Recipe
from model.corpus import bucket, gpt2, hub, tokenizer
from model.corpus.checks import check_apart, evaluation_range, training_range, validation_range
from model.corpus.formats import Span, span_of
from model.corpus.names import gaps, some
from model.corpus.shards import span_of_all
from model.corpus.sources import check_name, holds_tokens, under_path
from model.corpus.text import BUILTIN, find_tokenised, most_tokens, parts, topics

LATER = "each node checks it when a run starts"

T = TypeVar("T")


class View(NamedTuple):
    """The faults of a recipe's data, and what cannot be said from here."""

    faults: list[BadCorpus]
    remarks: list[str]


def look(recipe: Recipe, cache: Path, trains_here: bool) -> View:
    """Look from this machine at the splits that `recipe` reads.

    What is missing here is a fault only if runs train here. `prepare` raises the same faults on a node, and those of
    the tokens themselves.
    """
    view = View([], [])

    def note(see: Callable[[], T]) -> T | None:
        try:
            return see()
        except BadCorpus as fault:
            if fault.fields.get("is_unseen") and not trains_here:
                view.remarks.append(f"not seen from this machine: {fault.message.rstrip('.')}; {LATER}")
            else:
                view.faults.append(fault)
            return None

    vocab = recipe.model.vocab
    train = note(lambda: _see(recipe.data, vocab, cache, view.remarks))
    test = note(lambda: _see(recipe.tested_data, vocab, cache, view.remarks))
    learnt = note(lambda: training_range(recipe, train)) if train else None
    read = note(lambda: evaluation_range(recipe, test)) if test else None
    if test and read:
        note(lambda: validation_range(recipe, test))
    if train and test and learnt and read and train.path.resolve() == test.path.resolve():
        note(lambda: check_apart(recipe, learnt, read))
    faults = {str(fault): fault for fault in view.faults}  # both splits may lack the same folder
    return View([*faults.values()], [*dict.fromkeys(view.remarks)])


def _see(data: Data, vocab: int, cache: Path, remarks: list[str]) -> Span | None:
    """Where the split of `data` lies, or how long it is at most; None, and why in `remarks`, where it is not seen.

    Raises: BadCorpus
    """
    check_name(data.split)
    if data.source.startswith("builtin:"):
        tokenizer.check(data, vocab)
        return _built_in(data.split)
    files = _files(data, cache)
    if not files:
        remarks.append(
            f"{data.source} is not in this machine's cache, and nothing is fetched just to check it; {LATER}"
        )
        return None
    remarks += gaps([file.name for file in files])
    if holds_tokens(files):
        return span_of_all(files)
    tokenizer.check(data, vocab)
    made = find_tokenised(files, data, cache)
    return span_of(made) if made else _text(files, data, remarks)


def _files(data: Data, cache: Path) -> list[Path]:
    if data.source.startswith("hf:"):
        return hub.here(data, data.split)
    return bucket.here(data, data.split, cache) if data.source.startswith("s3://") else under_path(data, data.split)


def _built_in(split: str) -> Span:
    """A split of the built-in corpus, whose tokens are its bytes and an end-of-text for each topic."""
    found = parts(sum(len(text.encode()) + 1 for text in topics()))
    if split not in found:
        raise BadCorpus(f"{BUILTIN} has no {split} split.", remedy="It has train and validation.")
    return Span(Path(f"{BUILTIN} {split}"), 0, len(found[split]))


def _text(files: list[Path], data: Data, remarks: list[str]) -> Span | None:
    """How many tokens text may have. What else there is to know of it is known when it has been tokenised."""
    if tokenizer.of(data) is tokenizer.GPT2 and (missing := [name for name in gpt2.FILES if gpt2.file(name) is None]):
        remarks.append(
            f"GPT-2's tokenizer is not on this machine ({' and '.join(missing)}): a node without it"
            f" fetches it from {gpt2.URL} when the first run starts"
        )
    names = some([str(file) for file in files])
    remarks.append(f"{names}: text, whose number of tokens is known once a node has tokenised it")
    most = most_tokens(files, data)
    return Span(files[0] if len(files) == 1 else files[0].parent, 0, most, at_most=True) if most else None
