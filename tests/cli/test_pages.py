"""What the pages name is there: other pages, commands and their options. Their links: tests/test_site.py."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from cli.main import app
from farm import errors
from farm.errors import FarmError, read_at
from farm.study import study

from .conftest import ROOT, Farm

PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
NAMED = re.compile(r"(?<![\w/.-])docs/[\w/-]+\.md")
PAGE = re.compile(r'"(docs/[\w/-]+\.md(?:#[\w-]+)?)"')  # as an error names it
PROGRAM = [path for folder in ("cli", "workers", "model", "farm") for path in (ROOT / folder).rglob("*.py")]
FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", re.DOTALL | re.MULTILINE)
TYPED = re.compile(r"^(?:\$ |'?[A-Z_]+=\S+ )*'?farm (?=[a-z-])(.*)")


def test_a_page_that_a_program_or_an_example_names_is_there() -> None:
    suffixes = {".py", ".toml", ".yaml", ".lua", ".yml"}
    folders = ("cli", "workers", "model", "farm", "tests", "benchmarks", "examples")
    files = [path for folder in folders for path in (ROOT / folder).rglob("*") if path.suffix in suffixes]
    files += [ROOT / "cluster.yaml", ROOT / "mkdocs.yml", ROOT / "pyproject.toml", ROOT / "Makefile"]
    files += [ROOT / "README.md", ROOT / "CHANGELOG.md"]
    named = {(path, page) for path in files for page in NAMED.findall(path.read_text(encoding="utf-8"))}
    assert len(named) > 10
    assert [f"{path.relative_to(ROOT)}: {page}" for path, page in named if not (ROOT / page).exists()] == []


def anchors(page: Path) -> set[str]:
    """Those that GitHub and the site give to the headings of a page."""
    prose = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    headings = re.findall(r"^#+ (.*)$", prose, flags=re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def typed(line: str) -> Iterator[str]:
    """The words after `farm`, for every command of a line that a shell reads."""
    for part in re.split(r"&&|[;|]", re.sub(r"(^|\s)#\s.*", "", line)):
        if found := TYPED.match(part.strip()):
            words = re.split(r"\s[<>&](?:\s|$)", found[1])[0].strip()
            yield words.removesuffix("'") if words.count("'") % 2 else words


def lines(text: str) -> Iterator[str]:
    """Those of a page's blocks that may be typed. A block in a language of its own is a file or an output."""
    for _, language, block in FENCE.findall(text):
        if language in ("", "bash", "sh", "console"):
            yield from block.replace("\\\n", " ").splitlines()


def parse(words: str) -> None:
    """Raises: a usage error of a command, option, choice or argument that does not exist."""
    left, command, context = shlex.split(words), get_command(app), None
    while hasattr(command, "commands"):
        context = command.make_context("farm", list(left), parent=context, obj={"verbose": False})
        command = command.commands[left.pop(0)]
    command.make_context("farm", left, parent=context)


def named(words: str) -> tuple[str, ...]:
    """The options of a command that prose mentions which it does not have; the command itself, if there is none."""
    command: Any = get_command(app)
    first, _, rest = words.partition(" ")
    while hasattr(command, "commands"):
        if first.startswith("-") or not first[:1].islower():
            break  # of `farm --help` and `farm data COMMAND`
        if first not in command.commands:
            return (first,)
        command, (first, _, rest) = command.commands[first], rest.partition(" ")
    has = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
    mentioned = re.findall(r"(?<![\w-])--?[a-z][\w-]*", f"{first} {rest}")
    return tuple(option for option in mentioned if option not in has | {"--help"})


@pytest.mark.parametrize("page", PAGES, ids=[str(page.relative_to(ROOT)) for page in PAGES])
def test_every_command_on_a_page_can_be_typed(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    refused = []
    for words in [words for line in lines(text) for words in typed(line)]:
        try:
            parse(words)
        except Exception as fault:  # typer's usage errors share no public class
            refused.append(f"farm {words}: {getattr(fault, 'message', fault)}")
    mentioned = re.findall(r"`farm ([a-z-][^`]*)`", FENCE.sub("", text))
    refused += [f"`farm {words}`: {fault}" for words in mentioned for fault in named(" ".join(words.split()))]
    assert refused == []


def test_the_commands_of_pages_are_found() -> None:
    """The test above proves nothing of a line that it does not take for one."""
    found = [words for page in PAGES for line in lines(page.read_text(encoding="utf-8")) for words in typed(line)]
    assert len(found) > 50
    assert {"plan ~/my-study.toml", "submit ~/my-study.toml", "join invitation.json"} <= set(found)
    assert list(typed("FARM_HOME=/x farm up; ssh me@head cat .farm/invitation.json | farm join -  # here")) == [
        "up",
        "join -",
    ]
    for wrong in ("nosuch", "up --nosuch", "table --format nosuch", "drain"):
        with pytest.raises(Exception, match=r"nosuch|[Mm]issing"):
            parse(wrong)


def pages_of_errors() -> set[str]:
    """The page of each class of errors, those that who raises one names, and those of the tables of a study."""
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, FarmError)]
    found = {kind.page for kind in kinds if kind.page}
    found |= {page for path in PROGRAM for page in PAGE.findall(path.read_text(encoding="utf-8"))}
    return found | {f"{study.PAGE}#{heading}" for heading in study.TABLES.values()}


def test_every_page_that_an_error_names_is_there_with_its_heading() -> None:
    named = pages_of_errors()
    assert len(named) > 30
    wrong = []
    for one in named:
        page, _, heading = one.partition("#")
        there = (ROOT / page).exists()
        if not there or (heading and heading not in anchors(ROOT / page)):
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
