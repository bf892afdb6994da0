"""The record of every step: resume-proof, tear-proof, and enough to derive every figure."""

import json
import os
import resource
import subprocess
import sys
from collections.abc import Iterable
from math import nan
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from farm.errors import CheckpointInvalid, Conflict, Nonfinite
from farm.record.ledger import (
    FILE,
    Ledgers,
    Line,
    Validation,
    Writer,
    files,
    last_step,
    progress,
    read,
    totals,
    train_loss,
    validations,
)


def line(step: int, **changes) -> Line:
    whole = Line(step, 100, 400.0 - step, 1e-3, 0.5, clipped=False, skipped=False, seconds=0.25)
    return whole._replace(**changes)


def write(
    run: Path, epoch: int, steps: Iterable[int], from_epoch: int | None = None, from_step: int = 0, **changes
) -> Path:
    path = run / str(epoch) / FILE
    path.parent.mkdir(parents=True)
    with Writer(path, epoch, from_epoch, from_step) as writer:
        for step in steps:
            writer.append(line(step, **changes))
    return path


def test_what_was_written_is_read(tmp_path: Path) -> None:
    write(tmp_path, 1, range(1, 6))
    assert read(tmp_path) == [line(step) for step in range(1, 6)]


def test_a_run_that_never_began_has_no_steps(tmp_path: Path) -> None:
    assert read(tmp_path) == []
    assert read(tmp_path / "nowhere") == []


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1))
def test_sums_are_read_back_to_the_bit(tmp_path_factory: pytest.TempPathFactory, sums: list[float]) -> None:
    path = tmp_path_factory.mktemp("run") / "1" / FILE
    path.parent.mkdir()
    with Writer(path, 1) as writer:
        for step, loss_sum in enumerate(sums, start=1):
            writer.append(line(step, loss_sum=loss_sum))
    assert [found.loss_sum for found in read(path.parent.parent)] == sums


def test_a_resumed_run_has_every_step_once(tmp_path: Path) -> None:
    write(tmp_path, 1, range(1, 10), lr=1.0)
    write(tmp_path, 2, range(5, 8), from_epoch=1, from_step=4, lr=2.0)
    write(tmp_path, 4, range(7, 13), from_epoch=2, from_step=6, lr=4.0)
    lines = read(tmp_path)
    assert [found.step for found in lines] == list(range(1, 13))
    assert [found.lr for found in lines] == [1.0] * 4 + [2.0] * 2 + [4.0] * 6


def test_a_chain_may_go_back_behind_an_attempt_in_between(tmp_path: Path) -> None:
    """Attempt 3 found attempt 2's checkpoints damaged, and went on from attempt 1's."""
    write(tmp_path, 1, range(1, 10), lr=1.0)
    write(tmp_path, 2, range(9, 20), from_epoch=1, from_step=8, lr=2.0)
    write(tmp_path, 3, range(5, 7), from_epoch=1, from_step=4, lr=3.0)
    assert [found.lr for found in read(tmp_path)] == [1.0] * 4 + [3.0] * 2


def test_a_step_that_two_resumes_took_over_is_cut_at_the_lowest(tmp_path: Path) -> None:
    write(tmp_path, 1, range(1, 10), lr=1.0)
    write(tmp_path, 2, range(9, 20), from_epoch=1, from_step=8, lr=2.0)
    write(tmp_path, 3, range(4, 6), from_epoch=2, from_step=3, lr=3.0)
    assert [found.lr for found in read(tmp_path)] == [1.0] * 3 + [3.0] * 2


def test_an_attempt_that_began_anew_forgets_the_ones_before(tmp_path: Path) -> None:
    write(tmp_path, 1, range(1, 10))
    write(tmp_path, 2, range(1, 3))
    assert [found.step for found in read(tmp_path)] == [1, 2]


def test_epochs_are_ordered_as_numbers(tmp_path: Path) -> None:
    for epoch in (9, 10):
        write(tmp_path, epoch, range(1, epoch))
    assert len(read(tmp_path)) == 9


