"""Turns waiting runs into demand for Ray's autoscaler, and shows in the queue which nodes it is starting.

Ray's autoscaler takes a demand as a whole: if any part of it can never be met, it starts nothing at all, and says so in
its own log only. So what is asked for here is always within the limits of the cluster file: per node type, and
`max_workers` over all. While nothing waits nothing is asked for: a node that trains is not idle, and the others go.
"""

import logging
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping

from ray.autoscaler import sdk
from ray.exceptions import RayError

from farm.errors import BadSetting, first_line
from farm.queue.queue import Queue
from farm.queue.values import Supply
from farm.study.machine import parts, resource
from workers.head.clusterfile import Fleet
from workers.ray_internals import autoscaler
from workers.ray_internals.autoscaler import Inventory

log = logging.getLogger("farm")

LOOK_SECONDS = 2.0
KEEP_SECONDS = 30.0  # what was said of the supply is believed for so long
REPEAT_SECONDS = 30.0  # Ray's head forgets a demand when it restarts

Bundle = dict[str, float]


def check_version() -> None:
    """Make sure that the Ray that this process is connected to has autoscaler v2.

    Raises: BadSetting: version 1 knows no label selectors, so that what it starts would wait for ever.
    """
    if not autoscaler.is_version_2():
        raise BadSetting(
            "--autoscaling-config: this Ray runs version 1 of its autoscaler, which cannot place a run on a node.",
            remedy="Start its head by `ray up`, or with RAY_enable_autoscaler_v2=1.",
        )


def sight(fleet: Fleet) -> Inventory:
    """The nodes that the autoscaler of the Ray that this process is connected to has and starts."""
    return autoscaler.sight(fleet.kinds, time.time())


def demand(
    fleet: Fleet, waiting: Mapping[str, int], taken: Mapping[str, int], there: Mapping[str, int]
) -> dict[str, int]:
    """Machine class -> units to ask the autoscaler for.

    `waiting`: runs that could start now, per class. `taken`: units of the autoscaler's nodes that they cannot have, per
    class. `there`: its nodes, up or starting, per node type. New nodes go to the classes in turn, so that none takes
    all the room.
    """
    have = {name: sum(there.get(kind, 0) for kind in fleet.offering(name)) for name in fleet.classes}
    wanted = {name: waiting[name] + taken.get(name, 0) for name in fleet.classes if waiting.get(name)}
    room = fleet.most - sum(there.get(kind, 0) for kind in fleet.kinds)
    while room > 0:
        short = [name for name in wanted if have[name] * fleet.units(name) < wanted[name]]
        growing = [name for name in short if have[name] < fleet.limit(name)][:room]
        if not growing:
            break
        for name in growing:
            have[name] += 1
        room -= len(growing)
    asked = {name: min(count, have[name] * fleet.units(name)) for name, count in wanted.items()}
    return {name: count for name, count in asked.items() if count}


class Autoscaler:
    """turn() looks and asks; call it again and again, after the dispatcher has claimed what it could."""

    def __init__(
        self,
        queue: Queue,
        fleet: Fleet,
        look: Callable[[Fleet], Inventory] = sight,
        ask: Callable[[list[Bundle]], None] = lambda bundles: sdk.request_resources(bundles=bundles),
    ):
        self.queue, self.fleet, self.look, self.ask = queue, fleet, look, ask
        self.looks_at = 0.0
        self.asked: dict[str, int] | None = None
        self.asks_again_at = 0.0
        self.since: dict[str, float] = {}  # machine class -> when its first node of those that start was asked for

    def turn(self, passing: Collection[str] = ()) -> None:
        """Ask for what the waiting runs need, but for those of the studies `passing`.

        An autoscaler that does not answer is asked again at the next turn.
        """
        if time.monotonic() < self.looks_at:
            return
        self.looks_at = time.monotonic() + LOOK_SECONDS
        try:
            found = self.look(self.fleet)
            self._request(self._need(found, passing))
        except (RayError, RuntimeError, OSError) as error:
            log.warning("the autoscaler does not answer: %s; trying again", first_line(error))
            return
        self.queue.roster.provide(self._supply(found), KEEP_SECONDS)

    def rest(self) -> None:
        """Ask for nothing any more: a dispatcher that starts no runs must not keep paid machines up."""
        try:
            self.ask([])
        except (RayError, RuntimeError, OSError) as error:
            log.warning("could not tell the autoscaler that nothing is needed any more: %s", error)

    def _need(self, found: Inventory, passing: Collection[str]) -> dict[str, int]:
        there = Counter(found.nodes.values()) + found.starting
        waiting: Counter[str] = Counter()
        for machine, count in self.queue.listing.backlog(passing).items():
            waiting.update(dict.fromkeys(parts(machine), count))  # a mixed group needs a unit of each class
        return demand(self.fleet, waiting, self._taken_units(found), there)

    def _taken_units(self, found: Inventory) -> Counter[str]:
        """Machine class -> units of the autoscaler's nodes that no other run can have: of drained nodes, all."""
        drained = {node.id for node in self.queue.roster.nodes() if node.drained is not None} & found.nodes.keys()
        training = found.nodes.keys() - drained
        held = [
            pair
            for run in self.queue.listing.running()
            for pair in zip(parts(run.run.machine), run.nodes, strict=False)
        ]
        taken = Counter(name for name, node in held if node in training)
        for node in drained:
            taken.update(self.fleet.kinds[found.nodes[node]].units)
        return taken

    def _request(self, wanted: dict[str, int]) -> None:
        if wanted == self.asked and time.monotonic() < self.asks_again_at:
            return
        if wanted != self.asked:
            log.info("asking the autoscaler for %s", _spell(wanted) or "nothing")
        self.ask([{resource(name): 1.0} for name, count in wanted.items() for _ in range(count)])
        self.asked, self.asks_again_at = wanted, time.monotonic() + REPEAT_SECONDS

    def _supply(self, found: Inventory) -> dict[str, Supply]:
        return {name: self._supply_of(name, found) for name in self.fleet.classes}

    def _supply_of(self, name: str, found: Inventory) -> Supply:
        kinds = self.fleet.offering(name)
        starting = sum(found.starting[kind] for kind in kinds)
        if starting:
            self.since.setdefault(name, time.time())
        else:
            self.since.pop(name, None)
        is_up = any(kind in kinds for kind in found.nodes.values())
        trouble = None if is_up else next(filter(None, map(found.troubles.get, kinds)), None)
        most = self.fleet.limit(name)
        price = self.fleet.price(name)
        return Supply(most=most, starting=starting, since=self.since.get(name), trouble=trouble, price=price)


def _spell(wanted: Mapping[str, int]) -> str:
    return ", ".join(f"{count} of {resource(name)}" for name, count in wanted.items())
