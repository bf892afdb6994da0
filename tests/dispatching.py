"""Dispatchers and what they claim, for their tests."""

from results import tiny_study

from farm.queue.queue import Queue
from farm.study.machine import BUILT_IN
from farm.study.study import Study
from workers.head.dispatcher import Dispatcher, RayNode

KNOWN = BUILT_IN
LAPTOP = RayNode("laptop", 2, {"cpu-x1": 2, "cpu-x2": 1})


def of(queue: Queue, *nodes: RayNode) -> Dispatcher:
    for machine in KNOWN.values():
        queue.roster.register(machine, "here", 60)
    return Dispatcher(queue, jobs=None, look=lambda: nodes)


def put(queue: Queue, name: str, machine: str, init: tuple[int, ...] = (42,), priority: int = 0) -> None:
    """Queue a run of the baseline for each seed."""
    parsed = tiny_study(name, (machine,), init).model_dump(mode="json", exclude_unset=True)
    queue.put(Study.build(parsed | {"interventions": {}, "policy": {"priority": priority}}))
