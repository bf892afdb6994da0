"""`farm retry RUN|STUDY`"""

from typing import Annotated

import typer

from cli import render
from cli.access import is_study, queue, selected
from cli.cancel import COLUMNS
from cli.options import Json, RunOrStudy
from cli.render import Sheet, say
from cli.unread import Unread
from farm.errors import Conflict
from farm.queue.queue import Queue
from farm.queue.values import Status
from farm.study.run import State

Cancelled = Annotated[bool, typer.Option("--cancelled", help="Of a study: the cancelled runs, not the failed ones.")]


def retry(name: RunOrStudy, cancelled: Cancelled = False, as_json: Json = False) -> None:
    """Queue a failed or cancelled run again, or the failed ones of a study.

    It goes on from its newest checkpoint; its attempts count from zero, and every past cause is kept. Paused runs go
    on, too.
    """
    with queue() as open_queue:
        chosen, passed = retryable(open_queue, name, State.CANCELLED if cancelled else State.FAILED)
        rows = [
            {
                "run": status.run.id,
                "was": "paused" if status.state is State.QUEUED else str(status.state),
                "now": str(open_queue.retry(status.run.id)),
            }
            for status in chosen
        ]
    render.emit(Sheet("farm.retry/1", COLUMNS, rows), as_json=as_json)
    if rows and not as_json:
        render.say_next(f"farm watch {name}")
    passed.end()


def retryable(queue: Queue, name: str, state: State = State.FAILED) -> tuple[list[Status], Unread]:
    """The run `name`, or the runs of the study `name` that are in `state`; with the failed ones, those that are paused.
    And what cannot be read, which is said.

    Raises: Conflict: that one run did not fail, was not cancelled and is not paused. NotFound. Unreadable.
    """
    chosen, passed = selected(queue, name)
    paused = _find_paused(queue, chosen)
    if is_study(queue, name):
        found = [status for status in chosen if status.state is state]
        cancelled = sum(status.state is State.CANCELLED for status in chosen)
        wanted = found + paused if state is State.FAILED else found
        if not wanted and (chosen or not passed.is_any):
            what = "has failed or is paused" if state is State.FAILED else "is cancelled"
            say(f"no run of {name} {what}: there is nothing to retry")
        if cancelled and state is State.FAILED:
            stay = "run stays" if cancelled == 1 else "runs stay"
            say(f"{cancelled} cancelled {stay} so until: farm retry {name} --cancelled")
        return wanted, passed
    if chosen[0].state not in (State.FAILED, State.CANCELLED) and not paused:
        raise Conflict(f"{chosen[0].run.id} is {chosen[0].state}: only a failed or cancelled run can be retried.")
    return chosen, passed


def _find_paused(queue: Queue, statuses: list[Status]) -> list[Status]:
    """Those that wait for the end of a pause, even of a single node."""
    places = {(pause.study, pause.corpus) for pause in queue.listing.pauses()}
    return [
        status
        for status in statuses
        if status.state is State.QUEUED and places and (status.study, status.run.recipe.corpus) in places
    ]
