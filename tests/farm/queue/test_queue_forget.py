"""What leaves the queue, and what is known under another name: replaced arms, forgotten runs, adopted results."""

from collections.abc import Iterator

import pytest
from claims import listed
from results import result, study_text

from farm.errors import Cancelled, Conflict, LeaseLost, NotFound
from farm.queue.budget import cost
from farm.queue.queue import Queue
from farm.queue.values import Claim, Put
from farm.study.run import State
from farm.study.study import Study


def a_study(
    name: str = "tiny", dropout: float = 0.0, arm: str = "remove-dropout", init: tuple[int, ...] = (42,)
) -> Study:
    """A baseline and one arm, which may be called and be otherwise."""
    text = study_text(name, init=init).replace("remove-dropout", arm).partition("[interventions.gradient-clipping]")[0]
    return Study.parse(text.replace("dropout = 0.0", f"dropout = {dropout}"))


def other_baseline(study: Study, batch: int = 4) -> Study:
    tables = study.model_dump(mode="json", exclude_unset=True)
    tables["baseline"]["train"]["batch"] = batch
    return Study.build(tables)


def claims(queue: Queue) -> Iterator[Claim]:
    while claim := queue.claim("cpu", "worker", 60):
        queue.renew(claim.lease, 1)
        yield claim


def finish_all(queue: Queue, loss: float = 3.0) -> None:
    for claim in claims(queue):
        queue.finish(claim.lease, result(claim.run, loss, epoch=claim.lease.epoch))


def ids(study: Study, arm: str | None = None) -> list[str]:
    return [run.id for run in study.runs() if arm in (None, run.arm)]


@pytest.fixture(autouse=True)
def conserved(queue: Queue) -> Iterator[None]:
    """Q9, and nothing left behind, after every test."""
    yield
    queue.sweep()
    statuses = queue.listing.statuses()
    assert queue.listing.put_count() == sum(queue.listing.counts().values()) + queue.listing.forgotten_count()
    assert sum(queue.listing.counts().values()) == len(statuses)
    assert queue.listing.overview() == (listed(queue), {})
    assert all(queue.redis.hget(f"{queue.prefix}run:{one.id}", "losses") for one in listed(queue) if one.losses)
    known = {status.id for status in statuses}
    for role in ("run", "causes", "result", "curve", "events"):
        assert {key.split(":", 2)[2] for key in queue.redis.keys(f"{queue.prefix}{role}:*")} <= known, role
    named = {run_id for text in queue.redis.hvals(f"{queue.prefix}digests") for run_id in text.split()}
    assert named == known


# An arm that has no result may have another recipe


def test_an_arm_without_a_result_may_be_mended(queue: Queue) -> None:
    """Queued, failed, cancelled and running runs of the arm: none is in the way of its new recipe."""
    before, after = a_study(init=(1, 2, 3, 4)), a_study(dropout=0.2, init=(1, 2, 3, 4))
    queue.put(before)
    arm = ids(before, "remove-dropout")
    running = next(claim for claim in claims(queue) if claim.run.id == arm[0])
    failing = next(claim for claim in claims(queue) if claim.run.id == arm[1])
    queue.fail(failing.lease, "bad-corpus", "no such file", 0, retryable=False)
    queue.cancel(arm[2])
    put = queue.put(after)
    assert set(put.replaced) == set(arm)
    assert set(put.new) == set(ids(after, "remove-dropout"))
    assert [status.id for status in queue.listing.statuses("tiny")] == ids(before, "baseline") + ids(
        after, "remove-dropout"
    )
    queue.sweep()
    assert {status.id for status in queue.listing.statuses()} == {running.run.id, *ids(after)}
    with pytest.raises(Cancelled):
        queue.renew(running.lease, 2)
    queue.acknowledge_cancel(running.lease)
    queue.sweep()
    assert {status.id for status in queue.listing.statuses()} == set(ids(after))
    assert queue.studies.one("tiny") == after
    with pytest.raises(LeaseLost):
        queue.acknowledge_cancel(running.lease)


def test_the_baseline_may_be_mended_as_long_as_nothing_has_a_result(queue: Queue) -> None:
    before, after = a_study(), other_baseline(a_study())
    queue.put(before)
    assert set(queue.put(after).replaced) == set(ids(before))
    assert [status.id for status in queue.listing.statuses("tiny")] == ids(after)


def test_with_results_all_arms_are_named_and_nothing_changes(queue: Queue) -> None:
    queue.put(a_study())
    finish_all(queue)
    with pytest.raises(Conflict) as refused:
        queue.put(other_baseline(a_study()))
    assert "has results of another 'baseline' (and 1 more arms: remove-dropout): train.batch was 8, is now 4" in str(
        refused.value
    )
    assert str(refused.value).endswith("or drop those results: farm forget tiny")
    with pytest.raises(Conflict, match="farm forget tiny --arm remove-dropout"):
        queue.put(a_study(dropout=0.2))
    assert len(queue.listing.statuses("tiny")) == 2


