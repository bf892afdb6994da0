"""`farm export RUN DIR`"""

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli import render
from cli.access import queue, run_of
from cli.options import Json, RunName
from cli.render import Column, Sheet, say
from farm.errors import CheckpointInvalid, Conflict, FarmError, NotFound
from farm.record import layout
from farm.record.result import Result
from farm.record.store import Store, open_store
from farm.site.settings import Settings
from farm.study.run import Run

if TYPE_CHECKING:
    from model.gpt import GPT

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
    if find_spec("torch") is None:
        raise FarmError("torch is not installed here.", remedy="Export where the farm trains: pip install farm[node].")
    with open_store(settings.storage) as store:
        result = status.result or store.runs.result(status.id)
        step, gpt = _final(store, status.run, result) if result else _newest(store, status.run)
    from model.export import export as write_folder

    tokenizer = write_folder(gpt, status.run.recipe, folder)
    row: dict[str, Any] = {"run": status.id, "step": step, "finished": result is not None, "folder": str(folder)}
    row |= {"parameters": status.run.recipe.model.parameters, "tokenizer": bool(tokenizer.files)}
    row |= {"files": sorted(path.name for path in folder.iterdir())}
    render.emit(Sheet("farm.export/1", COLUMNS, [row]), as_json=as_json)
    if not result:
        say(f"{status.id} is {status.state}: this is step {step:,} of {status.run.recipe.steps:,}")
    if tokenizer.missing:
        say(f"no tokenizer: {tokenizer.missing}")


def _check_free(folder: Path) -> None:
    """Raises: Conflict"""
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise Conflict(f"{folder} already exists; nothing was changed.", remedy="Name another folder.")


def _final(store: Store, run: Run, result: Result) -> "tuple[int, GPT]":
    """The step and the network that the result is about.

    Raises: CheckpointInvalid
    """
    from model.export import load_network
    from model.init import fingerprint

    path = store.copies.bring(result.checkpoint)
    if not path.is_dir():
        raise CheckpointInvalid(
            f"{store.uri}/{result.checkpoint} is not there.", remedy="Is FARM_STORAGE the farm's storage?"
        )
    gpt = load_network(path, run)
    if (found := fingerprint(gpt)) != result.fingerprints.final:
        raise CheckpointInvalid(f"{path}: weights {found[:12]}, the result has {result.fingerprints.final[:12]}.")
    return result.steps, gpt


def _newest(store: Store, run: Run) -> "tuple[int, GPT]":
    """The step and the network of the newest intact checkpoint.

    Raises: NotFound
    """
    from model.export import newest

    found = newest(store.copies.checkpoints(run.id), run)
    if found is None:
        raise NotFound(
            f"{run.id} has no intact checkpoint under {store.uri}.",
            remedy=f"It makes one every {run.policy.checkpoint_seconds:,g} s while it trains.",
        )
    path, gpt = found
    return layout.step_of(path.name), gpt
