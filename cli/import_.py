"""`farm import PATH...`"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from cli import render
from cli.access import machines, queue
from cli.options import Json
from cli.render import Column, Sheet, say
from cli.storage import recording
from farm.errors import BadSetting
from farm.imports import importing
from farm.imports.importing import Note, Read, unknown_machines
from farm.site.settings import Settings
from farm.study.machine import is_name

COLUMNS = (
    Column("arm", "arm"),
    Column("machine", "machine"),
    Column("seeds", "seeds", render.text),
    Column("test_loss", "test loss", render.or_unknown(lambda loss: f"{loss:.6f}"), is_number=True),
    Column("now", "now"),
    Column("source", "source", render.text, is_spare=True),
)
SHOWN = 3  # places with the same remark

Paths = Annotated[
    list[Path],
    typer.Argument(metavar="PATH", help="CSV or JSON files of losses; folders of run folders.", show_default=False),
]
StudyCalled = Annotated[
    str | None,
    typer.Option("--study", metavar="NAME", help="The study to import into; default: the first PATH's name."),
]
Output = Annotated[
    Path | None, typer.Option("--output", metavar="FILE", help="The study file to write; default: NAME.toml.")
]


def import_(paths: Paths, study: StudyCalled = None, output: Output = None, as_json: Json = False) -> None:
    """Import the losses of models that were trained elsewhere, and write a study file that trains them here.

    A CSV has the columns arm, machine, init_seed, train_seed, test_loss, and may have hours, usd, tokens_per_second,
    tokens and rerun; JSON has the same keys. Leave unknown seeds empty. A folder holds run folders of the public
    harness (runs/8xa100m40-qkv-bias/model.json and train.json): they say what each arm changes, but hold no losses.
    Imported losses are marked as such wherever they show, and are ranked among themselves only. Importing twice imports
    once. Settings that a study cannot express are listed.
    """
    settings = Settings.load()
    if study is not None and not is_name(study):
        raise BadSetting(f"--study {study!r} is not a valid name.", remedy="Use a-z, 0-9, '.', '_' and '-'.")
    found = importing.read(paths, study)
    file = output or Path(f"{found.name}.toml")
    with queue(settings) as open_queue:
        now = dict.fromkeys((run.id for run in found.runs), "known")
        if found.runs:
            store = recording(settings)
            there = store.studies.imported(found.name)
            joined = there.join(found.runs)
            open_queue.studies.bring(there)  # whoever may not write learns so before anything is on record
            store.studies.keep_imported(joined.whole)  # the record first, then the queue
            open_queue.studies.bring(joined.whole)
            now |= dict.fromkeys(joined.new, "imported")
        unknown = unknown_machines(found, machines(settings, open_queue))
    written = _write(file, found.study)
    more: dict[str, Any] = {"study": found.name, "study_file": str(file), "study_file_is": written}
    more |= {"left_out": _as_rows(found.left_out), "notes": _as_rows(found.notes)}
    render.emit(Sheet("farm.import/1", COLUMNS, list(_rows(found, now)), more=more), as_json=as_json)
    for remark in _remarks(found, file, written, unknown):
        say(remark)
    if not as_json:
        render.say_next(*([f"farm table {found.name}"] if found.runs else []), f"farm plan {file}")


def _write(file: Path, text: str) -> str:
    """Write the study file, unless there is one: `written`, `there already`, or `another` that stays."""
    try:
        with file.open("x", encoding="utf-8") as out:
            out.write(text)
    except FileExistsError:
        there = file.read_text(encoding="utf-8", errors="replace")
        return "there already" if there == text else "another"
    return "written"


def _rows(found: Read, now: dict[str, str]) -> Iterator[dict[str, Any]]:
    """The losses, and the arms that came with a recipe only."""
    for run in found.runs:
        told = run.model_dump(mode="json", exclude={"recipe"})
        yield told | {"run": run.id, "imported": True, "seeds": run.seeds_told, "now": now[run.id]}
    with_loss = {(run.arm, run.machine) for run in found.runs}
    for arm, classes in found.arms.items():
        for machine in classes:
            if (arm, machine) not in with_loss:
                yield dict.fromkeys(column.key for column in COLUMNS) | {
                    "arm": arm,
                    "machine": machine,
                    "run": None,
                    "imported": False,
                    "now": "recipe only",
                }


def _as_rows(notes: Sequence[Note]) -> list[dict[str, str]]:
    return [note._asdict() for note in notes]


def _remarks(found: Read, file: Path, written: str, unknown: Sequence[str]) -> Iterator[str]:
    for kind, notes in (("left out", found.left_out), ("note", found.notes)):
        for text, sources in _by_text(notes).items():
            more = f" and {len(sources) - SHOWN} more" if len(sources) > SHOWN else ""
            yield f"{kind}: {', '.join(sources[:SHOWN])}{more}: {text}"
    if unknown:
        yield f"no class {', '.join(unknown)} is declared: write [machines.{unknown[0]}] before you submit"
    if written == "another":
        yield f"{file} already exists and differs, so it was kept; write another with --output FILE"
    else:
        yield f"{file}: {written}"


def _by_text(notes: Sequence[Note]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for note in notes:
        found.setdefault(note.text, []).append(note.source)
    return found
