"""`farm demo`: every number of its table is trained for it. That it trains at all is for tests/walk."""

import os
import signal
import time

from results import tiny_study
from waiting import wait_until

from cli.demo import find_demo, fresh, with_number
from farm.site import serving
from farm.site.process import identity
from farm.site.serving import Facts
from farm.site.settings import Settings
from farm.study.run import State
from farm.study.study import Study

from .conftest import Farm


def test_the_first_demo_is_called_by_its_name(farm: Farm) -> None:
    study = tiny_study("demo", init=(42,))
    assert fresh(farm.queue, study) == (study, False)


def test_a_demo_that_was_trained_is_trained_again_as_a_repetition_of_its_own_name(farm: Farm) -> None:
    study = tiny_study("demo", init=(42,))
    for number, name in enumerate(["demo", "demo-2", "demo-3"]):
        chosen, goes_on = fresh(farm.queue, study)
        assert (chosen.name, goes_on) == (name, False)
        assert {run.rerun for run in chosen.runs()} == {number}
        assert len(farm.queue.put(chosen).new) == 3, "nothing of it was known"
        farm.finish_all()


def test_an_interrupted_demo_goes_on(farm: Farm) -> None:
    study = tiny_study("demo", init=(42,))
    farm.queue.put(study)
    farm.finish(farm.claim(), 3.25)
    assert fresh(farm.queue, study) == (study, True)
    for status in farm.queue.listing.statuses():
        if status.state is State.QUEUED:
            farm.queue.cancel(status.run.id)
    assert fresh(farm.queue, study)[0].name == "demo-2"


def test_runs_trained_under_another_study_are_not_borrowed(farm: Farm) -> None:
    farm.queue.put(tiny_study("mine", init=(42,)))
    chosen, _ = fresh(farm.queue, tiny_study("demo", init=(42,)))
    assert chosen.name == "demo-2"


def test_somebody_else_s_study_called_demo_is_left_alone(farm: Farm) -> None:
    farm.queue.put(tiny_study("demo", init=(7,)))
    assert fresh(farm.queue, tiny_study("demo", init=(42,)))[0].name == "demo-2"


def test_a_numbered_demo_differs_in_name_and_repetition_only() -> None:
    study = tiny_study("demo")
    again = with_number(study, 3)
    assert again.arms() == study.arms()
    assert [run.recipe for run in again.runs()] == [run.recipe for run in study.runs()]
    assert not {run.id for run in again.runs()} & {run.id for run in study.runs()}


def test_whoever_interrupts_it_in_a_farm_that_stays_up_is_told_that_it_goes_on(farm: Farm) -> None:
    needed = {machine: 1 for arm in Study.load(find_demo()).arms() for machine in arm.machines}
    facts = Facts(
        pid=os.getpid(),
        process=identity(os.getpid()) or "",
        redis="",
        dashboard="",
        units=needed,
        storage="",
        started=time.time(),
        log="/serve.log",
    )
    serving.announce(Settings(home=farm.folder / "home", storage=farm.store.root), facts)
    with farm.start("demo") as process:
        wait_until(farm.queue.listing.statuses, "it is submitted")
        farm.claim("cpu-x1")
        assert process.stderr is not None
        seen = iter(process.stderr.readline, "")
        assert next((line for line in seen if " on cpu-x1" in line), None), "it is followed"
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "demo goes on, since the farm stays up; end it with: farm cancel demo\n" in err
