"""Evaluations are jobs of the queue as runs are: claimed, leased, fenced; counted apart; they come to scores."""

import random
from collections import Counter

import pytest
from results import result, score, tiny_study
from waiting import wait_until

from farm.errors import Cancelled, Conflict, LeaseLost, NotFound
from farm.queue.live import Scope
from farm.queue.queue import Queue
from farm.queue.values import Claim
from farm.record.score import Score
from farm.study.run import Evaluating, Run, State

STUDY = tiny_study()
WEIGHTS = "w" * 64


def job(run: Run, name: str = "test_loss", offset: int | None = None) -> Evaluating:
    recipe = run.recipe if offset is None else run.recipe.with_patch({"evaluation": {"offset": offset}})
    values = {field: getattr(run, field) for field in Run.model_fields}
    return Evaluating(**values | {"recipe": recipe}, of=run.id, evaluation=name, weights=WEIGHTS)


def trained(queue: Queue) -> list[Run]:
    """The runs of the study, each with its result."""
    queue.put(STUDY)
    runs = []
    while claim := queue.claim("cpu", "worker", 60):
        queue.finish(claim.lease, result(claim.run, 3.0).model_copy(update={"epoch": claim.lease.epoch}))
        runs.append(claim.run)
    return runs


def claimed(queue: Queue) -> Claim:
    found = queue.claim("cpu", "worker", 60)
    assert found is not None
    return found


def check_conserved(queue: Queue) -> None:
    """put = queued + running + succeeded + failed + cancelled + forgotten, of either kind."""
    counts = queue.evaluations.counts()
    assert counts["put"] == sum(counts[state] for state in State) + counts["forgotten"]
    assert {state: counts[state] for state in State} == {
        state: Counter(status.state for status in queue.evaluations.statuses())[state] for state in State
    }
    assert queue.listing.put_count() == sum(queue.listing.counts().values()) + queue.listing.forgotten_count()
    assert sum(queue.listing.counts().values()) == len(queue.listing.statuses())


def scored(claim: Claim, value: float = 3.0) -> Score:
    assert isinstance(claim.run, Evaluating)
    made = score(result(claim.run, value).model_copy(update={"run_id": claim.run.of}), [value, value])
    name = claim.run.recipe.evaluation_id(claim.run.evaluation)
    return made.model_copy(update={"name": claim.run.evaluation, "evaluation": name, "epoch": claim.lease.epoch})


def test_an_evaluation_is_queued_claimed_and_delivered_as_a_run_is(queue: Queue) -> None:
    first, *_ = trained(queue)
    wanted = job(first, "wiki", offset=64)
    assert queue.evaluations.put("tiny", [wanted]) == {wanted.id: None}
    assert wanted.id.startswith(f"{first.id}~wiki-")
    assert queue.listing.backlog() == {"cpu": 1}
    claim = claimed(queue)
    assert claim.run == wanted
    assert isinstance(queue.listing.running()[0].run, Evaluating), "whoever counts units sees it"
    assert queue.live.training(Scope("all"), 9).total == 0, "whoever watches runs does not"
    made = scored(claim)
    queue.deliver(claim.lease, made)
    queue.deliver(claim.lease, made)  # the reply got lost
    with pytest.raises(Conflict, match="already has another result"):
        queue.deliver(claim.lease, made.model_copy(update={"value": 2.0}))
    assert queue.evaluations.scores(first.id, "run") == {first.id: (made,)}
    (status,) = queue.evaluations.statuses("tiny")
    assert (status.state, status.id, status.study) == (State.SUCCEEDED, wanted.id, "tiny")
    assert queue.listing.status(wanted.id).state is State.SUCCEEDED
    check_conserved(queue)


def test_it_is_no_run_of_the_study(queue: Queue) -> None:
    runs = trained(queue)
    before = queue.listing.statuses(), queue.listing.statuses("tiny"), queue.listing.counts(), queue.listing.put_count()
    queue.evaluations.put("tiny", [job(run) for run in runs])
    assert (
        queue.listing.statuses(),
        queue.listing.statuses("tiny"),
        queue.listing.counts(),
        queue.listing.put_count(),
    ) == before
    assert queue.put(STUDY).new == ()
    assert queue.evaluations.counts()[State.QUEUED] == len(runs)
    assert queue.listing.names("runs", "") == sorted(run.id for run in runs)


def test_asked_twice_it_is_one_and_final_it_is_queued_anew(queue: Queue) -> None:
    first, *_ = trained(queue)
    wanted = job(first)
    queue.evaluations.put("tiny", [wanted])
    assert queue.evaluations.put("tiny", [wanted]) == {wanted.id: State.QUEUED}
    claim = claimed(queue)
    assert queue.evaluations.put("other", [wanted]) == {wanted.id: State.RUNNING}
    assert queue.claim("cpu", "worker", 60) is None, "two at once: one"
    assert queue.listing.status(wanted.id).state is State.RUNNING
    assert queue.fail(claim.lease, "checkpoint-invalid", "it is damaged", 0, retryable=False) is State.FAILED
    check_conserved(queue)
    assert queue.evaluations.put("tiny", [wanted]) == {wanted.id: State.FAILED}
    again = claimed(queue)
    assert again.lease.epoch == claim.lease.epoch + 1
    with pytest.raises(LeaseLost):
        queue.deliver(claim.lease, scored(claim))
    queue.deliver(again.lease, scored(again))
    assert [cause.cause for cause in queue.listing.status(wanted.id).causes] == ["checkpoint-invalid"]
    assert queue.evaluations.put("tiny", [wanted]) == {wanted.id: State.SUCCEEDED}, "its score is gone, says who asks"
    with pytest.raises(LeaseLost):
        queue.deliver(again.lease, scored(again))
    queue.deliver(claimed(queue).lease, scored(again, 4.0))
    check_conserved(queue)


