"""`farm status`"""

from typing import Any

from cli import render
from cli.access import offered, queue
from cli.ending import remedies
from cli.options import Json
from cli.progress import label, newest
from cli.render import Column, Sheet, ago, duration, loss, say
from cli.runs import outlook
from farm import serving
from farm import settings as settings_
from farm.queue import Queue, Status
from farm.run import State
from farm.server import shown
from farm.serving import Facts
from farm.settings import Settings

COLUMNS = (Column("what", ""), Column("value", "", render.text, is_prose=True))
MAX_RUNS, MAX_STUDIES = 8, 5


def status(as_json: Json = False) -> None:
    """What is up, what waits, what trains."""
    settings = settings_.load()
    facts = serving.facts(settings)
    with queue(settings) as open_queue:
        counts = {str(state): count for state, count in open_queue.counts().items()}
        waiting = open_queue.queued()
        studies = list(open_queue.studies())
        trained = _trained(open_queue)
        nodes = offered(settings, open_queue)
        held = _held(settings, open_queue)
    known = {"counts": counts, "queued": waiting, "studies": len(studies), "nodes": nodes, "held": held}
    if as_json:
        render.emit_json("farm.status/1", {"up": facts is not None, "farm": facts, "home": str(settings.home)} | known)
        return
    lines = [*_place(settings, facts, nodes), *((state, counts.get(state, 0)) for state in map(str, State))]
    lines += [(f"queued for {machine}", count) for machine, count in waiting.items() if count]
    lines += [("held", text) for text in held]
    newest_last = [*(["..."] if len(studies) > MAX_STUDIES else []), *studies[-MAX_STUDIES:]]
    lines += [("studies", ", ".join(newest_last) or "none"), *(("trains", text) for text in trained)]
    _emit("farm.status/1", lines)
    if facts is None and not settings.redis_url:
        say("no farm is up here; start one with: farm up")


def _held(settings: Settings, queue: Queue) -> list[str]:
    """What waits for a person, a line for each study and reason. Only where some may: it takes a look at every run."""
    if not queue.pauses() and all(study.policy.usd_limit is None for study in queue.studies().values()):
        return []
    everything = queue.statuses()
    return list(remedies(settings, queue, everything, outlook(settings, queue, everything), everything))


def _trained(queue: Queue) -> list[str]:
    """Where the running runs stand, a line each."""
    running = queue.running()
    more = [f"and {len(running) - MAX_RUNS} more: farm runs"] if len(running) > MAX_RUNS else []
    return [f"{status.study}: {label(status.run)}, {_reached(queue, status)}" for status in running[:MAX_RUNS]] + more


def _reached(queue: Queue, status: Status) -> str:
    step, now = newest(queue, status)
    return "starting" if now is None else f"step {step:,} of {status.run.recipe.steps:,}, loss {loss(now)}"


def _place(settings: Settings, facts: Facts | None, nodes: dict[str, int]) -> list[tuple[str, Any]]:
    if facts:
        return [("farm", f"up for {duration(ago(facts.started))}"), *_facts(facts).items()]
    if settings.redis_url:
        there = ", ".join(f"{name} x {count}" for name, count in nodes.items()) or "none: nothing trains now"
        return [("farm", "not served from this machine"), ("redis", shown(settings.redis_url)), ("nodes", there)]
    return [("farm", "down"), ("home", settings.home), ("storage", settings.storage)]


def served(facts: Facts) -> Sheet:
    """A farm that is up, as `farm up` shows it."""
    rows = [{"what": what, "value": str(value)} for what, value in _facts(facts).items()]
    return Sheet("farm.up/1", COLUMNS, rows, more={"farm": facts})


def _facts(facts: Facts) -> dict[str, Any]:
    offered = ", ".join(f"{name} x {count}" for name, count in facts.units.items())
    token = {"token": f"{facts.token_path} holds what the dashboard asks for"} if facts.token_path else {}
    return {
        "dashboard": facts.dashboard,
        **token,
        "units": offered,
        "redis": facts.redis,
        "storage": facts.storage,
        "pid": facts.pid,
        "log": facts.log,
    }


def _emit(schema: str, lines: list[tuple[str, Any]]) -> None:
    render.emit(Sheet(schema, COLUMNS, [{"what": what, "value": str(value)} for what, value in lines]))
