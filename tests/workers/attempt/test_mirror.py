"""What goes up to the bucket while an attempt trains, in which order, and what an outage does to it."""

import os
import shutil
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from links import link
from s3_server import BUCKET, FULL, HELD, S3Server
from waiting import wait_until
from worlds import planned, tiny

from farm.errors import StorageFull, StorageUnusable, Unreachable
from farm.record import ledger, sample
from farm.record.bucket import Bucket
from farm.record.ledger import Line, Writer
from farm.record.store import Store
from farm.study.run import Checkpoint
from model.checkpoint import KEPT, Contents, Identity, Saved, first_valid, write
from workers.attempt import mirror as mirror_
from workers.attempt.mirror import Mirror

RUN = tiny(Path("/nowhere"))
PLAN = planned(RUN, 1)


class Attempt:
    """The first attempt of RUN on one node, its mirror stepped by the test."""

    def __init__(self, uri: str, work: Path):
        self.store = Store(uri, work)
        self.folder = self.store.attempt_folder(RUN.id, 1)
        self.folder.mkdir(parents=True)
        self.pointers: list[Checkpoint] = []
        self.notes: list[str] = []
        self.ledger = Writer(self.folder / ledger.FILE, epoch=1)
        self.mirror = Mirror(
            self.store, RUN.id, 1, self.pointers.append, lambda event, detail: self.notes.append(event)
        )

    def save(self, step: int) -> Saved:
        """Steps up to `step` in the ledger, then their checkpoint, as training does."""
        for number in range((ledger.last_step(self.folder / ledger.FILE) or 0) + 1, step + 1):
            self.ledger.append(Line(number, 64, 3.0, 1e-3, 1.0, False, False, 0.1))
        weights = {"w": np.full(1000, step, np.float32)}
        contents = Contents(step, weights, {}, {"step": step})
        return write(self.folder / "checkpoints", Identity.of(RUN, PLAN), contents)

    def uploaded(self) -> list[str]:
        assert self.store.bucket
        return [entry.name.removeprefix(f"runs/{RUN.id}/1/") for entry in self.store.bucket.objects("")]


@pytest.fixture
def attempt(s3_uri: str, tmp_path: Path) -> Attempt:
    return Attempt(s3_uri, tmp_path / "node-1")


def elsewhere(attempt: Attempt, tmp_path: Path) -> Store:
    """The same storage on another node."""
    return Store(attempt.store.uri, tmp_path / "node-2")


def test_another_node_goes_on_from_what_was_sent(attempt: Attempt, tmp_path: Path) -> None:
    (attempt.folder / "log.txt").write_text("training\n")
    saved = attempt.save(3)
    attempt.mirror.turn()
    assert attempt.pointers == [Checkpoint(step=3, epoch=1, path=attempt.pointers[0].path, sha256=saved.sha256)]
    store = elsewhere(attempt, tmp_path)
    found = first_valid(store.copies.checkpoints(RUN.id), RUN, PLAN)
    assert found is not None
    assert (found.step, found.sha256) == (3, saved.sha256)
    assert found.path == store.root / attempt.pointers[0].path
    assert [line.step for line in store.copies.lines(RUN.id)] == [1, 2, 3]
    log = store.copies.log(RUN.id, 1)
    assert log is not None
    assert log.read_text() == "training\n"


@pytest.mark.parametrize("file", ["weights.safetensors", "state.json", "manifest.json"])
def test_a_damaged_checkpoint_is_refused_and_the_next_older_taken(attempt: Attempt, tmp_path: Path, file: str) -> None:
    for step in (3, 5):
        attempt.save(step)
        attempt.mirror.turn()
    name = f"{attempt.pointers[-1].path}/{file}"
    content = attempt.store.records.get(name)
    assert content
    attempt.store.records.put(name, content[:-9] + bytes([content[-9] ^ 1]) + content[-8:])
    found = first_valid(elsewhere(attempt, tmp_path).copies.checkpoints(RUN.id), RUN, PLAN)
    assert found is not None
    assert found.step == 3


