"""`farm status`"""

from typing import Any

from cli import render
from cli.access import queue
from cli.options import Json
from cli.render import Column, Sheet, ago, duration, say
from farm import serving
from farm import settings as settings_
from farm.run import State
from farm.serving import Facts
from farm.settings import Settings

COLUMNS = (Column("what", ""), Column("value", "", render.text))


def status(as_json: Json = False) -> None:
    """What is up, what waits, what trains."""
    settings = settings_.load()
    facts = serving.facts(settings)
    with queue(settings) as open_queue:
        counts = {str(state): count for state, count in open_queue.counts().items()}
        waiting = open_queue.queued()
        studies = list(open_queue.studies())
    known = {"counts": counts, "queued": waiting, "studies": len(studies)}
    if as_json:
        render.emit_json("farm.status/1", {"up": facts is not None, "farm": facts, "home": str(settings.home)} | known)
        return
    lines = _place(settings, facts) | {state: counts.get(state, 0) for state in map(str, State)}
    lines |= {f"queued for {machine}": count for machine, count in waiting.items() if count}
    lines["studies"] = ", ".join(studies[-5:]) or "none"
    _emit("farm.status/1", lines)
    if facts is None and not settings.redis_url:
        say("no farm is up here; start one with: farm up")


def _place(settings: Settings, facts: Facts | None) -> dict[str, Any]:
    if facts is None:
        return {"farm": "down", "home": settings.home, "storage": settings.storage}
    return {"farm": f"up for {duration(ago(facts.started))}", **_facts(facts)}


def served(facts: Facts) -> Sheet:
    """A farm that is up, as `farm up` shows it."""
    rows = [{"what": what, "value": str(value)} for what, value in _facts(facts).items()]
    return Sheet("farm.up/1", COLUMNS, rows, more={"farm": facts})


def _facts(facts: Facts) -> dict[str, Any]:
    offered = ", ".join(f"{name} x {count}" for name, count in facts.units.items())
    token = {"dashboard token": facts.token_path} if facts.token_path else {}
    return {
        "dashboard": facts.dashboard,
        **token,
        "units": offered,
        "redis": facts.redis,
        "storage": facts.storage,
        "pid": facts.pid,
        "log": facts.log,
    }


def _emit(schema: str, lines: dict[str, Any]) -> None:
    render.emit(Sheet(schema, COLUMNS, [{"what": what, "value": str(value)} for what, value in lines.items()]))
