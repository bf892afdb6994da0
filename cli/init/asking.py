"""The questions of `farm init` on a terminal. Each has a default, and is asked again until its answer can be used."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from cli.data.source import REMOTE
from cli.init.machines import Here, describe, pick, usual
from cli.render import say
from farm.errors import FarmError
from farm.study.machine import is_name

if TYPE_CHECKING:
    from model.corpus.nearby import Nearby

LISTED = 9  # corpora


def name(default: str) -> str:
    """The study's name."""

    def check(answer: str) -> str:
        if not is_name(answer):
            raise typer.BadParameter("a name is 1 to 64 of a-z, 0-9, '.', '_' and '-', the first a letter or a digit")
        return answer

    return _ask("Name of the study", default, check)


def machines(here: Here) -> list[str] | None:
    """Machine classes, commas between them; None for the usual ones."""
    for one in here.classes:
        say(f"  {one}: {describe(here.known[one])}")
    default = ", ".join(usual(here.classes))

    def check(answer: str) -> list[str] | None:
        if answer == default:
            return None
        named = [word for word in answer.replace(",", " ").split() if word]
        try:
            pick(here, named)
        except FarmError as error:
            raise typer.BadParameter(str(error)) from None
        return named or None

    return _ask(f"Machines ({here.why})", default, check)


def data(there: "Nearby", default: str) -> str | None:
    """A corpus, by its number or as --data takes it; None for the default."""
    found = there.candidates[:LISTED]
    for number, one in enumerate(found, 1):
        say(f"  {number}  {one.place}: {one.told}")

    def check(answer: str) -> str | None:
        if answer == default:
            return None
        if answer.isascii() and answer.isdigit() and 0 < int(answer) <= len(found):
            return str(found[int(answer) - 1].place)
        if not answer.startswith(REMOTE) and not Path(answer).expanduser().exists():
            raise typer.BadParameter(f"{answer} does not exist; a file or folder, hf:OWNER/NAME, or s3://BUCKET/PREFIX")
        return answer

    return _ask("Data", default, check)


def _ask(question: str, default: str, check: Callable[[str], Any]) -> Any:
    """On stderr, since stdout is for what was found. Raises: typer.Abort: Ctrl-C, or the end of the input."""
    return typer.prompt(question, default=default, value_proc=check, err=True)
