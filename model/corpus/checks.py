"""Checks that a recipe can train and test on its corpus, and determines which tokens of it are read."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from farm.errors import BadCorpus
from farm.record.result import Exam, Tokens
from farm.study.recipe import HEAD_TOKENS, FurtherEvaluation, Recipe
from model.corpus.formats import Span, chunks, span_of
from model.corpus.kept import identity, remember
from model.corpus.sources import locate

PAGE = "docs/data.md#what-is-checked-before-a-run-trains"


class Scan(NamedTuple):
    """The findings of one pass over a range of tokens. `at` is the first position of the largest token."""

    sha256: str
    largest: int
    at: int


def prepare(recipe: Recipe, cache: Path) -> Tokens:
    """Fetch both splits, check that this recipe can train and test on them, and say which tokens they are.

    The pass over them is paid once per file and range.

    Raises: BadCorpus: also a token outside the vocabulary, too few tokens, a test on what was trained on, or no room
    for a validation. Unreachable, StorageFull: as open_split.
    """
    train, test = _train(recipe, cache), _test(recipe, cache)
    learnt, read, watched = (
        training_range(recipe, train),
        evaluation_range(recipe, test),
        validation_range(recipe, test),
    )
    if train.path.resolve() == test.path.resolve():
        check_apart(recipe, learnt, read)
        if watched and recipe.evaluation.validation_sequences is None and watched.start < learnt.stop - 1:
            watched = None  # it was not asked for, and text that was trained on would tell nothing
        check_apart(recipe, learnt, watched or read, "a validation")
    uses = {"head": (train, learnt[:HEAD_TOKENS]), "trained": (train, learnt), "tested": (test, read)}
    uses |= {"validated": (test, watched)} if watched else {}
    scans = {name: _scan_once(span, used, cache) for name, (span, used) in uses.items()}
    for name, (span, _) in uses.items():
        _check_vocabulary(recipe, span, scans[name])
    return Tokens(**{name: scan.sha256 for name, scan in scans.items()})


def exams_of(recipe: Recipe, evaluations: Mapping[str, FurtherEvaluation], cache: Path) -> tuple[Exam, ...]:
    """The exams of a model that trains by `recipe`, beside its test: fetched and checked as by prepare.

    Raises: as prepare
    """
    if not evaluations:
        return ()
    recipes, train = {name: recipe.with_test(further) for name, further in evaluations.items()}, _train(recipe, cache)
    return tuple(Exam(name=name, recipe=own, items=_items(own, train, cache)) for name, own in recipes.items())


def items(recipe: Recipe, cache: Path) -> str:
    """As prepare, for the test alone: sha256 of the tokens that it reads."""
    return _items(recipe, _train(recipe, cache), cache)


def _items(recipe: Recipe, train: Span, cache: Path) -> str:
    test = _test(recipe, cache)
    read = evaluation_range(recipe, test)
    if train.path.resolve() == test.path.resolve():
        check_apart(recipe, training_range(recipe, train), read)
    scan = _scan_once(test, read, cache)
    _check_vocabulary(recipe, test, scan)
    return scan.sha256


def _train(recipe: Recipe, cache: Path) -> Span:
    """Where training reads, fetched; looked up once for all evaluations, since each time may ask a network."""
    return span_of(locate(recipe.data, recipe.data.split, cache, recipe.model.vocab))


def _test(recipe: Recipe, cache: Path) -> Span:
    return span_of(locate(recipe.tested_data, recipe.evaluation.split, cache, recipe.model.vocab))


def training_range(recipe: Recipe, span: Span) -> range:
    """The tokens that training reads, targets included.

    Raises: BadCorpus: there are too few.
    """
    context, batch = recipe.model.context, recipe.train.batch
    needed = recipe.steps * batch * context + 1
    if span.tokens <= context:
        raise BadCorpus(
            f"{span}; one sequence is model.context + 1 = {context + 1:,}.",
            remedy="Lower model.context or train on a longer corpus.",
            page=PAGE,
        )
    if needed > span.tokens and not recipe.data.repeat:
        affordable = (span.tokens - 1) // (batch * context) * batch * context
        raise BadCorpus(
            f"{span}; {recipe.steps:,} steps x {batch} sequences x {context:,} tokens,"
            f" and one more to predict, need {needed:,}.",
            remedy=f"Set data.repeat = true, lower train.tokens to {affordable:,}, or train on a longer corpus."
            if affordable and not span.at_most
            else "Set data.repeat = true, lower train.tokens or train.batch, or train on a longer corpus.",
            page=PAGE,
        )
    whole = (span.tokens - 1) // context * context + 1
    return range(whole if recipe.data.order == "shuffled" else min(needed, whole))


def evaluation_range(recipe: Recipe, span: Span) -> range:
    """The tokens that the evaluation reads, targets included.

    Raises: BadCorpus: the slice does not lie within the split.
    """
    evaluation, context = recipe.evaluation, recipe.tested_context
    end = evaluation.offset + evaluation.sequences * context + 1
    if end > span.tokens:
        fitting = (span.tokens - 1 - evaluation.offset) // context
        raise BadCorpus(
            f"{span}; evaluation.offset {evaluation.offset:,} +"
            f" {evaluation.sequences:,} sequences x {context:,} tokens, and one more to predict, end at {end:,}.",
            remedy=f"Lower evaluation.sequences to {fitting:,} or evaluation.offset."
            if fitting > 0 and not span.at_most
            else "Lower evaluation.offset and evaluation.sequences.",
            page=PAGE,
        )
    return range(evaluation.offset, end)


def validation_range(recipe: Recipe, span: Span) -> range | None:
    """The tokens that a validation reads, targets included; None if there is none.

    Raises: BadCorpus: so many sequences were asked for, and there is no room for them.
    """
    asked, slice_ = recipe.evaluation.validation_sequences, validation_slice(recipe, span.tokens)
    if slice_ or span.at_most or asked is None or not recipe.evaluation.every:
        return slice_
    evaluation, most = recipe.evaluation, max(_rooms(recipe, span.tokens))
    raise BadCorpus(
        f"{span}; neither behind the test nor before it is there room for evaluation.validation_sequences = {asked:,}"
        f" sequences x {recipe.tested_context:,} tokens, which are neither tested nor trained on.",
        remedy=f"Lower it to {most:,}, or evaluation.sequences = {evaluation.sequences:,}."
        if most
        else f"Lower evaluation.sequences = {evaluation.sequences:,}, or set evaluation.every = 0.",
        page=PAGE,
    )


def validation_slice(recipe: Recipe, tokens: int) -> range | None:
    """Where in a test split of so many `tokens` validations read: directly behind the test if there is room, else
    directly before it; fewer sequences than usual where only they have room, if none were asked for. None: nowhere.
    """
    evaluation, context = recipe.evaluation, recipe.tested_context
    count, (behind, before) = recipe.validation_sequences, _rooms(recipe, tokens)
    if evaluation.validation_sequences is None:
        count = min(count, max(behind, before))
    if not evaluation.every or not 0 < count <= max(behind, before):
        return None
    end = evaluation.offset + evaluation.sequences * context
    start = end if count <= behind else evaluation.offset - count * context
    return range(start, start + count * context + 1)


def _rooms(recipe: Recipe, tokens: int) -> tuple[int, int]:
    """How many sequences lie behind the test, and how many before it that are not trained on."""
    evaluation, context = recipe.evaluation, recipe.tested_context
    is_shared = recipe.data.named == recipe.tested_data.named
    learnt = recipe.steps * recipe.tokens_per_step if is_shared else 0
    behind = tokens - 1 - evaluation.offset - evaluation.sequences * context
    return max(0, behind // context), max(0, (evaluation.offset - learnt) // context)


def check_apart(recipe: Recipe, learnt: range, read: range, reader: str = "the test") -> None:
    """No token may be learnt and then tested. The last of `learnt` is learnt, the first of `read` only read."""
    shuffled = recipe.data.order == "shuffled"
    if read.start < learnt.stop - 1:
        raise BadCorpus(
            f"training reads the first {learnt.stop - 1:,} tokens{' (shuffled: all)' if shuffled else ''} of the file"
            f" that {reader} reads from token {read.start:,} on.",
            remedy=f"Use another evaluation.split, or an evaluation.offset of at least {learnt.stop - 1:,}.",
            page=PAGE,
        )


def _check_vocabulary(recipe: Recipe, span: Span, scan: Scan) -> None:
    if scan.largest >= recipe.model.vocab:
        raise BadCorpus(
            f"{span.path} has token {scan.largest:,} at position {scan.at:,}; model.vocab = {recipe.model.vocab:,}"
            f" allows 0 to {recipe.model.vocab - 1:,}.",
            remedy=f"Set model.vocab to at least {scan.largest + 1:,}, or use the corpus of another tokenizer.",
            page=PAGE,
        )


def _scan_once(span: Span, used: range, cache: Path) -> Scan:
    key = {"file": identity(span.path), "scan": [span.start, used.start, used.stop]}
    return Scan(**remember(key, lambda: _scan(span, used)._asdict(), cache))


def _scan(span: Span, used: range) -> Scan:
    """One pass over the tokens."""
    sha256, largest, at, position = hashlib.sha256(), -1, 0, used.start
    for chunk in chunks(span, used):
        sha256.update(chunk.data)
        if (highest := int(chunk.max())) > largest:
            largest, at = highest, position + int(chunk.argmax())
        position += len(chunk)
    return Scan(sha256.hexdigest(), largest, at)
