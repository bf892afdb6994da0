"""`farm machines`"""

import platform
from collections.abc import Callable, Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from cli import render
from cli.access import machines as known_machines
from cli.access import offered, queue
from cli.options import Json
from cli.render import Column, Sheet, say
from farm import settings as settings_
from farm import study as study_
from farm.errors import FarmError
from farm.machine import Machine
from farm.queue import Queue
from farm.recipe import Recipe
from farm.settings import Settings
from farm.study import Study

COLUMNS = (
    Column("machine", "machine"),
    Column("accelerator", "accelerator"),
    Column("accelerators", "count", render.count, is_number=True),
    Column("memory_bytes", "GiB each", render.gib, is_number=True),
    Column("usd_per_hour", "$/h", render.dollars, is_number=True),
    Column("tokens_per_second", "tokens/s", render.known(lambda value: f"{value:,.0f}"), is_number=True, is_spare=True),
    Column("nodes", "nodes up", render.count, is_number=True),
    Column("queued", "queued", render.count, is_number=True),
    Column("source", "known from", is_spare=True),
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
    """The machine classes that are known, and what they offer now.

    What --probe finds is kept for the class of this machine, and plans are made with it from then on.
    """
    settings = settings_.load()
    with queue(settings) as open_queue:
        if probe:
            _probe(open_queue, settings, _study(open_queue, probe))
        known = known_machines(settings, open_queue)
        registered = open_queue.machines().keys()
        waiting, nodes = open_queue.queued(), offered(settings, open_queue)
    rows = [
        {
            "machine": name,
            "accelerator": machine.accelerator,
            "accelerators": machine.accelerators,
            "memory_bytes": machine.memory,
            "usd_per_hour": machine.usd_per_hour,
            "tokens_per_second": machine.tokens_per_second,
            "nodes": nodes.get(name, 0),
            "queued": waiting.get(name, 0),
            "source": _source(name, settings, name in registered),
            "probes": machine.probes,
        }
        for name, machine in sorted(known.items())
    ]
    render.emit(Sheet("farm.machines/1", COLUMNS, rows), as_json=as_json)


def _source(name: str, settings: Settings, is_registered: bool) -> str:
    if is_registered:
        return "its nodes"
    return "farm.toml" if name in settings.machines else "built in"


def _study(queue: Queue, name: str) -> Study:
    path = Path(name)
    return study_.load(path) if path.suffix == ".toml" or path.is_file() else queue.study(name)


def _probe(queue: Queue, settings: Settings, study: Study) -> None:
    """Measure every model and precision of `study` that leaves a microbatch to choose, on this machine.

    Raises: FarmError: this machine cannot, or a trial went wrong.
    """
    if find_spec("torch") is None:
        raise FarmError(
            "torch is not installed here.", remedy="Probe on the machine that trains: pip install farm[node]."
        )
    from workers import probing

    for machine in _own_classes(queue, settings):
        for recipe, arms in _models(study, probing.key):
            say(f"{machine.name}: trying {', '.join(arms)}: {_named(recipe)} ...")
            found = probing.measure(queue, machine, recipe).probes[probing.key(recipe)]
            say(f"{machine.name}: microbatches of up to {found:,} fit")


def _models(study: Study, key: Callable[[Recipe], str]) -> Iterable[tuple[Recipe, list[str]]]:
    """A recipe for each model and precision, and the arms that share it. Canonical arms have their microbatch."""
    found: dict[str, tuple[Recipe, list[str]]] = {}
    for arm in study.arms():
        if arm.recipe.train.canonical_microbatch is None:
            found.setdefault(key(arm.recipe), (arm.recipe, []))[1].append(arm.name)
    return found.values()


def _named(recipe: Recipe) -> str:
    return f"{recipe.model.parameters:,} parameters, {recipe.train.precision}"


def _own_classes(queue: Queue, settings: Settings) -> list[Machine]:
    """The classes that this machine offers now, or else what it is."""
    from workers import hardware

    known = known_machines(settings, queue)
    own = [known[name] for name, nodes in queue.nodes().items() if platform.node() in nodes]
    return own or [hardware.detect()]
