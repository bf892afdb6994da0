"""Files of farm's are whole or not there, locks keep processes apart, and both have one home."""

import ast
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from farm.files import PRIVATE, Lock, create_whole, lock, place, write_whole, writing_whole

ROOT = Path(__file__).resolve().parents[2]
HOME = ROOT / "farm" / "files.py"
OTHERS = """
import sys
from pathlib import Path
from farm.files import Lock
with Lock(Path(sys.argv[1])) as one:
    print(one.try_take(), one.try_share())
"""


def test_a_file_is_written_over_another_all_at_once(tmp_path: Path) -> None:
    path = tmp_path / "a"
    write_whole(path, b"first", PRIVATE)
    with writing_whole(path, lasting=True) as file:
        file.write(b"second")
        file.flush()
        assert path.read_bytes() == b"first", "until the last word"
    assert (path.read_bytes(), list(tmp_path.iterdir())) == (b"second", [path])


def test_what_fails_changes_nothing_and_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"first")

    def write_half() -> None:
        with writing_whole(path) as file:
            file.write(b"half of the")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_half()
    assert not create_whole(path, b"another")
    assert (path.read_bytes(), list(tmp_path.iterdir())) == (b"first", [path])
    with pytest.raises(FileNotFoundError):
        write_whole(tmp_path / "none" / "a", b"")


def test_a_secret_is_its_owners_from_the_first_byte(tmp_path: Path) -> None:
    with writing_whole(tmp_path / "a", PRIVATE):
        assert [stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()] == [0o600]
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o600


def test_a_folder_takes_the_place_of_an_empty_one_only(tmp_path: Path) -> None:
    draft, path = tmp_path / "draft", tmp_path / "folder"
    draft.mkdir()
    path.mkdir()
    (path / "file").touch()
    with pytest.raises(OSError, match="not empty"):
        place(draft, path)
    (path / "file").unlink()
    place(draft, path)
    assert (draft.exists(), path.is_dir()) == (False, True)


def test_a_lock_keeps_others_out_until_it_is_let_go(tmp_path: Path) -> None:
    path = tmp_path / "lock"

    def others() -> str:
        return subprocess.run(
            [sys.executable, "-c", OTHERS, path], cwd=ROOT, capture_output=True, encoding="utf-8", check=True
        ).stdout.strip()

    with lock(path), Lock(path) as second:
        assert (second.try_take(), second.try_share(), others()) == (False, False, "False False")
    with Lock(path) as first, Lock(path) as second:
        first.share()
        second.share()
        assert (first.try_take(), others()) == (False, "False True")
        first.share()  # a failed try may have let it go
    with Lock(path) as first:
        first.take()
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert others() == "True True", "nobody holds it when the block has ended"


def test_no_other_file_renames_into_place_flushes_to_the_disk_or_locks() -> None:
    files = [file for room in ("cli", "farm", "model", "workers", "benchmarks") for file in (ROOT / room).rglob("*.py")]
    assert len(files) > 80
    assert HOME in files
    own = [
        f"{file.relative_to(ROOT)}:{line}"
        for file in files
        if file != HOME
        for line in on_their_own(file.read_text("utf-8"))
    ]
    assert own == []
    assert len(on_their_own(HOME.read_text("utf-8"))) >= 6, "it is seen where it is done"


def on_their_own(code: str) -> list[int]:
    """The lines that do what farm.files is for."""
    return [node.lineno for node in ast.walk(ast.parse(code)) if _is_its_own(node)]


def _is_its_own(node: ast.AST) -> bool:
    if isinstance(node, ast.Import | ast.ImportFrom):
        taken = {alias.name for alias in node.names} | {getattr(node, "module", None)}
        return bool(taken & {"fcntl", "fsync", "fdatasync"})
    if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
        return False
    name = node.func.attr
    if name == "replace":  # that of a path or of os: that of a text has two arguments, that of a time names
        return ast.unparse(node.func) == "os.replace" or (len(node.args) == 1 and not node.keywords)
    kinds = {"fsync", "fdatasync", "rename", "renames", "link", "hardlink_to"}
    return name in kinds or (name == "move" and ast.unparse(node.func) == "shutil.move")


def test_it_sees_who_does_it_on_their_own() -> None:
    does = [
        "import fcntl",
        "from os import fsync",
        "os.fsync(d)",
        "draft.replace(path)",
        "os.replace(a, b)",
        "a.rename(b)",
        "shutil.move(a, b)",
        "os.link(a, b)",
    ]
    does_not = ['text.replace("a", "b")', "replace(plan, world=2)", "line._replace(step=1)", "at.replace(hour=1)"]
    assert on_their_own("\n".join(does)) == list(range(1, len(does) + 1))
    assert on_their_own("\n".join(does_not)) == []


def test_what_is_no_file_is_written_to_and_never_replaced(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        write_whole(pipe, b"a page")
        assert pipe.is_fifo()
        assert os.read(reader, 100) == b"a page"
    finally:
        os.close(reader)
    assert list(tmp_path.iterdir()) == [pipe]
