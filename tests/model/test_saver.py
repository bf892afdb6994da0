"""Checkpoints in the background: training waits for the copy alone, and hears of a checkpoint that is on the disk."""

import resource
import threading
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from waiting import wait_until
from worlds import in_world, planned, tiny

from farm.errors import StorageFull
from farm.study.recipe import Recipe
from model.checkpoint import Identity, newest_valid, read
from model.gpt import GPT
from model.group import Group
from model.saver import Saver, Snapshot, host_buffers

RUN = tiny(Path("/nowhere"))
WHOSE = Identity.of(RUN, planned(RUN, 1))
ALONE = Group(0, 1, torch.device("cpu"))


def state(step: int, size: int = 10) -> Snapshot:
    return Snapshot(step, {"w": torch.full((size,), float(step))}, {"exp_avg.w": torch.zeros(size)}, {"step": step})


class Disk:
    """Stands before the disk: the write goes on when the test says so."""

    def __init__(self) -> None:
        self.go = threading.Event()

    def flush(self) -> None:
        assert self.go.wait(30), "the test never let it go on"


def test_training_goes_on_while_the_checkpoint_is_written_and_what_it_changes_is_not_saved(tmp_path):
    disk, heard = Disk(), []
    with Saver(tmp_path, WHOSE, ALONE, disk.flush, lambda *saved: heard.append(saved)) as saver:
        now = state(1)
        saver.begin(now)
        now.weights["w"].fill_(-1.0)
        assert not saver.news
        assert not saver.is_due(asked=True, seconds=1e-9), "one at a time"
        assert newest_valid([tmp_path], RUN, planned(RUN, 1)) is None
        assert heard == []
        disk.go.set()
        wait_until(lambda: saver.news, "the checkpoint has landed")
        saver.settle()
    assert [step for step, _, _ in heard] == [1]
    saved = newest_valid([tmp_path], RUN, planned(RUN, 1))
    assert heard[0] == tuple(saved)
    assert read(saved.path, RUN, planned(RUN, 1)).weights["w"].tolist() == [1.0] * 10


def test_a_checkpoint_that_was_asked_for_while_one_was_under_way_comes_after_it(tmp_path):
    disk = Disk()
    with Saver(tmp_path, WHOSE, ALONE, disk.flush, lambda *saved: None) as saver:
        assert saver.is_due(asked=True, seconds=1e9)
        saver.begin(state(1))
        assert not saver.is_due(asked=True, seconds=1e9)
        disk.go.set()
        saver.settle()
        assert saver.is_due(asked=False, seconds=1e9)
        saver.begin(state(2))
        saver.settle()
        assert not saver.is_due(asked=False, seconds=1e9)


def test_saving_a_step_that_is_saved_does_nothing(tmp_path):
    heard: list[Any] = []
    with Saver(tmp_path, WHOSE, ALONE, None, lambda *saved: heard.append(saved)) as saver:
        for _ in range(2):
            saver.save(state(3))
            saver.settle()
    assert len(heard) == 1


def test_host_copies_are_made_anew_for_every_checkpoint(tmp_path):
    with Saver(tmp_path, WHOSE, ALONE, None, lambda *saved: None) as saver:
        for step in (1, 2, 3):
            saver.save(state(step))
            saver.settle()
            assert read(saver.newest.path, RUN, planned(RUN, 1)).weights["w"].tolist() == [float(step)] * 10
        assert 0 < saver.stalled_seconds < 1


def test_host_copies_lie_in_one_piece_that_is_hardly_larger_than_they_are():
    """A piece of pinned memory of its own for each would be rounded up to a power of two: 1.7 times as much."""
    with FakeTensorMode():
        weights = dict(GPT(Recipe().model).named_parameters())
        whole, buffers = host_buffers(weights)
        size = sum(weight.nbytes for weight in weights.values())
        assert size <= whole.nbytes < size + 64 * len(weights)
        assert {buffer.untyped_storage()._cdata for buffer in buffers.values()} == {whole.untyped_storage()._cdata}
        starts = sorted((buffer.storage_offset() * 4, buffer.nbytes) for buffer in buffers.values())
        assert all(start + size <= other for (start, size), (other, _) in pairwise(starts)), "none is within another"
        assert {name: buffer.shape for name, buffer in buffers.items()} == {n: w.shape for n, w in weights.items()}


def test_leaving_waits_for_the_checkpoint_under_way(tmp_path):
    with Saver(tmp_path, WHOSE, ALONE, None, lambda *saved: None) as saver:
        saver.begin(state(1, size=3_000_000))
    assert newest_valid([tmp_path], RUN, planned(RUN, 1)).step == 1


def filled(folder: Path) -> str:
    """Two ranks, a disk that is full for the second checkpoint: what each of them hears."""
    rank = torch.distributed.get_rank()
    group = Group(rank, 2, torch.device("cpu"))
    run_plan = Identity.of(RUN, planned(RUN, 2))
    heard: list[int] = []
    with Saver(folder, run_plan, group, None, lambda step, path, sha: heard.append(step)) as saver:
        saver.save(state(1, size=100_000))
        saver.settle()
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
        saver.save(state(2, size=100_000))
        try:
            saver.settle()
        except Exception as error:
            return f"{heard} {type(error).__name__}"
    return f"{heard}"


def test_a_full_disk_ends_training_on_every_rank_and_the_checkpoint_before_stays(tmp_path):
    assert in_world(2, filled, tmp_path) == ["[1] StorageFull", "[1] WorkerDied"]
    assert newest_valid([tmp_path], RUN, planned(RUN, 2)).step == 1


def test_a_full_disk_is_not_hidden_when_nobody_asks(tmp_path):
    (tmp_path / "taken").write_text("a file where the folder shall be")
    with Saver(tmp_path / "taken/checkpoints", WHOSE, ALONE, None, lambda *saved: None) as saver:
        saver.begin(state(1))
        with pytest.raises((StorageFull, OSError)):
            saver.settle()
