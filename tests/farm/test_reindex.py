"""Redis anew from the records: what was forgotten stays so, what is known under another name is known again, and what
cannot be read is named while all else comes back."""

from pathlib import Path

import pytest
from redis import Redis
from results import result, study_text, tiny_study

from farm import study as study_
from farm.errors import CheckpointInvalid
from farm.queue import Queue
from farm.run import Attempt, Run, State
from farm.store import Store
from farm.study import Study

STUDY = tiny_study(init=(42,))
BASELINE, DROPOUT, CLIPPING = STUDY.runs()


@pytest.fixture(params=["folder", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    if request.param == "folder":
        return Store(tmp_path / "storage")
    return Store(request.getfixturevalue("s3_uri"), tmp_path / "work")


def begun(store: Store, run: Run, epoch: int = 1, study: str = "tiny", loss: float | None = None) -> None:
    store.begin(run, Attempt(run_id=run.id, epoch=epoch, worker="w", started=1000.0), study)
    if loss is not None:
        store.record(result(run, loss, epoch=epoch))


def states(queue: Queue) -> dict[str, State]:
    return {status.id: status.state for status in queue.statuses()}


def renamed(name: str = "next") -> Study:
    return study_.parse(study_text(name, init=(42,)).replace("remove-dropout", "no-drop"))


# Forgotten


def test_a_forgotten_run_is_not_brought_back_until_it_is_submitted_again(store: Store, queue: Queue) -> None:
    """It is left out of its study, too, whose record names it; submitted again, it begins above its old epochs."""
    store.keep(STUDY)
    begun(store, DROPOUT, epoch=3, loss=3.0)
    begun(store, BASELINE, loss=3.0)
    store.forget(DROPOUT.id, 3)
    store.forget(CLIPPING.id, 0)
    assert store.reindex(queue) == (1, ())
    assert states(queue) == {BASELINE.id: State.SUCCEEDED}
    assert store.result(DROPOUT.id) == result(DROPOUT, 3.0, epoch=3), "its files are there"
    put = queue.put(STUDY)
    assert set(put.again) == set(put.new) == {DROPOUT.id, CLIPPING.id}
    claim = queue.claim("cpu", "worker", 60)
    assert claim is not None
    assert (claim.run, claim.lease.epoch) == (DROPOUT, 4)
    queue.finish(claim.lease, result(DROPOUT, 3.0, epoch=3))


def test_what_began_again_after_it_was_forgotten_comes_back(store: Store, queue: Queue) -> None:
    store.keep(STUDY)
    begun(store, DROPOUT, epoch=1)
    store.forget(DROPOUT.id, 1)
    store.forget(BASELINE.id, 0)
    begun(store, DROPOUT, epoch=2)
    store.remember(BASELINE.id)
    assert store.reindex(queue) == (3, ())


def test_a_study_of_which_all_was_forgotten_does_not_come_back(store: Store, queue: Queue) -> None:
    store.keep(STUDY)
    for run in STUDY.runs():
        store.forget(run.id, 0)
    assert store.reindex(queue) == (0, ())
    assert (queue.studies(), queue.statuses()) == ({}, [])


def test_forgetting_with_the_files_leaves_the_word_alone(store: Store) -> None:
    begun(store, DROPOUT, loss=3.0)
    store.forget(DROPOUT.id, 1, files=True)
    assert store.records.names(f"runs/{DROPOUT.id}") == ["forgotten.json"]
    store.remember(DROPOUT.id)
    store.remember(DROPOUT.id)
    assert store.records.names("runs") == [] or store.records.names(f"runs/{DROPOUT.id}") == []
    store.keep(STUDY)
    store.drop("tiny")
    store.drop("tiny")
    assert store.records.names("studies") == []


def test_runs_of_a_recipe_that_its_arm_has_no_more_stay_out(store: Store, queue: Queue) -> None:
    """Whoever mended the arm may not see the storage: the study's newest form tells."""
    begun(store, DROPOUT)
    store.keep(study_.parse(study_text(init=(42,)).replace("dropout = 0.0", "dropout = 0.2")))
    assert store.reindex(queue).brought == 3
    assert DROPOUT.id not in states(queue)


# Adopted


def test_an_adopted_result_is_adopted_again(store: Store, queue: Queue) -> None:
    begun(store, DROPOUT, loss=3.0)
    for study in (STUDY, renamed()):
        store.keep(study)
    store.reindex(queue)
    (new,) = [run for run in renamed().runs() if run.arm == "no-drop"]
    status = queue.status(new.id)
    assert status.result is not None
    assert (status.state, status.result.adopted, status.result.test_loss) == (State.SUCCEEDED, DROPOUT.id, 3.0)
    assert not store.records.names(f"runs/{new.id}")


def test_what_was_adopted_from_a_forgotten_run_is_kept_by_whoever_has_it(store: Store, queue: Queue) -> None:
    begun(store, DROPOUT, loss=3.0)
    store.keep(renamed())
    store.forget(DROPOUT.id, 1)
    (new,) = [run for run in renamed().runs() if run.arm == "no-drop"]
    adopted = result(DROPOUT, 3.0).model_copy(update={"run_id": new.id, "arm": "no-drop", "adopted": DROPOUT.id})
    store.adopt(adopted, new, "next")
    assert store.reindex(queue) == (3, ())
    assert queue.status(new.id).result == adopted
    assert DROPOUT.id not in states(queue)


# Not readable


def test_it_reads_on_past_bad_records_and_names_each(store: Store, queue: Queue) -> None:
    """Half a result, a damaged attempt, half a recipe, a stray file among the studies, and one study of the future."""
    store.keep(STUDY)
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
    brought, unread = store.reindex(queue)
    assert states(queue) == {BASELINE.id: State.QUEUED, DROPOUT.id: State.SUCCEEDED, other.id: State.SUCCEEDED}
    assert brought == 3
    told = "\n".join(unread)
    assert len(unread) == 5, told
    for name in [*spoilt, "studies/notes.txt", "studies/future.json"]:
        assert f"{store.uri}/{name}" in told
    assert "is cut off, so it is no result" in told
    assert "a newer farm wrote it (schema 99; this one reads up to 1). Update farm on this machine." in told


def test_a_run_that_cannot_be_read_is_not_trained_over_what_it_wrote(store: Store, queue: Queue) -> None:
    store.keep(STUDY)
    begun(store, BASELINE, epoch=5)
    store.records.put(f"runs/{BASELINE.id}/recipe.toml", b"[recipe")
    store.reindex(queue)
    assert BASELINE.id not in states(queue)
    assert queue.put(STUDY).again == (BASELINE.id,)
    epochs = {claim.run: claim.lease.epoch for _ in range(3) if (claim := queue.claim("cpu", "worker", 60))}
    assert epochs == {BASELINE: 6, DROPOUT: 1, CLIPPING: 1}


def test_a_record_that_was_mended_is_read_by_the_next_reindex(store: Store, queue: Queue) -> None:
    begun(store, BASELINE, loss=3.0)
    name = f"runs/{BASELINE.id}/recipe.toml"
    content = store.records.get(name) or b""
    store.records.put(name, b"[recipe")
    assert store.reindex(queue).brought == 0
    store.records.put(name, content)
    assert store.reindex(queue) == (1, ())
    assert states(queue) == {BASELINE.id: State.SUCCEEDED}


def test_half_a_result_is_no_result_and_another_takes_its_place(store: Store) -> None:
    store.record(result(BASELINE, 3.0))
    name = f"runs/{BASELINE.id}/result.json"
    store.records.put(name, (store.records.get(name) or b"")[:100])
    assert store.result(BASELINE.id) is None
    store.record(result(BASELINE, 2.0))
    assert store.result(BASELINE.id) == result(BASELINE, 2.0)


def test_a_result_of_a_newer_farm_is_no_half_result(store: Store) -> None:
    store.record(result(BASELINE, 3.0))
    name = f"runs/{BASELINE.id}/result.json"
    store.records.put(name, (store.records.get(name) or b"").replace(b'"schema": 1', b'"schema": 2'))
    with pytest.raises(CheckpointInvalid, match="a newer farm wrote it"):
        store.record(result(BASELINE, 2.0))


def test_every_record_says_its_schema(store: Store, redis: Redis) -> None:
    begun(store, BASELINE, loss=3.0)
    store.keep(STUDY)
    names = [f"runs/{BASELINE.id}/{name}" for name in ("recipe.toml", "result.json", "1/attempt.json")]
    for name in [*names, "studies/tiny.json"]:
        assert (store.records.get(name) or b"").lstrip(b"{\n ").replace(b'"', b"").startswith(b"schema"), name
