"""The machine classes that a new study may name: those of the farm, of this machine, or of farm.toml."""

from collections.abc import Collection, Mapping, Sequence
from importlib.util import find_spec
from typing import NamedTuple

from cli.access import count_offers, slots
from cli.access import machines as known_machines
from cli.render import say
from farm.errors import BadStudy, FarmError
from farm.queue.listing import Reached
from farm.queue.queue import Queue
from farm.site.session import glance
from farm.site.settings import Settings
from farm.study.machine import Machine, find_machine, is_mixed, layer
from farm.study.processor import cores

VIEWS = ("cpu-x1", "cpu-x2", "cpu")  # of the same cores; the first trains most runs at a time


class Here(NamedTuple):
    """What is there to train on.

    `classes` are those that a study may name, `why` says where they come from, and `known` describes them. `slots`:
    class -> runs that train there at a time. `studies`: names that are taken. `next`: what to type before a submit.
    """

    classes: list[str]
    why: str
    known: dict[str, Machine]
    reached: Sequence[Reached] = ()
    slots: Mapping[str, int] = {}
    studies: Sequence[str] = ()
    next: str = ""
    strange: frozenset[str] = frozenset()  # of `known`, those that a plan would not know without a table in the study
    unreached: str | None = None  # why the farm that the settings name does not answer


def look(settings: Settings) -> Here:
    """The classes of the farm, if it can be reached at once, else those of this machine, else those of farm.toml."""
    try:
        with glance(settings) as redis:
            found = _of_farm(settings, Queue(redis))
    except FarmError as error:
        own = _of_this_machine(settings)
        return own if settings.redis_url is None else own._replace(unreached=str(error))
    if found.classes:
        return found
    own = _of_this_machine(settings)
    known = layer(own.known, found.known)
    return own._replace(
        known=known, reached=found.reached, studies=found.studies, strange=own.strange - found.known.keys()
    )


def pick(here: Here, asked: Sequence[str]) -> Here:
    """Those that were `asked` for. Raises: BadStudy: one is unknown, or a group, or named twice."""
    for name in asked:
        if is_mixed(name):
            raise BadStudy(
                f"--machine {name} is a mixed group.",
                remedy="Write it into the study file.",
                page="docs/machines/groups.md",
            )
        find_machine(name, here.known)
    return here._replace(classes=[*dict.fromkeys(asked)], why="as asked")


def usual(classes: Sequence[str]) -> list[str]:
    """`classes` without all but one of those that are the same cores: each of them would train every run again."""
    views = [name for name in VIEWS if name in classes]
    return [name for name in classes if name not in views[1:]]


def _of_farm(settings: Settings, queue: Queue) -> Here:
    known, offered = known_machines(settings, queue), count_offers(settings, queue)
    supply, joined = queue.roster.supply(), queue.roster.machines()
    can_start = [name for name in supply if supply[name].most and name in known]
    rented = {one.machine for one in queue.roster.rentals() if one.is_coming and one.machine in known}
    classes, why = next(
        (
            (sorted(names), why)
            for names, why in (
                ({*offered, *rented}, _why(offered.keys(), rented)),
                (can_start, "machines that the farm's autoscaler can start; none is up"),
                (joined, "machines that have joined the farm before; none is up"),
            )
            if names
        ),
        ([], ""),
    )
    reached, names = queue.listing.speeds(), queue.studies.names()
    return Here([name for name in classes if name in known], why, known, reached, slots(queue), names)


def _why(up: Collection[str], rented: Collection[str]) -> str:
    """Where the classes come from that are `up`, or of which a machine is being `rented`."""
    new = ", ".join(sorted(set(rented) - set(up)))
    if not new:
        return "machines of the farm that are up"
    is_many = "," in new
    coming = f"{new} {'are' if is_many else 'is'} being rented, and {'have' if is_many else 'has'} not joined yet"
    return f"machines of the farm that are up; {coming}" if up else coming


def _of_this_machine(settings: Settings) -> Here:
    known = known_machines(settings, None)
    if find_spec("ray") and find_spec("torch"):
        from workers.node import hardware

        try:
            own = hardware.local_classes()
            why, units = f"this machine, {hardware.describe()}, {_cores()}", {machine.name: n for machine, n in own}
        except FarmError as error:
            say(f"warning: the hardware of this machine is not known: {error}")
        else:
            strange = frozenset(machine.name for machine, _ in own) - known.keys()
            known = layer({machine.name: machine for machine, _ in own}, known)
            return Here([*units], why, known, slots=units, next="farm up", strange=strange)
    declared = sorted(settings.machines)
    if declared:
        return Here(declared, "declared in farm.toml; no farm was found up", known, next="farm connect HEAD")
    why = "a guess: no farm was found, and this machine cannot train (pip install 'farm[node]')"
    return Here([*VIEWS], why, known, next="farm connect HEAD")


def _cores() -> str:
    return f"{cores()} core{'s' * (cores() != 1)}"


def describe(machine: Machine) -> str:
    """A class in a few words."""
    if machine.is_cpu:
        return f"{machine.accelerators} CPU process{'es' * (machine.accelerators != 1)}"
    return f"{machine.accelerators} x {machine.accelerator}, {machine.memory / 2**30:.0f} GiB each"
