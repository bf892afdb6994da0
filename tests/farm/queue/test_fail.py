"""Q6: what a failure costs."""

from collections.abc import Callable

import pytest
from claims import checkpoint_at, claimed, crash, lapse, started, state, study_of
from redis import Redis

from farm.queue.queue import Queue
from farm.study.run import State


def test_q6_a_failure_is_tried_again_until_the_attempts_are_spent(queue: Queue) -> None:
    study_of(queue, policy={"attempts": 3})
    states = []
    for step in (1, 2, 3):
        claim = started(queue)
        states.append(queue.fail(claim.lease, "worker-died", f"at {step}", step, True))
    assert states == [State.QUEUED, State.QUEUED, State.FAILED]
    status = queue.listing.status(claim.run.id)
    assert [(cause.epoch, cause.message, cause.step) for cause in status.causes] == [
        (1, "at 1", 1),
        (2, "at 2", 2),
        (3, "at 3", 3),
    ]
    assert queue.claim("cpu", "worker", 60).run != claim.run  # type: ignore[union-attr]
    assert queue.listing.events(claim.run.id)[-1].detail == "all 3 attempts are spent"


def test_q6_one_attempt_is_spent_in_the_singular(queue: Queue) -> None:
    study_of(queue, policy={"attempts": 1})
    claim = started(queue)
    assert queue.fail(claim.lease, "worker-died", "killed", 1, True) == State.FAILED
    assert queue.listing.events(claim.run.id)[-1].detail == "the only attempt is spent"


def test_q6_what_cannot_be_retried_fails_at_once(queue: Queue) -> None:
    study_of(queue)
    claim = started(queue)
    assert queue.fail(claim.lease, "nonfinite", "the loss is nan", 40, False) == State.FAILED
    status = queue.listing.status(claim.run.id)
    assert (status.attempts, status.causes[0].cause, status.causes[0].retryable) == (1, "nonfinite", False)


def test_q6_three_crashes_at_the_same_step_are_poison(queue: Queue) -> None:
    study_of(queue, policy={"attempts": 10})
    assert [crash(queue, 40) for _ in range(3)] == [State.QUEUED, State.QUEUED, State.FAILED]
    (poisoned,) = queue.listing.statuses("tiny")[:1]
    assert queue.listing.events(poisoned.run.id)[-1].detail == "3 crashes at step 40"


def test_q6_progress_resets_the_count_of_crashes(queue: Queue) -> None:
    study_of(queue, policy={"attempts": 10})
    assert {crash(queue, step) for step in (40, 40, 41, 41, 42, 42)} == {State.QUEUED}
    assert crash(queue, 42) == State.FAILED


def test_q6_a_crash_before_that_step_is_neither_progress_nor_the_same(queue: Queue) -> None:
    study_of(queue, policy={"attempts": 10})
    assert {crash(queue, step) for step in (40, 10, 40, 20)} == {State.QUEUED}
    assert crash(queue, 40) == State.FAILED


def test_q6_workers_that_die_without_a_word_cost_attempts_and_are_no_poison(queue: Queue) -> None:
    study_of(queue, policy={"attempts": 6})
    for _ in range(5):
        claim = started(queue)
        lapse(queue, claim.lease, step=5)
    assert (state(queue, claim), queue.listing.status(claim.run.id).attempts) == (State.QUEUED, 5)
    lapse(queue, started(queue).lease, step=5)
    assert queue.listing.events(claim.run.id)[-1].detail == "all 6 attempts are spent"


@pytest.mark.parametrize(
    "cause", ["agent-died", "machine-died", "lease-lost", "unreachable", "storage-full", "storage-unusable"]
)
def test_q6_what_the_training_did_not_cause_is_no_poison_and_hides_none(queue: Queue, cause: str) -> None:
    study_of(queue, policy={"attempts": 10})
    for _ in range(3):
        assert queue.fail(started(queue).lease, cause, "said", 40, True) == State.QUEUED
    assert [crash(queue, 40), crash(queue, 40)] == [State.QUEUED] * 2
    assert queue.fail(started(queue).lease, cause, "said", 40, True) == State.QUEUED
    assert crash(queue, 40) == State.FAILED


def onward(queue: Queue) -> None:
    """A lease that gets beyond the step of the crash, and runs out."""
    lapse(queue, started(queue).lease, step=41)


def onward_and_saved(queue: Queue) -> None:
    claim = started(queue)
    queue.checkpoint(claim.lease, checkpoint_at(41, claim.lease.epoch))
    lapse(queue, claim.lease, step=40)


def drained(queue: Queue) -> None:
    queue.release(started(queue).lease, "drained")


@pytest.mark.parametrize("between", [onward, onward_and_saved, drained])
def test_q6_progress_and_a_drain_in_between_count_crashes_anew(queue: Queue, between: Callable[[Queue], None]) -> None:
    study_of(queue, policy={"attempts": 10})
    assert [crash(queue, 40), crash(queue, 40)] == [State.QUEUED] * 2
    between(queue)
    assert queue.listing.counts()[State.FAILED] == 0
    assert [crash(queue, 40), crash(queue, 40), crash(queue, 40)] == [State.QUEUED, State.QUEUED, State.FAILED]


def test_q6_a_lease_that_nobody_took_up_tells_nothing_of_the_training(queue: Queue) -> None:
    study_of(queue, policy={"attempts": 10})
    assert [crash(queue, 40), crash(queue, 40)] == [State.QUEUED] * 2
    queue.release(claimed(queue).lease, "Ray refused the job")
    assert crash(queue, 40) == State.FAILED


def test_q6_the_back_off_doubles_up_to_its_limit_and_keeps_the_place(redis: Redis) -> None:
    queue = Queue(redis, backoff_seconds=10, backoff_limit_seconds=25)
    study = study_of(queue, policy={"attempts": 10})
    run_id = study.runs()[0].id
    waits = []
    for step in range(3):
        claim = started(queue)
        assert claim.run.id == run_id, "it has the first place, whatever happened"
        queue.fail(claim.lease, "worker-died", "killed", step, True)
        status = queue.listing.status(run_id)
        assert status.not_before is not None
        waits.append(round(status.not_before - status.causes[-1].at))
        assert queue.listing.backlog() == {"cpu": 2}, "one that backs off is not claimable"
        redis.zadd("farm:delayed:cpu", {run_id: 1})  # its time has come
        assert queue.listing.backlog() == {"cpu": 3}
    assert waits == [10, 20, 25]
    assert claimed(queue).run.id == run_id
    assert queue.listing.status(run_id).not_before is None


def test_q6_a_run_that_backs_off_lets_others_pass(redis: Redis) -> None:
    queue = Queue(redis, backoff_seconds=60)
    study = study_of(queue)
    crash(queue, 1)
    claims = [queue.claim("cpu", "worker", 60) for _ in range(3)]
    assert [claim and claim.run for claim in claims] == [*study.runs()[1:], None]


def test_q6_a_message_of_any_size_and_script_is_kept(queue: Queue) -> None:
    study_of(queue)
    message = "\udce9 é 漢字 \0 \n" + "x" * 100_000
    queue.fail(started(queue).lease, "worker-died", message, 1, True)
    assert queue.listing.statuses()[0].causes[0].message == message[:4000]
