"""A node of the farm as its dispatcher sees it, and the head as it describes itself to joining machines."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from pydantic import Field

from farm.errors import Conflict, NotFound, nearest
from farm.record.result import Provenance
from farm.study.machine import is_mixed, parts
from farm.study.recipe import Frozen


class Head(Frozen):
    """The facts that `farm serve` records of itself when it starts, for a joining machine to compare itself with."""

    host: str
    ray: str = Field(description="address of its Ray, as it is called there")
    software: Provenance
    sources: str = Field(description="the folder that holds its farm, model, workers and cli")
    storage: str = Field(description="as it is called there")
    marker: str = Field(description="what Store.mark says of it")


class Node(Frozen):
    """A Ray node that offers machine classes."""

    id: str = Field(description="Ray's")
    name: str = Field(description="as `farm join --name` gave it, else Ray's, which is the address")
    host: str
    address: str
    units: dict[str, int] = Field(description="machine class -> runs at a time")
    joined: str | None = Field(None, description="token of the `farm join` that started it")
    drained: str | None = Field(None, description="why no run starts there any more")
    resting: str | None = Field(None, description="why none starts there for a while")

    def __str__(self) -> str:
        at = "" if self.name == self.address else f" at {self.address}"
        return f"{self.name}{at} (Ray node {self.id[:8]})"


def find_node(nodes: Sequence[Node], word: str) -> Node:
    """The node that `word` names: its name, host, address, or the beginning of its Ray id.

    Raises: NotFound: names the nearest. Conflict: it names several.
    """
    found = [node for node in nodes if word in (node.name, node.host, node.address)]
    found = found or [node for node in nodes if word and node.id.startswith(word)]
    if not found:
        known = {name for node in nodes for name in (node.name, node.host, node.address)}
        raise NotFound(f"no node {word!r}{nearest(word, known, listed=True)}", remedy="See `farm machines`.")
    if len(found) > 1:
        ids = ", ".join(node.id[:8] for node in found)
        raise Conflict(f"{len(found)} nodes are called {word!r}: {ids}.", remedy="Name one by its Ray id.")
    return found[0]


def drained_classes(nodes: Sequence[Node]) -> dict[str, str]:
    """The machine classes whose every node is drained -> why the last of them is."""
    why = {name: node.drained for node in nodes for name in node.units if node.drained is not None}
    return {name: reason for name, reason in why.items() if name not in offering(nodes)}


def offering(nodes: Iterable[Node]) -> dict[str, int]:
    """Machine class -> nodes where a run may start."""
    return dict(Counter(name for node in nodes if node.drained is None for name in node.units))


def doing(node: Node, runs: Sequence[str], waiting: Mapping[str, int], holding: Iterable[str]) -> str:
    """Say in words which runs `node` trains, or why it is idle.

    `runs` train there now; `waiting`: machine class or mixed group -> runs that could start now, next in line
    first; `holding`: classes whose queued runs all back off.
    """
    said = [", ".join(runs)] if runs else []
    if node.drained is not None:
        return "; ".join([*said, f"{'draining' if runs else 'drained'}: {node.drained}"])
    if node.resting is not None:
        return "; ".join([*said, f"resting: {node.resting}"])
    spare = sum(node.units.values()) - len(runs)
    if runs and (spare <= 0 or len(node.units) > 1):  # classes of one node share its cores
        return said[0]
    if not node.units:
        return "idle: it offers no machine class"
    turn = next((name for name in waiting if set(parts(name)) & node.units.keys()), None)
    if turn and is_mixed(turn):
        return "; ".join([*said, f"idle: reserved for {turn}, which needs all its classes free at the same time"])
    if turn:
        count = sum(waiting.get(name, 0) for name in node.units)
        return "; ".join([*said, f"about to start one of {count} queued"])
    if backing := sorted(set(holding) & node.units.keys()):
        return "; ".join([*said, f"idle: runs queued for {', '.join(backing)} are backing off after a failure"])
    return "; ".join([*said, f"idle: nothing queued for {', '.join(sorted(node.units))}"])
