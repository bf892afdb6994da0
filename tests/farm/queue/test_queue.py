"""The promises Q1 to Q10, each on a real Redis. tests/farm/queue/test_queue_model.py tries them in random order."""

import functools
import os
import re
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from redis import Redis
from results import result, study_text, tiny_study
from waiting import wait_until

from farm.errors import Cancelled, Conflict, LeaseLost, NotFound, Refused, Unreachable
from farm.queue import queue as queue_
from farm.queue.node import Node
from farm.queue.queue import CURVE_POINTS, NEWEST_POINTS, Claim, Point, Queue, Supply
from farm.record.store import Store
from farm.site.client import connect
from farm.site.server import Server
from farm.study import study as study_
from farm.study.machine import Machine
from farm.study.run import Checkpoint, Lease, State
from farm.study.study import Study

ARMS = ("baseline", "remove-dropout", "gradient-clipping")  # of the tiny study
MOMENT = 0.001  # seconds: a lease that is over before anybody looks


def study_of(queue: Queue, **changes: dict) -> Study:
    """The tiny study of one seed, with `changes` to its tables, submitted."""
    tables = tiny_study(init=(42,)).model_dump(mode="json", exclude_unset=True)
    study = study_.build(tables | {key: tables.get(key, {}) | value for key, value in changes.items()})
    queue.put(study)
    return study


def claimed(queue: Queue, seconds: float = 60.0) -> Claim:
    """A claim that must succeed, once the back-offs of a millisecond are over."""
    wait_until(lambda: sum(queue.queued().values()) == queue.counts()[State.QUEUED], "no run backs off")
    return wait_until(lambda: queue.claim("cpu", "worker", seconds), "a run can be claimed")


def started(queue: Queue) -> Claim:
    """A claim whose agent has renewed it."""
    claim = claimed(queue)
    queue.renew(claim.lease, 0)
    return claim


def lapse(queue: Queue, lease: Lease, step: int = 0) -> None:
    """Let a lease run out, after a renewal at `step`, and end it."""
    queue.renew(lease, step, seconds=MOMENT)
    wait_until(lambda: lease.run_id in queue.sweep(), "the lease expires")


def claimed_as(queue: Queue) -> tuple[str, str] | None:
    claim = queue.claim("cpu", "worker", 60)
    return (claim.study, claim.run.arm) if claim else None


def state(queue: Queue, claim: Claim) -> State:
    return queue.status(claim.run.id).state


def picture(queue: Queue, redis: Redis) -> dict[str, object]:
    """Every key with its content."""
    readers: dict[str, Callable[[str], object]] = {
        "string": redis.get,
        "hash": redis.hgetall,
        "list": lambda key: redis.lrange(key, 0, -1),
        "zset": lambda key: redis.zrange(key, 0, -1, withscores=True),
        "set": redis.smembers,
        "stream": redis.xrange,
    }
    return {key: readers[redis.type(key)](key) for key in sorted(redis.keys(f"{queue.prefix}*"))}


def points(*steps: int) -> list[Point]:
    return [Point(step=step, loss=step / 2, lr=1e-3, grad_norm=None, tokens_per_second=10.0) for step in steps]


def checkpoint_at(step: int, epoch: int = 1) -> Checkpoint:
    return Checkpoint(step=step, epoch=epoch, path=f"runs/x/{epoch}/checkpoints/step-{step:08d}", sha256="0" * 64)


# Q1


def test_q1_a_study_submitted_twice_is_queued_once_and_says_so(queue: Queue) -> None:
    study = tiny_study()
    first, second = queue.put(study), queue.put(study)
    assert first.new == tuple(run.id for run in study.runs())
    assert first.known == {}
    assert second.new == ()
    assert second.known == dict.fromkeys(first.new, State.QUEUED)
    assert queue.put_count() == queue.queued()["cpu"] == 9


def test_q1_only_the_new_runs_of_a_longer_study_are_queued(queue: Queue) -> None:
    queue.put(tiny_study(init=(42,)))
    claim = claimed(queue)
    queue.finish(claim.lease, result(claim.run, 3.0))
    put = queue.put(tiny_study(init=(42, 22)))
    assert len(put.new) == 3
    assert sorted(put.known.values()) == [State.QUEUED, State.QUEUED, State.SUCCEEDED]


def test_q1_a_run_of_two_studies_is_trained_once_and_listed_in_both(queue: Queue) -> None:
    queue.put(tiny_study("one", init=(42,)))
    put = queue.put(tiny_study("two", init=(42, 22)))
    assert len(put.known) == 3
    assert [len(queue.statuses(name)) for name in ("one", "two")] == [3, 6]
    assert {status.study for status in queue.statuses("two")} == {"one", "two"}
    assert len(queue.statuses()) == 6


def test_q1_another_recipe_under_the_same_arm_is_a_conflict_that_says_what_differs(queue: Queue, redis: Redis) -> None:
    study_of(queue)
    claim = claimed(queue)
    queue.finish(claim.lease, result(claim.run, 3.0))
    before = picture(queue, redis)
    with pytest.raises(
        Conflict, match=r"another 'baseline': train\.learning_rate was 0\.0004, is 0\.001 now\..*forget tiny"
    ):
        study_of(queue, baseline={"train": {"batch": 8, "tokens": 2560, "precision": "fp32", "learning_rate": 1e-3}})
    assert picture(queue, redis) == before, "all or none"


def test_q1_a_thousand_runs_are_put_quickly(queue: Queue, redis: Redis) -> None:
    study = tiny_study(init=tuple(range(334)))
    ours, theirs = time.process_time(), cpu_seconds(redis)
    queue.put(study)
    assert time.process_time() - ours < 2
    assert cpu_seconds(redis) - theirs < 1
    assert queue.put_count() == 1002


