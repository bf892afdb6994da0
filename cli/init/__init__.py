"""`farm init [FILE]`"""

import sys
from itertools import count
from pathlib import Path
from typing import Annotated, Any

import typer

from cli import render
from cli.init import asking
from cli.init.data import take
from cli.init.machines import Here, look, pick, usual
from cli.init.size import choose
from cli.init.text import Draft, write
from cli.options import Json
from cli.render import Column, Sheet, say
from farm.errors import BadSetting, Conflict, FarmError, NotFound
from farm.files import write_whole
from farm.site.settings import Settings
from farm.study.machine import is_name, slug
from farm.study.study import Study

COLUMNS = (
    Column("what", ""),
    Column("value", "", render.text, is_prose=True),
    Column("why", "", render.text, is_prose=True),
)
DEFAULT = Path("study.toml")

File = Annotated[Path, typer.Argument(metavar="FILE", help="The study file to write.")]
StudyCalled = Annotated[
    str | None, typer.Option("--name", metavar="NAME", help="The study's name. Default: the file's or the folder's.")
]
Classes = Annotated[
    list[str] | None,
    typer.Option("--machine", metavar="CLASS", help="Train on this class; repeatable. Default: what is found."),
]
Source = Annotated[
    str | None,
    typer.Option(
        "--data",
        metavar="SOURCE",
        help="A file or folder, hf:OWNER/NAME, s3://BUCKET/PREFIX, or builtin:python-reference.",
    ),
]
TextField = Annotated[
    str, typer.Option("--text-field", metavar="FIELD", help="The column or key that holds a document's text.")
]
Force = Annotated[bool, typer.Option("--force", help="Replace the file if it exists.")]
Quiet = Annotated[bool, typer.Option("-y", "--yes", help="Ask nothing, also on a terminal.")]


def init(
    file: File = DEFAULT,
    name: StudyCalled = None,
    machine: Classes = None,
    data: Source = None,
    text_field: TextField = "text",
    force: Force = False,
    yes: Quiet = False,
    as_json: Json = False,
) -> None:
    """Write a study file for the machines and the data that are there.

    The machines are those of the farm, if it can be reached, else this one, else those of farm.toml. The data is what
    lies in this folder (tokens, or up to 64 MiB of text), else what the demo trains on, or on GPUs FineWeb. Model and
    budget are as large as both allow: minutes a run on a CPU, 4 hours on a GPU. Comments say why, and show what else
    could be set. Nothing is fetched and nothing is queued. On a terminal it asks for name, machines and data.
    """
    settings = Settings.load()
    check_output(file, force)
    asks = not (yes or as_json) and sys.stdin is not None and sys.stdin.isatty() and sys.stderr.isatty()
    here = look(settings)
    called = check_name(name) if name is not None else default_name(file, here)
    if asks:
        called = called if name is not None else asking.name(called)
        machine = machine or asking.machines(here)
    classes = machine or usual(here.classes)
    here = pick(here, classes) if machine else here
    cache = settings.home / "cache"
    taken = take(data, text_field, [here.known[one] for one in classes], cache, asking.data if asks else None)
    chosen = choose(taken.corpus, classes, here.known, here.reached)
    draft = Draft(str(file), called, here, taken.corpus, taken.why, taken.others, chosen)
    text = write(draft)
    Study.parse(text, str(file))  # what does not load is not written
    put(file, text, force)
    render.emit(sheet(draft), as_json=as_json)
    if here.unreached:
        say(f"warning: the farm cannot be reached, so its machines are not known: {here.unreached}")
    say(f"{file}: written")
    if not as_json:
        submit = f"farm submit {file} --wait"
        render.say_next(f"farm plan {file}", f"{here.next} && {submit}" if here.next else submit)


def check_output(file: Path, force: bool) -> None:
    """Raises: BadSetting, NotFound, Conflict: no file can be written there; before anything else is done."""
    if file.is_dir() or str(file) == "-":
        remedy = f"Name a file, such as {file / DEFAULT if file.is_dir() else DEFAULT}."
        raise BadSetting(f"{file} is {'a folder' if file.is_dir() else 'no name for a file'}.", remedy=remedy)
    if not file.parent.is_dir():
        raise NotFound(f"the folder {file.parent} does not exist.", remedy=f"Make it first: mkdir -p {file.parent}")
    if not force and (file.exists() or file.is_symlink()):
        raise _there(file)


def _there(file: Path) -> Conflict:
    return Conflict(
        f"{file} already exists; nothing was written.", remedy="Name another file, or replace this one with --force."
    )


def put(file: Path, text: str, force: bool) -> None:
    """Write the file, over an older one only by `force`. Raises: Conflict, FarmError: it cannot be written."""
    try:
        if force:
            write_whole(file, text.encode())
            return
        with file.open("x", encoding="utf-8") as out:
            out.write(text)
    except FileExistsError:
        raise _there(file) from None
    except OSError as error:
        raise FarmError(f"{file}: {error.strerror}.", remedy="Name a file in a folder where you may write.") from None


def check_name(name: str) -> str:
    """Raises: BadSetting: it cannot be the name of a study."""
    if not is_name(name):
        like = slug(name)
        raise BadSetting(
            f"--name {name!r} is not a valid name: 1 to 64 of a-z, 0-9, '.', '_' and '-', the first a letter or digit.",
            remedy=f"Such as --name {like or 'my-study'}.",
        )
    return name


def default_name(file: Path, here: Here) -> str:
    """After the file, or the folder of a file that is called as usual; with a number if the farm has such a study."""
    stem = file.stem if file.name != DEFAULT.name else file.absolute().parent.name
    name = slug(stem)[:60] or "my-study"
    numbered = (f"{name}-{number}" for number in count(2))
    return name if name not in here.studies else next(one for one in numbered if one not in here.studies)


def sheet(draft: Draft) -> Sheet:
    """What was found and what was chosen, a line for each; in JSON also as numbers."""
    chosen, corpus, recipe = draft.chosen, draft.corpus, draft.recipe
    times = [f"{one.machine}: {render.clock(one.hours)} a run, {one.basis}" for one in chosen.hours]
    rows: list[dict[str, Any]] = [
        {"what": "name", "value": draft.name, "why": None},
        {"what": "machines", "value": ", ".join(chosen.machines), "why": draft.here.why},
        {"what": "data", "value": corpus.source, "why": draft.why},
        {"what": "model", "value": f"{recipe.model.parameters:,} parameters", "why": chosen.larger},
        {
            "what": "training",
            "value": f"{recipe.train.tokens:,} tokens, {recipe.steps:,} steps",
            "why": "; ".join(times),
        },
        {
            "what": "runs",
            "value": str(draft.runs),
            "why": "a baseline and two interventions, three seeds of the weights",
        },
    ]
    more: dict[str, Any] = {
        "file": draft.file,
        "name": draft.name,
        "machines": chosen.machines,
        "left_out": chosen.left_out,
        "corpus": corpus._asdict(),
        "others": draft.others,
        "baseline": chosen.tables,
        "hours": [one._asdict() for one in chosen.hours],
        "runs": draft.runs,
    }
    return Sheet("farm.init/1", COLUMNS, rows, more=more)
