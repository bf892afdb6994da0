"""`farm cancel RUN|STUDY`"""

from collections.abc import Sequence
from typing import Annotated

import typer

from cli import render
from cli.access import is_study, queue, selected
from cli.options import Json, RunOrStudy
from cli.render import Column, Sheet, say
from cli.storage import on_record
from cli.unread import Unread
from farm.errors import Conflict
from farm.queue.queue import Queue
from farm.queue.values import Status
from farm.record.store import Store
from farm.site.settings import Settings
from farm.study.run import Evaluating, State
from farm.study.study import Study

COLUMNS = (Column("run", "run"), Column("was", "was"), Column("now", "now"))
CANCELLED = ("cancelled", "cancelling")
DroppedOnly = Annotated[
    bool, typer.Option("--dropped", help="Of a study: only runs that its newest form no longer has.")
]


def cancel(name: RunOrStudy, dropped_only: DroppedOnly = False, as_json: Json = False) -> None:
    """Cancel a run, or all runs of a study that are not finished.

    A queued run is cancelled at once; a running one writes a checkpoint and stops within seconds.
    """
    settings = Settings.load()
    with queue(settings) as open_queue:
        chosen, passed = open_runs(open_queue, name)
        if dropped_only and is_study(open_queue, name):
            chosen = find_dropped(open_queue.studies.one(name), chosen)
        rows = cancel_all(settings, open_queue, chosen)
    render.emit(Sheet("farm.cancel/1", COLUMNS, rows), as_json=as_json)
    if any(row["now"] == "cancelling" for row in rows):
        say("a running run stops at its next step, with a checkpoint")
    if rows and not as_json:
        render.say_next(f"farm retry {rows[0]['run']}" if len(rows) == 1 else f"farm retry {name} --cancelled")
    passed.end()


def cancel_all(settings: Settings, queue: Queue, statuses: Sequence[Status]) -> list[dict]:
    """Cancel these runs, on record too, and say what each was and is now.

    Raises: NotFound
    """
    rows = [_cancel(queue, status) for status in statuses]
    cancelled = [status for status, row in zip(statuses, rows, strict=True) if row["now"] in CANCELLED]
    on_record(
        settings,
        lambda store: _withdraw(store, cancelled),
        "cancelled, but not recorded in the storage: farm reindex would queue it",
    )
    return rows


def open_runs(queue: Queue, name: str) -> tuple[list[Status], Unread]:
    """The runs that can still be cancelled, and what cannot be read, which is said.

    Raises: Conflict: `name` is one run, and it is final. NotFound. Unreadable: it is one run.
    """
    chosen, passed = selected(queue, name)
    unfinished = [status for status in chosen if not status.state.is_final]
    if not unfinished and not is_study(queue, name):
        raise Conflict(f"{chosen[0].run.id} is {chosen[0].state} already: there is nothing to cancel.")
    if not unfinished and (chosen or not passed.is_any):
        say(f"all {len(chosen)} runs of {name} are final already: there is nothing to cancel")
    return unfinished, passed


def find_dropped(study: Study, statuses: Sequence[Status]) -> list[Status]:
    """The runs that `study` no longer has in its newest submitted form."""
    asked = {run.id for run in study.runs()}
    return [status for status in statuses if status.id not in asked]


def _withdraw(store: Store, cancelled: list[Status]) -> None:
    for status in cancelled:
        if isinstance(status.run, Evaluating):
            continue  # a score that is on record stays true
        store.runs.withdraw(status.run.id, status.epoch)


def _cancel(queue: Queue, status: Status) -> dict:
    now = queue.cancel(status.run.id)
    return {
        "run": status.run.id,
        "was": str(status.state),
        "now": "cancelling" if now is State.RUNNING else str(now),
    }
