"""Q8: cancelled runs, and runs that are retried."""

from collections.abc import Callable

import pytest
from claims import claimed, crash, started, state, study_of
from redis import Redis
from results import result
from waiting import wait_until

from farm.errors import Cancelled, Conflict, LeaseLost
from farm.queue.queue import Queue
from farm.study.run import State


def test_q8_cancelling_a_queued_run_is_immediate(queue: Queue) -> None:
    study = study_of(queue)
    assert queue.cancel(study.runs()[0].id) == State.CANCELLED
    assert queue.cancel(study.runs()[0].id) == State.CANCELLED
    assert claimed(queue).run == study.runs()[1]


def test_q8_a_run_that_backs_off_can_be_cancelled(queue: Queue, redis: Redis) -> None:
    study = study_of(queue)
    crash(queue, 1)
    queue.cancel(study.runs()[0].id)
    assert [claimed(queue).run for _ in range(2)] == study.runs()[1:]
    assert queue.claim("cpu", "worker", 60) is None
    assert not redis.exists("farm:delayed:cpu")


def test_q8_the_next_renewal_of_a_running_one_says_cancelled(queue: Queue) -> None:
    study_of(queue)
    claim = started(queue)
    assert queue.cancel(claim.run.id) == State.RUNNING
    assert queue.listing.status(claim.run.id).cancelling
    with pytest.raises(Cancelled):
        queue.renew(claim.lease, 1)
    queue.acknowledge_cancel(claim.lease)
    queue.acknowledge_cancel(claim.lease)
    status = queue.listing.status(claim.run.id)
    assert (status.state, status.cancelling, status.attempts) == (State.CANCELLED, False, 0)


def test_q8_a_cancelled_run_never_gains_a_result(queue: Queue) -> None:
    study_of(queue)
    claim = started(queue)
    queue.cancel(claim.run.id)
    with pytest.raises(Cancelled):
        queue.finish(claim.lease, result(claim.run, 3.0))
    queue.acknowledge_cancel(claim.lease)
    with pytest.raises(LeaseLost):
        queue.finish(claim.lease, result(claim.run, 3.0))
    assert queue.listing.status(claim.run.id).result is None


@pytest.mark.parametrize(
    "end",
    [
        lambda queue, claim: queue.fail(claim.lease, "x", "y", 1, True),
        lambda queue, claim: queue.release(claim.lease, "drained"),
        lambda queue, claim: queue.pause(claim.lease, "gone"),
    ],
)
def test_q8_a_run_that_is_being_cancelled_is_not_queued_again(queue: Queue, end: Callable) -> None:
    study_of(queue)
    claim = started(queue)
    queue.cancel(claim.run.id)
    end(queue, claim)
    assert state(queue, claim) == State.CANCELLED


@pytest.mark.parametrize("seen", [True, False], ids=["renewed", "never renewed"])
def test_q8_a_cancelled_run_whose_agent_died_is_cancelled_when_its_lease_expires(queue: Queue, seen: bool) -> None:
    study_of(queue)
    claim = claimed(queue, seconds=0.05)
    if seen:
        queue.renew(claim.lease, 0, seconds=0.05)
    queue.cancel(claim.run.id)
    wait_until(lambda: queue.sweep(), "the lease expires")
    assert state(queue, claim) == State.CANCELLED


def test_q8_nobody_can_acknowledge_what_was_not_cancelled(queue: Queue) -> None:
    study_of(queue)
    claim = started(queue)
    with pytest.raises(Conflict, match="was not cancelled"):
        queue.acknowledge_cancel(claim.lease)
    assert state(queue, claim) == State.RUNNING


def test_retry_gives_all_attempts_and_the_old_place_and_keeps_the_causes(queue: Queue) -> None:
    study = study_of(queue)
    first, second, _ = (run.id for run in study.runs())
    queue.fail(started(queue).lease, "nonfinite", "nan", 1, False)
    queue.cancel(second)
    assert [queue.retry(run_id) for run_id in (second, first, first)] == [State.QUEUED] * 3
    status = queue.listing.status(first)
    assert (status.attempts, len(status.causes), status.ended) == (0, 1, None)
    again = claimed(queue)
    assert (again.run.id, again.lease.epoch) == (first, 2)
    assert queue.retry(first) == State.RUNNING


def test_retry_of_a_run_that_is_still_being_cancelled_is_a_conflict(queue: Queue) -> None:
    study_of(queue)
    claim = started(queue)
    queue.cancel(claim.run.id)
    with pytest.raises(Conflict, match="still being cancelled"):
        queue.retry(claim.run.id)
