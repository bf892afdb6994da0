"""The curve of a run."""

from itertools import pairwise

from claims import claimed, lapse, points, started, study_of

from farm.queue.queue import CURVE_POINTS, NEWEST_POINTS, Queue
from farm.queue.values import Point


def test_a_resumed_run_replaces_the_end_of_its_curve(queue: Queue) -> None:
    study_of(queue)
    claim = started(queue)
    queue.record(claim.lease, points(3, 1, 2))
    queue.record(claim.lease, points(4, 5))
    queue.record(claim.lease, [])
    lapse(queue, claim.lease)
    queue.record(claimed(queue).lease, points(4))
    assert queue.listing.curve(claim.run.id) == points(1, 2, 3, 4)


def test_a_long_curve_is_thinned_evenly_and_keeps_its_ends(queue: Queue) -> None:
    study_of(queue)
    claim = started(queue)
    for start in range(1, 10_001, 500):
        queue.record(claim.lease, points(*range(start, start + 500)))
        newest = [point.step for point in queue.listing.curve(claim.run.id)[-NEWEST_POINTS:]]
        assert newest == list(range(start + 500 - NEWEST_POINTS, start + 500))
    steps = [point.step for point in queue.listing.curve(claim.run.id)]
    assert CURVE_POINTS - NEWEST_POINTS <= len(steps) <= 2 * CURVE_POINTS
    assert steps == sorted(set(steps))
    assert steps[0] == 1
    assert max(b - a for a, b in pairwise(steps)) <= 12


def test_a_long_curve_keeps_its_validations(queue: Queue) -> None:
    study_of(queue)
    claim = started(queue)
    for start in range(1, 10_001, 500):
        steps = points(*range(start, start + 500))
        queue.record(claim.lease, [_validated(point) if point.step % 333 == 0 else point for point in steps])
    curve = queue.listing.curve(claim.run.id)
    assert len(curve) <= 2 * CURVE_POINTS
    assert [point.step for point in curve if point.validation_loss is not None] == list(range(333, 10_001, 333))
    assert _validated(points(333)[0]) in curve, "with all that was said of it"


def test_a_curve_of_validations_alone_is_bounded(queue: Queue) -> None:
    study_of(queue)
    claim = started(queue)
    for start in range(1, 10_001, 500):
        queue.record(claim.lease, list(map(_validated, points(*range(start, start + 500)))))
    steps = [point.step for point in queue.listing.curve(claim.run.id)]
    assert len(steps) <= 2 * CURVE_POINTS
    assert steps == sorted(set(steps))
    assert max(b - a for a, b in pairwise(steps)) <= 12


def test_the_curve_of_a_final_run_is_short(queue: Queue) -> None:
    """Its ledger has every step; 10,000 curves of 4,000 points are 4 GB of Redis."""
    study_of(queue)
    claim = started(queue)
    steps = points(*range(1, 3_001))
    queue.record(claim.lease, [_validated(point) if point.step % 150 == 0 else point for point in steps])
    queue.fail(claim.lease, "nonfinite", "the loss is nan", 3_000, False)
    curve = queue.listing.curve(claim.run.id)
    assert 190 <= len(curve) <= 220
    assert (curve[0].step, curve[-1].step) == (1, 3_000)
    assert [point.step for point in curve if point.validation_loss is not None] == list(range(150, 3_001, 150))


def test_the_newest_points_are_those_of_the_curve(queue: Queue) -> None:
    study_of(queue)
    claim = started(queue)
    assert queue.live.newest(claim.run.id) == (None, None)
    queue.record(claim.lease, points(1, 2))
    assert queue.live.newest(claim.run.id) == (points(2)[0], None)
    queue.record(claim.lease, [_validated(points(3)[0]), *points(*range(4, 900))])
    assert queue.live.newest(claim.run.id) == (points(899)[0], _validated(points(3)[0]))


def _validated(point: Point) -> Point:
    return point.model_copy(update={"validation_loss": point.step / 3})
