"""The queue rebuilt from the run directories: what they know of attempts, failures and cancels counts again."""

import json
import time

import pytest
from redis import Redis
from results import result, tiny_study
from stored import RUN, attempt, failed

from farm.errors import Conflict
from farm.queue.budget import find_exhausted
from farm.queue.queue import Queue
from farm.queue.values import Status
from farm.record.ledger import SCHEMA, Line
from farm.record.store import Store
from farm.reindex import reindex
from farm.study.machine import BUILT_IN
from farm.study.run import Attempt, Policy, Run, State


def a_checkpoint(store: Store, run: Run, epoch: int, step: int) -> str:
    name = f"runs/{run.id}/{epoch}/checkpoints/step-{step:08d}"
    store.records.put(f"{name}/manifest.json", b"{}")
    return name


def test_the_queue_is_rebuilt_from_the_directories(store: Store, queue: Queue) -> None:
    study = tiny_study()
    finished, failed, cancelled, resumable, running, *untouched = study.runs()
    store.studies.keep(study)
    store.runs.begin(finished, attempt(finished), "tiny")
    store.runs.record(result(finished, 3.0))
    for epoch in (1, 2, 3):
        store.runs.begin(failed, attempt(failed, epoch), "tiny")
        store.runs.end(attempt(failed, epoch, outcome="failed", cause="worker-died", message="killed", ended=2000.0))
    store.runs.begin(cancelled, attempt(cancelled), "tiny")
    store.runs.end(attempt(cancelled, outcome="cancelled"))
    store.runs.begin(resumable, attempt(resumable), "tiny")
    a_checkpoint(store, resumable, 1, 9)
    store.runs.begin(resumable, attempt(resumable, 2), "tiny")
    newest = a_checkpoint(store, resumable, 2, 10)
    a_checkpoint(store, resumable, 3, 8)
    store.runs.begin(running, attempt(running, 7), "tiny")

    assert reindex(store, queue) == (9, ())
    statuses = {status.run: status for status in queue.listing.statuses("tiny")}
    assert statuses.keys() == set(study.runs())
    assert statuses[finished].result == result(finished, 3.0)
    assert [cause.message for cause in statuses[failed].causes] == ["killed"] * 3
    assert {run: status.state for run, status in statuses.items()} == {
        finished: State.SUCCEEDED,
        failed: State.FAILED,
        cancelled: State.CANCELLED,
        **dict.fromkeys([resumable, running, *untouched], State.QUEUED),
    }
    pointer = statuses[resumable].checkpoint
    assert pointer is not None
    assert (pointer.step, pointer.epoch, pointer.path) == (10, 2, newest)
    assert statuses[running].epoch == 7, "whoever still trains it has a dead epoch"
    assert queue.studies.one("tiny") == study
    assert reindex(store, queue) == (0, ())
    assert sum(queue.listing.counts().values()) == queue.listing.put_count() == 9


def ledger_of(store: Store, run: Run, epoch: int, steps: int) -> None:
    """What a worker that was killed leaves, its last line torn."""
    lines = [Line(step, 1, 1.0, 1e-3, None, False, False, 2.0)._asdict() for step in range(1, steps + 1)]
    header = {"schema": SCHEMA, "epoch": epoch, "from_epoch": None, "from_step": 0}
    text = "\n".join(map(json.dumps, [header, *lines])) + '\n{"step":'
    store.records.put(f"runs/{run.id}/{epoch}/ledger.jsonl", text.encode())


def restored(store: Store, queue: Queue, *attempts: Attempt) -> Status:
    """The run of these attempts after a reindex; its policy allows three failures."""
    store.studies.keep(tiny_study())
    for each in attempts:
        store.runs.begin(RUN, each, "tiny")
    reindex(store, queue)
    return queue.listing.status(RUN.id)


def test_what_may_not_be_tried_again_is_not_paid_for_again(store: Store, queue: Queue) -> None:
    status = restored(store, queue, failed(RUN, 1, 5, retryable=False))
    assert (status.state, status.attempts) == (State.FAILED, 1)
    assert [(cause.step, cause.retryable) for cause in status.causes] == [(5, False)]
    assert queue.retry(RUN.id) == State.QUEUED


def test_poison_is_known_again_and_so_is_how_near_to_it_a_run_is(store: Store, queue: Queue, redis: Redis) -> None:
    run = RUN.model_copy(update={"policy": Policy(attempts=9)})
    store.studies.keep(tiny_study())
    for epoch in (1, 2, 3):
        store.runs.begin(run, failed(run, epoch, 4), "tiny")
    reindex(store, queue)
    assert queue.listing.status(run.id).state == State.FAILED
    store.runs.end(attempt(run, 3))  # killed: its ledger says where
    ledger_of(store, run, 3, steps=4)
    store.runs.begin(run, attempt(run, 4))
    near, drained = (Queue(redis, f"farm:{name}:", backoff_seconds=0.001) for name in ("near", "drained"))
    reindex(store, near)
    causes = [("x", 4), ("x", 4), ("lease-expired", 4)]
    assert [(cause.cause, cause.step) for cause in near.listing.status(run.id).causes] == causes
    assert crashed(near, run) == State.FAILED, "the third crash there"
    store.runs.end(attempt(run, 4, outcome="released", ended=1010.0))
    reindex(store, drained)
    assert crashed(drained, run) == State.QUEUED, "which a drain has made the first"


