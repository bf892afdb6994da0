"""`farm retry RUN|STUDY`"""

from typing import Annotated

import typer

from cli import render
from cli.access import is_study, queue, select
from cli.cancel import COLUMNS
from cli.options import Json, RunOrStudy
from cli.render import Sheet, say
from farm.errors import Conflict
from farm.queue import Queue, Status
from farm.run import State

Cancelled = Annotated[bool, typer.Option("--cancelled", help="Of a study: the cancelled runs, not the failed ones.")]


def retry(name: RunOrStudy, cancelled: Cancelled = False, as_json: Json = False) -> None:
    """Queue a failed or cancelled run again, or the failed ones of a study.

    It goes on from its newest checkpoint, with its attempts counted anew and every past cause kept.
    """
    with queue() as open_queue:
        rows = [
            {"run": status.run.id, "was": str(status.state), "now": str(open_queue.retry(status.run.id))}
            for status in retryable(open_queue, name, State.CANCELLED if cancelled else State.FAILED)
        ]
    render.emit(Sheet("farm.retry/1", COLUMNS, rows), as_json=as_json)
    if rows and not as_json:
        render.say_next(f"farm watch {name}")


def retryable(queue: Queue, name: str, state: State = State.FAILED) -> list[Status]:
    """The run `name`, or the runs of the study `name` that are in `state`.

    Raises: Conflict: that one run did not fail and was not cancelled. NotFound.
    """
    chosen = select(queue, name)
    if is_study(queue, name):
        found = [status for status in chosen if status.state is state]
        cancelled = sum(status.state is State.CANCELLED for status in chosen)
        if not found:
            what = "has failed" if state is State.FAILED else "is cancelled"
            say(f"no run of {name} {what}: there is nothing to retry")
        if cancelled and state is State.FAILED:
            stay = "run stays" if cancelled == 1 else "runs stay"
            say(f"{cancelled} cancelled {stay} so until: farm retry {name} --cancelled")
        return found
    if chosen[0].state not in (State.FAILED, State.CANCELLED):
        raise Conflict(f"{chosen[0].run.id} is {chosen[0].state}: only a failed or cancelled run can be retried.")
    return chosen
