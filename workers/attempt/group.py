"""A mixed group as placement sees it: the units of all its classes held at once, and which node does what."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple, Self

from ray.util import placement_group, remove_placement_group

from farm.study.machine import Machine, Mixed, resource
from workers.attempt.task import Place

HOLD_SECONDS = 60.0  # for units that were free when the run was claimed


class Also(NamedTuple):
    """A place besides the leader's, as the dispatcher chose it and the job's command line spells it."""

    machine: str
    node: str
    cpus: float

    @classmethod
    def read(cls, text: str) -> Self:
        machine, node, cpus = text.split("@")
        return cls(machine, node, float(cpus))


@contextmanager
def hold(others: Sequence[Also], seconds: float = HOLD_SECONDS) -> Iterator[bool]:
    """Hold a unit and the CPUs of each of `others` while the block runs; False where they could not be had in time.

    The job itself holds those of the leader. Ray takes the units back when this process ends, however it does.
    """
    if not others:
        yield True
        return
    group = placement_group(
        [{resource(other.machine): 1.0} | ({"CPU": other.cpus} if other.cpus else {}) for other in others],
        bundle_label_selector=[{"ray.io/node-id": other.node} for other in others],
    )
    try:
        yield group.wait(seconds)
    finally:
        remove_placement_group(group)


def places(machine: Machine, leader: str, others: Sequence[Also]) -> tuple[Place, ...]:
    """Who trains where, in the order of ranks; nothing for a machine that is one node."""
    if not isinstance(machine, Mixed):
        return ()
    nodes = [leader, *(other.node for other in others)]
    return tuple(
        Place(node=node, machine=part.name, workers=part.accelerators, threads=part.threads)
        for node, part in zip(nodes, machine.parts, strict=True)
    )