def test_studies_are_kept_as_they_were_submitted_last(queue: Queue) -> None:
    queue.put(tiny_study(init=(42,)))
    longer = tiny_study(init=(42, 22))
    queue.put(longer)
    assert queue.study("tiny") == longer
    assert queue.studies() == {"tiny": longer}
    with pytest.raises(NotFound, match=r"no study 'tinny'; did you mean 'tiny'\? See"):
        queue.study("tinny")


# Q2


def test_q2_runs_are_claimed_first_in_first_out(queue: Queue) -> None:
    study = study_of(queue)
    assert [claimed(queue).run for _ in range(3)] == study.runs()
    assert queue.claim("cpu", "worker", 60) is None


def test_q2_a_higher_priority_goes_first(queue: Queue) -> None:
    ids = []
    for priority in (0, 5, -1000, 1000):
        name = f"at{priority}"
        study = study_of(queue, study={"name": name, "seeds": [[priority + 1000, 1]]}, policy={"priority": priority})
        ids.append((priority, [run.id for run in study.runs()]))
    expected = [run_id for _, group in sorted(ids, reverse=True) for run_id in group]
    assert [claimed(queue).run.id for _ in expected] == expected


def test_q2_a_run_goes_only_to_the_machine_class_it_names(queue: Queue) -> None:
    queue.put(tiny_study(machines=("cpu", "1xrtx3090"), init=(42,)))
    assert queue.queued() == {"1xrtx3090": 3, "cpu": 3}
    assert queue.claim("cpu-x2", "worker", 60) is None
    assert {claimed(queue).run.machine for _ in range(3)} == {"cpu"}
    assert queue.claim("cpu", "worker", 60) is None
    assert queue.queued() == {"1xrtx3090": 3}


def test_q2_many_claimers_at_once_never_share_a_run(queue: Queue) -> None:
    study = tiny_study(init=tuple(range(20)))
    queue.put(study)
    with ThreadPoolExecutor(8) as pool:
        claims = list(pool.map(lambda worker: queue.claim("cpu", f"worker-{worker}", 60), range(70)))
    ids = [claim.run.id for claim in claims if claim]
    assert sorted(ids) == sorted(run.id for run in study.runs())


def test_q2_a_claim_brings_all_that_its_worker_needs(queue: Queue, redis: Redis) -> None:
    study = study_of(queue)
    claim = claimed(queue, seconds=60)
    now = redis.time()[0]
    assert claim.run == study.runs()[0]
    assert claim.study == "tiny"
    assert claim.checkpoint is None
    assert claim.lease.epoch == 1
    assert now + 58 < claim.lease.deadline < now + 62
    assert (queue.status(claim.run.id).state, queue.status(claim.run.id).worker) == (State.RUNNING, "worker")


# Q3


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
    status = queue.status(claim.run.id)
    assert (status.state, status.attempts, status.causes) == (State.QUEUED, 0, ())


def test_q3_a_worker_that_died_costs_an_attempt_and_leaves_a_cause(queue: Queue) -> None:
    study_of(queue)
    claim = claimed(queue)
    queue.renew(claim.lease, 7, job="job-1", node="node-1")
    lapse(queue, claim.lease, step=8)
    status = queue.status(claim.run.id)
    assert (status.state, status.attempts) == (State.QUEUED, 1)
    (cause,) = status.causes
    assert (cause.cause, cause.epoch, cause.step, cause.retryable) == ("lease-expired", 1, 8, True)
    assert cause.message == "worker worker on node-1 was not heard of for 0.001 s"
    assert (status.worker, status.job, status.node, status.deadline) == (None, None, None, None)


# Q4


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
    assert queue.status(claim.run.id).checkpoint == checkpoint_at(30)
    assert queue.status(claim.run.id).step == 30, "its holder got so far, whether or not it is heard of again"
    lapse(queue, claim.lease)
    again = claimed(queue)
    assert again.checkpoint == checkpoint_at(30)
    queue.checkpoint(again.lease, checkpoint_at(20, epoch=2))
    assert queue.status(claim.run.id).checkpoint == checkpoint_at(30)
    queue.checkpoint(again.lease, checkpoint_at(30, epoch=2))
    assert queue.status(claim.run.id).checkpoint == checkpoint_at(30, epoch=2), "the first of them was damaged"


def test_a_resumed_run_replaces_the_end_of_its_curve(queue: Queue) -> None:
    study_of(queue)
    claim = started(queue)
    queue.record(claim.lease, points(3, 1, 2))
    queue.record(claim.lease, points(4, 5))
    queue.record(claim.lease, [])
    lapse(queue, claim.lease)
    queue.record(claimed(queue).lease, points(4))
    assert queue.curve(claim.run.id) == points(1, 2, 3, 4)


def test_a_long_curve_is_thinned_evenly_and_keeps_its_ends(queue: Queue) -> None:
    study_of(queue)
    claim = started(queue)
    for start in range(1, 10_001, 500):
        queue.record(claim.lease, points(*range(start, start + 500)))
        newest = [point.step for point in queue.curve(claim.run.id)[-NEWEST_POINTS:]]
        assert newest == list(range(start + 500 - NEWEST_POINTS, start + 500))
    steps = [point.step for point in queue.curve(claim.run.id)]
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
    curve = queue.curve(claim.run.id)
    assert len(curve) <= 2 * CURVE_POINTS
    assert [point.step for point in curve if point.validation_loss is not None] == list(range(333, 10_001, 333))
    assert _validated(points(333)[0]) in curve, "with all that was said of it"


