"""What a study has cost, and when it has spent what it may."""

import pytest
from results import result, tiny_study

from farm import study as study_
from farm.budget import cost, exhausted, unpriced
from farm.machine import BUILT_IN, Machine
from farm.queue import Queue
from farm.study import Study

RENTED = {"rented": Machine(name="rented", usd_per_hour=36.0), "free": Machine(name="free")}  # a cent a second


def limited(usd: float | None, machines: tuple[str, ...] = ("rented",)) -> Study:
    """The tiny study of one seed with a limit."""
    tables = tiny_study(machines=machines, init=(42,)).model_dump(mode="json", exclude_unset=True)
    return study_.build(tables | ({"policy": {"usd_limit": usd}} if usd else {}))


def held(queue: Queue, study: Study, seconds: float) -> None:
    """Every run of `study` was under a lease for `seconds`, and is queued again."""
    for run in study.runs():
        queue.redis.hset(f"farm:run:{run.id}", "held", round(seconds * 1000))


def test_time_under_leases_is_what_counts(queue: Queue) -> None:
    study = limited(1.0)
    queue.put(study)
    held(queue, study, 33.4)
    assert exhausted([study], queue.statuses(), RENTED, now=0.0).keys() == {"tiny"}, "3 runs x 33.4 s x $0.01"
    held(queue, study, 33.3)
    assert exhausted([study], queue.statuses(), RENTED, now=0.0) == {}


def test_a_run_that_trains_counts_up_to_now(queue: Queue) -> None:
    queue.put(limited(1.0))
    claim = queue.claim("rented", "worker", 60)
    assert claim is not None
    status = queue.status(claim.run.id)
    assert status.started is not None
    assert cost(status, 36.0, now=status.started + 50) == pytest.approx(0.5)
    queue.release(claim.lease, "drained")
    assert cost(queue.status(claim.run.id), 36.0, now=status.started + 50) < 0.5, "a lease that is over costs no more"


def test_a_result_says_itself_what_it_cost(queue: Queue) -> None:
    queue.put(tiny_study())
    claim = queue.claim("cpu", "worker", 60)
    assert claim is not None
    queue.finish(claim.lease, result(claim.run, 3.0, usd=7.5))
    assert cost(queue.status(claim.run.id), 36.0, now=0.0) == 7.5


def test_the_limit_is_that_of_the_study_as_submitted_last(queue: Queue) -> None:
    study = limited(0.5)
    queue.put(study)
    held(queue, study, 20)
    assert exhausted(queue.studies().values(), queue.statuses(), RENTED, now=0.0)
    queue.put(limited(5.0))
    assert exhausted(queue.studies().values(), queue.statuses(), RENTED, now=0.0) == {}


def test_without_a_limit_nothing_is_ever_exhausted(queue: Queue) -> None:
    study = limited(None)
    queue.put(study)
    held(queue, study, 1e6)
    assert exhausted([study], queue.statuses(), RENTED, now=0.0) == {}


def test_classes_without_a_price_are_not_seen_by_a_limit() -> None:
    assert unpriced(limited(1.0, machines=("rented", "free", "cpu")), BUILT_IN | RENTED) == ["free"]
