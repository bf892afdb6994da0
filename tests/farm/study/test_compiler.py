"""Whether torch.compile has a compiler here."""

import platform
from pathlib import Path

import pytest

from farm.errors import NoCompiler
from farm.study.compiler import ON_CPU, ON_CUDA, Need, find_compiler

CPP = ON_CPU.programs[0]


def installed(folder: Path, names: tuple[str, ...]) -> None:
    for name in names:
        (folder / name).touch(0o755)


@pytest.mark.parametrize(
    ("need", "programs", "named", "used"),
    [
        (ON_CPU, (CPP, "gcc"), None, CPP),
        (ON_CPU, (CPP, "mine"), "mine", "mine"),
        (ON_CUDA, ("clang",), None, "clang"),
        (ON_CUDA, ("clang", "gcc"), None, "gcc"),
    ],
)
def test_a_compiler_that_is_there(
    need: Need, programs: tuple[str, ...], named: str | None, used: str, tmp_path: Path
) -> None:
    installed(tmp_path, programs)
    variables = {"PATH": str(tmp_path)} | ({need.variable: named} if named else {})
    assert find_compiler(need, variables) == str(tmp_path / used)


def test_without_pythons_headers_nothing_compiles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installed(tmp_path, ("gcc",))
    monkeypatch.setattr("sysconfig.get_paths", lambda: {"include": str(tmp_path / "python3.11")})
    with pytest.raises(NoCompiler, match=r"needs Python's header files, and .* Ubuntu: python3.11-dev\), or set"):
        find_compiler(ON_CUDA, {"PATH": str(tmp_path)})


@pytest.mark.parametrize(
    ("need", "programs", "named", "says"),
    [
        (
            ON_CPU,
            ("gcc",),
            None,
            f"needs a C++ compiler, and {platform.node()} has no {CPP}. Install {CPP} there, set CXX",
        ),
        (ON_CPU, (CPP,), "mine", "has no mine, which CXX names. Install"),
        (
            ON_CUDA,
            ("g++",),
            None,
            "has no gcc nor clang. Install gcc there, set CC to one, or set train.compile = fal",
        ),
    ],
)
def test_a_compiler_that_is_not(
    need: Need, programs: tuple[str, ...], named: str | None, says: str, tmp_path: Path
) -> None:
    installed(tmp_path, programs)
    with pytest.raises(NoCompiler) as caught:
        find_compiler(need, {"PATH": str(tmp_path)} | ({need.variable: named} if named else {}))
    assert says in str(caught.value)
    assert not caught.value.retryable