def test_a_curve_of_validations_alone_is_bounded(queue: Queue) -> None:
    study_of(queue)
    claim = started(queue)
    for start in range(1, 10_001, 500):
        queue.record(claim.lease, list(map(_validated, points(*range(start, start + 500)))))
    steps = [point.step for point in queue.curve(claim.run.id)]
    assert len(steps) <= 2 * CURVE_POINTS
    assert steps == sorted(set(steps))
    assert max(b - a for a, b in pairwise(steps)) <= 12


def _validated(point: Point) -> Point:
    return point.model_copy(update={"validation_loss": point.step / 3})


# Q5


def test_q5_finish_is_final_and_may_be_repeated(queue: Queue) -> None:
    study_of(queue)
    claim = started(queue)
    said = result(claim.run, 3.0)
    queue.finish(claim.lease, said)
    queue.finish(claim.lease, said)
    status = queue.status(claim.run.id)
    assert (status.state, status.result, status.step) == (State.SUCCEEDED, said, said.steps)
    assert status.ended is not None
    assert queue.cancel(claim.run.id) == State.SUCCEEDED
    with pytest.raises(Conflict, match="has succeeded"):
        queue.retry(claim.run.id)


def test_q5_a_different_result_is_a_conflict(queue: Queue) -> None:
    study_of(queue)
    claim = started(queue)
    queue.finish(claim.lease, result(claim.run, 3.0))
    with pytest.raises(Conflict, match="has another result already"):
        queue.finish(claim.lease, result(claim.run, 2.0))
    assert queue.status(claim.run.id).result == result(claim.run, 3.0)


def test_q5_the_result_of_another_run_or_epoch_is_a_conflict(queue: Queue) -> None:
    study_of(queue)
    first, second = started(queue), started(queue)
    with pytest.raises(Conflict, match="the result is of"):
        queue.finish(first.lease, result(second.run, 3.0))
    with pytest.raises(Conflict, match="epoch 2"):
        queue.finish(first.lease, result(first.run, 3.0, epoch=2))
    assert state(queue, first) == State.RUNNING


# Q6


def test_q6_a_failure_is_tried_again_until_the_attempts_are_spent(queue: Queue) -> None:
    study_of(queue, policy={"attempts": 3})
    states = []
    for step in (1, 2, 3):
        claim = started(queue)
        states.append(queue.fail(claim.lease, "worker-died", f"at {step}", step, True))
    assert states == [State.QUEUED, State.QUEUED, State.FAILED]
    status = queue.status(claim.run.id)
    assert [(cause.epoch, cause.message, cause.step) for cause in status.causes] == [
        (1, "at 1", 1),
        (2, "at 2", 2),
        (3, "at 3", 3),
    ]
    assert queue.claim("cpu", "worker", 60).run != claim.run  # type: ignore[union-attr]
    assert queue.events(claim.run.id)[-1].detail == "all 3 attempts are spent"


def test_q6_one_attempt_is_spent_in_the_singular(queue: Queue) -> None:
    study_of(queue, policy={"attempts": 1})
    claim = started(queue)
    assert queue.fail(claim.lease, "worker-died", "killed", 1, True) == State.FAILED
    assert queue.events(claim.run.id)[-1].detail == "the only attempt is spent"


def test_q6_what_cannot_be_retried_fails_at_once(queue: Queue) -> None:
    study_of(queue)
    claim = started(queue)
    assert queue.fail(claim.lease, "nonfinite", "the loss is nan", 40, False) == State.FAILED
    status = queue.status(claim.run.id)
    assert (status.attempts, status.causes[0].cause, status.causes[0].retryable) == (1, "nonfinite", False)


def crash(queue: Queue, step: int) -> State:
    return queue.fail(started(queue).lease, "worker-died", "killed", step, True)


def test_q6_three_crashes_at_the_same_step_are_poison(queue: Queue) -> None:
    study_of(queue, policy={"attempts": 10})
    assert [crash(queue, 40) for _ in range(3)] == [State.QUEUED, State.QUEUED, State.FAILED]
    (poisoned,) = queue.statuses("tiny")[:1]
    assert queue.events(poisoned.run.id)[-1].detail == "3 crashes at step 40"


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
    assert (state(queue, claim), queue.status(claim.run.id).attempts) == (State.QUEUED, 5)
    lapse(queue, started(queue).lease, step=5)
    assert queue.events(claim.run.id)[-1].detail == "all 6 attempts are spent"


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
    assert queue.counts()[State.FAILED] == 0
    assert [crash(queue, 40), crash(queue, 40), crash(queue, 40)] == [State.QUEUED, State.QUEUED, State.FAILED]


def test_q6_a_lease_that_nobody_took_up_tells_nothing_of_the_training(queue: Queue) -> None:
    study_of(queue, policy={"attempts": 10})
    assert [crash(queue, 40), crash(queue, 40)] == [State.QUEUED] * 2
    queue.release(claimed(queue).lease, "Ray took no job")
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
        status = queue.status(run_id)
        assert status.not_before is not None
        waits.append(round(status.not_before - status.causes[-1].at))
        assert queue.queued() == {"cpu": 2}, "one that backs off is not claimable"
        redis.zadd("farm:delayed:cpu", {run_id: 1})  # its time has come
        assert queue.queued() == {"cpu": 3}
    assert waits == [10, 20, 25]
    assert claimed(queue).run.id == run_id
    assert queue.status(run_id).not_before is None


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
    assert queue.statuses()[0].causes[0].message == message[:4000]


