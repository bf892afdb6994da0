"""Answers kept on the disk are found again for the same question to the same code alone, and never when damaged."""

import hashlib
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from farm.study.recipe import Seeds
from farm.verdict import memory, sequential
from farm.verdict.memory import remembered, remembering

asked: list[Any] = []
ONE, OTHER = Seeds(init=42, train=23), Seeds(init=22, train=23)


@remembered
def halved(value: float, by: str = "hand") -> float:
    asked.append(value)
    return value / 2


@remembered
def strange(value: float) -> float:
    asked.append(value)
    return value * 1e308


@remembered
def repeated(text: str) -> str:
    asked.append(text)
    return text


@pytest.fixture(autouse=True)
def _settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkout may be younger than the minute for which nothing is kept."""
    monkeypatch.setattr(memory, "SETTLED_SECONDS", -1e9)
    asked.clear()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "verdicts"


def _kept(folder: Path) -> Path:
    (file,) = folder.iterdir()
    return file


def test_an_answer_is_computed_once_and_elsewhere_always(folder: Path) -> None:
    assert [halved(3.0), halved(3.0)] == [1.5, 1.5]
    assert asked == [3.0, 3.0]
    with remembering(folder):
        assert [halved(3.0), halved(3.0), halved(3.0, by="foot"), halved(3)] == [1.5, 1.5, 1.5, 1.5]
    assert asked[2:] == [3.0, 3.0, 3]
    assert (folder.stat().st_mode & 0o777, {file.stat().st_mode & 0o777 for file in folder.iterdir()}) == (
        0o700,
        {0o600},
    )


def _flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-1] ^= 1  # 1.5 becomes 1.4
    file.write_bytes(content)


def _open(file: Path) -> None:
    file.parent.chmod(0o777)


@pytest.mark.parametrize(
    "spoil", [_flip, _open, lambda file: file.write_bytes(b""), lambda file: file.write_bytes(b"2.0")]
)
def test_a_damaged_or_foreign_answer_is_computed_again(folder: Path, spoil: Callable[[Path], Any]) -> None:
    with remembering(folder):
        halved(3.0)
        spoil(_kept(folder))
        assert halved(3.0) == 1.5
    assert asked == [3.0, 3.0]


def test_the_answer_to_another_question_is_not_taken_for_this_one(folder: Path) -> None:
    with remembering(folder):
        halved(3.0)
        first = _kept(folder)
        halved(4.0)
        (second,) = set(folder.iterdir()) - {first}
        first.write_bytes(second.read_bytes())
        assert halved(3.0) == 1.5


def test_what_does_not_read_back_as_it_was_is_not_kept(folder: Path) -> None:
    with remembering(folder):
        assert strange(1e10) == float("inf")
    assert not folder.exists()


def test_a_folder_that_cannot_be_written_costs_no_more_than_the_memory(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with remembering(tmp_path / "file" / "verdicts"):
        assert halved(3.0) == 1.5


def test_the_older_half_goes_when_there_are_too_many(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "MOST", 6)
    with remembering(folder):
        for number in range(7):
            halved(float(number))
            for age, file in enumerate(folder.iterdir()):
                if file.stat().st_mtime > time.time() - 1_000:
                    os.utime(file, (0, time.time() - 2_000 + number * 10 + age / 100))
        assert len(list(folder.iterdir())) == 3
        halved(6.0)
    assert len(asked) == 7


def test_the_older_half_goes_when_they_are_too_large(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "MOST_BYTES_IN_ALL", 40_000)
    texts = [letter * 9_000 for letter in "abcde"]
    with remembering(folder):
        for age, text in enumerate(texts):
            before = set(folder.iterdir()) if age else set()
            assert repeated(text) == text
            for file in set(folder.iterdir()) - before:
                os.utime(file, (0, time.time() - 1_000 + age))
        assert len(list(folder.iterdir())) == 2
        assert [repeated(text) for text in texts[3:]] == texts[3:]
    assert asked == texts


def test_an_answer_as_large_as_the_table_of_a_thousand_arms_is_kept_and_no_larger_one(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with remembering(folder):
        assert [repeated("a" * 3_000_000) == "a" * 3_000_000 for _ in range(2)] == [True, True]
        assert len(asked) == 1
        monkeypatch.setattr(memory, "MOST_BYTES", 3_000_000)
        for _ in range(2):
            repeated("b" * 3_000_000)
    assert len(asked) == 3


LOSSES = {ONE: 3.5, OTHER: 3.6}
QUESTIONS = [
    ([(LOSSES, {"a": LOSSES})], None),
    ([(LOSSES, {"b": LOSSES})], None),  # another arm
    ([(LOSSES, {"a": LOSSES, "b": LOSSES})], None),
    ([(LOSSES, {}), (LOSSES, {"a": LOSSES})], None),  # another machine
    ([(LOSSES, {"a": {ONE: 3.5}})], None),  # a result less
    ([(LOSSES, {"a": {ONE: 3.5, OTHER: 3.6000000000000005}})], None),  # the last bit
    ([(LOSSES, {"a": {OTHER: 3.6, ONE: 3.5}})], None),  # the order of sums
    ([(LOSSES, {"a": {ONE: 3.5, "22.23": 3.6}})], None),  # seeds that nobody knows
    ([(LOSSES, {"a": LOSSES})], 0.01),  # a margin
    ([(LOSSES, {"a": LOSSES})], 0.0),
    ([(LOSSES, {"a": {ONE: 3.5, Seeds(init=22, train=24): 3.6}})], None),
]


def test_whatever_a_verdict_follows_from_is_in_its_key() -> None:
    keys = {memory.key("judge", (rankings, margin), {}, "code") for rankings, margin in QUESTIONS}
    assert len(keys) == len(QUESTIONS)
    again = memory.key("judge", ([({**LOSSES}, {"a": {**LOSSES}})], None), {}, "code")
    assert again == memory.key("judge", QUESTIONS[0], {}, "code")
    for other in (("judge", QUESTIONS[0], {}, "changed code"), ("rank", QUESTIONS[0], {}, "code")):
        assert memory.key(*other) not in keys


def test_every_letter_of_a_long_text_counts() -> None:
    long = "a" * 200
    texts = [long, long[:-1], long[:-1] + "b", f"sha256 {hashlib.sha256(long.encode()).hexdigest()}", "\ud800" + long]
    assert len({memory.key("read", (text,), {}, "code") for text in texts}) == len(texts)


def test_a_question_that_is_not_plain_is_refused() -> None:
    with pytest.raises(TypeError, match="object is no plain value"):
        memory.key("judge", (object(),), {}, "code")


def test_a_question_that_is_not_plain_is_computed_every_time(folder: Path) -> None:
    with remembering(folder):
        assert [halved(3.0, by={"hand"}) for _ in range(2)] == [1.5, 1.5]  # type: ignore[arg-type]
    assert asked == [3.0, 3.0]
    assert not folder.exists()


def test_changed_code_is_other_code_and_none_while_it_may_not_be_what_runs(tmp_path: Path) -> None:
    (tmp_path / "verdict").mkdir()
    file = tmp_path / "verdict" / "dunnett.py"
    file.write_text("POINTS = 5_000\n")
    later = time.time() + 1_000
    before = memory.version(tmp_path, later)
    file.write_text("POINTS = 5_001\n")
    assert memory.version(tmp_path, later + 1) != before
    with pytest.raises(OSError, match=r"dunnett\.py has just changed"):
        memory.version(tmp_path, file.stat().st_mtime - 60)


@pytest.mark.parametrize("pairs", [1, 2, 3, 5, 8])
def test_a_remembered_verdict_is_the_computed_one_to_the_bit(folder: Path, pairs: int) -> None:
    def told(shift: float) -> dict[Seeds, float]:
        return {Seeds(init=n, train=1): 3.6 + shift + (n * 7919 % 13) / 1e3 * (1 + shift * n) for n in range(pairs)}

    rankings = [(told(0.0), {"a": told(-0.03), "b": told(0.001), "c": told(0.0)})]
    question = (rankings, ["cpu"], 0.01, None)
    computed = sequential.judge_all(*question)
    with remembering(folder):
        first = sequential.judge_all(*question)
        assert list(folder.iterdir())
        assert repr(sequential.judge_all(*question)) == repr(first) == repr(computed)
        order = [Seeds(init=n, train=1) for n in range(pairs)]
        looked = (rankings, ["cpu"], {"a cpu": 3}, order, None)
        assert repr(sequential.judge(*looked)) == repr(sequential.judge(*looked)) == repr(_forgetful(*looked))


def _forgetful(*question: Any) -> Any:
    return sequential.judge.__wrapped__(*question)  # type: ignore[attr-defined]
