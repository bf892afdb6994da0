"""`farm reindex`: Redis is the index, the run directories are the record."""

import tempfile
from pathlib import Path

import pytest
from redis import Redis
from results import result, tiny_study
from s3_server import S3Server

from farm.record.store import Store
from farm.study.run import Attempt

from .conftest import Farm

FINISHED, RUNNING = tiny_study().runs()[:2]


def recorded(store: Store) -> None:
    """A finished run and one that was training."""
    for run in (FINISHED, RUNNING):
        store.runs.begin(run, Attempt(run_id=run.id, epoch=1, worker="w", started=1.0), "tiny")
    store.runs.record(result(FINISHED, 3.25))
    store.studies.keep(tiny_study())


def check(farm: Farm, uri: str) -> None:
    answer = farm("reindex")
    assert answer.rows == [{"storage": uri, "brought_back": "9", "runs": "9"}]
    assert [row["test_loss_mean"] for row in farm("table", "tiny").rows] == ["3.25"]
    states = [row["state"] for row in farm("runs", "tiny").rows]
    assert (states.count("succeeded"), states.count("queued")) == (1, 8)
    assert farm("reindex").rows == [{"storage": uri, "brought_back": "0", "runs": "9"}]


def test_a_lost_redis_is_rebuilt_from_a_folder(farm: Farm) -> None:
    recorded(farm.store)
    check(farm, str(farm.store.root))


def test_a_lost_redis_is_rebuilt_from_a_bucket(farm: Farm, s3_uri: str, tmp_path: Path) -> None:
    recorded(Store(s3_uri, tmp_path / "work"))
    farm.environment["FARM_STORAGE"] = s3_uri
    check(farm, s3_uri)


@pytest.mark.parametrize("kind", ["folder", "bucket"])
def test_what_was_cancelled_is_not_queued_by_a_reindex(farm: Farm, redis: Redis, s3_uri: str, kind: str) -> None:
    """Queued or running: whoever cancels where the storage is seen leaves word there."""
    if kind == "bucket":
        farm.environment["FARM_STORAGE"] = s3_uri
    farm.store.mark()
    assert farm("submit", farm.file()).code == 0
    farm.finish(farm.claim(), 3.25)
    claim = farm.claim()
    assert farm("cancel", "tiny").code == 0
    farm.queue.release(claim.lease, "drained")
    redis.flushdb()
    assert farm("reindex").rows[0]["runs"] == "9"
    states = [row["state"] for row in farm("runs", "tiny").rows]
    assert (states.count("cancelled"), states.count("queued")) == (8, 1), "the tests' worker recorded no result"


def test_a_laptop_that_may_not_write_the_bucket_submits_and_cancels_with_a_warning(
    farm: Farm, s3: S3Server, s3_uri: str
) -> None:
    farm.environment |= s3.reader | {"FARM_STORAGE": s3_uri}
    submitted, cancelled = farm("submit", farm.file()), farm("cancel", "tiny")
    assert (submitted.code, cancelled.code) == (0, 0)
    assert (
        f"warning: tiny is queued, but not recorded in the storage until it trains: {s3_uri} refused PutObject"
        in submitted.err
    )
    assert "warning: cancelled, but not recorded in the storage: farm reindex would queue it" in cancelled.err
    assert {row["now"] for row in cancelled.rows} == {"cancelled"}


def test_a_storage_without_runs_is_no_error_and_is_said(farm: Farm) -> None:
    answer = farm("reindex")
    assert (answer.code, answer.rows[0]["runs"]) == (0, "0")
    assert "Is FARM_STORAGE the farm's storage?" in answer.err


def test_a_bucket_that_cannot_be_used_is_named_by_every_command_that_needs_it(farm: Farm, s3_uri: str) -> None:
    farm.put(init=(42,))
    claim = farm.claim()
    farm.environment |= {"FARM_STORAGE": s3_uri, "AWS_SECRET_ACCESS_KEY": "hunter2"}
    for words in (["reindex"], ["logs", claim.run.id], ["doctor"]):
        answer = farm(*words)
        assert "does not know this node's AWS credentials" in answer.err + answer.out, words
        assert "hunter2" not in answer.err + answer.out
    assert farm("reindex").code == 5
    assert farm("show", claim.run.id).code == 0, "what Redis knows can be read without the bucket"
    assert farm("table", "tiny").code == 0


def test_logs_and_show_read_from_a_bucket_and_leave_no_copy(
    farm: Farm, s3_uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(s3_uri, tmp_path / "work")
    farm.put(init=(42,))
    claim = farm.claim()
    store.runs.begin(claim.run, Attempt(run_id=claim.run.id, epoch=1, worker="w", started=1.0), "tiny")
    store.records.put(f"runs/{claim.run.id}/1/log.txt", b"said so\n")
    farm.environment["FARM_STORAGE"] = s3_uri
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    assert farm("logs", claim.run.id).out == "said so\n"
    shown = {row["what"]: row["value"] for row in farm("show", claim.run.id).rows}
    assert shown["folder"] == f"{s3_uri}/runs/{claim.run.id}"
    assert shown["attempt 1"] == "running on w"
    assert not list((tmp_path / "tmp").iterdir())


def test_a_submit_to_a_redis_that_was_emptied_queues_nothing_until_the_records_are_read(
    farm: Farm, redis: Redis
) -> None:
    farm.file(init=(42,))
    assert farm("submit", "tiny.toml").code == 0
    claim = farm.claim()
    farm.store.runs.begin(claim.run, Attempt(run_id=claim.run.id, epoch=1, worker="w", started=1.0), "tiny")
    farm.store.runs.record(result(claim.run, 3.25))
    redis.flushdb()
    for words in (("submit", "tiny.toml"), ("submit", "tiny.toml", "--dry-run")):
        refused = farm(*words)
        assert (refused.code, farm.queue.listing.statuses()) == (6, [])
        assert "holds 1 run that it does not know: nothing was queued. Run farm reindex first" in refused.err
    assert farm("reindex").code == 0
    submitted = farm("submit", "tiny.toml")
    assert submitted.code == 0
    assert "1 already finished" in submitted.err


def test_who_does_not_see_the_storage_may_submit_before_the_records_are_read(farm: Farm, redis: Redis) -> None:
    """No run is claimed until a farm has read them, and it makes up for what the queue did not know."""
    farm.file(init=(42,))
    run = farm.put(init=(42,)).runs()[0]
    farm.store.runs.begin(run, Attempt(run_id=run.id, epoch=6, worker="w", started=1.0), "tiny")
    redis.flushdb()
    farm.environment["FARM_STORAGE"] = str(farm.folder / "not-here")
    assert farm("submit", "tiny.toml").code == 0
    assert farm.queue.claim("cpu", "worker", 60, marker=farm.store.mark()) is None
    farm.serve()
    assert farm.queue.listing.status(run.id).epoch == 6
