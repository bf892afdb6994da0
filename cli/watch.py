"""`farm watch [STUDY|RUN]`"""

from collections.abc import Callable
from typing import Annotated

import typer

from cli import render
from cli.access import is_study, newest_study, queue, select
from cli.ending import exit_code
from cli.options import Json, _names
from cli.progress import follow
from cli.render import Column, Sheet, say
from cli.runs import outlook, progress
from cli.unread import NOTHING, Unread, unread
from farm.queue.listing import Picture
from farm.queue.queue import Queue
from farm.queue.values import Status
from farm.site import serving
from farm.site.settings import Settings

COLUMNS = (
    Column("run", "run"),
    Column("state", "state"),
    Column("step", "step", render.count, is_number=True),
    Column("train_loss", "train loss", render.loss, is_number=True, digits=6),
    Column("test_loss", "test loss", render.loss, is_number=True, digits=6),
)
Name = Annotated[
    str | None,
    typer.Argument(metavar="STUDY|RUN", help="Default: the newest study.", autocompletion=_names),
]


def watch(name: Name = None, as_json: Json = False) -> None:
    """Follow runs until they are done.

    It also ends when none of them can go on by itself. Exit code 1: one did not succeed, is paused or cannot be read;
    7: some wait because a limit of their study is spent. Ctrl-C ends the watching, not the runs. Final states are
    printed only to a pipe or with --json.
    """
    settings = Settings.load()
    with queue(settings) as open_queue:
        chosen = name or newest_study(open_queue)
        if chosen is None:
            say("no study yet: farm submit STUDY, or see it all at work: farm demo")
            _print([], as_json, NOTHING)
            return
        fetch = fetcher(open_queue, chosen)
        warn_if_down(settings, fetch().statuses)
        if up := serving.facts(settings):
            say(f"dashboard: {up.dashboard} (needs a token; see `farm status`)")
        picture = follow(open_queue, fetch, outlook=lambda: outlook(settings, open_queue))
        _print([_row(open_queue, status) for status in picture.statuses], as_json, unread(picture))
        code = exit_code(settings, open_queue, picture)
    raise typer.Exit(code)


def fetcher(queue: Queue, name: str) -> Callable[[], Picture]:
    """How to look at a study or a run again. Raises: NotFound, Conflict."""
    if is_study(queue, name):
        return lambda: queue.listing.picture(name)
    run_id = select(queue, name)[0].run.id
    return lambda: Picture([queue.listing.status(run_id)], {})


def warn_if_down(settings: Settings, statuses: list[Status]) -> None:
    """Warn if no farm here trains the queued runs."""
    waits = any(not status.state.is_final for status in statuses)
    if waits and not settings.redis_url and serving.facts(settings) is None:
        say("warning: no farm is up here, so queued runs wait; start one with: farm up")


def _row(queue: Queue, status: Status) -> dict:
    step, train_loss, validation_loss = progress(queue, status)
    test_loss = status.result.test_loss if status.result else None
    return {
        "run": status.run.id,
        "state": str(status.state),
        "step": step,
        "train_loss": train_loss,
        "validation_loss": validation_loss,
        "test_loss": test_loss,
    }


def _print(rows: list[dict], as_json: bool, passed: Unread) -> None:
    if as_json or not render.is_terminal():
        render.emit(Sheet("farm.watch/1", COLUMNS, rows, more={"unreadable": passed.every}), as_json=as_json)