# Q7


def test_q7_a_release_is_no_attempt_and_keeps_the_place(queue: Queue) -> None:
    study = study_of(queue, policy={"attempts": 1})
    for epoch in range(1, 6):
        claim = started(queue)
        assert (claim.run, claim.lease.epoch) == (study.runs()[0], epoch)
        queue.release(claim.lease, "drained")
    status = queue.status(claim.run.id)
    assert (status.state, status.attempts, status.causes) == (State.QUEUED, 0, ())
    assert queue.events(claim.run.id)[-1].detail == "drained"


def test_q7_a_released_run_says_why_until_it_begins_again(queue: Queue) -> None:
    study_of(queue)
    first = claimed(queue)
    queue.release(first.lease, "Ray took no job: no room")
    assert queue.status(first.run.id).released == "Ray took no job: no room"
    queue.renew(claimed(queue).lease, 0)
    assert queue.status(first.run.id).released is None


def test_q7_a_recalled_lease_is_released_for_the_reason_of_the_recall(queue: Queue) -> None:
    study_of(queue)
    claim = started(queue)
    queue.recall(claim.lease, "over budget: $2.00 spent of $1.50")
    assert queue.status(claim.run.id).recalled == "over budget: $2.00 spent of $1.50"
    assert queue.release(claim.lease, "drained") == "over budget: $2.00 spent of $1.50"
    status = queue.status(claim.run.id)
    assert (status.state, status.attempts, status.recalled) == (State.QUEUED, 0, None)
    assert status.released == "over budget: $2.00 spent of $1.50"
    assert [event.event for event in queue.events(claim.run.id)][-2:] == ["recalled", "released"]
    again = started(queue)
    assert queue.release(again.lease, "drained") == "drained", "the recall ended with its lease"


def test_q3_a_lease_that_no_agent_took_up_says_so(queue: Queue) -> None:
    study_of(queue)
    claim = claimed(queue, seconds=MOMENT)
    wait_until(queue.sweep, "the lease expires")
    assert queue.status(claim.run.id).released == "worker claimed it and no agent came up"
    queue.fail(claimed(queue).lease, "agent-died", "", 0, retryable=True)
    assert queue.status(claim.run.id).released is None, "there is something newer to say"


def _is_past(moment: float) -> bool:
    return time.time() > moment


def test_the_time_under_leases_adds_up(queue: Queue) -> None:
    study_of(queue)
    for _ in range(2):
        claim = started(queue)
        until = (queue.status(claim.run.id).started or 0) + 0.05
        wait_until(functools.partial(_is_past, until), "the lease is 50 ms old")
        queue.release(claim.lease, "drained")
    held = queue.status(claim.run.id).held_seconds
    assert 0.1 <= held < 60
    queue.cancel(claim.run.id)
    queue.retry(claim.run.id)
    assert queue.status(claim.run.id).held_seconds == held, "no lease has ended since"


def test_q2_the_runs_of_a_study_that_is_passed_over_keep_their_places(queue: Queue) -> None:
    first, second = study_of(queue), tiny_study(name="second", init=(7,))
    queue.put(second)
    assert queue.queued(passing=["tiny"]) == {"cpu": 3}
    assert queue.queued(passing=["tiny", "second"]) == {}
    assert queue.claim("cpu", "worker", 60, passing=["tiny", "second"]) is None
    passed = queue.claim("cpu", "worker", 60, passing=["tiny"])
    assert passed is not None
    assert passed.run == second.runs()[0]
    assert claimed(queue).run == first.runs()[0]


def test_what_an_autoscaler_can_start_is_believed_for_a_while(queue: Queue) -> None:
    assert queue.supply() == {}
    supply = {"8xa100m40": Supply(most=2, starting=1, since=5.0, trouble="no capacity")}
    queue.provide(supply, seconds=60)
    assert queue.supply() == supply
    queue.provide(supply, seconds=MOMENT)
    wait_until(lambda: queue.supply() == {}, "it is forgotten")


# Q8


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
    assert queue.status(claim.run.id).cancelling
    with pytest.raises(Cancelled):
        queue.renew(claim.lease, 1)
    queue.acknowledge_cancel(claim.lease)
    queue.acknowledge_cancel(claim.lease)
    status = queue.status(claim.run.id)
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
    assert queue.status(claim.run.id).result is None


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
    with pytest.raises(Conflict, match="nobody cancelled"):
        queue.acknowledge_cancel(claim.lease)
    assert state(queue, claim) == State.RUNNING


def test_retry_gives_all_attempts_and_the_old_place_and_keeps_the_causes(queue: Queue) -> None:
    study = study_of(queue)
    first, second, _ = (run.id for run in study.runs())
    queue.fail(started(queue).lease, "nonfinite", "nan", 1, False)
    queue.cancel(second)
    assert [queue.retry(run_id) for run_id in (second, first, first)] == [State.QUEUED] * 3
    status = queue.status(first)
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


# Q9


def test_q9_statuses_are_in_the_order_of_submission(queue: Queue) -> None:
    one, two = tiny_study("one", init=(3, 1)), tiny_study("two", init=(1, 2))
    queue.put(one)
    queue.put(two)
    assert [status.run for status in queue.statuses("one")] == one.runs()
    assert [status.run for status in queue.statuses("two")] == two.runs()
    assert [status.run for status in queue.statuses()][:6] == one.runs()


