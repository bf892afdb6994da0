"""What a key of the live view does to a run or its machine, and the question that is asked before."""

import platform
import sys
from collections.abc import Callable
from typing import NamedTuple

from cli.cancel import cancel_all
from cli.logs import follow_log, newest_log, no_log
from cli.progress import label
from cli.render import say
from cli.show import dashboard_link
from farm.errors import Conflict, NotFound
from farm.queue.queue import Queue
from farm.queue.values import Status
from farm.record.store import open_store
from farm.site import serving
from farm.site.settings import Settings
from farm.study.run import State


class Deed(NamedTuple):
    """A question, and what is done if the answer is yes; that returns what came of it."""

    question: str
    do: Callable[[], str]


def cancelling(settings: Settings, queue: Queue, status: Status) -> Deed:
    """Cancel a run."""
    what = "It writes a checkpoint and stops." if status.state is State.RUNNING else "It is queued."

    def do() -> str:
        now = cancel_all(settings, queue, [status])[0]["now"]
        return f"{status.run.id}: {now}; to queue it again: farm retry {status.run.id}"

    return Deed(f"Cancel {label(status.run)}? {what}", do)


def draining(queue: Queue, status: Status) -> Deed:
    """Drain the machine that a run is on, or the machines of a mixed group.

    Raises: NotFound: it is on none that the farm sees. Conflict: it is drained already.
    """
    found = [node for node in queue.roster.nodes() if status.state is State.RUNNING and node.id in status.nodes]
    if not found:
        raise NotFound(f"{label(status.run)} is on no machine that the farm sees now.", remedy="Try: farm machines")
    fresh = [node for node in found if node.drained is None]
    if not fresh:
        raise Conflict(f"{found[0]} is drained already: {found[0].drained}.", remedy="Undo: farm drain NODE --undo")
    names = " and ".join(map(str, fresh))

    def do() -> str:
        for node in fresh:
            queue.roster.drain(node.id, f"farm watch on {platform.node()}")
        undo = next((f"farm drain {node.name} --undo" for node in fresh if not node.joined), "")
        return f"{names}: drained" + (f"; to undo it: {undo}" if undo else "; it leaves when it is empty")

    return Deed(f"Drain {names}? No run starts there; those on it save a checkpoint and are queued again.", do)


def open_log(settings: Settings, queue: Queue, status: Status) -> None:
    """Print the log of a run and what is added to it, until Ctrl-C or Enter.

    Raises: NotFound: there is none.
    """
    with open_store(settings.storage) as store:
        if newest_log(store, status) is None:
            raise no_log(status, store.uri)
        say(f"log of {status.run.id}; Ctrl-C returns to the view")
        try:
            follow_log(queue, store, status)
            say("Enter returns to the view")
            sys.stdin.readline()
        except KeyboardInterrupt:
            pass


def dashboard(settings: Settings, status: Status | None) -> str:
    """Where the dashboard is: of the run, if it has a page there."""
    link = dashboard_link(settings, status) if status else None
    up = serving.facts(settings)
    if up is None:
        return "no farm is served from this machine; on the head, `farm status` says where the dashboard is"
    return f"dashboard: {link or up.dashboard} (needs a token; see `farm status`)"