def crashed(queue: Queue, run: Run) -> State:
    """What becomes of the run when it crashes once more at the same step."""
    while (claim := queue.claim("cpu", "worker", 60)) and claim.run.id != run.id:
        pass
    assert claim is not None
    return queue.fail(claim.lease, "x", "y", 4, retryable=True)


def test_a_failure_that_was_final_before_a_retry_does_not_count(store: Store, queue: Queue) -> None:
    status = restored(store, queue, failed(RUN, 1, 5, retryable=False), failed(RUN, 2, 7))
    assert (status.state, status.attempts, len(status.causes)) == (State.QUEUED, 1, 2)


def test_a_cancelled_run_stays_cancelled_begun_or_not(store: Store, queue: Queue) -> None:
    begun, waiting, again = tiny_study().runs()[:3]
    store.runs.begin(begun, attempt(begun, 2), "tiny")
    store.runs.withdraw(begun.id, 2)
    store.runs.withdraw(waiting.id, 0)
    store.runs.withdraw(again.id, 1)
    store.runs.begin(again, attempt(again, 2), "tiny")
    store.studies.keep(tiny_study())
    assert reindex(store, queue) == (9, ())
    assert [queue.listing.status(run.id).state for run in (begun, waiting, again)] == [
        "cancelled",
        "cancelled",
        "queued",
    ]
    assert sum(queue.listing.counts().values()) == queue.listing.put_count() == 9


def test_q8_the_result_of_a_cancelled_run_does_not_count_and_that_of_its_retry_does(store: Store, queue: Queue) -> None:
    store.runs.record(result(RUN, 3.0))
    store.runs.end(attempt(outcome="cancelled"))
    assert store.runs.result(RUN.id) is None, "its agent had no time for more"
    store.runs.end(attempt(outcome="succeeded"))
    store.runs.withdraw(RUN.id, 1)
    assert store.runs.result(RUN.id) is None
    store.records.remove(f"runs/{RUN.id}/1/attempt.json")
    assert restored(store, queue, attempt(outcome="succeeded", ended=1010.0)).state == State.CANCELLED
    store.runs.record(result(RUN, 2.0, epoch=2))
    assert store.runs.result(RUN.id) == result(RUN, 2.0, epoch=2)
    with pytest.raises(Conflict, match="already holds another result"):
        store.runs.record(result(RUN, 1.0, epoch=2))


def test_a_limited_study_that_was_spent_stays_spent(store: Store, queue: Queue) -> None:
    """The time of every attempt comes back: to its end, or of the steps that it did before it was killed."""
    ledger_of(store, RUN, 2, steps=5)
    status = restored(store, queue, failed(RUN, 1, 3).model_copy(update={"ended": 1101.0}), attempt(epoch=2))
    assert status.held_seconds == 100.0 + 10.0
    machines = {"cpu": BUILT_IN["cpu"].model_copy(update={"usd_per_hour": 3600.0})}
    study = tiny_study().model_copy(update={"policy": Policy(usd_limit=109.0)})
    queue.put(study)
    assert find_exhausted([study], queue.listing.statuses(), machines, time.time()).keys() == {"tiny"}


def test_a_run_whose_study_is_unknown_waits_for_the_study(store: Store, queue: Queue) -> None:
    """An agent could not train it: it asks for the study. Its next lease has an epoch of its own all the same."""
    store.runs.begin(RUN, attempt())
    assert reindex(store, queue) == (1, ())
    status = queue.listing.status(RUN.id)
    assert (status.study, status.state) == ("reindexed", State.FAILED)
    assert status.causes[0].message.startswith("its study 'reindexed' is not in the storage: submit that, then farm")
    assert queue.claim("cpu", "worker", 60) is None
    assert queue.put(tiny_study()).known == {RUN.id: State.FAILED}
    queue.retry(RUN.id)
    claims = [queue.claim("cpu", "worker", 60) for _ in range(9)]
    (claim,) = [claim for claim in claims if claim and claim.run == RUN]
    assert (claim.study, claim.lease.epoch) == ("tiny", 2)
    assert queue.studies.one(claim.study) == tiny_study()


def test_reindexing_leaves_what_the_queue_knows_alone(store: Store, queue: Queue) -> None:
    study = tiny_study()
    queue.put(study)
    run = study.runs()[0]
    claim = queue.claim("cpu", "worker", 60)
    assert claim is not None
    assert claim.run == run
    queue.release(claim.lease, "drained")
    store.runs.begin(run, attempt(run), "tiny")
    store.runs.end(attempt(run, outcome="cancelled"))
    assert reindex(store, queue) == (0, ())
    assert queue.listing.status(run.id).state == State.QUEUED
