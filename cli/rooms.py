"""docs/rooms.md: every file of the four packages, and the first line of its docstring."""

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("cli", "workers", "model", "farm")


def rooms(made: str) -> str:
    """The page. `made` says how it is made."""
    parts = [part for package in PACKAGES for part in _room(ROOT / package)]
    return "\n".join(["# What lives where", "", made, "", INTRODUCTION, *parts])


INTRODUCTION = """Imports go down this page: `cli` may import everything below it, `farm` nothing above it. Inside a
package `pyproject.toml` says which file may import which, and `make lint` holds them to it.
"""


def _room(folder: Path) -> Iterator[str]:
    """A heading, a table of the files, and the same for each room within."""
    name = folder.relative_to(ROOT)
    yield f"{'#' * (len(name.parts) + 1)} `{name}/`\n"
    yield f"{_summary(folder / '__init__.py')}\n"
    files = sorted(path for path in folder.glob("*.py") if path.name != "__init__.py")
    if files:
        yield "| file | what it is for |"
        yield "|---|---|"
        yield from (f"| [{path.name}](../{path.relative_to(ROOT)}) | {_summary(path)} |" for path in files)
        yield ""
    for room in sorted(path.parent for path in folder.glob("*/__init__.py")):
        yield from _room(room)


def _summary(path: Path) -> str:
    """The first paragraph of the file's docstring."""
    said = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return " ".join(said.partition("\n\n")[0].split()).replace("|", "\\|")