def test_q9_conservation_holds_after_every_event(queue: Queue) -> None:
    study = study_of(queue)
    everything = [
        lambda: queue.put(study),
        lambda: crash(queue, 1),
        lambda: queue.release(started(queue).lease, "drained"),
        lambda: queue.pause(started(queue).lease, "gone", "a node"),
        lambda: (claim := started(queue), queue.finish(claim.lease, result(claim.run, 3.0, epoch=claim.lease.epoch))),
        lambda: queue.cancel(study.runs()[1].id),
        lambda: queue.retry(study.runs()[1].id),
        lambda: lapse(queue, started(queue).lease),
        lambda: queue.fail(started(queue).lease, "x", "y", 1, False),
    ]
    for event in everything:
        event()
        assert sum(queue.counts().values()) == queue.put_count() == 3
    assert queue.counts() == {
        State.QUEUED: 1,
        State.RUNNING: 0,
        State.SUCCEEDED: 1,
        State.FAILED: 1,
        State.CANCELLED: 0,
    }


def test_q9_ten_thousand_runs_are_listed_quickly(queue: Queue, redis: Redis) -> None:
    """In time of the processor, on either side: others may keep it busy."""
    queue.put(tiny_study(init=tuple(range(3333))))
    ours, theirs = time.process_time(), cpu_seconds(redis)
    assert len(queue.statuses()) == 9999
    assert time.process_time() - ours < 4
    assert cpu_seconds(redis) - theirs < 2


def cpu_seconds(redis: Redis) -> float:
    used = redis.info("cpu")
    return used["used_cpu_user"] + used["used_cpu_sys"]


def test_q9_running_lists_only_those_that_hold_a_lease(queue: Queue) -> None:
    study_of(queue)
    claim = started(queue)
    assert queue.running() == [queue.status(claim.run.id)]


def test_a_status_is_found_by_the_beginning_of_its_id(queue: Queue) -> None:
    study_of(queue)
    assert queue.status("cpu-base").run.arm == "baseline"
    with pytest.raises(Conflict, match=r"3 runs begin with 'cpu-': cpu-baseline-s42.*Write more of the id"):
        queue.status("cpu-")
    with pytest.raises(NotFound, match=r"no run 'cpu-baselin-s42\.23'; did you mean 'cpu-baseline-s42\.23-"):
        queue.status("cpu-baselin-s42.23")
    for verb in (queue.status, queue.cancel, queue.retry):
        with pytest.raises(NotFound):
            verb("nothing")
    with pytest.raises(NotFound):
        queue.status("")


def test_events_tell_the_story_of_a_run(queue: Queue, redis: Redis) -> None:
    study_of(queue)
    claim = claimed(queue)
    queue.renew(claim.lease, 0, node="node-1")
    queue.checkpoint(claim.lease, checkpoint_at(4))
    queue.finish(claim.lease, result(claim.run, 3.0))
    events = queue.events(claim.run.id)
    assert [(event.event, event.epoch, event.detail) for event in events] == [
        ("queued", 0, "tiny"),
        ("claimed", 1, "worker"),
        ("started", 1, "node-1"),
        ("checkpoint", 1, "step 4"),
        ("succeeded", 1, "step 10"),
    ]
    assert abs(events[-1].at - redis.time()[0]) < 5
    assert queue.events(claim.run.id, count=2) == events[-2:]


def test_the_stream_of_events_is_bounded(queue: Queue, redis: Redis) -> None:
    study_of(queue)
    claim = started(queue)
    for step in range(1, 700):
        queue.checkpoint(claim.lease, checkpoint_at(step))
    assert redis.xlen(f"farm:events:{claim.run.id}") < 400


def test_a_node_registers_a_class_whose_facts_stay_when_it_is_gone(queue: Queue) -> None:
    machine = Machine(name="cpu-x4", accelerators=4, memory=2**40, probes={"abc:fp32": 6})
    queue.register(machine, "node-1", seconds=60)
    queue.register(machine.model_copy(update={"probes": {"def:fp32": 2}}), "node-2", seconds=MOMENT)
    wait_until(lambda: queue.nodes() == {"cpu-x4": ["node-1"]}, "the registration of node-2 ends")
    assert queue.machines()["cpu-x4"].probes == {"abc:fp32": 6, "def:fp32": 2}
    queue.register(machine, "node-1", seconds=MOMENT)
    wait_until(lambda: queue.nodes() == {"cpu-x4": []}, "the registration of node-1 ends")
    assert queue.machines()["cpu-x4"].memory == 2**40


def test_nodes_that_nobody_has_seen_for_a_day_are_forgotten_and_their_drains_too(queue: Queue, redis: Redis) -> None:
    gone, silent, living = (
        Node(id=name, name=name, host=name, address=name, units={"cpu": 1}) for name in ("gone", "silent", "living")
    )
    queue.sight([gone, silent, living], 60)
    for node in (gone, silent, living):
        queue.drain(node.id, "by hand")
    long_ago = (time.time() - 25 * 3600) * 1000
    redis.zadd("farm:seen", {"gone": long_ago, "living": long_ago, "silent": (time.time() - 3600) * 1000})
    queue.sight([living], 60)
    assert set(redis.hgetall("farm:drained")) == set(redis.hgetall("farm:sightings")) == {"silent", "living"}
    (seen,) = queue.roster()
    assert (seen.id, seen.drained) == ("living", "by hand"), "the dispatcher was away for longer than the node"


def test_every_key_begins_with_the_prefix(redis: Redis) -> None:
    queue = Queue(redis, prefix="farm:other:")
    study_of(queue)
    claim = started(queue)
    queue.record(claim.lease, points(1))
    queue.register(Machine(name="cpu", probes={"a": 1}), "node", 60)
    crash(queue, 1)
    queue.finish(claim.lease, result(claim.run, 3.0))
    assert redis.keys()
    assert all(key.startswith("farm:other:") for key in redis.scan_iter())
    assert Queue(redis, prefix="farm:").statuses() == []


