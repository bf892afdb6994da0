"""Q7 and Q11: a run is given back unharmed, and a corpus is paused."""

import pytest
from claims import claimed, claimed_as, started, state, study_of
from results import tiny_study

from farm.queue.queue import Queue
from farm.study.run import State

ARMS = ("baseline", "remove-dropout", "gradient-clipping")  # of the tiny study


def test_q7_a_release_is_no_attempt_and_keeps_the_place(queue: Queue) -> None:
    study = study_of(queue, policy={"attempts": 1})
    for epoch in range(1, 6):
        claim = started(queue)
        assert (claim.run, claim.lease.epoch) == (study.runs()[0], epoch)
        queue.release(claim.lease, "drained")
    status = queue.listing.status(claim.run.id)
    assert (status.state, status.attempts, status.causes) == (State.QUEUED, 0, ())
    assert queue.listing.events(claim.run.id)[-1].detail == "drained"


def test_q7_a_released_run_says_why_until_it_begins_again(queue: Queue) -> None:
    study_of(queue)
    first = claimed(queue)
    queue.release(first.lease, "Ray refused the job: no room")
    assert queue.listing.status(first.run.id).released == "Ray refused the job: no room"
    queue.renew(claimed(queue).lease, 0)
    assert queue.listing.status(first.run.id).released is None


def test_q7_a_recalled_lease_is_released_for_the_reason_of_the_recall(queue: Queue) -> None:
    study_of(queue)
    claim = started(queue)
    queue.recall(claim.lease, "over budget: $2.00 spent of $1.50")
    assert queue.listing.status(claim.run.id).recalled == "over budget: $2.00 spent of $1.50"
    assert queue.release(claim.lease, "drained") == "over budget: $2.00 spent of $1.50"
    status = queue.listing.status(claim.run.id)
    assert (status.state, status.attempts, status.recalled) == (State.QUEUED, 0, None)
    assert status.released == "over budget: $2.00 spent of $1.50"
    assert [event.event for event in queue.listing.events(claim.run.id)][-2:] == ["recalled", "released"]
    again = started(queue)
    assert queue.release(again.lease, "drained") == "drained", "the recall ended with its lease"


def test_q11_a_pause_is_no_attempt_and_holds_what_reads_the_same_corpus(queue: Queue) -> None:
    study_of(queue, interventions={"longer": {"model": {"context": 16}}})
    queue.put(tiny_study("other", init=(7,)))
    claim = started(queue)
    queue.pause(claim.lease, "bad-corpus: it is gone (on attic)")
    status = queue.listing.status(claim.run.id)
    assert (status.state, status.attempts, status.causes) == (State.QUEUED, 0, ())
    assert queue.listing.events(claim.run.id)[-1].detail == "bad-corpus: it is gone (on attic)"
    (pause,) = queue.listing.pauses()
    assert pause == ("tiny", claim.run.recipe.corpus, None, "bad-corpus: it is gone (on attic)")
    assert queue.listing.backlog() == {"cpu": 4}, "the arm with another corpus, and the three of the other study"
    assert [claimed_as(queue) for _ in range(5)] == [("tiny", "longer"), *[("other", arm) for arm in ARMS], None]


def test_q11_a_pause_of_a_node_holds_nothing_elsewhere(queue: Queue) -> None:
    study_of(queue)
    claim = started(queue)
    queue.pause(claim.lease, "bad-corpus: it is gone (on attic)", "attic")
    assert [pause.node for pause in queue.listing.pauses()] == ["attic"]
    assert queue.listing.backlog() == {"cpu": 3}
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
    assert [pause.reason for pause in queue.listing.pauses()] == ["elsewhere"]
    assert queue.claim("cpu", "worker", 60, node="attic") is not None


def test_q11_a_run_that_is_being_cancelled_is_cancelled_and_the_others_pause(queue: Queue) -> None:
    study_of(queue)
    claim = started(queue)
    queue.cancel(claim.run.id)
    queue.pause(claim.lease, "gone")
    assert state(queue, claim) == State.CANCELLED
    assert queue.listing.backlog() == {}
