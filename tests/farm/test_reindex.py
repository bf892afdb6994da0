"""Redis anew from the records: what was forgotten stays so, what is known under another name is known again, and what
cannot be read is named while all else comes back."""

from pathlib import Path

import pytest
from redis import Redis
from results import result, study_text, tiny_study

from farm.errors import CheckpointInvalid, Conflict, LeaseLost
from farm.queue.queue import Queue
from farm.record.store import Store
from farm.reindex import reindex
from farm.study.run import Attempt, Run, State
from farm.study.study import Study

STUDY = tiny_study(init=(42,))
BASELINE, DROPOUT, CLIPPING = STUDY.runs()


@pytest.fixture(params=["folder", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    if request.param == "folder":
        return Store(tmp_path / "storage")
    return Store(request.getfixturevalue("s3_uri"), tmp_path / "work")


def begun(store: Store, run: Run, epoch: int = 1, study: str = "tiny", loss: float | None = None) -> None:
    store.runs.begin(run, Attempt(run_id=run.id, epoch=epoch, worker="w", started=1000.0), study)
    if loss is not None:
        store.runs.record(result(run, loss, epoch=epoch))


def states(queue: Queue) -> dict[str, State]:
    return {status.id: status.state for status in queue.listing.statuses()}


def renamed(name: str = "next") -> Study:
    return Study.parse(study_text(name, init=(42,)).replace("remove-dropout", "no-drop"))


# Forgotten


def test_a_forgotten_run_is_not_brought_back_until_it_is_submitted_again(store: Store, queue: Queue) -> None:
    """It is left out of its study, too, whose record names it; submitted again, it begins above its old epochs."""
    store.studies.keep(STUDY)
    begun(store, DROPOUT, epoch=3, loss=3.0)
    begun(store, BASELINE, loss=3.0)
    store.runs.forget(DROPOUT.id, 3)
    store.runs.forget(CLIPPING.id, 0)
    assert reindex(store, queue) == (1, ())
    assert states(queue) == {BASELINE.id: State.SUCCEEDED}
    assert store.runs.result(DROPOUT.id) == result(DROPOUT, 3.0, epoch=3), "its files are there"
    put = queue.put(STUDY)
    assert set(put.again) == set(put.new) == {DROPOUT.id, CLIPPING.id}
    claim = queue.claim("cpu", "worker", 60)
    assert claim is not None
    assert (claim.run, claim.lease.epoch) == (DROPOUT, 4)
    queue.finish(claim.lease, result(DROPOUT, 3.0, epoch=3))


def test_what_began_again_after_it_was_forgotten_comes_back(store: Store, queue: Queue) -> None:
    store.studies.keep(STUDY)
    begun(store, DROPOUT, epoch=1)
    store.runs.forget(DROPOUT.id, 1)
    store.runs.forget(BASELINE.id, 0)
    begun(store, DROPOUT, epoch=2)
    store.runs.remember(BASELINE.id)
    assert reindex(store, queue) == (3, ())


def test_a_study_of_which_all_was_forgotten_does_not_come_back(store: Store, queue: Queue) -> None:
    store.studies.keep(STUDY)
    for run in STUDY.runs():
        store.runs.forget(run.id, 0)
    assert reindex(store, queue) == (0, ())
    assert (queue.studies.all(), queue.listing.statuses()) == ({}, [])


def test_forgetting_with_the_files_leaves_the_word_alone(store: Store) -> None:
    begun(store, DROPOUT, loss=3.0)
    store.runs.forget(DROPOUT.id, 1, files=True)
    assert store.records.names(f"runs/{DROPOUT.id}") == ["forgotten.json"]
    store.runs.remember(DROPOUT.id)
    store.runs.remember(DROPOUT.id)
    assert store.records.names("runs") == [] or store.records.names(f"runs/{DROPOUT.id}") == []
    store.studies.keep(STUDY)
    store.studies.drop("tiny")
    store.studies.drop("tiny")
    assert store.records.names("studies") == []


def test_runs_of_a_recipe_that_its_arm_has_no_more_stay_out(store: Store, queue: Queue) -> None:
    """Whoever mended the arm may not see the storage: the study's newest form tells."""
    begun(store, DROPOUT)
    store.studies.keep(Study.parse(study_text(init=(42,)).replace("dropout = 0.0", "dropout = 0.2")))
    assert reindex(store, queue).brought == 3
    assert DROPOUT.id not in states(queue)


# Adopted


def test_an_adopted_result_is_adopted_again(store: Store, queue: Queue) -> None:
    begun(store, DROPOUT, loss=3.0)
    for study in (STUDY, renamed()):
        store.studies.keep(study)
    reindex(store, queue)
    (new,) = [run for run in renamed().runs() if run.arm == "no-drop"]
    status = queue.listing.status(new.id)
    assert status.result is not None
    assert (status.state, status.result.adopted, status.result.test_loss) == (State.SUCCEEDED, DROPOUT.id, 3.0)
    assert not store.records.names(f"runs/{new.id}")


def test_what_was_adopted_from_a_forgotten_run_is_kept_by_whoever_has_it(store: Store, queue: Queue) -> None:
    begun(store, DROPOUT, loss=3.0)
    store.studies.keep(renamed())
    store.runs.forget(DROPOUT.id, 1)
    (new,) = [run for run in renamed().runs() if run.arm == "no-drop"]
    adopted = result(DROPOUT, 3.0).model_copy(update={"run_id": new.id, "arm": "no-drop", "adopted": DROPOUT.id})
    store.adopt(adopted, new, "next")
    assert reindex(store, queue) == (3, ())
    assert queue.listing.status(new.id).result == adopted
    assert DROPOUT.id not in states(queue)


# Emptied, restored from an older copy, shared


def test_what_was_put_anew_before_the_records_were_read_becomes_what_they_tell(store: Store, queue: Queue) -> None:
    """Redis was emptied, and a submit came first: results count, epochs go on above the directories', and so does the
    lease that one of them is under already."""
    store.studies.keep(STUDY)
    begun(store, BASELINE, epoch=6, loss=3.0)
    begun(store, DROPOUT, epoch=4)
    begun(store, CLIPPING, epoch=2)
    store.runs.end(Attempt(run_id=CLIPPING.id, epoch=2, worker="w", started=1.0, outcome="failed", retryable=False))
    queue.put(STUDY)
    leases = {claim.run.id: claim.lease for _ in range(2) if (claim := queue.claim("cpu", "worker", 60))}
    assert leases[DROPOUT.id].epoch == 1
    assert reindex(store, queue) == (3, ())
    assert states(queue) == {BASELINE.id: "succeeded", DROPOUT.id: "queued", CLIPPING.id: "failed"}
    for lease in leases.values():
        with pytest.raises(LeaseLost):
            queue.renew(lease, 1)
    claim = queue.claim("cpu", "worker", 60)
    assert claim is not None
    assert (claim.run, claim.lease.epoch) == (DROPOUT, 5)
    assert queue.listing.status(BASELINE.id).result == result(BASELINE, 3.0, epoch=6)
    assert sum(queue.listing.counts().values()) == queue.listing.put_count() == 3
    assert reindex(store, queue) == (0, ())


def test_a_redis_from_before_a_run_finished_learns_of_its_result(store: Store, queue: Queue) -> None:
    queue.put(STUDY)
    claims = [queue.claim("cpu", "worker", 60) for _ in range(3)]
    for claim in filter(None, claims):
        queue.release(claim.lease, "drained")
    begun(store, BASELINE, epoch=1, loss=3.0)
    assert reindex(store, queue) == (1, ())
    assert states(queue)[BASELINE.id] == State.SUCCEEDED


def test_what_was_cancelled_since_stays_so_and_its_retry_begins_above(store: Store, queue: Queue) -> None:
    begun(store, DROPOUT, epoch=4)
    begun(store, BASELINE, epoch=7)
    store.runs.forget(BASELINE.id, 7)
    store.studies.keep(STUDY)
    queue.put(STUDY)
    queue.cancel(DROPOUT.id)
    reindex(store, queue)
    assert states(queue)[DROPOUT.id] == State.CANCELLED
    queue.retry(DROPOUT.id)
    epochs = {claim.run: claim.lease.epoch for _ in range(3) if (claim := queue.claim("cpu", "worker", 60))}
    assert epochs == {DROPOUT: 5, BASELINE: 8, CLIPPING: 1}, "a forgotten one as well"


def test_a_study_that_was_submitted_since_stays_as_it_is(store: Store, queue: Queue) -> None:
    store.studies.keep(STUDY)
    changed = Study.parse(study_text(init=(42,)).replace("dropout = 0.0", "dropout = 0.2"))
    queue.put(changed)
    reindex(store, queue)
    assert queue.studies.one("tiny") == changed
    assert set(states(queue)) == {run.id for run in changed.runs()}


def test_no_run_is_claimed_for_a_storage_until_its_records_were_read(store: Store, queue: Queue) -> None:
    store.studies.keep(STUDY)
    queue.put(STUDY)
    marker = store.mark()
    assert queue.claim("cpu", "worker", 60, marker=marker) is None
    reindex(store, queue)
    assert queue.claim("cpu", "worker", 60, marker=marker) is not None
    assert queue.claim("cpu", "worker", 60, marker="another") is None


def test_a_redis_that_is_emptied_while_records_are_read_is_no_index(queue: Queue) -> None:
    token = queue.index.begin("marker")
    queue.redis.delete(*queue.redis.keys(f"{queue.prefix}*"))
    assert (queue.index.end(token, "marker"), queue.index.origin()) == (None, None)


def test_the_records_of_another_storage_are_not_read_into_a_farm(store: Store, queue: Queue, tmp_path: Path) -> None:
    store.studies.keep(STUDY)
    reindex(store, queue)
    other = Store(tmp_path / "other")
    assert reindex(other, queue) == (0, ()), "it holds nothing, so that it marks nothing"
    begun(other, DROPOUT)
    with pytest.raises(Conflict, match="belongs to a farm with another storage"):
        reindex(other, queue)
    assert DROPOUT.id in states(queue)
    assert queue.listing.status(DROPOUT.id).epoch == 0


def test_an_epoch_is_occupied_once(store: Store) -> None:
    assert store.runs.occupy(DROPOUT.id, 2, "one") == 0
    assert store.runs.occupy(DROPOUT.id, 2, "one") == 0, "its answer got lost"
    assert [store.runs.occupy(DROPOUT.id, epoch, "two") for epoch in (1, 2, 3)] == [2, 2, 0]
    begun(store, BASELINE, epoch=1)
    assert store.runs.occupy(BASELINE.id, 1, "one") == 1


def test_an_attempt_that_is_on_record_is_not_written_over(store: Store) -> None:
    begun(store, DROPOUT)
    with pytest.raises(Conflict, match=r"1/attempt\.json already exists and was kept"):
        store.runs.begin(DROPOUT, Attempt(run_id=DROPOUT.id, epoch=1, worker="another", started=2000.0))
    assert [past.worker for past in store.runs.attempts(DROPOUT.id)] == ["w"]
    store.runs.withdraw(DROPOUT.id, 6)
    store.runs.withdraw(DROPOUT.id, 0)
    store.runs.record(result(DROPOUT, 3.0, epoch=5))
    assert store.runs.result(DROPOUT.id) is None, "nor what was withdrawn"


# Not readable


def test_it_reads_on_past_bad_records_and_names_each(store: Store, queue: Queue) -> None:
    """Half a result, a damaged attempt, half a recipe, a stray file among the studies, and one study of the future."""
    store.studies.keep(STUDY)
    for run in (BASELINE, DROPOUT, CLIPPING):
        begun(store, run, loss=3.0)
    other = tiny_study("other", init=(1,)).runs()[0]
    begun(store, other, study="other", loss=2.0)
    spoilt = {
        f"runs/{BASELINE.id}/result.json": lambda content: content[: len(content) // 2],
        f"runs/{DROPOUT.id}/1/attempt.json": lambda content: b"{}",
        f"runs/{CLIPPING.id}/recipe.toml": lambda content: content[:-20],
    }
    for name, spoil in spoilt.items():
        store.records.put(name, spoil(store.records.get(name) or b""))
    store.records.put("studies/notes.txt", b"to do")
    store.records.put("studies/future.json", b'{"schema": 99, "study": {"name": "future", "colour": "red"}}')
    brought, unread = reindex(store, queue)
    assert states(queue) == {BASELINE.id: State.QUEUED, DROPOUT.id: State.SUCCEEDED, other.id: State.SUCCEEDED}
    assert brought == 3
    told = "\n".join(unread)
    assert len(unread) == 5, told
    for name in [*spoilt, "studies/notes.txt", "studies/future.json"]:
        assert f"{store.uri}/{name}" in told
    assert "is cut off, so it does not count as a result" in told
    assert "a newer farm wrote it (schema 99; this one reads up to 1). Update farm on this machine." in told


def test_a_run_that_cannot_be_read_is_not_trained_over_what_it_wrote(store: Store, queue: Queue) -> None:
    store.studies.keep(STUDY)
    begun(store, BASELINE, epoch=5)
    store.records.put(f"runs/{BASELINE.id}/recipe.toml", b"[recipe")
    reindex(store, queue)
    assert BASELINE.id not in states(queue)
    assert queue.put(STUDY).again == (BASELINE.id,)
    epochs = {claim.run: claim.lease.epoch for _ in range(3) if (claim := queue.claim("cpu", "worker", 60))}
    assert epochs == {BASELINE: 6, DROPOUT: 1, CLIPPING: 1}


def test_a_record_that_was_mended_is_read_by_the_next_reindex(store: Store, queue: Queue) -> None:
    begun(store, BASELINE, loss=3.0)
    name = f"runs/{BASELINE.id}/recipe.toml"
    content = store.records.get(name) or b""
    store.records.put(name, b"[recipe")
    assert reindex(store, queue).brought == 0
    store.records.put(name, content)
    assert reindex(store, queue) == (1, ())
    assert states(queue) == {BASELINE.id: State.SUCCEEDED}


def test_half_a_result_is_no_result_and_another_takes_its_place(store: Store) -> None:
    store.runs.record(result(BASELINE, 3.0))
    name = f"runs/{BASELINE.id}/result.json"
    store.records.put(name, (store.records.get(name) or b"")[:100])
    assert store.runs.result(BASELINE.id) is None
    store.runs.record(result(BASELINE, 2.0))
    assert store.runs.result(BASELINE.id) == result(BASELINE, 2.0)


def test_a_result_of_a_newer_farm_is_no_half_result(store: Store) -> None:
    store.runs.record(result(BASELINE, 3.0))
    name = f"runs/{BASELINE.id}/result.json"
    store.records.put(name, (store.records.get(name) or b"").replace(b'"schema": 1', b'"schema": 2'))
    with pytest.raises(CheckpointInvalid, match="a newer farm wrote it"):
        store.runs.record(result(BASELINE, 2.0))


def test_every_record_says_its_schema(store: Store, redis: Redis) -> None:
    begun(store, BASELINE, loss=3.0)
    store.studies.keep(STUDY)
    names = [f"runs/{BASELINE.id}/{name}" for name in ("recipe.toml", "result.json", "1/attempt.json")]
    for name in [*names, "studies/tiny.json"]:
        assert (store.records.get(name) or b"").lstrip(b"{\n ").replace(b'"', b"").startswith(b"schema"), name


def test_a_run_whose_study_is_watched_otherwise_now_is_brought_back(store: Store, queue: Queue) -> None:
    """It is the same run: how training is watched changes no bit of it."""
    begun(store, BASELINE)
    watched = Study.parse(study_text(init=(42,)).replace("sequences = 8\n", "sequences = 8\nevery = 0\n"))
    store.studies.keep(watched)
    assert [run.id for run in watched.runs()] == [run.id for run in STUDY.runs()]
    assert reindex(store, queue).unread == ()
    status = queue.listing.status(BASELINE.id)
    assert (status.state, status.epoch) == (State.QUEUED, 1), "restored as begun, not put anew"
