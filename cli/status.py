"""`farm status`"""

import getpass
import os
import shlex
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cli import render
from cli.access import count_offers, queue
from cli.ending import remedies
from cli.options import Json
from cli.progress import label, newest
from cli.render import Column, Sheet, ago, duration, say
from cli.runs import outlook
from farm.queue.node import Node
from farm.queue.queue import Queue
from farm.queue.unreadable import find_flaws
from farm.queue.unscored import tell
from farm.queue.values import Status
from farm.site import invitation, serving
from farm.site.serving import Facts
from farm.site.settings import Settings
from farm.site.urls import hide_password
from farm.study.endpoint import bracket
from farm.study.run import State

COLUMNS = (Column("what", ""), Column("value", "", render.text, is_prose=True))
MAX_RUNS, MAX_STUDIES = 8, 5


def status(as_json: Json = False) -> None:
    """Show what is up, waiting and training.

    It also names values in Redis that cannot be read, but not those of finished runs and studies: for these see farm
    doctor.
    """
    settings = Settings.load()
    facts = serving.facts(settings)
    missing = serving.missing(settings, facts) if facts else []
    with queue(settings) as open_queue:
        counts = {str(state): count for state, count in open_queue.listing.counts().items()}
        waiting = open_queue.listing.backlog()
        studies = open_queue.studies.names()
        trained = _training_lines(open_queue)
        nodes = count_offers(settings, open_queue)
        evaluations = open_queue.evaluations.statuses()
        flaws = [str(flaw) for flaw in find_flaws(open_queue.scripts, of_ended=False)]
        members = [node for node in open_queue.roster.nodes() if node.joined]
        held = _waiting_lines(settings, open_queue)
    known = {"counts": counts, "queued": waiting, "studies": len(studies), "nodes": nodes, "held": held}
    known |= {"evaluations": Counter(str(status.state) for status in evaluations)}
    known |= {"unreadable": flaws, "joined": [node.name for node in members], "missing": missing}
    if as_json:
        render.emit_json("farm.status/1", {"up": facts is not None, "farm": facts, "home": str(settings.home)} | known)
        return
    lines = [*_place(settings, facts, nodes, members), *((state, counts.get(state, 0)) for state in map(str, State))]
    lines += [(f"queued for {machine}", count) for machine, count in waiting.items() if count]
    lines += [("held", text) for text in held]
    lines += [("evaluations", text.removeprefix("evaluations: ")) for text in tell(evaluations)]
    newest_last = [*(["..."] if len(studies) > MAX_STUDIES else []), *studies[-MAX_STUDIES:]]
    lines += [("studies", ", ".join(newest_last) or "none"), *(("trains", text) for text in trained)]
    lines += [*(("missing", text) for text in missing), *(("unreadable", text) for text in flaws)]
    _emit("farm.status/1", lines)
    if facts is None and not settings.redis_url:
        say("no farm is up here; start one with: farm up")


def _waiting_lines(settings: Settings, queue: Queue) -> list[str]:
    """The runs that wait for a person, a line for each study and reason."""
    if not queue.listing.pauses() and not queue.studies.limited():
        return []
    return list(remedies(settings, queue, queue.listing.unfinished(), outlook(settings, queue)))


def _training_lines(queue: Queue) -> list[str]:
    """The steps of the running runs, a line each."""
    running = queue.listing.running()
    more = [f"and {len(running) - MAX_RUNS} more: farm runs"] if len(running) > MAX_RUNS else []
    return [f"{status.study}: {label(status.run)}, {_progress(queue, status)}" for status in running[:MAX_RUNS]] + more


def _progress(queue: Queue, status: Status) -> str:
    now = newest(queue, status)
    return "starting" if now.loss is None else f"step {now.step:,} of {status.run.recipe.steps:,}, {now}"


def _place(
    settings: Settings, facts: Facts | None, nodes: dict[str, int], members: Sequence[Node]
) -> list[tuple[str, Any]]:
    if facts:
        joined = ", ".join(map(str, members)) or "no other machine yet"
        with_whom = [("joined by", joined)] if facts.shared else []
        return [("farm", f"up for {duration(ago(facts.started))}"), *_facts(settings, facts).items(), *with_whom]
    if settings.redis_url:
        there = ", ".join(f"{name} x {count}" for name, count in nodes.items()) or "none (nothing can train right now)"
        return [
            ("farm", "not served from this machine"),
            ("redis", hide_password(settings.redis_url)),
            ("nodes", there),
        ]
    return [("farm", "down"), ("home", settings.home), ("storage", settings.storage)]


def farm_sheet(settings: Settings, facts: Facts) -> Sheet:
    """A farm that is up, as `farm up` shows it."""
    rows = [{"what": what, "value": str(value)} for what, value in _facts(settings, facts).items()]
    return Sheet("farm.up/1", COLUMNS, rows, more={"farm": facts})


def storage_note(facts: Facts) -> str:
    """The needs of a machine that joins a shared farm, besides the invitation."""
    if "://" in facts.storage:
        return f"each machine that joins needs credentials of its own for {facts.storage}"
    return (
        f"each machine that joins must see the folder {facts.storage}: mount it there, at the same path or at one that"
        " its FARM_STORAGE names; or start this farm with FARM_STORAGE=s3://BUCKET/PREFIX"
    )


def _facts(settings: Settings, facts: Facts) -> dict[str, Any]:
    offered = ", ".join(f"{name} x {count}" for name, count in facts.units.items())
    token = {"log in with": f"the output of: cat {shlex.quote(facts.token_path)}"} if facts.token_path else {}
    return {
        "dashboard": facts.dashboard,
        **token,
        "units": offered,
        "redis": facts.redis + (f", {facts.server}" if facts.server else ""),
        "storage": facts.storage,
        "pid": facts.pid,
        "log": facts.log,
        **(_ways_in(settings, facts.shared) if facts.shared else {}),
    }


def _ways_in(settings: Settings, address: str) -> dict[str, str]:
    """The lines to type on other machines, which can log in here by ssh. No secret is on any of them."""
    user, home = _user(), settings.home
    there = f"{user}{bracket(address)}:{home / invitation.FILE}"
    is_usual = home == Path(os.environ.get("HOME", "")) / ".farm" and not os.environ.get("FARM_HOME")
    submit = f"farm connect {user}{address}" + ("" if is_usual else f" --home {shlex.quote(str(home))}")
    return {
        "shared": f"at {address}; keep it between your machines: Redis and Ray traffic is not encrypted",
        "to train, type there": f"scp {shlex.quote(there)} . && farm join {invitation.FILE}",
        "to submit, type there": submit if settings.redis_url is None else "set FARM_REDIS_URL as it is set here",
    }


def _user() -> str:
    try:
        return f"{getpass.getuser()}@"
    except (KeyError, OSError):  # a container may have no name for its user
        return ""


def _emit(schema: str, lines: list[tuple[str, Any]]) -> None:
    render.emit(Sheet(schema, COLUMNS, [{"what": what, "value": str(value)} for what, value in lines]))