def test_a_torn_last_line_is_passed_over_at_every_byte(tmp_path: Path) -> None:
    path = write(tmp_path, 2, range(1, 4))
    write(tmp_path, 1, range(1, 2))
    content = path.read_bytes()
    start = content.rindex(b"\n", 0, -1) + 1
    for end in range(start, len(content) - 1):
        path.write_bytes(content[:end])
        assert [found.step for found in read(tmp_path)] == [1, 2]
        assert last_step(path) == 2
    path.write_bytes(content[: content.index(b"\n") - 1])
    assert [found.step for found in read(tmp_path)] == [1], "without a header that attempt wrote nothing"


def test_a_damaged_line_in_the_middle_is_an_error(tmp_path: Path) -> None:
    path = write(tmp_path, 1, range(1, 6))
    path.write_bytes(path.read_bytes().replace(b'"step":3,', b'"step":3'))
    with pytest.raises(CheckpointInvalid, match=r"line 4 of .* is damaged"):
        read(tmp_path)


def test_missing_steps_are_an_error(tmp_path: Path) -> None:
    write(tmp_path, 1, range(1, 4))
    write(tmp_path, 2, range(9, 12), from_epoch=1, from_step=8)
    with pytest.raises(CheckpointInvalid, match=r"1/ledger.jsonl ends at step 3, before step 8"):
        read(tmp_path)


def test_a_missing_attempt_is_an_error(tmp_path: Path) -> None:
    write(tmp_path, 2, range(5, 7), from_epoch=1, from_step=4)
    with pytest.raises(CheckpointInvalid, match="the ledger of epoch 1, which a later one continues, is missing"):
        read(tmp_path)


STEP = json.dumps(line(5)._asdict()).encode()
NO_STEPS = {
    "a number": b"12",
    "no more than a step": b'{"step": 5}',
    "the same step again": STEP.replace(b'"step": 5', b'"step": 4'),
    "an earlier step": STEP.replace(b'"step": 5', b'"step": 2'),
    "NaN": STEP.replace(b"395.0", b"NaN"),
    "infinity": STEP.replace(b"395.0", b"1e999"),
    "a string for a number": STEP.replace(b"395.0", b'"395.0"'),
    "a string for the step": STEP.replace(b'"step": 5', b'"step": "5"'),
    "no boolean": STEP.replace(b"false", b"0"),
    "no tokens": STEP.replace(b'"tokens": 100', b'"tokens": 0'),
    "one field more": STEP.replace(b"}", b', "more": 1}'),
    "not UTF-8": STEP.replace(b"step", b"st\xe9p"),
    "nul bytes": bytes(100),
    "nested": b"[" * 1000,
    "100 MB": b"1" * 100_000_000,
    "an empty line": b"",
}


@pytest.mark.parametrize("what", NO_STEPS)
def test_a_last_line_that_is_no_step_is_passed_over_and_one_in_the_middle_is_damage(what: str, tmp_path: Path) -> None:
    path = write(tmp_path, 1, range(1, 5))
    with path.open("ab") as file:
        file.write(NO_STEPS[what] + b"\n")
    assert [found.step for found in read(tmp_path)] == [1, 2, 3, 4]
    ledgers = Ledgers(files(tmp_path))
    assert len(ledgers.until(1, 4)) == 4
    assert str(ledgers.beyond(1)).startswith(f"line 6 of {path} is damaged: ")
    assert len(str(ledgers.beyond(1))) < 400
    assert last_step(path) == 4 or NO_STEPS[what].startswith(b'{"step": 2') or what == "100 MB"
    assert progress(path.read_bytes()) == (4, 1.0)
    with path.open("ab") as file:
        file.write(STEP + b"\n")
    with pytest.raises(CheckpointInvalid, match=r"line 6 of .* is damaged"):
        read(tmp_path)
    assert len(Ledgers(files(tmp_path)).until(1, 4)) == 4, "a checkpoint before the damage is whole"
    with pytest.raises(CheckpointInvalid, match=r"line 6 of .* is damaged: .*; it ends at step 4, before step 5\."):
        Ledgers(files(tmp_path)).until(1, 5)


