"""The walk on a storage that is a bucket: submit, train, an outage, a killed worker, resume, table, reindex."""

import json
from pathlib import Path

import pytest
from links import link
from paced import paced
from s3_server import S3Server

from farm.queue.values import Status
from farm.study.run import State

STEPS = paced(3000)  # some 15 s of training on an idle machine: the kill comes after 5


@pytest.mark.long
def test_a_run_on_a_bucket_survives_an_outage_and_a_killed_worker(
    walk_farm, s3: S3Server, s3_uri: str, tmp_path: Path, monkeypatch
) -> None:
    with link(s3.port) as wire:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{wire.port}")
        farm = walk_farm(tmp_path, s3_uri)
        farm.run("up")
        try:
            run_id, sent_before = walked(farm, wire)
        finally:
            farm.run("down")
        on_record(farm, run_id, sent_before, s3)
        reindexed(walk_farm, farm, tmp_path / "again", run_id)


def walked(farm, wire) -> tuple[str, int]:
    """One run, from the study file to its row; and the step that was in the bucket before the outage."""
    (run_id,) = farm.submit("walk-s3", tokens=256 * STEPS, checkpoint_seconds=0.5)
    before = farm.wait_for_checkpoint(run_id)
    wire.cut()
    farm.wait_for_event(run_id, "storage-away")
    away = farm.wait_for_step(run_id, before.step + 100)
    assert away.state is State.RUNNING, "it trains on"
    farm.trainer(run_id).kill()
    wire.mend()
    farm.wait_for_event(run_id, "storage-back")
    status: Status = farm.wait_for(run_id, State.SUCCEEDED)
    assert [cause.cause for cause in status.causes] == ["worker-died"]
    (row,) = farm.json("table", "walk-s3", "--json")
    assert row["runs"] == [run_id]
    return run_id, before.step


def on_record(farm, run_id: str, sent_before: int, s3: S3Server) -> None:
    """What the bucket holds is the whole record, and this node holds nothing of it."""
    store = farm.store
    result, (first, second) = store.runs.result(run_id), store.runs.attempts(run_id)
    assert (first.outcome, second.outcome) == ("failed", "succeeded")
    assert second.resumed_from is not None
    assert second.resumed_from.step > sent_before, "what was saved during the outage was sent after it"
    assert [line.step for line in store.copies.lines(run_id)] == list(range(1, STEPS + 1))
    assert (store.copies.bring(result.checkpoint) / "manifest.json").exists()
    log = farm.run("logs", run_id).stdout
    assert f"Resuming from step {second.resumed_from.step} of attempt 1." in log
    assert "Finished: test loss" in log, "to its last line"
    assert not list((farm.home / "work").rglob("ledger.jsonl"))
    secret = s3.environment["AWS_SECRET_ACCESS_KEY"]
    for entry in store.bucket.objects(""):
        assert secret.encode() not in store.records.get(entry.name), entry.name
    for path in [*farm.home.glob("*.log"), farm.home / "farm.json"]:
        assert not path.exists() or secret not in path.read_text()


def reindexed(walk_farm, farm, home: Path, run_id: str) -> None:
    """A farm with an empty Redis learns from the bucket what this one knew."""
    home.mkdir()
    again = walk_farm(home, farm.settings.storage)
    assert json.loads(again.run("reindex", "--json").stdout)["data"][0]["brought_back"] == 1
    (row,) = again.json("table", "walk-s3", "--json")
    assert row == farm.json("table", "walk-s3", "--json")[0]
    assert row["runs"] == [run_id]