def test_a_submitter_by_acl_can_only_read(queue: Queue, redis: Redis, redis_url: str) -> None:
    """Whoever may not look at `workers`, whatever else its user may write; tests/cli/test_submitter.py has the rest."""
    study_of(queue)
    started(queue)
    queue.install()
    roles = "run causes result curve events sequence order counts queue delayed classes studies study arms"
    roles += " leases machines probes nodes supply head seen sightings drained paused spent"
    roles += " digests superseded forgotten aside"
    patterns = [f"~farm:{role}*" for role in roles.split()] + ["~farm:"]
    writes = "+hset +hdel +hincrby +incr +zadd +zrem +sadd +xadd"
    redis.execute_command("ACL", "SETUSER", "alice", "on", ">pw", *patterns, "-@all", "+@read", "+@connection",
                          "+time", "+evalsha", *writes.split())  # fmt: skip
    place = urlsplit(redis_url)
    try:
        with connect(f"redis://alice:pw@{place.hostname}:{place.port}/0") as client:
            alice = Queue(client)
            assert len(alice.preview(tiny_study(init=(42, 22))).new) == 3
            assert len(alice.statuses()) == 3
            assert (alice.supply(), alice.machines(), alice.head(), alice.roster()) == ({}, {}, None, [])
            assert (alice.pauses(), alice.spent()) == ([], {})
            (running,) = alice.running()
            lease = Lease(run_id=running.run.id, epoch=1, deadline=0.0, worker="alice")
            before = picture(queue, redis)
            for verb in (
                lambda: alice.put(tiny_study(init=(5,))),
                lambda: alice.cancel(running.run.id),
                lambda: alice.claim("cpu", "alice", 60),
                lambda: alice.sweep(),
                lambda: alice.renew(lease, 1),
                lambda: alice.checkpoint(lease, checkpoint_at(1)),
                lambda: alice.record(lease, points(1)),
                lambda: alice.finish(lease, result(running.run, 3.0)),
                lambda: alice.fail(lease, "x", "y", 1, False),
                lambda: alice.release(lease, "x"),
                lambda: alice.recall(lease, "x"),
                lambda: alice.pause(lease, "x"),
                lambda: alice.account({"tiny": 0.0}, 60),
                lambda: alice.acknowledge_cancel(lease),
                lambda: alice.note(lease, "x", "y"),
                lambda: alice.retry(queue.statuses()[1].run.id),
                lambda: alice.forget([queue.statuses()[1].run.id], "tiny"),
                lambda: alice.omit("x", 1),
                lambda: alice.restore(tiny_study(init=(5,)).runs()[0], "tiny", State.SUCCEEDED),
                lambda: alice.register(Machine(name="cpu"), "node", 60),
                lambda: alice.provide({}, 60),
                lambda: alice.leave("cpu", "node"),
                lambda: alice.enroll("node", "token", "alice", 60),
                lambda: alice.sight([], 60),
                lambda: alice.drain("node-1", "by alice"),
                lambda: alice.undrain("node-1"),
            ):
                with pytest.raises(Refused, match="does not let this user"):
                    verb()
            assert picture(queue, redis) == before
    finally:
        redis.execute_command("ACL", "DELUSER", "alice")


# Q11


def test_q11_a_pause_is_no_attempt_and_holds_what_reads_the_same_corpus(queue: Queue) -> None:
    study_of(queue, interventions={"longer": {"model": {"context": 16}}})
    queue.put(tiny_study("other", init=(7,)))
    claim = started(queue)
    queue.pause(claim.lease, "bad-corpus: it is gone (on attic)")
    status = queue.status(claim.run.id)
    assert (status.state, status.attempts, status.causes) == (State.QUEUED, 0, ())
    assert queue.events(claim.run.id)[-1].detail == "bad-corpus: it is gone (on attic)"
    (pause,) = queue.pauses()
    assert pause == ("tiny", claim.run.recipe.corpus, None, "bad-corpus: it is gone (on attic)")
    assert queue.queued() == {"cpu": 4}, "the arm with another corpus, and the three of the other study"
    assert [claimed_as(queue) for _ in range(5)] == [("tiny", "longer"), *[("other", arm) for arm in ARMS], None]


def test_q11_a_pause_of_a_node_holds_nothing_elsewhere(queue: Queue) -> None:
    study_of(queue)
    claim = started(queue)
    queue.pause(claim.lease, "bad-corpus: it is gone (on attic)", "attic")
    assert [pause.node for pause in queue.pauses()] == ["attic"]
    assert queue.queued() == {"cpu": 3}
    assert queue.claim("cpu", "worker", 60, node="attic") is None
    assert queue.claim("cpu", "worker", 60, node="cellar+attic") is None, "all nodes of a mixed group must do"
    assert queue.claim("cpu", "worker", 60, node="cellar") is not None


@pytest.mark.parametrize("node", [None, "attic"])
@pytest.mark.parametrize("resumed_by", ["put", "a study that shares the run", "retry"])
def test_q11_putting_the_study_again_or_retrying_a_run_ends_a_pause(
    node: str | None, resumed_by: str, queue: Queue
) -> None:
    study = study_of(queue)
    queue.put(tiny_study("other", init=(7,)))
    other, claim = (queue.claim("cpu", "worker", 60, passing=[name]) for name in ("tiny", "other"))
    assert other is not None
    assert claim is not None
    queue.pause(other.lease, "elsewhere")
    queue.pause(claim.lease, "gone", node)
    if resumed_by == "retry":
        assert queue.retry(claim.run.id) == State.QUEUED
    else:
        queue.put(study if resumed_by == "put" else tiny_study("third", init=(42,)))
    assert [pause.reason for pause in queue.pauses()] == ["elsewhere"]
    assert queue.claim("cpu", "worker", 60, node="attic") is not None


