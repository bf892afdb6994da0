"""Whether a recipe can train and test on its corpus, and which tokens it reads of it."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from farm.errors import BadCorpus
from farm.recipe import HEAD_TOKENS, FurtherEvaluation, Recipe
from farm.result import Exam, Tokens
from model.corpus.formats import TOKEN, Span, span_of
from model.corpus.kept import identity, remembered
from model.corpus.sources import locate

SCAN_TOKENS = 4 * 2**20


class Scan(NamedTuple):
    """What one pass over a range of tokens found. `at` is the first position of the largest token."""

    sha256: str
    largest: int
    at: int


def prepare(recipe: Recipe, cache: Path) -> Tokens:
    """Fetch both splits, check that this recipe can train and test on them, and say which tokens they are.

    The pass over them is paid once per file and range.

    Raises: BadCorpus: also a token outside the vocabulary, too few tokens, or a test on what was trained on.
    Unreachable, StorageFull: as open_split.
    """
    train = span_of(locate(recipe.data, recipe.data.split, cache, recipe.model.vocab))
    test = span_of(locate(recipe.tested_data, recipe.evaluation.split, cache, recipe.model.vocab))
    learnt, read = trained(recipe, train), tested(recipe, test)
    if train.path.resolve() == test.path.resolve():
        check_apart(recipe, learnt, read)
    scans = []
    for span, used in ((train, learnt[:HEAD_TOKENS]), (train, learnt), (test, read)):
        scans.append(_scanned(span, used, cache))
        _check_vocabulary(recipe, span, scans[-1])
    return Tokens(head=scans[0].sha256, trained=scans[1].sha256, tested=scans[2].sha256)


def exams_of(recipe: Recipe, evaluations: Mapping[str, FurtherEvaluation], cache: Path) -> tuple[Exam, ...]:
    """What a model that trains by `recipe` is to be scored on, beside its test: fetched and checked as by prepare.

    Raises: as prepare
    """
    recipes = {name: recipe.tested_by(further) for name, further in evaluations.items()}
    return tuple(Exam(name=name, recipe=own, items=items(own, cache)) for name, own in recipes.items())


def items(recipe: Recipe, cache: Path) -> str:
    """As prepare, for the test alone: sha256 of the tokens that it reads."""
    train = span_of(locate(recipe.data, recipe.data.split, cache, recipe.model.vocab))
    test = span_of(locate(recipe.tested_data, recipe.evaluation.split, cache, recipe.model.vocab))
    read = tested(recipe, test)
    if train.path.resolve() == test.path.resolve():
        check_apart(recipe, trained(recipe, train), read)
    scan = _scanned(test, read, cache)
    _check_vocabulary(recipe, test, scan)
    return scan.sha256


def trained(recipe: Recipe, span: Span) -> range:
    """The tokens that training reads, targets included.

    Raises: BadCorpus: there are too few.
    """
    context, batch = recipe.model.context, recipe.train.batch
    needed = recipe.steps * batch * context + 1
    if span.tokens <= context:
        raise BadCorpus(
            f"{span}; one sequence is model.context + 1 = {context + 1:,}.",
            remedy="Lower model.context or train on a longer corpus.",
        )
    if needed > span.tokens and not recipe.data.repeat:
        affordable = (span.tokens - 1) // (batch * context) * batch * context
        raise BadCorpus(
            f"{span}; {recipe.steps:,} steps x {batch} sequences x {context:,} tokens,"
            f" and one more to predict, need {needed:,}.",
            remedy=f"Set data.repeat = true, lower train.tokens to {affordable:,}, or train on a longer corpus."
            if affordable and not span.at_most
            else "Set data.repeat = true, lower train.tokens or train.batch, or train on a longer corpus.",
        )
    whole = (span.tokens - 1) // context * context + 1
    return range(whole if recipe.data.order == "shuffled" else min(needed, whole))


def tested(recipe: Recipe, span: Span) -> range:
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
        )
    return range(evaluation.offset, end)


def check_apart(recipe: Recipe, learnt: range, read: range) -> None:
    """No token may be learnt and then tested. The last of `learnt` is learnt, the first of `read` only read."""
    shuffled = recipe.data.order == "shuffled"
    if read.start < learnt.stop - 1:
        raise BadCorpus(
            f"training reads the first {learnt.stop - 1:,} tokens{' (shuffled: all)' if shuffled else ''} of the file"
            f" that the test reads from token {read.start:,} on.",
            remedy=f"Use another evaluation.split, or an evaluation.offset of at least {learnt.stop - 1:,}.",
        )


def _check_vocabulary(recipe: Recipe, span: Span, scan: Scan) -> None:
    if scan.largest >= recipe.model.vocab:
        raise BadCorpus(
            f"{span.path} has token {scan.largest:,} at position {scan.at:,}; model.vocab = {recipe.model.vocab:,}"
            f" allows 0 to {recipe.model.vocab - 1:,}.",
            remedy=f"Set model.vocab to at least {scan.largest + 1:,}, or use the corpus of another tokenizer.",
        )


def _scanned(span: Span, used: range, cache: Path) -> Scan:
    key = {"file": identity(span.path), "scan": [span.start, used.start, used.stop]}
    return Scan(**remembered(key, lambda: _scan(span, used)._asdict(), cache))


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
