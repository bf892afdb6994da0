"""A checkpoint is whole, ours and undamaged, or it is not used."""

import hashlib
import json
import os
import resource
import signal
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file
from waiting import wait_until
from worlds import canonical, planned, tiny

from farm.errors import CheckpointInvalid, StorageFull
from model.checkpoint import FILES, Contents, Identity, newest_valid, read, verify, write

RUN = tiny(Path("/nowhere"))
PLAN = planned(RUN, 2)
WHOSE = Identity.of(RUN, PLAN)
DAMAGES = {
    "flipped": lambda data: data[:-9] + bytes([data[-9] ^ 1]) + data[-8:],
    "truncated": lambda data: data[: len(data) // 2],
    "empty": lambda data: b"",
    "longer": lambda data: data + b"\0",
    "missing": None,
}


def contents(step: int, size: int = 100) -> Contents:
    random = np.random.default_rng(step)
    weights = {"a.weight": random.random((size, 3), np.float32), "b": np.array([np.pi, -0.0, np.nan], np.float32)}
    return Contents(
        step, weights, {"exp_avg.b": random.random(3)}, {"loss_sum": 0.1 + 0.2, "seen": 2**60, "best": None}
    )


def damage(path: Path, how: str) -> None:
    change = DAMAGES[how]
    if change is None:
        path.unlink()
    else:
        path.write_bytes(change(path.read_bytes()))


def same(one: Contents, other: Contents) -> bool:
    def bits(part):
        return {name: (array.dtype, array.shape, array.tobytes()) for name, array in part.items()}

    return (one.step, one.progress, bits(one.weights), bits(one.moments)) == (
        other.step,
        other.progress,
        bits(other.weights),
        bits(other.moments),
    )


def test_what_was_written_is_read_to_the_bit(tmp_path):
    saved = write(tmp_path, WHOSE, contents(40))
    assert saved.path == tmp_path / "step-00000040"
    assert saved.sha256 == hashlib.sha256((saved.path / "manifest.json").read_bytes()).hexdigest()
    assert same(read(saved.path, RUN, PLAN), contents(40))


def test_the_first_checkpoint_may_have_no_moments(tmp_path):
    saved = write(tmp_path, WHOSE, contents(1)._replace(moments={}))
    assert read(saved.path, RUN, PLAN).moments == {}


def test_other_tools_can_read_the_tensors_and_the_manifest(tmp_path):
    saved = write(tmp_path, WHOSE, contents(7))
    weights = load_file(saved.path / "weights.safetensors")
    assert weights.keys() == {"a.weight", "b"}
    (header,) = struct.unpack("<Q", (saved.path / "weights.safetensors").read_bytes()[:8])
    assert header % 8 == 0
    manifest = json.loads((saved.path / "manifest.json").read_text())
    assert manifest["format"] == "farm.checkpoint/1"
    assert (manifest["step"], manifest["run"], manifest["world"]) == (7, RUN.digest, 2)
    assert manifest["reduction"] == "fast"
    assert manifest["files"].keys() == set(FILES)
    for name, file in manifest["files"].items():
        data = (saved.path / name).read_bytes()
        assert file == {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}


@pytest.mark.parametrize("how", DAMAGES)
@pytest.mark.parametrize("name", FILES)
def test_a_damaged_file_is_never_loaded_and_the_checkpoint_before_is_taken(name, how, tmp_path):
    write(tmp_path, WHOSE, contents(1))
    newest = write(tmp_path, WHOSE, contents(2))
    damage(newest.path / name, how)
    with pytest.raises(CheckpointInvalid, match=name):
        read(newest.path, RUN, PLAN)
    found = newest_valid([tmp_path], RUN, PLAN)
    assert found.step == 1
    assert same(read(found.path, RUN, PLAN), contents(1))


@pytest.mark.parametrize("how", ["truncated", "empty", "missing"])
def test_a_damaged_manifest_is_no_checkpoint(how, tmp_path):
    saved = write(tmp_path, WHOSE, contents(1))
    damage(saved.path / "manifest.json", how)
    with pytest.raises(CheckpointInvalid):
        read(saved.path, RUN, PLAN)
    assert newest_valid([tmp_path], RUN, PLAN) is None


@pytest.mark.parametrize(
    "text", ["[]", "1", '{"format": "farm.checkpoint/2"}', '{"format": "farm.checkpoint/1", "files": {"../../x": 1}}']
)
def test_a_foreign_manifest_is_no_checkpoint(text, tmp_path):
    saved = write(tmp_path, WHOSE, contents(1))
    (saved.path / "manifest.json").write_text(text)
    with pytest.raises(CheckpointInvalid):
        verify(saved.path)


def test_the_checkpoint_of_another_run_is_refused(tmp_path):
    saved = write(tmp_path, WHOSE, contents(1))
    stranger = tiny(Path("/elsewhere"))
    with pytest.raises(CheckpointInvalid, match="belongs to run"):
        read(saved.path, stranger, PLAN)
    assert newest_valid([tmp_path], stranger, PLAN) is None


def test_another_number_of_workers_is_refused_by_fast_and_fine_for_canonical(tmp_path):
    saved = write(tmp_path / "fast", WHOSE, contents(1))
    with pytest.raises(CheckpointInvalid, match="saved by 2 workers and cannot go on with 4"):
        read(saved.path, RUN, planned(RUN, 4))
    run = canonical(Path("/nowhere"))
    saved = write(tmp_path / "canonical", Identity.of(run, planned(run, 2)), contents(1))
    assert read(saved.path, run, planned(run, 4)).step == 1


def test_the_newest_over_all_folders_wins_and_the_two_newest_of_each_are_kept(tmp_path):
    for epoch, steps in ((1, (2, 4, 6)), (2, (5, 7))):
        for step in steps:
            write(tmp_path / str(epoch), WHOSE, contents(step))
    assert sorted(path.name for path in (tmp_path / "1").iterdir()) == ["step-00000004", "step-00000006"]
    roots = [tmp_path / "1", tmp_path / "2", tmp_path / "none"]
    assert newest_valid(roots, RUN, PLAN).step == 7
    assert newest_valid(roots[:1], RUN, PLAN).path == tmp_path / "1/step-00000006"


def test_a_step_that_is_saved_again_replaces_the_one_before(tmp_path):
    damage(write(tmp_path, WHOSE, contents(3)).path / "state.json", "empty")
    saved = write(tmp_path, WHOSE, contents(3))
    assert same(read(saved.path, RUN, PLAN), contents(3))


def test_when_the_disk_is_full_it_says_so_and_the_checkpoint_before_stays(tmp_path):
    """A limit on the size of files stands in for the disk: the kernel refuses the same write."""
    write(tmp_path, WHOSE, contents(1))
    before, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, hard))
    try:
        with pytest.raises(StorageFull):
            write(tmp_path, WHOSE, contents(2, size=100_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (before, hard))
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001"]
    assert same(read(tmp_path / "step-00000001", RUN, PLAN), contents(1))


WRITER = """
import sys
from pathlib import Path
sys.path[:0] = ["tests"]
import test_checkpoint as t
t.write(Path(sys.argv[1]), t.WHOSE, t.contents(1))
print("one", flush=True)
t.write(Path(sys.argv[1]), t.WHOSE, t.contents(2, size=20_000_000))
"""


def test_a_writer_that_is_killed_leaves_the_checkpoint_before_valid(tmp_path):
    """Killed as soon as a part of the second one is on the disk."""
    here = Path(__file__).parent
    environment = os.environ | {"PYTHONPATH": f"{here.parent.parent}:{here}:{here.parent}"}
    process = subprocess.Popen([sys.executable, "-c", WRITER, tmp_path], env=environment)
    half = tmp_path / "tmp-step-00000002/weights.safetensors"
    try:
        wait_until(lambda: half.exists() and half.stat().st_size > 0, "the second checkpoint is under way", seconds=60)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert not (tmp_path / "step-00000002").exists()
    assert newest_valid([tmp_path], RUN, PLAN).step == 1
    write(tmp_path, WHOSE, contents(2))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000001", "step-00000002"]


def test_choosing_a_checkpoint_needs_no_torch():
    found = subprocess.run(
        [sys.executable, "-c", "import sys, model.checkpoint; print('torch' in sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
    )
    assert found.stdout == "False\n"