def test_a_preview_says_the_same_and_does_nothing(queue: Queue) -> None:
    queue.put(a_study())
    before = queue.listing.statuses()
    assert queue.preview(a_study(dropout=0.2)) == Put(
        new=tuple(ids(a_study(dropout=0.2), "remove-dropout")),
        known=dict.fromkeys(ids(a_study(), "baseline"), State.QUEUED),
        replaced=dict.fromkeys(ids(a_study(), "remove-dropout"), "remove-dropout"),
    )
    assert queue.listing.statuses() == before


def test_a_replaced_run_that_another_study_has_goes_on_there(queue: Queue) -> None:
    queue.put(a_study())
    queue.put(a_study("other"))
    queue.put(a_study(dropout=0.2))
    queue.sweep()
    (shared,) = ids(a_study(), "remove-dropout")
    assert (queue.listing.status(shared).state, queue.listing.status(shared).study) == (State.QUEUED, "other")
    assert shared not in [status.id for status in queue.listing.statuses("tiny")]


@pytest.mark.parametrize("swept", [True, False])
def test_a_recipe_that_comes_back_is_trained(queue: Queue, swept: bool) -> None:
    queue.put(a_study())
    queue.put(a_study(dropout=0.2))
    if swept:
        queue.sweep()
    assert queue.put(a_study()).new == tuple(ids(a_study(), "remove-dropout"))
    queue.sweep()
    assert {claim.run.id for claim in claims(queue)} == set(ids(a_study()))


def test_a_superseded_run_is_not_retried(queue: Queue) -> None:
    queue.put(a_study())
    queue.put(a_study(dropout=0.2))
    with pytest.raises(Conflict, match="has another recipe now"):
        queue.retry(ids(a_study(), "remove-dropout")[0])


# forget


def test_q9_a_forgotten_study_is_gone_and_counted(queue: Queue) -> None:
    study = a_study()
    queue.put(study)
    finish_all(queue)
    assert queue.forget(ids(study), "tiny").gone == dict.fromkeys(ids(study), 1)
    assert (queue.listing.statuses(), queue.studies.all(), queue.listing.names("arms", "", "tiny")) == ([], {}, [])
    assert (queue.listing.put_count(), queue.listing.forgotten_count()) == (2, 2)


def test_q9_what_is_queued_or_running_is_not_forgotten(queue: Queue) -> None:
    study = a_study(init=(1, 2))
    queue.put(study)
    next(claims(queue))
    queue.cancel(ids(study)[-1])
    with pytest.raises(Conflict, match=r"3 of 4 runs are queued or running: nothing .* farm cancel tiny"):
        queue.forget(ids(study), "tiny")
    assert len(queue.listing.statuses("tiny")) == 4
    assert queue.forget([ids(study)[-1]]).gone == {ids(study)[-1]: 0}
    with pytest.raises(NotFound):
        queue.forget([ids(study)[-1]])


def test_an_arm_can_be_submitted_with_another_recipe_once_its_results_are_forgotten(queue: Queue) -> None:
    queue.put(a_study())
    finish_all(queue)
    queue.forget(ids(a_study(), "remove-dropout"), "tiny")
    assert queue.listing.names("arms", "", "tiny") == ["baseline"]
    assert len(queue.put(a_study(dropout=0.2)).new) == 1


def test_a_run_of_two_studies_stays_while_one_has_it(queue: Queue) -> None:
    queue.put(a_study())
    queue.put(a_study("other"))
    finish_all(queue)
    with pytest.raises(Conflict, match="belongs to 2 studies, other, tiny"):
        queue.forget(ids(a_study())[:1])
    assert queue.forget(ids(a_study()), "tiny").kept == tuple(ids(a_study()))
    assert list(queue.studies.all()) == ["other"]
    assert {status.study for status in queue.listing.statuses("other")} == {"other"}
    assert len(queue.forget(ids(a_study()), "other").gone) == 2


def test_q4_a_run_that_is_put_again_begins_above_the_epochs_it_had(queue: Queue) -> None:
    """What wrote under an old epoch, and may still, keeps its own folder."""
    queue.put(a_study())
    for claim in claims(queue):
        queue.fail(claim.lease, "x", "y", 0, retryable=False)
    queue.forget(ids(a_study()), "tiny")
    put = queue.put(a_study())
    assert put.again == put.new == tuple(ids(a_study()))
    assert [claim.lease.epoch for claim in claims(queue)] == [2, 2]
    assert queue.put(a_study()).again == ()


