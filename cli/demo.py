"""`farm demo`"""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path

import typer

from cli import render
from cli.access import queue
from cli.ending import exit_code
from cli.options import Json
from cli.progress import finished_line, follow
from cli.render import say
from cli.runs import outlook
from cli.submit import enqueue
from cli.table import show_table
from cli.unread import Unread
from farm.errors import Conflict, NotFound, Unreachable
from farm.queue.queue import Queue
from farm.queue.values import Status
from farm.site import serving
from farm.site.serving import Facts
from farm.site.settings import Settings
from farm.study.run import State
from farm.study.study import Study


def demo(as_json: Json = False) -> None:
    """Train a small study here and now, and show its table.

    Uses the farm that is up on this machine, else starts one and stops it afterwards. Every demo trains from scratch.
    """
    settings = Settings.of_this_machine()
    study = Study.load(find_demo())
    was_up = serving.facts(settings) is not None
    with farm_for(settings, study) as facts:
        statuses, passed = train(settings, study, facts, was_up, as_json)
    failed = [status for status in statuses if status.state is not State.SUCCEEDED]
    for status in (status for status in failed if status.state.is_final):
        say(finished_line(status))
    raise typer.Exit(1 if failed or passed.is_any else 0)


def find_demo() -> Path:
    """The demo's study file: in the checkout, or inside the installed package. Raises: NotFound."""
    places = [Path(__file__).resolve().parent.parent / "examples", Path(str(files("farm"))) / "examples"]
    for place in places:
        if (place / "demo.toml").exists():
            return place / "demo.toml"
    raise NotFound(f"demo.toml is not in {' or '.join(map(str, places))}.", remedy="Reinstall farm.")


@contextmanager
def farm_for(settings: Settings, study: Study) -> Iterator[Facts]:
    """The farm that is up here, or a new one that is stopped at the end, also after Ctrl-C.

    Raises: Conflict: the farm that is up does not offer what the demo needs.
    """
    if (facts := serving.facts(settings)) is not None:
        needed = {machine for arm in study.arms() for machine in arm.machines}
        if missing := sorted(needed - facts.units.keys()):
            has = ", ".join(sorted(facts.units)) or "nothing"
            raise Conflict(
                f"the farm that is up offers {has}; the demo needs {missing[0]}.",
                remedy="Stop it first: farm down",
            )
        yield facts
        return
    from workers.head import embedded

    say(f"starting a farm at {settings.home}")
    facts = embedded.up(settings)
    try:
        yield facts
    finally:
        say("stopping the farm; running runs save a checkpoint first")
        embedded.down(settings)


def train(settings: Settings, study: Study, facts: Facts, stays_up: bool, as_json: bool) -> tuple[list[Status], Unread]:
    """Submit, follow, show the table, and say where everything is. `stays_up`: whether the farm outlives the demo."""
    with queue(settings) as open_queue:
        study, goes_on = fresh(open_queue, study)
        enqueue(open_queue, settings, study)
        say(f"{study.name}: {len(study.runs())} runs{', resuming where it stopped' if goes_on else ''}")
        say(f"dashboard: {facts.dashboard}")
        try:
            picture = follow(
                open_queue,
                lambda: open_queue.listing.picture(study.name),
                lambda: _still_up(settings, facts),
                lambda: outlook(settings, open_queue),
            )
        except KeyboardInterrupt:
            if stays_up:
                say(f"{study.name} goes on, since the farm stays up; end it with: farm cancel {study.name}")
            else:
                say(f"{study.name} stays queued; farm up or farm demo resumes it")
            raise
        exit_code(settings, open_queue, picture)
        passed = show_table(open_queue, study.name, as_json=as_json)
    say(f"run directories: {settings.storage}/runs")
    if not as_json:
        render.say_next(f"farm table {study.name} --format md", "farm plan examples/interventions.toml", "farm up")
    return picture.statuses, passed


def fresh(queue: Queue, study: Study) -> tuple[Study, bool]:
    """The demo under the first name and repetition that was not trained yet, or was interrupted.

    So every number of its table was trained for it: demo, demo-2 (rerun 1), demo-3 (rerun 2), ...
    """
    taken, names, number = queue.studies.all(), set(queue.studies.names()), 1
    while True:
        candidate = with_number(study, number)
        states = queue.listing.states([run.id for run in candidate.runs()]).values()
        if taken.get(candidate.name) == candidate and any(not state.is_final for state in states):
            return candidate, True
        if candidate.name not in names and not states:
            return candidate, False
        number += 1


def with_number(study: Study, number: int) -> Study:
    """The `number`th demo: its own name, and its runs counted as repetitions."""
    if number == 1:
        return study
    head = study.study.model_copy(update={"name": f"{study.name}-{number}", "first_rerun": number - 1})
    return study.model_copy(update={"study": head})


def _still_up(settings: Settings, facts: Facts) -> None:
    if serving.facts(settings) is None:
        raise Unreachable("The farm on this machine is gone.", remedy=f"See {facts.log}; farm up resumes.")
