"""Q3 and Q4: leases that run out, and epochs that are dead."""

import functools
import time
from collections.abc import Callable

import pytest
from claims import MOMENT, checkpoint_at, claimed, lapse, picture, points, started, state, study_of
from redis import Redis
from results import result
from waiting import wait_until

from farm.errors import LeaseLost
from farm.queue.queue import Queue
from farm.queue.values import Claim
from farm.study.run import State


def test_q3_an_expired_lease_may_be_claimed_by_anyone(queue: Queue) -> None:
    study_of(queue)
    first = claimed(queue, seconds=MOMENT)
    second = wait_until(lambda: _same_again(queue, first), "the lease expires")
    assert second.lease.epoch == 2
    with pytest.raises(LeaseLost, match="epoch 1 of"):
        queue.renew(first.lease, 0)


def _same_again(queue: Queue, first: Claim) -> Claim | None:
    """A second claim of the run of `first`, or None and nothing claimed."""
    return queue.claim("cpu", "another", 60) if first.run.id in queue.sweep() else None


def test_q3_a_claim_sweeps_by_itself(queue: Queue) -> None:
    study = study_of(queue)
    first, *_ = [claimed(queue) for _ in study.runs()]
    deadline = queue.renew(first.lease, 0, seconds=MOMENT).deadline
    wait_until(lambda: time.time() > deadline + 0.01, "the lease is over")
    again = queue.claim("cpu", "another", 60)
    assert again is not None
    assert again.run == first.run


def test_q3_a_live_lease_is_not_swept(queue: Queue) -> None:
    study_of(queue)
    claim = claimed(queue, seconds=30)
    assert queue.sweep() == []
    assert state(queue, claim) == State.RUNNING


def test_q3_a_claim_that_was_never_renewed_costs_a_lease_and_no_attempt(queue: Queue) -> None:
    study_of(queue)
    for epoch in range(1, 6):
        claim = claimed(queue, seconds=MOMENT)
        assert claim.lease.epoch == epoch
        wait_until(lambda claim=claim: claim.run.id in queue.sweep(), "the lease expires")
    status = queue.listing.status(claim.run.id)
    assert (status.state, status.attempts, status.causes) == (State.QUEUED, 0, ())


def test_q3_a_worker_that_died_costs_an_attempt_and_leaves_a_cause(queue: Queue) -> None:
    study_of(queue)
    claim = claimed(queue)
    queue.renew(claim.lease, 7, job="job-1", node="node-1")
    lapse(queue, claim.lease, step=8)
    status = queue.listing.status(claim.run.id)
    assert (status.state, status.attempts) == (State.QUEUED, 1)
    (cause,) = status.causes
    assert (cause.cause, cause.epoch, cause.step, cause.retryable) == ("lease-expired", 1, 8, True)
    assert cause.message == "worker worker on node-1 was not heard from for 0.001 s"
    assert (status.worker, status.job, status.node, status.deadline) == (None, None, None, None)


def dead_verbs(queue: Queue, claim: Claim) -> dict[str, Callable[[], object]]:
    lease = claim.lease
    return {
        "renew": lambda: queue.renew(lease, 99),
        "checkpoint": lambda: queue.checkpoint(lease, checkpoint_at(99)),
        "record": lambda: queue.record(lease, points(99)),
        "finish": lambda: queue.finish(lease, result(claim.run, 1.0)),
        "fail": lambda: queue.fail(lease, "cause", "message", 99, True),
        "release": lambda: queue.release(lease, "reason"),
        "recall": lambda: queue.recall(lease, "reason"),
        "pause": lambda: queue.pause(lease, "reason"),
        "acknowledge_cancel": lambda: queue.acknowledge_cancel(lease),
    }


def swept(queue: Queue, claim: Claim) -> None:
    lapse(queue, claim.lease)


def claimed_by_another(queue: Queue, claim: Claim) -> None:
    lapse(queue, claim.lease)
    assert claimed(queue).run == claim.run


def failed(queue: Queue, claim: Claim) -> None:
    queue.fail(claim.lease, "x", "y", 1, False)


def retried(queue: Queue, claim: Claim) -> None:
    failed(queue, claim)
    queue.retry(claim.run.id)


def finished_by_another(queue: Queue, claim: Claim) -> None:
    lapse(queue, claim.lease)
    later = claimed(queue)
    queue.finish(later.lease, result(later.run, 2.0, epoch=2))


@pytest.mark.parametrize("end", [swept, claimed_by_another, failed, retried, finished_by_another])
def test_q4_a_dead_epoch_changes_nothing(queue: Queue, redis: Redis, end: Callable[[Queue, Claim], None]) -> None:
    study_of(queue)
    claim = started(queue)
    end(queue, claim)
    before = picture(queue, redis)
    for name, verb in dead_verbs(queue, claim).items():
        with pytest.raises(LeaseLost):
            verb()
        assert picture(queue, redis) == before, name


def test_q4_a_lease_of_an_epoch_to_come_is_dead_too(queue: Queue) -> None:
    study_of(queue)
    lease = claimed(queue).lease
    with pytest.raises(LeaseLost):
        queue.renew(lease.model_copy(update={"epoch": 2}), 0)
    with pytest.raises(LeaseLost):
        queue.renew(lease.model_copy(update={"run_id": "no-such-run"}), 0)


def test_a_checkpoint_moves_only_forward(queue: Queue) -> None:
    study_of(queue)
    claim = started(queue)
    for step in (10, 30, 20):
        queue.checkpoint(claim.lease, checkpoint_at(step))
    assert queue.listing.status(claim.run.id).checkpoint == checkpoint_at(30)
    assert queue.listing.status(claim.run.id).step == 30, "its holder got so far, whether or not it is heard of again"
    lapse(queue, claim.lease)
    again = claimed(queue)
    assert again.checkpoint == checkpoint_at(30)
    queue.checkpoint(again.lease, checkpoint_at(20, epoch=2))
    assert queue.listing.status(claim.run.id).checkpoint == checkpoint_at(30)
    queue.checkpoint(again.lease, checkpoint_at(30, epoch=2))
    assert queue.listing.status(claim.run.id).checkpoint == checkpoint_at(30, epoch=2), "the first of them was damaged"


def test_q3_a_lease_that_no_agent_took_up_says_so(queue: Queue) -> None:
    study_of(queue)
    claim = claimed(queue, seconds=MOMENT)
    wait_until(queue.sweep, "the lease expires")
    assert queue.listing.status(claim.run.id).released == "worker claimed it, but no agent started"
    queue.fail(claimed(queue).lease, "agent-died", "", 0, retryable=True)
    assert queue.listing.status(claim.run.id).released is None, "there is something newer to say"


def _is_past(moment: float) -> bool:
    return time.time() > moment


def test_the_time_under_leases_adds_up(queue: Queue) -> None:
    study_of(queue)
    for _ in range(2):
        claim = started(queue)
        until = (queue.listing.status(claim.run.id).started or 0) + 0.05
        wait_until(functools.partial(_is_past, until), "the lease is 50 ms old")
        queue.release(claim.lease, "drained")
    held = queue.listing.status(claim.run.id).held_seconds
    assert 0.1 <= held < 60
    queue.cancel(claim.run.id)
    queue.retry(claim.run.id)
    assert queue.listing.status(claim.run.id).held_seconds == held, "no lease has ended since"