def test_a_run_that_has_not_finished_has_no_model_to_score(queue: Queue) -> None:
    queue.put(STUDY)
    unfinished = STUDY.runs()[0]
    with pytest.raises(NotFound, match="has not succeeded: it has no model"):
        queue.evaluations.put("tiny", [job(unfinished)])
    assert queue.evaluations.statuses() == []


def test_it_is_cancelled_released_and_expires_as_a_run_does(queue: Queue) -> None:
    one, two, three, *_ = trained(queue)
    jobs = [job(one), job(two), job(three)]
    queue.evaluations.put("tiny", jobs)
    assert queue.cancel(jobs[0].id) is State.CANCELLED
    claim = claimed(queue)
    queue.release(claim.lease, "drained")
    claim = claimed(queue)
    assert claim.run == jobs[1], "in the place that it had"
    queue.cancel(claim.run.id)
    with pytest.raises(Cancelled):
        queue.renew(claim.lease, 0)
    queue.acknowledge_cancel(claim.lease)
    late = queue.claim("cpu", "worker", 0.001)
    assert late is not None
    wait_until(lambda: queue.claim("cpu", "worker", 60), "what expired is claimed by another", seconds=5)
    with pytest.raises(LeaseLost):
        queue.deliver(late.lease, scored(late))
    check_conserved(queue)


def test_what_a_forgotten_run_was_asked_for_goes_with_it(queue: Queue) -> None:
    one, two, *_ = trained(queue)
    jobs = [job(one), job(two), job(one, "wiki", offset=64)]
    queue.evaluations.put("tiny", jobs)
    claim = claimed(queue)
    queue.forget([one.id], "tiny")
    with pytest.raises(LeaseLost):
        queue.renew(claim.lease, 0)
    assert [status.id for status in queue.evaluations.statuses()] == [jobs[1].id]
    assert queue.redis.zcard(f"{queue.prefix}leases") == 0
    assert claimed(queue).run == jobs[1]
    check_conserved(queue)


def test_it_is_retried_and_forgotten_by_its_own_id(queue: Queue) -> None:
    first, *_ = trained(queue)
    wanted = job(first)
    queue.evaluations.put("tiny", [wanted])
    queue.cancel(wanted.id)
    assert queue.retry(wanted.id) is State.QUEUED
    queue.cancel(wanted.id)
    queue.forget([wanted.id])
    assert queue.evaluations.statuses() == []
    assert len(queue.listing.statuses()) == 9
    check_conserved(queue)


def test_a_key_that_was_spoilt_costs_no_count(queue: Queue) -> None:
    runs = trained(queue)
    queue.evaluations.put("tiny", [job(run) for run in runs])
    for key in ("counts", "evaluations", "order", "study:tiny"):
        queue.redis.delete(f"{queue.prefix}{key}")
        queue.redis.set(f"{queue.prefix}{key}", "spoilt")
        queue.scripts.mend()
        check_conserved(queue)
    assert len(queue.evaluations.statuses()) == len(queue.listing.statuses("tiny")) == len(runs)


@pytest.mark.parametrize("seed", range(4))
def test_conservation_holds_whatever_is_said_of_them(queue: Queue, seed: int) -> None:
    chance = random.Random(seed)
    runs = trained(queue)
    jobs = [job(run) for run in runs] + [job(run, "wiki", offset=64) for run in runs]
    held: list[Claim] = []
    for _ in range(120):
        said = chance.choice(["ask", "claim", "claim", "deliver", "fail", "release", "cancel", "forget", "put"])
        if said == "ask":
            known = {status.id for status in queue.listing.statuses()}
            asked = [one for one in chance.sample(jobs, 3) if one.of in known]
            if all(queue.listing.status(one.of).state is State.SUCCEEDED for one in asked):
                queue.evaluations.put("tiny", asked)
        elif said == "claim" and (claim := queue.claim("cpu", "worker", 60)):
            held.append(claim)
        elif said in ("deliver", "fail", "release") and held:
            end(queue, held.pop(chance.randrange(len(held))), said)
        elif said == "cancel" and (there := queue.evaluations.statuses()):
            queue.cancel(chance.choice(there).id)
        elif said == "forget" and (there := [one for one in queue.listing.statuses() if one.state.is_final]):
            queue.forget([chance.choice(there).id], "tiny")
        elif said == "put":
            queue.put(STUDY)
        check_conserved(queue)


def end(queue: Queue, claim: Claim, how: str) -> None:
    try:
        if how == "fail":
            queue.fail(claim.lease, "worker-died", "it died", 0, retryable=True)
        elif how == "release":
            queue.release(claim.lease, "drained")
        elif isinstance(claim.run, Evaluating):
            queue.deliver(claim.lease, scored(claim))
        else:
            queue.finish(claim.lease, result(claim.run, 3.0).model_copy(update={"epoch": claim.lease.epoch}))
    except Cancelled:
        queue.acknowledge_cancel(claim.lease)
    except LeaseLost:
        pass


def test_a_score_of_another_run_or_of_a_later_lease_is_not_taken(queue: Queue) -> None:
    first, second, *_ = trained(queue)
    queue.evaluations.put("tiny", [job(first)])
    claim = claimed(queue)
    made = scored(claim)
    for changed in ({"run_id": second.id}, {"epoch": claim.lease.epoch + 1}):
        with pytest.raises(Conflict, match="the score is of"):
            queue.deliver(claim.lease, made.model_copy(update=changed))
    assert queue.evaluations.scores() == {}
    queue.deliver(claim.lease, made)
