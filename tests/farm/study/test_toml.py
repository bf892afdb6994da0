"""The text of a study file: what is no text, and what is no TOML."""

import random
from pathlib import Path

import pytest
from studies import HEAD

from farm.errors import BadStudy
from farm.study.study import Study


def test_a_number_without_end_is_refused() -> None:
    with pytest.raises(BadStudy, match="not TOML"):
        Study.parse("a = " + "9" * 5000)


def test_the_mark_of_a_windows_editor_is_no_fault(tmp_path: Path) -> None:
    (tmp_path / "study.toml").write_text(f"\ufeff{HEAD}")
    assert Study.load(tmp_path / "study.toml").name == "s"


def test_brackets_without_end_are_refused() -> None:
    with pytest.raises(BadStudy, match="not TOML"):
        Study.parse("a = " + "[" * 100_000)


def test_a_missing_file_a_folder_and_garbage_are_told_apart(tmp_path: Path) -> None:
    (tmp_path / "garbage").write_bytes(random.Random(1).randbytes(10_000_000))
    (tmp_path / "binary").write_bytes(b"name = '\xff'")
    (tmp_path / "fine.toml").write_text(HEAD)
    for name, words in {
        "nowhere.toml": "No such file or directory. Name a study file",
        "": "is a folder, not a study file",
        "garbage": "is over 1,048,576 bytes, too large for a study",
        "binary": "is not text: byte 8 is not UTF-8",
    }.items():
        with pytest.raises(BadStudy, match=words) as caught:
            Study.load(tmp_path / name)
        assert str(tmp_path) in str(caught.value)
    assert Study.load(tmp_path / "fine.toml").name == "s"
