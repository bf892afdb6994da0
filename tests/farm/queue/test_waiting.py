"""Why a queued run waits: its place counts what may be claimed before it, over all studies."""

import time

import pytest
from results import tiny_study

from farm.queue.budget import Spending
from farm.queue.node import Node
from farm.queue.values import Cause, Pause, Status, Supply
from farm.queue.waiting import Outlook, explain_pauses, reasons
from farm.study.run import Policy, State

NOW = time.time()
CRASH = Cause(epoch=1, cause="worker-died", message="out of memory\nsee the log", step=3, at=NOW, retryable=True)


def queued(machine: str = "cpu", priority: int = 0, not_before: float | None = None, init: int = 42) -> Status:
    run = tiny_study(machines=(machine,), init=(init,)).runs()[0]
    return Status(
        run=run.model_copy(update={"policy": Policy(priority=priority)}),
        study="tiny",
        state=State.QUEUED,
        epoch=0,
        attempts=0,
        step=0,
        submitted=NOW - 5,
        started=None,
        ended=None,
        deadline=None,
        worker=None,
        job=None,
        node=None,
        causes=(),
        checkpoint=None,
        cancelling=False,
        not_before=not_before,
        result=None,
    )


def test_first_in_goes_first_within_a_class() -> None:
    runs = [queued(init=1), queued("cpu-x1", init=1), queued(init=2), queued(init=3)]
    assert list(reasons(runs, {"cpu": 1, "cpu-x1": 1}, NOW).values()) == [
        "next in line",
        "next in line",
        "behind 1 other",
        "behind 2 others",
    ]


def test_priority_goes_before_first_in() -> None:
    early, late = queued(init=1), queued(init=2, priority=5)
    found = reasons([early, late], {"cpu": 1}, NOW)
    assert (found[late.run.id], found[early.run.id]) == ("next in line", "behind 1 other")


def test_a_run_that_backs_off_says_how_long_and_stands_in_nobody_s_way() -> None:
    resting, other = queued(init=1, not_before=NOW + 12), queued(init=2)
    resting = resting.model_copy(update={"causes": (CRASH,)})
    found = reasons([resting, other], {"cpu": 1}, NOW)
    assert found[resting.run.id] == "backing off 12 s after worker-died: out of memory"
    assert found[other.run.id] == "next in line"


def test_what_became_of_the_last_lease_is_not_forgotten() -> None:
    refused = queued(init=1).model_copy(update={"released": "Ray refused the job: no room"})
    crashed = queued(init=2).model_copy(update={"causes": (CRASH,)})
    assert list(reasons([refused, crashed], {"cpu": 1}, NOW).values()) == [
        "next in line; before: given back: Ray refused the job: no room",
        "behind 1 other; before: worker-died: out of memory",
    ]


def test_a_long_message_loses_its_middle_and_keeps_what_to_do() -> None:
    wordy = queued().model_copy(update={"released": f"no room in {'x' * 1000}. Free some.\nmore"})
    reason = reasons([wordy], {"cpu": 1}, NOW)[wordy.run.id]
    assert reason == "next in line; before: given back: no room in ... Free some."


def test_no_living_node_is_the_first_thing_to_know_and_which_there_are() -> None:
    run = queued(not_before=NOW + 12)
    assert reasons([run], {"cpu-x1": 3, "1xrtx3090": 1, "gone": 0}, NOW) == {
        run.run.id: "no node of class cpu, and no autoscaler can start one; available: 1xrtx3090, cpu-x1"
    }
    assert reasons([run], {}, NOW) == {run.run.id: "no node of class cpu (no nodes at all)"}


@pytest.mark.parametrize(
    ("supply", "why"),
    [
        (Supply(most=2), "no node of class cpu; the autoscaler starts one"),
        (Supply(most=2, starting=1, since=NOW - 50), "a node of class cpu is starting, asked for 50 s ago"),
        (Supply(most=2, starting=1, since=NOW - 300), "a node of class cpu is starting, asked for 5 min ago"),
        (Supply(most=2, trouble="no capacity"), "no node of class cpu; the last start failed: no capacity"),
        (
            Supply(most=2, starting=1, since=NOW - 5, trouble="no capacity"),
            "a node of class cpu is starting, asked for 5 s ago; the last start failed: no capacity",
        ),
        (Supply(most=0), "no node of class cpu; the cluster file allows none"),
    ],
)
def test_an_autoscaler_s_node_is_on_its_way_or_says_why_not(supply: Supply, why: str) -> None:
    assert list(reasons([queued()], {}, NOW, {"cpu": supply}).values()) == [why]


