"""`farm machines`"""

import platform
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import typer

from cli import render
from cli.access import count_offers, queue
from cli.access import machines as known_machines
from cli.options import Json
from cli.render import Column, Sheet, say
from cli.rented import glance as rented_now
from cli.rented import sheet as rented_sheet
from cli.rented import stray
from cli.unread import unread
from farm.errors import FarmError
from farm.queue.listing import Reached
from farm.queue.node import Node, doing
from farm.queue.queue import Queue
from farm.queue.rental import describe
from farm.queue.values import Status
from farm.site.settings import Settings
from farm.study.machine import Machine, parts
from farm.study.recipe import Recipe
from farm.study.study import Study
from farm.study.toml import STANDARD_INPUT

COLUMNS = (
    Column("machine", "machine"),
    Column("accelerator", "accelerator", render.text),
    Column("accelerators", "count", render.count, is_number=True),
    Column("memory_bytes", "GiB each", render.gib, is_number=True),
    Column("usd_per_hour", "$/h", render.dollars, is_number=True),
    Column(
        "tokens_per_second", "tokens/s", render.or_unknown(lambda value: f"{value:,.0f}"), is_number=True, is_spare=True
    ),
    Column("seen_tokens_per_second", "seen", render.count, is_number=True),
    Column("nodes", "nodes up", render.count, is_number=True),
    Column("slots", "slots", render.count, is_number=True),
    Column("may_start", "may start", render.count, is_number=True, is_spare=True),
    Column("queued", "queued", render.count, is_number=True),
    Column("probed", "probed", render.listing, is_spare=True),
    Column("source", "known from", is_spare=True),
    Column("price", "price", render.text, is_spare=True),
)
NOW = Column("now", "now", is_prose=True)
NODES = (
    Column("node", "node", render.text),
    Column("address", "address", render.text),
    Column("offers", "offers", render.text, is_prose=True),
    Column("doing", "now", render.text, is_prose=True),
)

Probe = Annotated[
    str | None,
    typer.Option(
        "--probe",
        metavar="STUDY",
        help="First measure here the largest microbatch of each model of STUDY, a file or a submitted study.",
    ),
]


def machines(probe: Probe = None, as_json: Json = False) -> None:
    """List the known machine classes, and what they offer now.

    tokens/s is the speed expected on the baseline; seen, the median of the runs that finished there; probed, the
    largest microbatch of each model that was tried. The results of --probe are kept for this machine's class, and used
    by every later plan.
    """
    settings = Settings.load()
    with queue(settings) as open_queue:
        if probe:
            _probe(open_queue, settings, _study(open_queue, probe))
        known = known_machines(settings, open_queue)
        registered = open_queue.roster.machines().keys()
        waiting, nodes = open_queue.listing.backlog(), count_offers(settings, open_queue)
        roster, supply = open_queue.roster.nodes(), open_queue.roster.supply()
        running, held = open_queue.listing.running_picture(), open_queue.listing.waited_for()
        seen = _speeds(open_queue.listing.speeds())
        rented, strays, trouble = rented_now(settings, open_queue)
    passed = unread(running)
    for line in passed.lines:
        say(f"{line} It may train on one of these nodes.")
    can_start = {name: count for name, count in waiting.items() if all(map(nodes.get, parts(name)))}
    now = [_now(node, running.statuses, can_start, held) for node in roster]
    rows = [
        {
            "machine": name,
            **_hardware(machine),
            "usd_per_hour": machine.usd_per_hour,
            "price_source": machine.price_source,
            "price_date": machine.price_date,
            "price": ", ".join(map(str, machine.prices)),
            "tokens_per_second": machine.tokens_per_second,
            "seen_tokens_per_second": seen.get(name),
            "nodes": nodes.get(name, 0),
            "slots": sum(node.units.get(name, 0) for node in roster if node.drained is None),
            "may_start": supply[name].most if name in supply else 0,  # nodes, by an autoscaler
            "queued": waiting.get(name, 0),
            "source": _source(name, settings, name in registered),
            "probes": machine.probes,
            "probed": sorted(set(machine.probes.values())),
            "now": "; ".join(f"{told['node']}: {told['doing']}" for told in now if name in told["units"]),
            "on": [told for told in now if name in told["units"]],
        }
        for name, machine in sorted(known.items())
    ]
    is_apart = render.is_terminal() and not as_json  # a person reads what the nodes do below, others in the same row
    money = rented_sheet(rented, strays)
    columns = COLUMNS if is_apart else (*COLUMNS, NOW)
    more = {"unreadable": passed.every, "rented": money.data}
    render.emit(Sheet("farm.machines/1", columns, rows, more=more), as_json=as_json)
    if is_apart and now:
        render.emit(Sheet("farm.nodes/1", NODES, now))
    if is_apart and money.data:
        render.emit(money)
    for told_of_cost in filter(None, (describe(rented, time.time()), *map(stray, strays), trouble)):
        say(told_of_cost)
    passed.end()


