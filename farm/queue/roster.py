"""The roster: machine classes, nodes, what an autoscaler can start, the head and its dispatchers."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence

from farm.errors import Conflict
from farm.queue.node import Head, Node
from farm.queue.rental import Rental, Stage
from farm.queue.scripts import Scripts
from farm.queue.spelling import (
    milliseconds,
    pairs,
    read_head,
    read_machine,
    read_node,
    read_rental,
    read_supply,
    spell_node,
    spell_rental,
)
from farm.queue.unreadable import readable
from farm.queue.values import Supply
from farm.study.machine import BUILT_IN, Machine, layer
from farm.study.recipe import canonical_json
from farm.study.schema import stamp


class Roster:
    """The facts that machines report about themselves, and those that others record about them."""

    def __init__(self, scripts: Scripts):
        self._scripts = scripts

    def register(self, machine: Machine, node: str, seconds: float) -> None:
        """`node` offers a machine class for `seconds`. The class' facts, and what was probed, stay."""
        facts = stamp(canonical_json(machine.model_copy(update={"probes": {}})))
        probes = [part for probe in machine.probes.items() for part in probe]
        self._scripts.call("register", machine.name, facts, node, milliseconds(seconds), *probes)

    def machines(self) -> dict[str, Machine]:
        """Every machine class that a node ever registered, by name."""
        return {machine.name: machine for machine, _ in self._machines()}

    def classes(self, declared: Mapping[str, Machine]) -> dict[str, Machine]:
        """Every class that is known, the later over the earlier: built in, `declared` in the settings, registered.

        A price that no node registered is that of the cluster file, if it has one: before any node has started, too.
        """
        told = layer(BUILT_IN, declared)
        supplied = {name: told[name].with_price(one.price) for name, one in self.supply().items() if name in told}
        return layer(told, supplied, self.machines())

    def offers(self) -> dict[str, list[str]]:
        """The nodes that offer each class now."""
        return {machine.name: nodes for machine, nodes in self._machines()}

    def provide(self, supply: Mapping[str, Supply], seconds: float) -> None:
        """An autoscaler can start these machine classes; forgotten after `seconds`."""
        text = json.dumps({name: one.model_dump() for name, one in supply.items()})
        self._scripts.call("provide", text, milliseconds(seconds))

    def supply(self) -> dict[str, Supply]:
        """The machine classes that an autoscaler can start, as it said lately; none when there is no autoscaler."""
        read = readable(read_supply, [self._scripts.call("supply") or "{}"])
        return next(read, {})

    def coming(self) -> dict[str, Supply]:
        """The machine classes of which a node may come by itself: those of `supply`, and of machines to be rented."""
        supply = self.supply()
        for one in self.rentals():
            if one.is_coming:
                known = supply.get(one.machine, Supply(most=0))
                since = min(filter(None, (known.since, one.launched or one.asked)))
                trouble = known.trouble or (one.note if one.stage is Stage.WAITING else None) or None
                more = {"most": known.most + 1, "starting": known.starting + 1, "since": since, "trouble": trouble}
                supply[one.machine] = known.model_copy(update=more)
        return supply

    def publish(self, head: Head) -> None:
        """Publish the description of the head, for joining machines."""
        self._scripts.call("publish", stamp(canonical_json(head)))

    def head(self) -> Head | None:
        """The head as it described itself last; None if no head ever did."""
        text = self._scripts.call("head")
        return next(readable(read_head, [text]), None) if text else None

    def enroll(self, name: str, token: str, facts: str, seconds: float) -> None:
        """Join as the node `name` for `seconds`, or renew that. `facts`: what this machine is, for others to read.

        Raises: Conflict: another machine has joined under that name; says which.
        """
        said, *details = self._scripts.call("enroll", name, token, milliseconds(seconds), facts)
        if said == "taken":
            free = max(0, int(details[1])) / 1000
            raise Conflict(
                f"another machine has joined as {name!r}: {details[0]}.",
                remedy=f"Join with --name OTHER; if that one is gone, the name is free in {free:.0f} s.",
            )

    def leave(self, machine: str, name: str, token: str = "") -> None:
        """The node `name` offers `machine` no longer; with its `token`, the name is free, too."""
        self._scripts.call("leave", machine, name, token)

    def sight(self, nodes: Sequence[Node], seconds: float) -> None:
        """Report the nodes that a dispatcher sees; it will look again within `seconds`."""
        self._scripts.call(
            "sight", milliseconds(seconds), *(part for node in nodes for part in (node.id, spell_node(node)))
        )

    def nodes(self) -> list[Node]:
        """Every node that a dispatcher sees, by name; drained and resting ones say why."""
        found = readable(read_node, self._scripts.call("roster"))
        return sorted(found, key=lambda node: (node.name, node.id))

    def drain(self, node_id: str, reason: str) -> str:
        """Stop runs from starting on a node; returns the first reason given."""
        return self._scripts.call("drain", node_id, reason)

    def rest(self, node_id: str, reason: str, seconds: float) -> None:
        """Let no run start on a node for a while: its fault would hurt one run after another."""
        self._scripts.call("rest", node_id, reason, milliseconds(seconds))

    def undrain(self, node_id: str) -> bool:
        """Let runs start on a node again; whether it was drained."""
        return bool(self._scripts.call("undrain", node_id))

    def attend(self, dispatcher: str, seconds: float) -> None:
        """Report that a dispatcher is there, and will report again within `seconds`; 0: it has gone."""
        self._scripts.call("attend", dispatcher, round(seconds * 1000))

    def attending(self, seconds: float) -> set[str]:
        """The dispatchers that are there, of which each may be silent for `seconds`."""
        return set(self._scripts.call("attending", milliseconds(seconds)))

    def rentals(self) -> list[Rental]:
        """Every machine that is rented, wanted, or was rented lately, in the order they were asked for."""
        found = readable(read_rental, (text for _, text in pairs(self._scripts.call("rentals"))))
        return sorted(found, key=lambda one: (one.asked, one.name))

    def rent(self, rental: Rental) -> None:
        """Record a machine that is wanted.

        Raises: Conflict: there is a record of that name.
        """
        if not self._scripts.call("rent", rental.name, "", spell_rental(rental)):
            raise Conflict(f"there is a rented machine {rental.name!r} already.", remedy="See: farm rent --list")

    def change_rental(self, name: str, change: Callable[[Rental], Rental | None]) -> Rental | None:
        """Replace a record by what `change` makes of it, however many write at once; None forgets it.

        Returns the new record; None if there is none.
        """
        while text := dict(pairs(self._scripts.call("rentals"))).get(name):
            changed = change(read_rental(text))
            if self._scripts.call("rent", name, text, spell_rental(changed) if changed else ""):
                return changed
        return None

    def _machines(self) -> Iterator[tuple[Machine, list[str]]]:
        for _, facts, probes, nodes in self._scripts.call("machines"):
            for machine in readable(lambda pair: read_machine(*pair), [(facts, probes)]):
                yield machine, sorted(nodes)
