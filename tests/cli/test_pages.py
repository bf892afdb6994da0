"""The pages that people wrote: their links lead somewhere, and what they name is there."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from farm import errors
from farm.errors import FarmError, read_at
from farm.study import study

from .conftest import ROOT, Farm

PAGES = sorted(
    path for pattern in ("*.md", "docs/**/*.md", "examples/**/*.md") for path in ROOT.glob(pattern) if path.is_file()
)
NAMED = re.compile(r"(?<![\w/.-])docs/[\w/-]+\.md")
PAGE = re.compile(r'"(docs/[\w/-]+\.md(?:#[\w-]+)?)"')  # as an error names it
PROGRAM = [path for folder in ("cli", "workers", "model", "farm") for path in (ROOT / folder).rglob("*.py")]


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


def pages_of_errors() -> set[str]:
    """The page of each class of errors, those that who raises one names, and those of the tables of a study."""
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, FarmError)]
    found = {kind.page for kind in kinds if kind.page}
    found |= {page for path in PROGRAM for page in PAGE.findall(path.read_text(encoding="utf-8"))}
    return found | {f"{study.PAGE}#{heading}" for heading in study.TABLES.values()}


def anchors_of_site(page: Path) -> set[str]:
    """Those that Python-Markdown gives to the headings of a page, unless two are called alike."""
    return {re.sub(r"[-\s]+", "-", anchor).strip("-") for anchor in anchors(page)}


def test_every_page_that_an_error_names_is_there_with_its_heading() -> None:
    named = pages_of_errors()
    assert len(named) > 30
    wrong = []
    for one in named:
        page, _, heading = one.partition("#")
        there = (ROOT / page).exists()
        if not there or (heading and heading not in anchors(ROOT / page) & anchors_of_site(ROOT / page)):
            wrong.append(one)
    assert wrong == []


def test_no_remedy_names_a_page_by_hand() -> None:
    """Else it has no address where the documentation is served."""
    lines = [line for path in PROGRAM for line in path.read_text(encoding="utf-8").splitlines()]
    assert [line for line in lines if "remedy" in line and NAMED.search(line)] == []


@pytest.mark.parametrize(
    ("page", "address"),
    [
        ("docs/data.md#sources", "https://x.example/farm/data.html#sources"),
        ("docs/machines/join.md", "https://x.example/farm/machines/join.html"),
        ("docs/machines/README.md#a", "https://x.example/farm/machines/index.html#a"),
    ],
)
def test_a_page_has_an_address_where_the_site_is_served(page: str, address: str) -> None:
    assert read_at(page, "https://x.example/farm") == read_at(page, "https://x.example/farm/") == address
    assert read_at(page) == page


def test_an_error_ends_with_its_page_and_with_an_address_where_a_setting_says_one(farm: Farm) -> None:
    text = '[study]\nname = "x"\nmachines = ["cpu"]\n[baseline.train]\nprecision = "fp32"\nbatch = 0\ntokens = 0\n'
    plain = farm("plan", "-", reads=text).err.splitlines()
    assert len(plain) == 2
    assert [line.endswith(" More: docs/study.md#train") for line in plain] == [False, True], "once"
    (farm.folder / "farm.toml").write_text('docs_url = "https://x.example/farm"\n')
    assert farm("plan", "-", reads=text).err.endswith(" More: https://x.example/farm/study.html#train\n")
    farm.environment["FARM_DOCS_URL"] = "file:///srv/site"
    assert farm("plan", "-", reads=text).err.endswith(" More: file:///srv/site/study.html#train\n")
    assert "More:" not in farm("show", "nope").err, "the line says all there is"


def test_an_address_that_is_none_is_refused_and_hides_no_other_error(farm: Farm) -> None:
    farm.environment["FARM_DOCS_URL"] = "docs"
    assert "docs_url = 'docs' is not the address of a site. Write https://" in farm("plan", farm.file()).err
    (farm.folder / "farm.toml").write_text("docs_url = 3\n")
    assert "docs_url: must be text, not 3" in farm("runs").err