def test_q11_a_run_that_is_being_cancelled_is_cancelled_and_the_others_pause(queue: Queue) -> None:
    study_of(queue)
    claim = started(queue)
    queue.cancel(claim.run.id)
    queue.pause(claim.lease, "gone")
    assert state(queue, claim) == State.CANCELLED
    assert queue.queued() == {}


def test_what_was_spent_is_told_for_a_while(queue: Queue) -> None:
    assert queue.spent() == {}
    queue.account({"tiny": 1.25}, 60)
    assert queue.spent() == {"tiny": 1.25}
    queue.account({"tiny": 1.5}, 0.001)
    wait_until(lambda: queue.spent() == {}, "it is forgotten")


# Q10


def test_q10_acknowledged_writes_survive_kill_9_of_redis(tmp_path: Path) -> None:
    server = Server(tmp_path)
    with connect(server.start()) as client:
        queue = Queue(client)
        study_of(queue)
        done, held = started(queue), started(queue)
        said = result(done.run, 3.0)
        queue.finish(done.lease, said)
        for step in range(1, 50):
            queue.renew(held.lease, step)
            queue.checkpoint(held.lease, checkpoint_at(step))
        before = queue.statuses()
        kill(server)
        with pytest.raises(Unreachable):
            queue.renew(held.lease, 50)
        server.start()
        try:
            assert queue.statuses() == before, "and the old client is good for the new server"
            queue.renew(held.lease, 51)
            queue.finish(done.lease, said)
        finally:
            server.stop()


def test_q10_what_was_acknowledged_in_the_middle_of_a_storm_is_there(tmp_path: Path) -> None:
    server = Server(tmp_path)
    acknowledged: list[str] = []

    def submit(url: str) -> None:
        with connect(url) as client:
            for seed in range(100_000):
                try:
                    acknowledged.extend(Queue(client).put(tiny_study(init=(seed,))).new)
                except Unreachable:
                    return

    with ThreadPoolExecutor(1) as pool:
        storm = pool.submit(submit, server.start())
        wait_until(lambda: len(acknowledged) > 60, "some puts are acknowledged")
        kill(server)
        storm.result(timeout=30)
    with connect(server.start()) as client:
        try:
            statuses = Queue(client).statuses()
            assert set(acknowledged) <= {status.run.id for status in statuses}
            assert sum(Queue(client).counts().values()) == len(statuses) == Queue(client).put_count()
            assert len(statuses) % 3 == 0, "each put is all or none"
        finally:
            server.stop()


def test_q10_while_redis_is_down_no_lease_expires(tmp_path: Path) -> None:
    server = Server(tmp_path)
    with connect(server.start()) as client:
        queue = Queue(client)
        study_of(queue)
        claim = started(queue)
        lease = queue.renew(claim.lease, 1, seconds=1.5)
        kill(server)
        wait_until(lambda: time.time() > lease.deadline + 0.1, "the deadline passes")
        server.start()
        try:
            assert queue.sweep() == []
            queue.renew(claim.lease, 2, seconds=1.5)
            wait_until(lambda: queue.sweep() == [claim.run.id], "nobody renews any more")
        finally:
            server.stop()


def kill(server: Server) -> None:
    """kill -9 the server, which these tests started, and bury it."""
    assert server.pid is not None
    os.kill(server.pid, signal.SIGKILL)
    os.waitpid(server.pid, 0)


# Lost replies


class Proxy:
    """Passes bytes between clients and Redis, but drops the connection instead of the next reply to a script."""

    def __init__(self, upstream: tuple[str, int]):
        self.upstream = upstream
        self.armed = self.script_sent = False
        self.cuts = 0
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self._talk, args=(client,), daemon=True).start()

    def _talk(self, client: socket.socket) -> None:
        with client, socket.create_connection(self.upstream) as server:
            upward = threading.Thread(target=self._send_up, args=(client, server), daemon=True)
            upward.start()
            while reply := server.recv(2**16):
                if self.armed and self.script_sent and not reply.startswith(b"-"):
                    self.armed = False
                    self.cuts += 1
                    break
                client.sendall(reply)
            client.shutdown(socket.SHUT_RDWR)
            upward.join()

    def _send_up(self, client: socket.socket, server: socket.socket) -> None:
        while request := client.recv(2**16):
            self.script_sent = self.script_sent or b"EVALSHA" in request
            server.sendall(request)
        server.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def lossy(redis_url: str, redis: Redis) -> Iterator[tuple[Queue, Proxy]]:
    """A queue that is reached through a Proxy."""
    place = urlsplit(redis_url)
    assert place.port
    proxy = Proxy(("127.0.0.1", place.port))
    with proxy.listener, connect(redis_url.replace(f":{place.port}/", f":{proxy.port}/")) as client:
        yield Queue(client, backoff_seconds=60), proxy


@contextmanager
def reply_lost(proxy: Proxy) -> Iterator[None]:
    cuts, proxy.script_sent, proxy.armed = proxy.cuts, False, True
    yield
    assert proxy.cuts == cuts + 1, "the reply was cut, and the call repeated"


