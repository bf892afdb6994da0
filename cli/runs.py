"""`farm runs [STUDY]`"""

import time
from collections.abc import Mapping, Sequence
from typing import TypeVar

from cli import render
from cli.access import count_offers, machines, queue
from cli.options import ArmName, Json, StudyOrAll
from cli.progress import Newest, newest
from cli.render import Column, Sheet, say
from cli.unread import unread
from farm.errors import NotFound, nearest
from farm.queue.budget import Spending, find_exhausted
from farm.queue.listing import Overview
from farm.queue.node import drained_classes
from farm.queue.queue import Queue
from farm.queue.unscored import tell
from farm.queue.values import Listed, Status
from farm.queue.waiting import Outlook, cut, explain_pauses, reasons
from farm.record.imported import ImportedRun
from farm.site.settings import Settings
from farm.study.run import State

SHOWN = 200  # runs of all studies on a terminal, where a row takes more than a millisecond
Told = TypeVar("Told", Status, Listed)
COLUMNS = (
    Column("run", "run"),
    Column("study", "study", is_spare=True),
    Column("state", "state"),
    Column("step", "step", render.count, is_number=True),
    Column("steps", "of", render.count, is_number=True),
    Column("train_loss", "train loss", render.loss, is_number=True, digits=6),
    Column("test_loss", "test loss", render.loss, is_number=True, digits=6),
    Column("age_seconds", "age", render.duration, is_number=True, is_spare=True, digits=0),
    Column("why", "why", render.or_unknown(lambda why: cut(render.line(why))), is_prose=True),
)


def runs(study: StudyOrAll = None, arm: ArmName = None, as_json: Json = False) -> None:
    """List runs: state, step, loss, and why they wait.

    The training loss is that of the newest step, and of a finished run the mean over the last tenth of its steps.
    Without STUDY, results are not read, so that those of them that cannot be read are not named: for these see farm
    doctor; and a terminal shows 200 runs at most: those that train, then those that wait, then the newest.
    """
    settings = Settings.load()
    with queue(settings) as open_queue:
        imported = {study: open_queue.studies.imported(study)} if study else open_queue.studies.all_imported()
        if study and not imported[study].runs:
            open_queue.studies.one(study)
        picture = _listed(open_queue, study)
        passed, chosen = unread(picture, study), picture.statuses
        for line in passed.lines:
            say(line)
        elsewhere = [(name, run) for name, one in imported.items() for run in one.runs if arm in (None, run.arm)]
        if arm and not elsewhere:
            chosen = of_arm(chosen, arm)
        chosen = [one for one in chosen if arm in (None, one.arm)]
        waits = any(one.state is State.QUEUED for one in chosen)  # else nobody need read all that waits elsewhere
        why = outlook(settings, open_queue).why if waits else {}
        rows = [row(open_queue, one, why) for one in chosen]
        rows += [imported_row(name, run) for name, run in elsewhere]
        evaluations = tell(open_queue.evaluations.statuses(study))
    if not rows and not passed.is_any:
        say("no runs yet: farm submit STUDY, or see it all at work: farm demo")
    is_screen = render.is_terminal() and not as_json
    if rows or not is_screen:
        shown = rows if study or not is_screen else choose(rows)
        render.emit(Sheet("farm.runs/1", COLUMNS, shown, more={"unreadable": passed.every}), as_json=as_json)
        if left_out := len(rows) - len(shown):
            say(f"and {left_out:,} more: farm runs STUDY, or --json")
    for line in evaluations:
        say(line)
    passed.end()


def _listed(queue: Queue, study: str | None) -> Overview:
    """The runs of a study, whose results are read and so their faults found, or all."""
    if study is None:
        return queue.listing.overview()
    picture = queue.listing.picture(study)
    return Overview([Listed.of(status) for status in picture.statuses], picture.flaws)


def choose(rows: Sequence[dict]) -> Sequence[dict]:
    """The rows that a terminal shows: of thousands those that train, then those that wait, then the newest."""
    order = {str(State.RUNNING): 0, str(State.QUEUED): 1}

    def urgency(place: int) -> tuple[int, int]:
        of_state = order.get(rows[place]["state"], len(order))
        return of_state, place if of_state < len(order) else -place

    return [rows[place] for place in sorted(sorted(range(len(rows)), key=urgency)[:SHOWN])]


