"""Nodes: what they are called, what is said of them, and what the queue keeps of them."""

import pytest
from results import tiny_study
from waiting import wait_until

from farm.errors import Conflict, NotFound
from farm.queue.node import Head, Node, doing, find_node
from farm.queue.queue import Queue
from farm.record.result import Provenance
from farm.study.machine import BUILT_IN
from farm.study.run import State

A100 = Node(id="aaaa1111", name="rented-1", host="ip-10-0-0-6", address="10.0.0.6", units={"8xa100m40": 1})
HOME = Node(id="bbbb2222", name="attic", host="attic", address="10.8.0.2", units={"1xrtx3090": 1}, joined="token")
LAPTOP = Node(id="bbbb3333", name="10.8.0.3", host="laptop", address="10.8.0.3", units={"cpu-x1": 2, "cpu-x2": 1})
NODES = [A100, HOME, LAPTOP]


@pytest.mark.parametrize("word", ["attic", "10.8.0.2", "bbbb2"])
def test_a_node_is_found_by_name_host_address_or_the_beginning_of_its_id(word: str) -> None:
    assert find_node(NODES, word) is HOME


def test_an_unknown_node_is_refused_with_the_nearest() -> None:
    with pytest.raises(NotFound, match="did you mean 'rented-1'"):
        find_node(NODES, "rented-2")
    with pytest.raises(NotFound, match=r"^no node 'rented-2'\. See"):
        find_node([], "rented-2")
    with pytest.raises(NotFound):
        find_node(NODES, "")


def test_a_word_for_several_nodes_is_refused_with_their_ids() -> None:
    with pytest.raises(Conflict, match="2 nodes are called 'bbbb': bbbb2222, bbbb3333"):
        find_node(NODES, "bbbb")


@pytest.mark.parametrize(
    ("node", "runs", "waiting", "held", "said"),
    [
        (HOME, ["a run"], {"1xrtx3090": 3}, [], "a run"),
        (HOME, [], {}, [], "idle: nothing queued for 1xrtx3090"),
        (HOME, [], {"8xa100m40": 5}, [], "idle: nothing queued for 1xrtx3090"),
        (HOME, [], {"1xrtx3090": 2}, ["1xrtx3090"], "about to start one of 2 queued"),
        (HOME, [], {}, ["1xrtx3090"], "idle: runs queued for 1xrtx3090 are backing off after a failure"),
        (LAPTOP, ["a run"], {}, [], "a run"),
        (LAPTOP, [], {}, [], "idle: nothing queued for cpu-x1, cpu-x2"),
        (LAPTOP.model_copy(update={"units": {"cpu-x1": 2}}), ["a"], {}, [], "a; idle: nothing queued for cpu-x1"),
        (HOME.model_copy(update={"drained": "by hand"}), ["a run"], {}, [], "a run; draining: by hand"),
        (HOME.model_copy(update={"drained": "by hand"}), [], {"1xrtx3090": 1}, [], "drained: by hand"),
        (
            HOME.model_copy(update={"resting": "disk full"}),
            ["a run"],
            {"1xrtx3090": 1},
            [],
            "a run; resting: disk full",
        ),
        (HOME.model_copy(update={"units": {}}), [], {}, [], "idle: it offers no machine class"),
    ],
)
def test_a_node_says_what_it_runs_or_why_it_is_idle(node, runs, waiting, held, said) -> None:
    assert doing(node, runs, waiting, held) == said


