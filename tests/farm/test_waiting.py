"""Why a queued run waits: its place counts what may be claimed before it, over all studies."""

import time

from results import tiny_study

from farm.queue import Status
from farm.run import Policy, State
from farm.waiting import reasons

NOW = time.time()


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
    found = reasons([resting, other], {"cpu": 1}, NOW)
    assert found[resting.run.id] == "backing off 12 s after a failure"
    assert found[other.run.id] == "next in line"


def test_no_living_node_is_the_first_thing_to_know() -> None:
    run = queued(not_before=NOW + 12)
    assert reasons([run], {"cpu-x1": 3}, NOW) == {run.run.id: "no node of class cpu"}


def test_only_queued_runs_wait() -> None:
    running = queued().model_copy(update={"state": State.RUNNING})
    assert reasons([running], {}, NOW) == {}
