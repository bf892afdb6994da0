"""Machines and nodes that say that they are there, and for how long they are believed."""

import time

from claims import MOMENT
from redis import Redis
from waiting import wait_until

from farm.queue.node import Node
from farm.queue.queue import Queue
from farm.queue.values import Supply
from farm.study.machine import Machine


def test_what_an_autoscaler_can_start_is_believed_for_a_while(queue: Queue) -> None:
    assert queue.roster.supply() == {}
    supply = {"8xa100m40": Supply(most=2, starting=1, since=5.0, trouble="no capacity")}
    queue.roster.provide(supply, seconds=60)
    assert queue.roster.supply() == supply
    queue.roster.provide(supply, seconds=MOMENT)
    wait_until(lambda: queue.roster.supply() == {}, "it is forgotten")


def test_a_node_registers_a_class_whose_facts_stay_when_it_is_gone(queue: Queue) -> None:
    machine = Machine(name="cpu-x4", accelerators=4, memory=2**40, probes={"abc:fp32": 6})
    queue.roster.register(machine, "node-1", seconds=60)
    queue.roster.register(machine.model_copy(update={"probes": {"def:fp32": 2}}), "node-2", seconds=MOMENT)
    wait_until(lambda: queue.roster.offers() == {"cpu-x4": ["node-1"]}, "the registration of node-2 ends")
    assert queue.roster.machines()["cpu-x4"].probes == {"abc:fp32": 6, "def:fp32": 2}
    queue.roster.register(machine, "node-1", seconds=MOMENT)
    wait_until(lambda: queue.roster.offers() == {"cpu-x4": []}, "the registration of node-1 ends")
    assert queue.roster.machines()["cpu-x4"].memory == 2**40


def test_nodes_that_nobody_has_seen_for_a_day_are_forgotten_and_their_drains_too(queue: Queue, redis: Redis) -> None:
    gone, silent, living = (
        Node(id=name, name=name, host=name, address=name, units={"cpu": 1}) for name in ("gone", "silent", "living")
    )
    queue.roster.sight([gone, silent, living], 60)
    for node in (gone, silent, living):
        queue.roster.drain(node.id, "by hand")
    long_ago = (time.time() - 25 * 3600) * 1000
    redis.zadd("farm:seen", {"gone": long_ago, "living": long_ago, "silent": (time.time() - 3600) * 1000})
    queue.roster.sight([living], 60)
    assert set(redis.hgetall("farm:drained")) == set(redis.hgetall("farm:sightings")) == {"silent", "living"}
    (seen,) = queue.roster.nodes()
    assert (seen.id, seen.drained) == ("living", "by hand"), "the dispatcher was away for longer than the node"


def test_what_was_spent_is_told_for_a_while(queue: Queue) -> None:
    assert queue.studies.dollars_spent() == {}
    queue.studies.account({"tiny": 1.25}, 60)
    assert queue.studies.dollars_spent() == {"tiny": 1.25}
    queue.studies.account({"tiny": 1.5}, 0.001)
    wait_until(lambda: queue.studies.dollars_spent() == {}, "it is forgotten")