def _hardware(machine: Machine) -> dict[str, Any]:
    """What it has; unknown where only its price was declared."""
    has = {"accelerator": machine.accelerator, "accelerators": machine.accelerators, "memory_bytes": machine.memory}
    return dict.fromkeys(has) if machine.is_price_alone else has


def _speeds(reached: Iterable[Reached]) -> dict[str, int]:
    """Machine class -> median tokens/s of what finished there."""
    found: dict[str, list[float]] = {}
    for one in reached:
        found.setdefault(one.machine, []).append(one.tokens_per_second)
    return {name: round(median(speeds)) for name, speeds in found.items()}


def _now(node: Node, statuses: Sequence[Status], waiting: dict[str, int], held: Collection[str]) -> dict[str, Any]:
    """Say what a node offers and runs, or why it is idle. `held`: the classes that queued runs wait for."""
    running = [status for status in statuses if node.id in status.nodes]
    told = [f"{status.run.id} at step {status.step:,}" for status in running]
    return {
        "node": node.name,
        "id": node.id,
        "address": node.address,
        "units": node.units,
        "offers": ", ".join(f"{name} x {count}" for name, count in sorted(node.units.items())),
        "runs": [status.run.id for status in running],
        "drained": node.drained,
        "doing": doing(node, told, waiting, held),
    }


def _source(name: str, settings: Settings, is_registered: bool) -> str:
    if is_registered:
        return "its nodes"
    return "farm.toml" if name in settings.machines else "built in"


def _study(queue: Queue, name: str) -> Study:
    path = Path(name)
    is_file = path == STANDARD_INPUT or path.suffix == ".toml" or path.is_file()
    return Study.load(path) if is_file else queue.studies.one(name)


def _probe(queue: Queue, settings: Settings, study: Study) -> None:
    """Measure every model and precision of `study` that leaves a microbatch to choose, on this machine.

    Raises: FarmError: this machine cannot, or a trial went wrong.
    """
    if find_spec("torch") is None:
        raise FarmError(
            "torch is not installed here.", remedy="Probe on the machine that trains: pip install farm[node]."
        )
    from workers.attempt import probing

    for machine in _own_classes(queue, settings):
        for recipe, arms in _models(study, probing.key):
            say(f"{machine.name}: trying {', '.join(arms)}: {_name(recipe)} ...")
            found = probing.measure(queue, machine, recipe).probes[probing.key(recipe)]
            say(f"{machine.name}: microbatches of up to {found:,} fit")


def _models(study: Study, key: Callable[[Recipe], str]) -> Iterable[tuple[Recipe, list[str]]]:
    """A recipe for each model and precision, and the arms that share it. Canonical arms have their microbatch."""
    found: dict[str, tuple[Recipe, list[str]]] = {}
    for arm in study.arms():
        if arm.recipe.train.canonical_microbatch is None:
            found.setdefault(key(arm.recipe), (arm.recipe, []))[1].append(arm.name)
    return found.values()


def _name(recipe: Recipe) -> str:
    return f"{recipe.model.parameters:,} parameters, {recipe.train.precision}"


def _own_classes(queue: Queue, settings: Settings) -> list[Machine]:
    """The classes that this machine offers now, or else what it is."""
    from workers.node import hardware

    known = known_machines(settings, queue)
    own = [
        known[name]
        for name, nodes in queue.roster.offers().items()
        if {platform.node(), platform.node().lower()} & set(nodes)
    ]
    return own or [hardware.detect()]
