"""What is asked of Ray's autoscaler.

tests/walk/test_autoscale.py shows the autoscaler's half, on a real Ray, and test_two_nodes.py there a Ray without one.
"""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ray.exceptions import RpcError
from results import tiny_study

from farm.queue.node import Node
from farm.queue.queue import Queue
from workers.head.autoscale import Autoscaler, demand
from workers.head.clusterfile import Fleet, Kind
from workers.ray_internals.autoscaler import Inventory

FLEET = Fleet({"a100": Kind({"8xa100m40": 1}, 2), "h100": Kind({"8xh100m80": 1}, 2)}, most=3)
DOUBLE = Fleet({"big": Kind({"cpu": 2}, 2)}, most=9)
NOTHING = Inventory({}, Counter(), {})


def test_what_waits_is_asked_for_and_what_trains_keeps_its_unit():
    assert demand(FLEET, {"8xa100m40": 1}, {"8xa100m40": 1}, {"a100": 1}) == {"8xa100m40": 2}


def test_while_nothing_waits_nothing_is_asked_for():
    assert demand(FLEET, {}, {"8xa100m40": 2}, {"a100": 2}) == {}


def test_never_more_than_a_node_type_may_have():
    assert demand(FLEET, {"8xa100m40": 500}, {}, {}) == {"8xa100m40": 2}


def test_never_more_than_all_node_types_may_have_and_each_class_has_its_turn():
    assert demand(FLEET, {"8xa100m40": 9, "8xh100m80": 9}, {}, {}) == {"8xa100m40": 2, "8xh100m80": 1}


def test_nodes_that_are_there_take_their_room_before_new_ones():
    assert demand(FLEET, {"8xh100m80": 2}, {}, {"a100": 2}) == {"8xh100m80": 1}
    assert demand(FLEET, {"8xh100m80": 2}, {"8xa100m40": 2}, {"a100": 2, "h100": 1}) == {"8xh100m80": 1}


def test_a_node_that_starts_is_not_asked_for_twice():
    assert demand(FLEET, {"8xa100m40": 1}, {}, {"a100": 1}) == {"8xa100m40": 1}


def test_a_node_takes_as_many_runs_as_it_has_units():
    assert demand(DOUBLE, {"cpu": 3}, {}, {}) == {"cpu": 3}
    assert demand(DOUBLE, {"cpu": 9}, {}, {}) == {"cpu": 4}


def test_a_class_that_no_node_type_offers_is_not_asked_for():
    """Ray would start nothing at all: it takes a demand as a whole."""
    assert demand(FLEET, {"1xrtx3090": 5, "8xa100m40": 1}, {}, {}) == {"8xa100m40": 1}


@given(st.tuples(*[st.integers(0, 5)] * 6))
def test_a_demand_always_fits_the_limits(counts):
    waiting = {"8xa100m40": counts[0], "8xh100m80": counts[1]}
    there = {"a100": counts[2] % 3, "h100": counts[3] % 2}  # at most three nodes
    asked = demand(FLEET, waiting, {"8xa100m40": counts[4] % 3, "8xh100m80": counts[5] % 2}, there)
    nodes = {
        kind: max(there[kind], asked.get(name, 0)) for kind, name in (("a100", "8xa100m40"), ("h100", "8xh100m80"))
    }
    assert max(nodes.values()) <= 2
    assert sum(nodes.values()) <= 3


def test_what_waits_is_asked_for_once_and_what_starts_is_told(queue: Queue):
    asked: list[list] = []
    sights = [
        NOTHING,
        Inventory({}, Counter(a100=1), {"a100": "no capacity"}),
        Inventory({"n1": "a100"}, Counter(), {}),
    ]
    now = iter(sights)
    autoscaler = Autoscaler(queue, FLEET, look=lambda fleet: next(now), ask=asked.append)
    queue.put(tiny_study(machines=("8xa100m40",), init=(42,)))
    told = [_turned(autoscaler, queue) for _ in sights]
    assert asked == [[{"farm:8xa100m40": 1.0}] * 2], "three wait, two nodes may be up"
    assert [(supply.most, supply.starting) for supply in told] == [(2, 0), (2, 1), (2, 0)]
    assert [supply.since is not None for supply in told] == [False, True, False]
    assert [supply.trouble for supply in told] == [None, "no capacity", None]
    autoscaler.rest()
    assert asked[-1] == []


def _turned(autoscaler: Autoscaler, queue: Queue):
    autoscaler.looks_at = 0.0
    autoscaler.turn()
    return queue.roster.supply()["8xa100m40"]


@pytest.mark.parametrize(("drained", "asked"), [(False, 1), (True, 2)])
def test_a_drained_node_is_taken(queue: Queue, drained: bool, asked: int):
    """To Ray it has room; asked for one unit, its autoscaler would point at that node and start none."""
    queue.put(tiny_study(machines=("8xa100m40",), init=(42,)).model_copy(update={"interventions": {}}))
    queue.roster.sight([Node(id="n1", name="n1", host="h", address="a", units={"8xa100m40": 1})], 60)
    if drained:
        queue.roster.drain("n1", "spot notice")
    bundles: list[list] = []
    sight = Inventory({"n1": "a100"}, Counter(), {})
    Autoscaler(queue, FLEET, look=lambda fleet: sight, ask=bundles.append).turn()
    assert [len(each) for each in bundles] == [asked]


def test_a_study_over_its_budget_asks_for_nothing(queue: Queue):
    asked: list[list] = []
    queue.put(tiny_study(machines=("8xa100m40",), init=(42,)))
    Autoscaler(queue, FLEET, look=lambda fleet: NOTHING, ask=asked.append).turn(passing={"tiny"})
    assert asked == [[]]


@pytest.mark.parametrize("error", [RuntimeError("gone\nmore"), ConnectionError("refused"), RpcError("away")])
def test_an_autoscaler_that_does_not_answer_is_asked_again(queue: Queue, error: Exception):
    def look(fleet: Fleet) -> Inventory:
        raise error

    autoscaler = Autoscaler(queue, FLEET, look=look)
    autoscaler.turn()
    assert queue.roster.supply() == {}
    asked: list[list] = []
    autoscaler.look, autoscaler.ask, autoscaler.looks_at = lambda fleet: NOTHING, asked.append, 0.0
    autoscaler.turn()
    assert asked == [[]]


def test_a_mixed_group_asks_for_a_unit_of_each_class(queue: Queue):
    asked: list[list] = []
    queue.put(tiny_study(machines=("8xa100m40+8xh100m80",), init=(42,)))
    Autoscaler(queue, FLEET, look=lambda fleet: NOTHING, ask=asked.append).turn()
    assert sorted(key for bundle in asked[0] for key in bundle) == ["farm:8xa100m40"] * 2 + ["farm:8xh100m80"]
