"""`farm drain NODE`, with the tests as the node. tests/walk/test_join.py drains a real one."""

import json
import signal

import pytest
from waiting import wait_until

from farm.queue.node import Node

from .conftest import Farm

NODE = Node(id="node-1", name="attic", host="host-1", address="10.0.0.6", units={"cpu": 1})


def test_an_idle_node_is_empty_at_once_and_stays_drained(farm: Farm) -> None:
    farm.queue.roster.sight([NODE], 60)
    answer = farm("drain", "host-1", "--json")
    assert answer.code == 0
    assert answer.err.startswith("attic at 10.0.0.6 (Ray node node-1) is empty, and stays drained until: ")
    assert answer.err.endswith(": farm drain host-1 --undo\n")
    told = json.loads(answer.out)["data"]
    assert (told["node"], told["id"], told["released"]) == ("attic", "node-1", [])
    (drained,) = farm.queue.roster.nodes()
    assert drained.drained == told["reason"]
    assert drained.drained.startswith("farm drain on ")


def test_it_waits_for_what_runs_there_and_says_what_became_of_it(farm: Farm) -> None:
    farm.put()
    farm.queue.roster.sight([NODE], 60)
    here = farm.claim()
    with farm.start("drain", "attic", "--json") as process:
        wait_until(lambda: farm.queue.roster.nodes()[0].drained, "it is drained")
        assert process.poll() is None
        assert farm.queue.claim("cpu", "worker", 60, node="node-1") is None
        assert process.stderr is not None
        assert f"{here.run.id} runs on attic" in process.stderr.readline()
        farm.queue.release(here.lease, "drained")
        out, err = process.communicate(timeout=30)
    assert process.returncode == 0
    assert f"{here.run.id} stopped and was released at step 1: queued" in err
    assert json.loads(out)["data"]["released"] == [here.run.id]


@pytest.mark.parametrize(
    ("joined", "end"), [(None, "stays drained until: farm drain attic --undo"), ("token", "leaves anyway")]
)
def test_who_stops_waiting_is_told_that_the_drain_goes_on(farm: Farm, joined: str | None, end: str) -> None:
    farm.put()
    farm.queue.roster.sight([NODE.model_copy(update={"joined": joined})], 60)
    farm.claim()
    with farm.start("drain", "attic") as process:
        assert process.stderr is not None
        assert "asked for a checkpoint" in process.stderr.readline()
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert err.splitlines()[0] == f"attic at 10.0.0.6 (Ray node node-1) {end}"
    assert farm.queue.roster.nodes()[0].drained


def test_a_drain_can_be_undone(farm: Farm) -> None:
    farm.put()
    farm.queue.roster.sight([NODE], 60)
    assert farm("drain", "attic").code == 0
    assert farm.queue.claim("cpu", "worker", 60, node="node-1") is None
    answer = farm("drain", "attic", "--undo", "--json")
    assert (answer.code, json.loads(answer.out)["data"]["reason"]) == (0, None)
    assert answer.err == "runs may start on attic at 10.0.0.6 (Ray node node-1) again\n"
    assert farm.queue.roster.nodes()[0].drained is None
    assert farm.queue.claim("cpu", "worker", 60, node="node-1")
    assert farm("drain", "attic", "--undo").err.endswith(": it was not drained\n")


def test_a_machine_that_joined_is_leaving_already(farm: Farm) -> None:
    farm.queue.roster.sight([NODE.model_copy(update={"joined": "token"})], 60)
    assert farm("drain", "attic").code == 0
    answer = farm("drain", "attic", "--undo")
    assert (answer.code, "is leaving: farm drain on" in answer.err) == (6, True)
    assert farm.queue.roster.nodes()[0].drained


def test_an_unknown_node_is_refused_with_the_nearest(farm: Farm) -> None:
    farm.queue.roster.sight([NODE], 60)
    answer = farm("drain", "attik")
    assert (answer.code, answer.out) == (3, "")
    assert answer.err == "error: no node 'attik'; did you mean 'attic'? See `farm machines`.\n"
