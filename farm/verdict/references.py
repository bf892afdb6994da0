"""Reference models beside the rows of a table, and how much of the way to one an arm has come.

A reference is one model without seeds: it is neither ranked nor judged. It stands beside rows of the same evaluation,
on the same tokens, only.
"""

from collections.abc import Iterable, Mapping, Set
from typing import NamedTuple

from pydantic import Field

from farm.record.reference import Reference, ReferenceScore
from farm.record.score import NATS, Direction
from farm.study.recipe import Frozen


class ReferenceRow(Frozen):
    """A reference model by the evaluation that the table ranks by."""

    name: str
    evaluation: str
    score: str = Field(description="the evaluation that arms are ranked by")
    value: float
    unit: str = NATS
    count: int = Field(description="sequences")
    standard_error: float | None = Field(description="of the value over the sequences; None for a single one")
    parameters: int
    weights: str = Field(description="sha256 of its model.safetensors")


class Beside(NamedTuple):
    """The references that may stand beside the rows, and why the others may not."""

    rows: tuple[ReferenceRow, ...]
    outdated: dict[str, str]


def beside(references: Iterable[Reference], by: str, tested: Mapping[str, Set[str]]) -> Beside:
    """The references that the evaluation `by` has scored as it scored the runs; `tested`: the evaluations that are
    behind the rows, each with the sha256 of the tokens that its runs were tested on.
    """
    rows: list[ReferenceRow] = []
    outdated: dict[str, str] = {}
    for one in references:
        scores = [score for score in one.scores if score.name == by]
        found = [score for score in scores if score.items in tested.get(score.evaluation, ())]
        rows += [_row(one, score) for score in found]
        if not found and any(score.evaluation in tested for score in scores):
            outdated[one.name] = "scored on different tokens from those the runs were tested on"
        elif not found:
            outdated[one.name] = f"scored by {scores[-1].evaluation}" if scores else f"never scored by {by}"
    return Beside(tuple(rows), outdated)


def nearest(baseline: float, references: Iterable[ReferenceRow], direction: Direction = "lower") -> ReferenceRow | None:
    """Of the references that are better than the baseline's mean the one that is nearest to it; None: none is."""
    sign = 1 if direction == "lower" else -1
    better = [one for one in references if sign * (baseline - one.value) > 0]
    return min(better, key=lambda one: (abs(baseline - one.value), one.name), default=None)


def gap_closed(delta: float, baseline: float, reference: ReferenceRow) -> float:
    """How much of the way from the baseline's mean to the reference a difference of `delta` to the baseline is, in per
    cent; negative: away from it."""
    return 100 * delta / (reference.value - baseline)


def _row(one: Reference, score: ReferenceScore) -> ReferenceRow:
    return ReferenceRow(
        name=one.name,
        evaluation=score.evaluation,
        score=score.name,
        value=score.value,
        count=score.count,
        standard_error=score.standard_error,
        parameters=one.shape.parameters,
        weights=one.weights,
    )
