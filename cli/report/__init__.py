"""`farm report [STUDY]`: a study as one page for people who were not there."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from cli import render
from cli.access import queue, study_or_newest, within_sight
from cli.effects import cohorts, effects_of
from cli.noise import comparable
from cli.options import Json, StudyName
from cli.ranking import ranking
from cli.remarks import remarks
from cli.render import say
from cli.report.curves import Curve, of_ledger, of_points
from cli.report.material import Material
from farm.errors import FarmError, StorageUnusable
from farm.files import write_whole
from farm.queue.queue import Queue
from farm.queue.values import Status
from farm.record.store import Store
from farm.site.settings import Settings
from farm.study import toml
from farm.study.run import Attempt
from farm.verdict.noise import ladder


def report(
    study: StudyName = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The file to write; default: STUDY.html in this folder.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Write a study as one page: the answer in words, the ranking, curves, and where every number comes from.

    The page is a single file that asks for nothing from a network: send it to a colleague as it is. Curves are read
    from the ledgers where the storage can be reached from here, and else from the queue, which keeps fewer points.
    """
    settings = Settings.load()
    with queue(settings) as open_queue:
        name = study_or_newest(open_queue, study)
        material = _gather(settings, open_queue, name)
    from cli.report.page import page

    target = output or Path(f"{name}.html")
    document = page(material).encode()
    _write(target, document)
    finished = sum(status.result is not None for status in material.statuses)
    if as_json:
        told = {"study": name, "file": str(target), "bytes": len(document), "finished": finished}
        told |= {"runs": len(material.statuses), "whole_curves": material.are_whole}
        render.emit_json("farm.report/1", told, unreadable=material.passed.every)
        material.passed.end()
        return
    say(f"{target}: {finished:,} of {len(material.statuses):,} runs finished, {len(document) / 1e6:.1f} MB")
    if not material.table.rows:
        say(f"{name}: {material.passed.none_finished}, so the page has no ranking")
    for line in material.passed.lines:
        say(line)
    material.passed.end()


def _write(path: Path, content: bytes) -> None:
    """Raises: StorageUnusable: says why it cannot be written."""
    try:
        write_whole(path, content)
    except OSError as error:
        raise StorageUnusable(f"{path}: {error.strerror}.", remedy="Name another file with -o FILE.") from None


def _gather(settings: Settings, queue: Queue, name: str) -> Material:
    """All that the queue, and the storage if it can be reached, know of a study. Raises: NotFound."""
    found = ranking(queue, name)
    stored, sight, statuses = found.study, found.sight, found.statuses
    store = within_sight(settings)
    curves, are_whole = _curves(queue, store, statuses)
    return Material(
        name=name,
        study=stored,
        table=found.table,
        statuses=statuses,
        results=sight.results,
        curves=curves,
        are_whole=are_whole,
        effects={key: effects_of(stored, together) for key, together in cohorts(sight.results)} if stored else {},
        noise={evaluation: ladder(runs) for evaluation, runs in comparable(sight.results)},
        attempts={status.run.id: kept for status in statuses if (kept := _attempts(store, status))},
        remarks=[*found.passed.lines, *remarks(found.table)],
        passed=found.passed,
        file=toml.text(stored.model_dump(mode="json", exclude_unset=True, exclude={"looks"})) if stored else "",
        when=time.time(),
    )


def _curves(queue: Queue, store: Store | None, statuses: Sequence[Status]) -> tuple[dict[str, Curve], bool]:
    """The curve of each run that has one, and whether all of them have every step."""
    found: dict[str, Curve] = {}
    are_whole = True
    for status in statuses:
        run = status.run
        try:
            lines = store.copies.lines(_trainer(status)) if store else []
        except (FarmError, OSError):
            lines = []
        if lines:
            found[run.id] = of_ledger(lines)
        elif points := queue.listing.curve(run.id):
            found[run.id] = of_points(points, run.recipe.tokens_per_step)
            are_whole = False
    return found, are_whole


def _attempts(store: Store | None, status: Status) -> list[Attempt]:
    try:
        return list(store.runs.attempts(_trainer(status))) if store else []
    except (FarmError, OSError):
        return []


def _trainer(status: Status) -> str:
    """The run whose training it is: another one's, where that had the same recipe, seeds and machine."""
    return (status.result.adopted if status.result else None) or status.run.id
