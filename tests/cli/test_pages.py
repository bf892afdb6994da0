"""What the pages name is there: other pages, commands and their options. Their links: tests/test_site.py."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from cli.main import app

from .conftest import ROOT

PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
NAMED = re.compile(r"(?<![\w/.-])docs/[\w/-]+\.md")
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
