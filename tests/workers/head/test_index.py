"""A Redis that was emptied, and a storage that two farms share: no run starts where its record is not known."""

from pathlib import Path

import pytest
from redis import Redis
from results import result, tiny_study

from farm.errors import BadSetting, Conflict
from farm.queue.node import Head
from farm.queue.queue import Queue
from farm.record.store import Store
from farm.reindex import reindex
from farm.site.settings import Settings
from farm.study.run import Attempt, State
from workers.attempt.agent import Agent
from workers.head import index
from workers.head.index import Indexed
from workers.node import hardware

STUDY = tiny_study(init=(42,))
FINISHED, HALF, _ = STUDY.runs()


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Of a farm with a result of epoch 6, and a run that got to its fourth attempt."""
    store = Store(tmp_path / "storage")
    store.studies.keep(STUDY)
    store.runs.begin(
        FINISHED, Attempt(run_id=FINISHED.id, epoch=6, worker="w", started=1.0, outcome="succeeded"), "tiny"
    )
    store.runs.record(result(FINISHED, 3.0, epoch=6))
    store.runs.begin(HALF, Attempt(run_id=HALF.id, epoch=4, worker="w", started=1.0), "tiny")
    return store


def head(store: Store) -> Head:
    return Head(
        host="head", ray="ray", software=hardware.provenance(), sources="/", storage=store.uri, marker=store.mark()
    )


def serving(queue: Queue, store: Store) -> Indexed:
    """The index of a farm that has just started."""
    started = Indexed(queue, store, head(store))
    started.begin()
    return started


def test_a_farm_that_starts_with_an_empty_redis_reads_its_records(queue: Queue, store: Store) -> None:
    queue.put(STUDY)  # from a laptop, before anybody could read them
    serving(queue, store)
    assert [queue.listing.status(run.id).state for run in (FINISHED, HALF)] == [State.SUCCEEDED, State.QUEUED]
    assert queue.listing.status(HALF.id).epoch == 4
    found = queue.index.origin()
    assert found is not None
    assert (found.marker, found.name) == (store.marker(), store.indexer())


def test_redis_that_is_emptied_under_a_farm_is_read_again_and_told_who_it_is(
    queue: Queue, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(index, "LOOK_SECONDS", 0.0)
    monkeypatch.setattr(index, "STORAGE_SECONDS", 0.0)
    indexed = serving(queue, store)
    claim = queue.claim("cpu", "worker", 60, marker=store.mark())
    assert claim is not None
    queue.redis.delete(*queue.redis.keys(f"{queue.prefix}*"))
    queue.put(STUDY)
    assert queue.claim("cpu", "worker", 60, marker=store.mark()) is None, "it would begin at epoch 1"
    indexed.turn()
    assert queue.listing.status(FINISHED.id).state == State.SUCCEEDED
    assert queue.roster.head() == head(store)
    again = queue.claim("cpu", "worker", 60, marker=store.mark())
    assert again is not None
    assert (again.run, again.lease.epoch) == (HALF, 5)
    indexed.turn()


def test_two_farms_do_not_share_a_storage(
    queue: Queue, redis: Redis, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one that took it last has it, and the other starts nothing; until somebody takes it back."""
    monkeypatch.setattr(index, "LOOK_SECONDS", 0.0)
    monkeypatch.setattr(index, "STORAGE_SECONDS", 0.0)
    first = serving(queue, store)
    second = serving(Queue(redis, "farm:second:"), store)
    second.turn()
    with pytest.raises(Conflict, match="belongs to a farm with another Redis: no run can start from here"):
        first.turn()
    with pytest.raises(BadSetting, match="take its storage over: farm reindex"):
        serving(queue, store)
    reindex(store, queue)
    first.turn()
    with pytest.raises(Conflict):
        second.turn()


def test_a_redis_of_a_farm_with_another_storage_is_not_served(queue: Queue, store: Store, tmp_path: Path) -> None:
    queue.roster.publish(head(store))
    mine = Store(tmp_path / "mine")
    said = f"belongs to the farm on head with the storage {store.uri}; the storage here is {mine.uri}"
    with pytest.raises(BadSetting, match=said):
        serving(queue, mine)
    queue.redis.delete(f"{queue.prefix}head")
    reindex(store, queue)
    with pytest.raises(BadSetting, match="belongs to another storage"):
        serving(queue, mine)


@pytest.mark.parametrize("run", [FINISHED, HALF])
def test_an_agent_under_an_epoch_that_is_on_record_makes_way_and_the_next_goes_on_above(
    run, queue: Queue, store: Store, tmp_path: Path
) -> None:
    """Redis was restored from an older copy: it is the storage's index, and knows less."""
    reindex(store, queue)
    queue.redis.delete(*queue.redis.keys(f"{queue.prefix}*"))
    queue.put(STUDY)
    records = {name: store.records.get(f"runs/{run.id}/{name}") for name in ("6/attempt.json", "4/attempt.json")}
    here = Settings(home=tmp_path / "home", storage=store.root)
    (claim,) = [claim for _ in range(3) if (claim := queue.claim("cpu", "worker", 60)) is not None and claim.run == run]
    assert claim.lease.epoch == 1
    assert Agent(here, queue, claim.lease, "job", "node").serve() == 0
    status = queue.listing.status(run.id)
    newest = 6 if run == FINISHED else 4
    assert (status.state, status.attempts, status.epoch) == (State.QUEUED, 0, newest)
    assert status.released == f"its directory holds attempt {newest}, and Redis handed out 1 again"
    assert {name: store.records.get(f"runs/{run.id}/{name}") for name in records} == records
    assert store.records.names(f"runs/{run.id}/1") == []
    again = queue.claim("cpu", "worker", 60)
    assert again is not None
    assert (again.run, again.lease.epoch) == (run, newest + 1)
    if run == FINISHED:
        assert Agent(here, queue, again.lease, "job", "node").serve() == 0
        assert queue.listing.status(run.id).state == State.SUCCEEDED