def test_a_name_is_held_by_one_machine_until_it_leaves_or_is_not_heard_of(queue: Queue) -> None:
    queue.roster.enroll("attic", "mine", "host-1, process 7", 60)
    queue.roster.enroll("attic", "mine", "host-1, process 7", 60)
    with pytest.raises(Conflict, match=r"joined as 'attic': host-1, process 7\. Join with --name OTHER"):
        queue.roster.enroll("attic", "yours", "host-2, process 7", 60)
    queue.roster.leave("cpu", "attic", "yours")
    with pytest.raises(Conflict):
        queue.roster.enroll("attic", "yours", "host-2, process 7", 60)
    queue.roster.leave("cpu", "attic", "mine")
    queue.roster.enroll("attic", "yours", "host-2, process 7", 0.001)
    wait_until(lambda: not queue.redis.exists("farm:joined:attic"), "the claim ends by itself")
    queue.roster.enroll("attic", "mine", "host-1, process 7", 60)


def test_a_node_that_leaves_offers_its_class_no_longer(queue: Queue) -> None:
    queue.roster.register(BUILT_IN["cpu"], "attic", 60)
    queue.roster.register(BUILT_IN["cpu"], "cellar", 60)
    queue.roster.leave("cpu", "attic")
    assert queue.roster.offers() == {"cpu": ["cellar"]}


def test_the_roster_is_what_was_sighted_lately(queue: Queue) -> None:
    queue.roster.sight([A100, HOME], 60)
    queue.roster.sight([LAPTOP], 0.001)
    wait_until(lambda: len(queue.roster.nodes()) == 2, "a sighting ends")
    assert queue.roster.nodes() == [HOME, A100]
    queue.roster.sight([A100.model_copy(update={"units": {}})], 60)
    assert [node.units for node in queue.roster.nodes()] == [{"1xrtx3090": 1}, {}]


def test_q2_nothing_is_claimed_for_a_drained_node(queue: Queue) -> None:
    queue.put(tiny_study())
    queue.roster.sight([HOME, A100], 60)
    assert queue.roster.drain(HOME.id, "by hand") == "by hand"
    assert queue.roster.drain(HOME.id, "again") == "by hand"
    assert [node.drained for node in queue.roster.nodes()] == ["by hand", None]
    assert queue.claim("cpu", "worker", 60, node=HOME.id) is None
    claim = queue.claim("cpu", "worker", 60, node=A100.id)
    assert claim is not None
    assert queue.listing.status(claim.run.id).node == A100.id, "known before the agent says a word"
    assert queue.claim("cpu", "worker", 60) is not None
    queue.release(claim.lease, "drained")
    assert queue.listing.status(claim.run.id).node is None
    assert queue.listing.status(claim.run.id).state is State.QUEUED


def test_the_head_is_what_it_said_last(queue: Queue) -> None:
    assert queue.roster.head() is None
    software = Provenance(farm="0.1.0", code="c" * 64, python="3.11.7", torch="2.13.0+cpu", ray="2.60.0")
    head = Head(host="head", ray="10.0.0.5:6379", software=software, sources="/farm", storage="/s", marker="m")
    queue.roster.publish(head.model_copy(update={"marker": "before"}))
    queue.roster.publish(head)
    assert queue.roster.head() == head


def test_q2_no_mixed_group_is_claimed_for_a_drained_node(queue: Queue) -> None:
    queue.put(tiny_study(machines=("cpu-x1+cpu-x2",)))
    queue.roster.drain(HOME.id, "by hand")
    assert queue.claim("cpu-x1+cpu-x2", "worker", 60, node=f"{A100.id}+{HOME.id}") is None
    claim = queue.claim("cpu-x1+cpu-x2", "worker", 60, node=f"{A100.id}+{LAPTOP.id}")
    assert claim is not None
    assert queue.listing.status(claim.run.id).nodes == (A100.id, LAPTOP.id)


def test_a_node_that_is_kept_for_a_mixed_group_says_so() -> None:
    group = "1xrtx3090+8xa100m40"
    kept = f"idle: reserved for {group}, which needs all its classes free at the same time"
    assert doing(HOME, [], {group: 2}, []) == kept
    assert doing(HOME, [], {group: 2, "1xrtx3090": 3}, []) == kept
    assert doing(HOME, [], {"1xrtx3090": 3, group: 2}, []) == "about to start one of 3 queued"