def test_a_lost_reply_to_put_queues_once(lossy: tuple[Queue, Proxy]) -> None:
    queue, proxy = lossy
    with reply_lost(proxy):
        queue.put(tiny_study())
    assert queue.put_count() == queue.queued()["cpu"] == 9


def test_a_lost_reply_to_claim_is_answered_with_the_same_lease(lossy: tuple[Queue, Proxy]) -> None:
    queue, proxy = lossy
    study = study_of(queue)
    with reply_lost(proxy):
        claim = queue.claim("cpu", "worker", 60)
    assert claim is not None
    assert (claim.run, claim.lease.epoch) == (study.runs()[0], 1)
    assert queue.counts()[State.RUNNING] == 1


def test_lost_replies_to_a_worker_are_harmless(lossy: tuple[Queue, Proxy]) -> None:
    queue, proxy = lossy
    study_of(queue)
    claim = started(queue)
    with reply_lost(proxy):
        queue.renew(claim.lease, 5)
    with reply_lost(proxy):
        queue.record(claim.lease, points(1, 2, 3))
    with reply_lost(proxy):
        queue.checkpoint(claim.lease, checkpoint_at(3))
    with reply_lost(proxy):
        assert queue.release(claim.lease, "drained") == "drained"
    again = started(queue)
    with reply_lost(proxy):
        queue.pause(again.lease, "gone", "a node")
    status = queue.status(claim.run.id)
    assert (status.state, status.attempts, status.checkpoint) == (State.QUEUED, 0, checkpoint_at(3))
    assert queue.curve(claim.run.id) == points(1, 2, 3)
    again = started(queue)
    with reply_lost(proxy):
        queue.finish(again.lease, result(again.run, 3.0, epoch=3))
    assert state(queue, again) == State.SUCCEEDED


def test_a_lost_reply_to_fail_counts_one_attempt(lossy: tuple[Queue, Proxy]) -> None:
    queue, proxy = lossy
    study_of(queue)
    claim = started(queue)
    with reply_lost(proxy):
        assert queue.fail(claim.lease, "worker-died", "killed", 1, True) == State.QUEUED
    status = queue.status(claim.run.id)
    assert (status.attempts, len(status.causes)) == (1, 1)


def test_lost_replies_to_cancel_and_retry_are_harmless(lossy: tuple[Queue, Proxy]) -> None:
    queue, proxy = lossy
    study_of(queue)
    claim = started(queue)
    with reply_lost(proxy):
        assert queue.cancel(claim.run.id) == State.RUNNING
    with reply_lost(proxy):
        queue.acknowledge_cancel(claim.lease)
    with reply_lost(proxy):
        assert queue.retry(claim.run.id) == State.QUEUED
    assert queue.counts()[State.QUEUED] == 3


def test_all_scripts_can_be_installed_beforehand(queue: Queue, redis: Redis) -> None:
    redis.script_flush()
    queue.install()
    assert queue.statuses() == []
    assert redis.info("commandstats").get("cmdstat_script|load", {"calls": 1})["calls"] >= 1


# From the run directories


def test_restored_runs_are_as_they_were_told_and_known_ones_stay(queue: Queue) -> None:
    lost, kept = tiny_study(init=(42,)).runs()[:2]
    assert queue.restore(lost, "old", State.QUEUED, epoch=4, checkpoint=checkpoint_at(9, epoch=4))
    assert queue.restore(kept, "old", State.SUCCEEDED, epoch=1, result=result(kept, 3.0))
    assert not queue.restore(kept, "old", State.QUEUED)
    first, second = queue.statuses("old")
    assert (first.state, first.epoch, first.step, first.checkpoint) == (State.QUEUED, 4, 9, checkpoint_at(9, epoch=4))
    assert (second.state, second.result) == (State.SUCCEEDED, result(kept, 3.0))
    assert claimed(queue).lease.epoch == 5
    assert sum(queue.counts().values()) == queue.put_count() == 2


@pytest.mark.parametrize("design", ["factorial", "stack", "leave-one-out", "fraction"])
def test_a_study_comes_back_with_its_interventions_in_their_order(queue: Queue, design: str, tmp_path: Path) -> None:
    """It names the arms, and is the order of a ladder: sorted by name they would be other arms than those submitted."""
    study = study_.parse(study_text().replace("[study]", f'[study]\ndesign = "{design}"'))
    assert list(study.interventions) != sorted(study.interventions)
    queue.put(study)
    store = Store(tmp_path)
    store.studies.keep(study)
    names = [arm.name for arm in study.arms()]
    assert [arm.name for arm in queue.study("tiny").arms()] == names
    assert [arm.name for arm in store.studies.all()[0]["tiny"].arms()] == names


def test_every_script_that_writes_refuses_submitters_before_it_does_anything() -> None:
    folder = Path(queue_.__file__).parent / "lua"
    scripts = {path.stem: path.read_text(encoding="utf-8") for path in folder.glob("*.lua")}
    assert len(re.findall(r"function (?:holds|sweep)\(.*\)\n  refuse_submitters\(\)", scripts.pop("transitions"))) == 2
    writing = {name: text for name, text in scripts.items() if "writes" in text.partition("\n\n")[0]}
    assert len(writing) > 30
    assert [name for name, text in writing.items() if not re.search(r"\b(refuse_submitters|holds|sweep)\(", text)] == []
    hands = re.compile(r"'(HSET|SET|DEL|HDEL|SADD|SREM|ZADD|ZREM|RPUSH|XADD|INCR|RENAME)'|\b(set|move|erase|tell)\(")
    assert [name for name in scripts.keys() - writing.keys() if hands.search(scripts[name])] == []