def test_the_ledger_and_the_samples_go_before_the_checkpoint_and_the_manifest_last(
    attempt: Attempt, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []
    upload, put = Bucket.upload, Bucket.put
    monkeypatch.setattr(Bucket, "upload", lambda self, file, name: (order.append(name), upload(self, file, name)))
    monkeypatch.setattr(Bucket, "put", lambda self, name, content: (order.append(name), put(self, name, content)))
    samples = attempt.folder / sample.FILE
    samples.write_bytes(b"{}\n")
    attempt.save(3)
    attempt.mirror.turn()
    names = [name.rpartition("/")[2] for name in order]
    checkpoint = ["state.json", "weights.safetensors", "optimiser.safetensors", "manifest.json"]
    assert names == ["ledger.jsonl", "samples.jsonl", *checkpoint]
    samples.write_bytes(b"{}\n{}\n")
    attempt.save(4)
    attempt.mirror.turn()
    names = [name.rpartition("/")[2] for name in order[6:]]
    assert names[1] == "samples.jsonl"
    assert (names[0], names[-1]) == ("ledger.jsonl", "manifest.json"), "though the ledger had just been sent"


def test_as_many_checkpoints_stay_as_on_a_disk(attempt: Attempt) -> None:
    for step in (1, 2, 3, 4):
        attempt.save(step)
        attempt.mirror.turn()
    kept = {name.split("/")[1] for name in attempt.uploaded() if name.startswith("checkpoints/")}
    assert kept == {"step-00000003", "step-00000004"}
    assert len(kept) == KEPT


def test_an_upload_that_broke_counts_for_nothing(
    attempt: Attempt, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempt.save(1)
    attempt.mirror.turn()
    attempt.save(2)

    def break_off(self: Bucket, name: str, content: bytes) -> None:
        raise StorageUnusable("the wire broke.")

    with monkeypatch.context() as broken:
        broken.setattr(Bucket, "put", break_off)
        with pytest.raises(StorageUnusable):
            attempt.mirror.turn()
    found = first_valid(elsewhere(attempt, tmp_path).copies.checkpoints(RUN.id), RUN, PLAN)
    assert found is not None
    assert found.step == 1
    attempt.save(3)
    attempt.mirror.turn()
    kept = {name.split("/")[1] for name in attempt.uploaded() if name.startswith("checkpoints/")}
    assert kept == {"step-00000001", "step-00000003"}, "two that are whole"


def test_a_file_that_grows_is_not_sent_at_every_look(attempt: Attempt) -> None:
    log = attempt.folder / "log.txt"
    log.write_text("one\n")
    attempt.mirror.turn()
    log.write_text("one\ntwo\n")
    attempt.mirror.turn()
    assert attempt.store.records.get(f"runs/{RUN.id}/1/log.txt") == b"one\n"
    attempt.mirror.settle(0)
    assert attempt.store.records.get(f"runs/{RUN.id}/1/log.txt") == b"one\ntwo\n"


def test_a_pointer_waits_for_a_redis_that_is_away(attempt: Attempt, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = [Unreachable(), None]

    def point_at(checkpoint: Checkpoint) -> None:
        if answer := answers.pop(0):
            raise answer
        attempt.pointers.append(checkpoint)

    mirror = Mirror(attempt.store, RUN.id, 1, point_at, lambda event, detail: None)
    attempt.save(1)
    mirror.turn()
    assert not attempt.pointers
    mirror.turn()
    assert [pointer.step for pointer in attempt.pointers] == [1]


def test_an_outage_is_said_once_and_made_up_for(
    s3: S3Server, s3_uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mirror_, "LOOK_SECONDS", 0.05)
    monkeypatch.setattr(mirror_, "AGAIN_SECONDS", 0.05)
    with link(s3.port) as wire:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{wire.port}")
        attempt = Attempt(s3_uri, tmp_path / "node-1")
        with attempt.mirror:
            attempt.save(1)
            wait_until(lambda: attempt.pointers, "the first checkpoint is sent", 30)
            wire.cut()
            attempt.save(2)
            wait_until(lambda: attempt.notes, "the outage is said", 30)
            with pytest.raises(StorageUnusable, match="cannot be reached"):
                attempt.mirror.settle(0)
            for step in (3, 4, 5):
                attempt.save(step)
            wire.mend()
            wait_until(lambda: attempt.pointers[-1].step == 5, "the newest checkpoint is sent", 30)
        attempt.mirror.settle(10)
        assert attempt.notes == ["storage-away", "storage-back"]
        assert [line.step for line in elsewhere(attempt, tmp_path).copies.lines(RUN.id)] == [1, 2, 3, 4, 5]


def test_a_storage_that_is_full_is_said_and_loses_nothing_here(s3_uri: str, tmp_path: Path) -> None:
    attempt = Attempt(f"s3://{BUCKET}/{FULL}", tmp_path / "node-1")
    saved = attempt.save(1)
    with pytest.raises(StorageFull, match="Free some space there"):
        attempt.mirror.settle(0)
    assert attempt.notes == ["storage-away"]
    assert first_valid([saved.path], RUN, PLAN) == saved


@pytest.mark.usefixtures("s3_uri")
def test_old_checkpoints_that_cannot_be_removed_stay_and_end_nothing(tmp_path: Path) -> None:
    attempt = Attempt(f"s3://{BUCKET}/{HELD}", tmp_path / "node-1")
    for step in (1, 2, 3, 4):
        attempt.save(step)
        attempt.mirror.settle(0)
    assert [pointer.step for pointer in attempt.pointers] == [1, 2, 3, 4]
    assert attempt.notes == ["prune-refused"], "once"
    assert len([name for name in attempt.uploaded() if name.endswith("manifest.json")]) == 4


def test_an_upload_that_takes_too_long_is_not_waited_for(
    attempt: Attempt, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A drain has seconds, and a large checkpoint on a thin line takes minutes."""
    is_wide, upload = threading.Event(), Bucket.upload
    monkeypatch.setattr(Bucket, "upload", lambda self, file, name: (is_wide.wait(30), upload(self, file, name)))
    attempt.save(1)
    began = time.monotonic()
    with pytest.raises(StorageUnusable, match="could not be sent"):
        attempt.mirror.settle_within(0.2)
    assert time.monotonic() - began < 5
    is_wide.set()
    attempt.mirror.settle_within(30)
    assert [pointer.step for pointer in attempt.pointers] == [1]


def test_a_folder_needs_no_mirror(tmp_path: Path) -> None:
    attempt = Attempt(str(tmp_path / "storage"), tmp_path / "work")
    with attempt.mirror:
        attempt.save(1)
        attempt.mirror.settle(0)
    assert (attempt.pointers, attempt.notes) == ([], [])
    assert not (tmp_path / "work").exists()


def test_copies_go_when_the_attempt_is_over_and_those_of_a_successor_stay(attempt: Attempt, tmp_path: Path) -> None:
    attempt.save(1)
    attempt.mirror.settle(0)
    successor = attempt.store.attempt_folder(RUN.id, 2)
    successor.mkdir()
    attempt.store.copies.forget(RUN.id, 1)
    assert [path.name for path in attempt.store.folder(RUN.id).iterdir()] == ["2"]
    attempt.store.copies.forget_stale()
    assert successor.exists(), "somebody may train there"
    assert attempt.uploaded(), "the record stays"


def test_copies_that_another_agent_removes_meanwhile_are_no_failure(attempt: Attempt) -> None:
    shutil.rmtree(attempt.folder)
    attempt.folder.symlink_to("gone")  # listed, but not there
    os.utime(attempt.folder.parent, (0, 0))
    attempt.store.copies.forget_stale()