def test_a_class_whose_every_node_is_drained_says_why() -> None:
    drained = {"cpu": "spot notice"}
    assert list(reasons([queued()], {}, NOW, drained=drained).values()) == [
        "every node of class cpu is drained: spot notice"
    ]
    assert list(reasons([queued()], {}, NOW, {"cpu": Supply(most=2)}, drained=drained).values()) == [
        "every node of class cpu is drained: spot notice; the autoscaler starts one"
    ]


def test_a_study_over_its_budget_waits_and_stands_in_nobody_s_way() -> None:
    poor, other = queued(init=1), queued(init=2).model_copy(update={"study": "other"})
    found = reasons([poor, other], {"cpu": 1}, NOW, exhausted={"tiny": Spending(10.419, 10.0)})
    assert found[poor.run.id] == "over budget: $10.42 spent of $10.00"
    assert found[other.run.id] == "next in line"


def test_only_queued_runs_wait() -> None:
    running = queued().model_copy(update={"state": State.RUNNING})
    assert reasons([running], {}, NOW) == {}


def test_a_mixed_group_needs_all_its_classes_at_once() -> None:
    run = queued("cpu-x1+cpu-x2")
    assert reasons([run], {"cpu-x1": 1}, NOW) == {
        run.run.id: "no node of class cpu-x2, and no autoscaler can start one; available: cpu-x1"
    }
    assert reasons([run], {"cpu-x1": 1, "cpu-x2": 1}, NOW) == {
        run.run.id: "next in line, for a free cpu-x1 and cpu-x2 on separate nodes at the same time"
    }


def node(name: str, *classes: str, drained: str | None = None) -> Node:
    return Node(id=name, name=name, host="h", address="a", units=dict.fromkeys(classes, 1), drained=drained)


def pause(of: Status, where: str | None = None, reason: str = "gone") -> Pause:
    return Pause(of.study, of.run.recipe.corpus, where, reason)


def test_a_paused_run_says_why_and_what_to_do_and_stands_in_nobody_s_way() -> None:
    broken, other = queued(init=1), queued(init=2).model_copy(update={"study": "other"})
    paused = explain_pauses([broken, other], [pause(broken)], [])
    assert paused == {broken.run.id: "gone"}
    found = reasons([broken, other], {"cpu": 1}, NOW, paused=paused)
    assert found == {
        broken.run.id: "paused: gone. Fix it, then: farm retry tiny",
        other.run.id: "next in line",
    }


def test_a_run_is_paused_when_every_node_of_its_class_is() -> None:
    run = queued()
    attic, cellar, away = node("attic", "cpu"), node("cellar", "cpu"), node("away", "cpu", drained="by hand")
    assert explain_pauses([run], [pause(run, "attic")], [attic, cellar]) == {}, "the other takes it"
    assert explain_pauses([run], [pause(run, "attic")], [attic, away, node("other", "cpu-x1")]) == {run.run.id: "gone"}
    assert explain_pauses([run], [pause(run, "attic"), pause(run, "cellar")], [attic, cellar]) == {run.run.id: "gone"}
    assert explain_pauses([run], [pause(run, "attic")], []) == {}, "a node that comes may do"


def test_a_mixed_group_is_paused_when_every_node_of_one_of_its_classes_is() -> None:
    run = queued("cpu-x1+cpu-x2")
    nodes = [node("attic", "cpu-x1"), node("cellar", "cpu-x2")]
    assert explain_pauses([run], [pause(run, "cellar")], nodes) == {run.run.id: "gone"}


def test_only_what_waits_for_a_person_is_stuck() -> None:
    poor, broken, other = (queued(init=init) for init in (1, 2, 3))
    done = queued(init=4).model_copy(update={"state": State.FAILED})
    outlook = Outlook({}, {poor.run.id: Spending(2.0, 1.0)}, {broken.run.id: "gone"})
    assert outlook.is_stuck([poor, broken, done])
    assert not outlook.is_stuck([poor, broken, other])
    assert not outlook.is_stuck([poor, other.model_copy(update={"state": State.RUNNING})])
    assert not outlook.is_stuck([done])
