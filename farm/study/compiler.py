"""The compilers on this node: torch.compile needs one, and so does farm's kernel for a GPU."""

import os
import platform
import shutil
import sys
import sysconfig
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from farm.errors import NoCompiler


class Need(NamedTuple):
    """A language, the variable that names its compiler, and the programs that are tried where it is not set."""

    language: str
    variable: str
    programs: tuple[str, ...]


ON_CPU = Need("C++", "CXX", ("clang++" if sys.platform == "darwin" else "g++",))  # torch's own
ON_CUDA = Need("C", "CC", ("gcc", "clang"))  # Triton's


def find_compiler(need: Need, variables: Mapping[str, str] = os.environ) -> str:
    """The path of the compiler that will be used.

    Raises: NoCompiler: there is none, or Python's header files, which all that it compiles includes, are not here.
    """
    named = variables.get(need.variable)
    for program in (named,) if named else need.programs:
        if path := shutil.which(program, path=variables.get("PATH", "")):
            _check_headers()
            return path
    looked = f"{named}, which {need.variable} names" if named else " nor ".join(need.programs)
    raise NoCompiler(
        f"train.compile needs a {need.language} compiler, and {platform.node()} has no {looked}.",
        remedy=f"Install {need.programs[0]} there, set {need.variable} to one, or set train.compile = false.",
    )


def _check_headers() -> None:
    """Raises: NoCompiler"""
    folder = Path(sysconfig.get_paths()["include"])
    if not (folder / "Python.h").is_file():
        raise NoCompiler(
            f"train.compile needs Python's header files, and {platform.node()} has no {folder / 'Python.h'}.",
            remedy=f"Install them (Debian and Ubuntu: {folder.name}-dev), or set train.compile = false.",
        )
