"""`farm drain NODE`, `farm drain NODE --undo`"""

import platform
import time
from typing import Annotated

import typer

from cli import render
from cli.access import queue
from cli.options import Json
from cli.render import say
from cli.unread import unread
from farm.errors import Conflict, Unreachable
from farm.queue.node import Node, find_node
from farm.queue.queue import Queue

LOOK_SECONDS = 0.5
PATIENCE_SECONDS = 180.0  # an agent may just be starting, and has a minute to save a checkpoint

Which = Annotated[str, typer.Argument(metavar="NODE", help="Its name, host, address, or the beginning of its Ray id.")]
Undo = Annotated[
    bool, typer.Option("--undo", help="Let runs start there again. A machine that farm join brought leaves anyway.")
]


def drain(node: Which, undo: Undo = False, as_json: Json = False) -> None:
    """Empty a node: no run starts there, and those running save a checkpoint and are queued again.

    Returns when it is empty. A machine that `farm join` brought then leaves; any other stays drained until --undo, or
    until its Ray restarts. The runs lose no attempt.
    """
    with queue() as open_queue:
        found = find_node(open_queue.roster.nodes(), node)
        if undo:
            _undo(open_queue, found, as_json)
            return
        reason = open_queue.roster.drain(found.id, f"farm drain on {platform.node()}")
        try:
            released = _wait_until_empty(open_queue, found)
            passed = unread(open_queue.listing.running_picture())
        except KeyboardInterrupt:
            end = "leaves anyway" if found.joined else f"stays drained until: farm drain {node} --undo"
            say(f"{found} {end}")
            raise
    then = "it leaves" if found.joined else f"and stays drained until: farm drain {node} --undo"
    for line in passed.lines:
        say(f"{line} It may train on {found}.")
    empty = "has no run left that can be read" if passed.is_any else "is empty"
    say(f"{found} {empty}{'; ' if found.joined else ', '}{then}")
    if as_json:
        answer = {"node": found.name, "id": found.id, "reason": reason, "released": released}
        render.emit_json("farm.drain/1", answer, unreadable=passed.every)
    passed.end()


def _undo(queue: Queue, node: Node, as_json: bool) -> None:
    """Raises: Conflict: the node is on its way out."""
    if node.joined and node.drained is not None:
        raise Conflict(f"{node} is leaving: {node.drained}.", remedy="Join it again, with: farm join HEAD")
    was_drained = queue.roster.undrain(node.id)
    say(f"runs may start on {node}{' again' if was_drained else ': it was not drained'}")
    if as_json:
        render.emit_json("farm.drain/1", {"node": node.name, "id": node.id, "reason": None, "released": []})


def _wait_until_empty(queue: Queue, node: Node) -> list[str]:
    """The runs that left `node`, when the last of them has.

    Raises: Unreachable: the drain was not carried out.
    """
    deadline = time.monotonic() + PATIENCE_SECONDS
    left: list[str] = []
    last: set[str] = set()
    while runs := _runs(queue, node):
        for run_id in sorted(runs - last):
            say(f"{run_id} runs on {node}: asked for a checkpoint")
        left += _tell(queue, last - runs)
        last = runs
        if time.monotonic() > deadline:
            raise Unreachable(
                f"{len(runs)} runs on {node} have not stopped within {PATIENCE_SECONDS:g} s.",
                remedy="Is `farm serve` up on the head? No new run starts there; these end when their leases expire.",
            )
        time.sleep(LOOK_SECONDS)
    return left + _tell(queue, last)


def _runs(queue: Queue, node: Node) -> set[str]:
    return {status.run.id for status in queue.listing.running() if node.id in status.nodes}


def _tell(queue: Queue, runs: set[str]) -> list[str]:
    for run_id in sorted(runs):
        status = queue.listing.status(run_id)
        say(f"{run_id} stopped and was released at step {status.step:,}: {status.state}")
    return sorted(runs)
