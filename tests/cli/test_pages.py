"""The pages that people wrote: their links lead somewhere, and what they name is there."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from .conftest import ROOT

PAGES = sorted(
    path for pattern in ("*.md", "docs/**/*.md", "examples/**/*.md") for path in ROOT.glob(pattern) if path.is_file()
)
NAMED = re.compile(r"(?<![\w/.-])docs/[\w/-]+\.md")


def anchors(page: Path) -> set[str]:
    """Those that GitHub gives to the headings of a page."""
    prose = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    headings = re.findall(r"^#+ (.*)$", prose, flags=re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def broken(page: Path) -> Iterator[str]:
    prose = re.sub(r"```.*?```|`[^`\n]*`", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for link in re.findall(r"\]\(([^)\s]+)\)", prose):
        if link.startswith(("https://", "http://")):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            yield link


@pytest.mark.parametrize("page", PAGES, ids=[str(page.relative_to(ROOT)) for page in PAGES])
def test_every_link_of_a_page_leads_somewhere(page: Path) -> None:
    assert list(broken(page)) == []


def test_a_page_that_a_program_or_an_example_names_is_there() -> None:
    suffixes = {".py", ".toml", ".yaml", ".lua", ".yml"}
    folders = ("cli", "workers", "model", "farm", "tests", "benchmarks", "examples")
    files = [path for folder in folders for path in (ROOT / folder).rglob("*") if path.suffix in suffixes]
    files += [
        ROOT / "cluster.yaml",
        ROOT / "pyproject.toml",
        ROOT / "Makefile",
        ROOT / "README.md",
        ROOT / "CHANGELOG.md",
    ]
    named = {(path, page) for path in files for page in NAMED.findall(path.read_text(encoding="utf-8"))}
    assert len(named) > 10
    assert [f"{path.relative_to(ROOT)}: {page}" for path, page in named if not (ROOT / page).exists()] == []
