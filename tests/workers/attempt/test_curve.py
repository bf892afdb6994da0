"""Curves made of the ledger's lines."""

from itertools import pairwise
from math import nan

import pytest

from farm.record.ledger import Line, Validation
from farm.record.result import Validated
from workers.attempt.curve import RESULT_POINTS, point, validation_curve


def line(step: int, loss: float | None = None, slice_: str = "e", **changes: float) -> Line:
    validation = None if loss is None else Validation(slice_, 80, loss * 80, 0.25)
    return Line(step, 64, 192.0, 1e-3, 1.0, False, False, 0.5, validation)._replace(**changes)


def test_a_point_has_the_validation_after_its_step() -> None:
    plain, seen, broken = point(line(1), 64), point(line(2, 2.5), 64), point(line(3, nan), 64)
    assert plain
    assert seen
    assert broken
    assert (plain.loss, plain.validation_loss) == (3.0, None)
    assert (seen.loss, seen.validation_loss) == (3.0, 2.5)
    assert broken.validation_loss is None, "JSON has no nan"


def test_the_curve_of_a_result_counts_what_was_trained_up_to_each_point() -> None:
    lines = [line(1), line(2, 2.75), line(3, skipped=True), line(4, 2.5), line(5, nan), line(6, 2.25)]
    assert validation_curve(lines) == (
        Validated(step=2, tokens=128, seconds=1.0, loss=2.75),
        Validated(step=4, tokens=256, seconds=2.0, loss=2.5),
        Validated(step=6, tokens=384, seconds=3.0, loss=2.25),
    ), "and none of the 0.25 s that each validation took"
    assert validation_curve([line(1)]) == ()


def test_the_curve_of_a_result_is_of_one_slice() -> None:
    """Of the last one: a run that was submitted anew may be validated on another than before."""
    assert [seen.step for seen in validation_curve([line(1, 3.0, "f"), line(2, 2.0), line(3, 1.0)])] == [2, 3]


@pytest.mark.parametrize("count", [RESULT_POINTS, RESULT_POINTS + 1, 1000])
def test_the_curve_of_a_result_is_bounded_and_keeps_its_ends(count: int) -> None:
    steps = [seen.step for seen in validation_curve([line(step, 3.0) for step in range(1, count + 1)])]
    assert len(steps) == RESULT_POINTS
    assert (steps[0], steps[-1]) == (1, count)
    assert steps == sorted(set(steps))
    assert max(later - step for step, later in pairwise(steps)) <= -(-count // RESULT_POINTS) + 1
