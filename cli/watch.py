"""`farm watch [STUDY|RUN]`"""

from collections.abc import Callable
from typing import Annotated

import typer

from cli import render
from cli.access import is_study, newest_study, queue, select
from cli.ending import exit_code
from cli.options import Json, _names
from cli.progress import can_be_live, follow
from cli.render import Column, Sheet, say
from cli.runs import outlook, progress
from cli.unread import NOTHING, Unread, unread
from farm.queue.listing import Picture
from farm.queue.live import Scope
from farm.queue.queue import Queue
from farm.queue.values import Listed, Status
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
    typer.Argument(
        metavar="STUDY|RUN", help="Default: all runs on a terminal, else the newest study's.", autocompletion=_names
    ),
]
QUIT = 130  # as by Ctrl-C: a script that goes on with what was trained must not


def watch(name: Name = None, as_json: Json = False) -> None:
    """Follow runs until they are done.

    On a terminal this is a live view: a bar for each running run, the queue with the reasons why runs wait, and the
    table as it stands; it shows everything that runs on the farm if no name is given, and then stays until q. A name
    may be a study or the start of a run's id. Keys open a log, cancel, drain and show the dashboard's link; q and
    Ctrl-C end the watching (exit code 130), not the runs. In a pipe, with --json or TERM=dumb it prints lines, of the
    newest study if no name is given.

    With a name it also ends when none of the runs can go on by itself. Exit code 1: one did not succeed, is paused or
    cannot be read; 7: some wait because a limit of their study is spent. Final states are printed only to a pipe or
    with --json.
    """
    settings = Settings.load()
    with queue(settings) as open_queue:
        is_live = not as_json and can_be_live()
        if is_live and name is None and open_queue.listing.put_count():
            _show(settings, open_queue, Scope("all"))
            return
        chosen = name or newest_study(open_queue)
        if chosen is None:
            say("no study yet: farm submit STUDY, or see it all at work: farm demo")
            _print([], as_json, NOTHING)
            return
        fetch = fetcher(open_queue, chosen)
        statuses = fetch().statuses
        warn_if_down(settings, statuses)
        if is_live and any(not status.state.is_final for status in statuses):
            scope = Scope("study", chosen) if is_study(open_queue, chosen) else Scope("one", statuses[0].run.id)
            if not _show(settings, open_queue, scope):
                say(f"the runs of {chosen} go on; to watch them again: farm watch {chosen}")
                raise typer.Exit(QUIT)
        elif up := serving.facts(settings):
            say(f"dashboard: {up.dashboard} (needs a token; see `farm status`)")
        picture = follow(open_queue, fetch, outlook=lambda: outlook(settings, open_queue))
        _print([_row(open_queue, Listed.of(status)) for status in picture.statuses], as_json, unread(picture))
        code = exit_code(settings, open_queue, picture)
    raise typer.Exit(code)


def _show(settings: Settings, queue: Queue, scope: Scope) -> bool:
    from cli.live.view import show  # with rich's screens, which lines do without

    return show(settings, queue, scope, f"farm watch {scope.name}".strip())


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


def _row(queue: Queue, run: Listed) -> dict:
    step, train_loss, validation_loss = progress(queue, run)
    return {
        "run": run.id,
        "state": str(run.state),
        "step": step,
        "train_loss": train_loss,
        "validation_loss": validation_loss,
        "test_loss": run.losses.test if run.losses else None,
    }


def _print(rows: list[dict], as_json: bool, passed: Unread) -> None:
    if as_json or not render.is_terminal():
        render.emit(Sheet("farm.watch/1", COLUMNS, rows, more={"unreadable": passed.every}), as_json=as_json)
