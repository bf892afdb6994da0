"""`farm export RUN DIR`"""

from pathlib import Path
from typing import Annotated, Any

import typer

from cli import render
from cli.access import queue, run_of
from cli.network import check_torch, network
from cli.options import Json, RunName
from cli.render import Column, Sheet, say
from farm.errors import Conflict
from farm.record.store import open_store
from farm.site.settings import Settings

Folder = Annotated[Path, typer.Argument(metavar="DIR", help="The folder to create.", show_default=False)]

COLUMNS = (
    Column("run", "run"),
    Column("step", "step", render.count, is_number=True),
    Column("parameters", "parameters", render.count, is_number=True),
    Column("tokenizer", "with tokenizer"),
    Column("folder", "folder", render.text),
)


def export(run: RunName, folder: Folder, as_json: Json = False) -> None:
    """Write a run's weights as a folder that transformers loads as a GPT-2, without custom code.

    The final weights; for a run that has none yet, those of its newest intact checkpoint.
    """
    settings, folder = Settings.load(), folder.resolve()
    _check_free(folder)
    with queue(settings) as open_queue:
        status = run_of(open_queue, run)
    check_torch("Export where the farm trains: pip install farm[node].")
    with open_store(settings.storage) as store:
        found = network(store, status)
    from model.export import export as write_folder

    tokenizer = write_folder(found.gpt, status.run.recipe, folder)
    row: dict[str, Any] = {"run": status.id, "step": found.step, "finished": found.is_final, "folder": str(folder)}
    row |= {"parameters": status.run.recipe.model.parameters, "tokenizer": bool(tokenizer.files)}
    row |= {"files": sorted(path.name for path in folder.iterdir())}
    render.emit(Sheet("farm.export/1", COLUMNS, [row]), as_json=as_json)
    if not found.is_final:
        say(f"{status.id} is {status.state}: this is step {found.step:,} of {status.run.recipe.steps:,}")
    if tokenizer.missing:
        say(f"no tokenizer: {tokenizer.missing}")


def _check_free(folder: Path) -> None:
    """Raises: Conflict"""
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise Conflict(f"{folder} already exists; nothing was changed.", remedy="Name another folder.")