def of_arm(runs: Sequence[Told], arm: str) -> list[Told]:
    """Raises: NotFound: names the nearest arm."""
    found = [one for one in runs if one.arm == arm]
    if not found:
        raise NotFound(f"no run of an arm {arm!r}{nearest(arm, {one.arm for one in runs})}")
    return found


def outlook(settings: Settings, queue: Queue) -> Outlook:
    """Why the queued runs of all studies wait."""
    statuses = queue.listing.unfinished()
    if not any(status.state is State.QUEUED for status in statuses):
        return Outlook()
    return outlook_of(settings, queue, statuses, exhausted(settings, queue))


def exhausted(settings: Settings, queue: Queue) -> dict[str, Spending]:
    """The studies that have spent what they may."""
    limited = queue.studies.limited()
    paid = [status for name in limited for status in queue.listing.paid_by(name).statuses]
    known = machines(settings, queue) if limited else {}
    return find_exhausted(limited.values(), paid, known, time.time(), queue.studies.dollars_spent()) if limited else {}


def outlook_of(
    settings: Settings,
    queue: Queue,
    statuses: Sequence[Status],
    spent: Mapping[str, Spending],
    ahead: Mapping[str, int] | None = None,
) -> Outlook:
    """Why those of `statuses` that are queued wait. `spent`: as `exhausted` says. `ahead`: how many others of its class
    are ahead of each by run id, where these are not all unfinished runs.
    """
    roster = queue.roster.nodes()
    paused = explain_pauses(statuses, queue.listing.pauses(), roster)
    offers, supply = count_offers(settings, queue), queue.roster.coming()
    why = reasons(statuses, offers, time.time(), supply, spent, drained_classes(roster), paused, ahead)
    poor = {run.id: spent[run.study] for run in statuses if run.state is State.QUEUED and run.study in spent}
    return Outlook(why, poor, paused)


def row(queue: Queue, run: Listed, why: Mapping[str, str]) -> dict:
    """One run, as JSON shows it."""
    step, train_loss, validation_loss = progress(queue, run)
    return {
        "run": run.id,
        "study": run.study,
        "arm": run.arm,
        "machine": run.machine,
        "seeds": run.seeds,
        "rerun": run.rerun,
        "imported": False,
        "state": str(run.state),
        "step": step,
        "steps": run.steps,
        "train_loss": train_loss,
        "validation_loss": validation_loss,
        "test_loss": run.losses.test if run.losses else None,
        "submitted": run.submitted,
        "age_seconds": round(render.ago(run.submitted) or 0, 1),
        "attempts": run.attempts,
        "why": explain(run, why, trains=train_loss is not None),
    }


def imported_row(study: str, run: ImportedRun) -> dict:
    """A run that was trained elsewhere, in the same form; values missing from its source are None."""
    return {
        "run": run.id,
        "study": study,
        "arm": run.arm,
        "machine": run.machine,
        "seeds": run.seeds_told,
        "rerun": run.rerun,
        "imported": True,
        "state": "imported",
        "step": None,
        "steps": None,
        "train_loss": None,
        "validation_loss": None,
        "test_loss": run.test_loss,
        "submitted": None,
        "age_seconds": None,
        "attempts": None,
        "why": f"trained elsewhere: {run.source}",
    }


def progress(queue: Queue, run: Listed) -> Newest:
    """The step, and the losses there: of a running run the newest, of a finished one those of its result."""
    if run.state is State.RUNNING:
        return newest(queue, run)
    return Newest(run.step, run.losses.train, run.losses.validation) if run.losses else Newest(run.step)


def explain(status: Status | Listed, why: Mapping[str, str], *, trains: bool = True) -> str | None:
    """Why a run waits or does not step yet (`trains` says whether it does), or why it failed."""
    if status.state is State.QUEUED:
        return why.get(status.id)
    if status.state is State.RUNNING:
        if status.cancelling or status.recalled:
            return "being cancelled" if status.cancelling else f"saves a checkpoint and stops: {status.recalled}"
        return None if status.job and trains else "starting"
    if status.state is State.FAILED and status.causes:
        last = status.causes[-1]
        return f"{last.cause} at step {last.step:,}: {last.message}"
    return None