def test_a_gap_in_the_steps_is_damage(tmp_path: Path) -> None:
    path = write(tmp_path, 1, [1, 2, 4])
    with pytest.raises(CheckpointInvalid, match=f"line 4 of {path} is damaged: step 4 follows step 2"):
        read(tmp_path)
    assert len(Ledgers(files(tmp_path)).until(1, 2)) == 2


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "line 1 of .* is damaged: "),
        (b"12\n" + STEP + b"\n", "line 1 of .* is damaged: "),
        (b'{"schema":"farm.ledger/1","epoch":2,"from_epoch":null,"from_step":0}\n', "it is of epoch 2"),
        (b'{"schema":"farm.ledger/1","epoch":1,"from_epoch":1,"from_step":3}\n', "from step 3 of epoch 1"),
        (b'{"schema":"farm.ledger/2","epoch":1,"from_epoch":null,"from_step":0}\n', "schema: "),
    ],
)
def test_a_ledger_without_a_header_has_no_step(content: bytes, says: str, tmp_path: Path) -> None:
    path = tmp_path / "1" / FILE
    path.parent.mkdir()
    path.write_bytes(content)
    with pytest.raises(CheckpointInvalid, match=says):
        Ledgers(files(tmp_path)).until(1, 1)


@pytest.mark.parametrize("kind", ["folder", "link", "pipe"])
def test_what_is_no_plain_file_is_no_ledger(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "run" / "1" / FILE
    path.parent.mkdir(parents=True)
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to(write(tmp_path / "another", 1, range(1, 4)))
    with pytest.raises(CheckpointInvalid, match="cannot be read: "):
        Ledgers(files(tmp_path / "run")).until(1, 1)


def test_an_attempt_writes_one_ledger(tmp_path: Path) -> None:
    path = write(tmp_path, 1, range(1, 3))
    with pytest.raises(Conflict, match="already exists"):
        Writer(path, 1)
    assert len(read(tmp_path)) == 2


def test_lines_are_json_that_any_tool_reads(tmp_path: Path) -> None:
    path = write(tmp_path, 1, range(1, 2), loss_sum=nan, grad_norm=float("inf"), skipped=True)
    header, step = [json.loads(text, parse_constant=pytest.fail) for text in path.read_text().splitlines()]
    assert header == {"schema": "farm.ledger/1", "epoch": 1, "from_epoch": None, "from_step": 0}
    assert (step["step"], step["loss_sum"], step["grad_norm"], step["skipped"]) == (1, None, None, True)
    (found,) = read(tmp_path)
    assert found.loss_sum != found.loss_sum
    assert found.grad_norm is None


def test_a_line_is_on_record_before_the_file_is_closed(tmp_path: Path) -> None:
    path = tmp_path / FILE
    with Writer(path, 1) as writer:
        assert last_step(path) is None
        for step in (1, 2):
            writer.append(line(step))
            assert last_step(path) == step
    assert last_step(tmp_path / "nowhere") is None


def test_a_full_disk_is_storage_full_and_leaves_whole_lines(tmp_path: Path) -> None:
    """With a limit on the size of files, in a process of its own. The same writer goes on once there is space again."""
    path = tmp_path / "1" / FILE
    path.parent.mkdir()
    code = f"""
import resource
from pathlib import Path
from farm.errors import StorageFull
from farm.record.ledger import Line, Writer, read
path = Path({str(path)!r})
writer = Writer(path, 1)
step = 0
try:
    while True:
        writer.append(Line(step + 1, 1, 1.0, 1.0, None, False, False, 1.0))
        step += 1
except StorageFull as error:
    print(error)
print(path.stat().st_size < 4096, path.read_bytes().endswith(b"\\n"), len(read(path.parent.parent)) == step)
resource.setrlimit(resource.RLIMIT_FSIZE, (8192, 8192))
writer.append(Line(step + 1, 1, 1.0, 1.0, None, False, False, 1.0))
print(len(read(path.parent.parent)) == step + 1)
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 8192)),
    )
    said = f"cannot write {path}: File too large. Free some space there."
    assert done.stdout.splitlines() == [said, "True True True", "True"]


def test_totals_add_up_every_step_that_counts() -> None:
    lines = [line(1), line(2, clipped=True), line(3, skipped=True), line(4, clipped=True)]
    assert totals(lines) == (4, 400, 1.0, 2, 1, 0.0)
    assert totals([]) == (0, 0, 0.0, 0, 0, 0.0)


def test_train_loss_is_a_mean_over_tokens_not_over_steps() -> None:
    lines = [line(step) for step in range(1, 19)]
    lines += [line(19, tokens=100, loss_sum=300.0), line(20, tokens=300, loss_sum=300.0)]
    assert train_loss(lines) == 600 / 400


@pytest.mark.parametrize(("steps", "counted"), [(1, 1), (9, 1), (10, 1), (11, 2), (100, 10)])
def test_train_loss_is_over_the_last_tenth_of_the_steps(steps: int, counted: int) -> None:
    lines = [line(step, tokens=1, loss_sum=1.0 if step > steps - counted else 99.0) for step in range(1, steps + 1)]
    assert train_loss(lines) == 1.0


def test_train_loss_leaves_out_what_was_skipped_or_is_not_finite() -> None:
    lines = [line(step, tokens=1, loss_sum=2.0) for step in range(1, 31)]
    lines[-1] = line(30, loss_sum=nan)
    lines[-2] = line(29, loss_sum=1e9, skipped=True)
    assert train_loss(lines) == 2.0
    with pytest.raises(Nonfinite, match="none of the last 1 steps"):
        train_loss(lines[-1:])


SEEN = Validation("e" * 12, 80, 320.0, 0.5)


def test_a_validation_is_part_of_its_steps_line(tmp_path: Path) -> None:
    lines = [line(1), line(2, validation=SEEN), line(3), line(4, validation=SEEN._replace(loss_sum=nan))]
    path = tmp_path / "1" / FILE
    path.parent.mkdir()
    with Writer(path, 1) as writer:
        for one in lines:
            writer.append(one)
    found = read(tmp_path)
    assert found[:3] == lines[:3]
    assert [one.step for one, _ in validations(found)] == [2, 4]
    assert found[3].validation.loss_sum != found[3].validation.loss_sum, "not finite: nan"
    told = [json.loads(text) for text in path.read_text().splitlines()[1:]]
    assert told[1]["validation"] == {"slice": "e" * 12, "tokens": 80, "loss_sum": 320.0, "seconds": 0.5}
    assert "validation" not in told[0], "most steps have none, and their lines stay short"
    assert progress(path.read_bytes()) == (4, 4 * 0.25 + 2 * 0.5), "what was spent, validations included"
    assert (totals(found).seconds, totals(found).validation_seconds) == (4 * 0.25, 2 * 0.5)


def test_validations_of_another_slice_are_no_points_of_the_same_curve() -> None:
    lines = [line(1, validation=SEEN._replace(slice="f" * 12)), line(2, validation=SEEN), line(3, validation=SEEN)]
    assert [one.step for one, _ in validations(lines)] == [2, 3]
    assert validations([line(1)]) == []


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (b"320.0", b"NaN"),
        (b'"tokens":80', b'"tokens":0'),
        (b'"tokens":80', b'"tokens":"80"'),
        (b'"slice":"eeeeeeeeeeee"', b'"slice":7'),
        (b'"seconds":0.5', b'"seconds":-0.5'),
        (b'"seconds":0.5}', b'"seconds":0.5,"more":1}'),
        (b',"seconds":0.5}', b"}"),
        (b'{"slice"', b'[{"slice"'),
    ],
)
def test_a_damaged_validation_is_a_damaged_line(damage: bytes, says: bytes, tmp_path: Path) -> None:
    path = write(tmp_path, 1, range(1, 4), validation=SEEN)
    head, _, tail = path.read_bytes().rpartition(b"\n{")
    assert damage in tail
    path.write_bytes(head + b"\n{" + tail.replace(damage, says, 1))
    assert [one.step for one in read(tmp_path)] == [1, 2], "the tail is cut"
    path.write_bytes((head + b"\n").replace(damage, says, 1) + b"{" + tail)
    with pytest.raises(CheckpointInvalid, match=r"line 2 of .* is damaged"):
        read(tmp_path)