# The same training under another name


def test_a_renamed_arm_has_the_result_of_the_old_one(queue: Queue) -> None:
    queue.put(a_study())
    finish_all(queue, 3.123456789012345)
    put = queue.put(a_study("next", arm="no-drop"))
    (trained,), (renamed,) = ids(a_study(), "remove-dropout"), ids(a_study("next", arm="no-drop"), "no-drop")
    assert (put.new, put.adopted) == ((), {renamed: trained})
    status, original = queue.listing.status(renamed), queue.listing.status(trained)
    assert original.result is not None
    assert (status.state, status.step, status.attempts) == (State.SUCCEEDED, original.step, 0)
    assert status.result == original.result.model_copy(update={"run_id": renamed, "arm": "no-drop", "adopted": trained})
    assert status.run.digest == original.run.digest
    assert queue.put(a_study("next", arm="no-drop")).known[renamed] == State.SUCCEEDED


def test_an_adopted_result_has_cost_nothing(queue: Queue) -> None:
    queue.put(a_study())
    for claim in claims(queue):
        queue.finish(claim.lease, result(claim.run, 3.0, usd=7.0))
    queue.put(a_study("next", arm="no-drop"))
    spent = {status.run.arm: cost(status, 10.0, 0.0) for status in queue.listing.statuses()}
    assert spent == {"baseline": 7.0, "remove-dropout": 7.0, "no-drop": 0.0}


@pytest.mark.parametrize("order", [("tiny", "next"), ("next", "tiny")])
def test_an_adopted_result_outlives_the_run_that_trained_it(queue: Queue, order: tuple[str, str]) -> None:
    names = {"tiny": "remove-dropout", "next": "no-drop"}
    queue.put(a_study())
    finish_all(queue)
    for name, arm in (("next", "no-drop"), ("last", "drop-none")):
        queue.put(a_study(name, arm=arm))
    (trained,) = ids(a_study(), "remove-dropout")
    for name in order:
        queue.forget(ids(a_study(name, arm=names[name]), names[name]), name)
    (last,) = ids(a_study("last", arm="drop-none"), "drop-none")
    adopted = queue.listing.status(last).result
    assert adopted is not None
    assert (adopted.run_id, adopted.adopted) == (last, trained)
    assert len(queue.put(a_study("again", arm="anew")).adopted) == 1, "and can be adopted again"


def test_what_is_queued_under_another_name_is_said_and_queued(queue: Queue) -> None:
    queue.put(a_study())
    put = queue.put(a_study("next", arm="no-drop"))
    (renamed,), (first,) = ids(a_study("next", arm="no-drop"), "no-drop"), ids(a_study(), "remove-dropout")
    assert (put.new, put.twins) == ((renamed,), {renamed: first})


def test_a_failed_run_of_the_same_recipe_is_not_adopted(queue: Queue) -> None:
    queue.put(a_study())
    for claim in claims(queue):
        queue.fail(claim.lease, "x", "y", 0, retryable=False)
    put = queue.put(a_study("next", arm="no-drop"))
    assert (len(put.new), put.adopted, put.twins) == (1, {}, {})


def test_a_study_of_ten_thousand_runs_can_be_replaced(queue: Queue) -> None:
    """More than Lua passes at a time, and Redis stands still for no longer than a heartbeat waits."""
    study = a_study(init=tuple(range(5000)))
    queue.put(study)
    with pytest.raises(Conflict, match="10000 of 10000 runs are queued"):
        queue.forget(ids(study), "tiny")
    assert len(queue.put(other_baseline(a_study())).replaced) == 10_000
    before = queue.redis.info("cpu")["used_cpu_user"]
    queue.sweep()
    assert queue.redis.info("cpu")["used_cpu_user"] - before < 5, "of the processor, which others use as well"
    assert (len(queue.listing.statuses()), queue.listing.forgotten_count()) == (2, 10_000)


def test_a_run_whose_recipe_comes_back_has_all_its_attempts_again(queue: Queue) -> None:
    """Its arm was changed, and changed back before the sweep that forgets it."""
    before, after = a_study(), a_study(dropout=0.2)
    queue.put(before)
    (arm,) = ids(before, "remove-dropout")
    failing = next(claim for claim in claims(queue) if claim.run.id == arm)
    queue.fail(failing.lease, "worker-died", "killed", 5, retryable=True)
    assert queue.listing.status(arm).attempts == 1
    queue.put(after)
    assert arm in queue.put(before).new
    assert (queue.listing.status(arm).state, queue.listing.status(arm).attempts) == (State.QUEUED, 0)
