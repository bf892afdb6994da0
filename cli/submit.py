"""`farm submit STUDY`"""

from collections import Counter
from collections.abc import Collection, Iterator
from typing import Annotated

import typer

from cli import render
from cli.access import machines, offered, on_record, queue
from cli.options import Json, StudyFile, Yes
from cli.progress import follow
from cli.render import Column, Sheet, say
from cli.runs import waits
from cli.table import show_table
from farm import serving
from farm import settings as settings_
from farm import study as study_
from farm.advice import advice
from farm.budget import unpriced
from farm.errors import Guard
from farm.forecast import forecast, plans
from farm.machine import Machine, parts
from farm.queue import Put, Queue
from farm.run import State
from farm.settings import Settings
from farm.study import Study
from farm.waiting import no_node

COLUMNS = (
    Column("run", "run"),
    Column("arm", "arm"),
    Column("machine", "machine"),
    Column("seeds", "seeds"),
    Column("now", "now"),
)
WORDS = {State.SUCCEEDED: "already finished", State.FAILED: "failed before", State.CANCELLED: "cancelled before"}
JOIN, START = "Join one with: farm join HEAD", "Start one here with: farm up"
SHOWN = 40  # runs on a terminal; a pipe and JSON get all


def submit(
    study: StudyFile,
    wait: Annotated[bool, typer.Option("--wait", help="Follow the runs, then show the table.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Queue nothing; say what would be.")] = False,
    yes: Yes = False,
    as_json: Json = False,
) -> None:
    """Queue every run of a study that is not known yet.

    Submitting twice queues nothing twice. Every run is planned first: one that fits nowhere refuses the whole study.
    Refused with exit code 7, unless -y says that it is meant: a study that would cost more than its policy.usd_limit,
    and to --wait for machine classes that no node offers and no autoscaler starts.
    """
    settings = settings_.load()
    parsed = study_.load(study)
    with queue(settings) as open_queue:
        known, nodes = machines(settings, open_queue), offered(settings, open_queue)
        plans(parsed, known)  # refuses what no machine can run
        if not yes:
            guard_budget(parsed, known, open_queue)
        if wait and not dry_run and not yes:
            guard_waiting(parsed, nodes, open_queue)
        put = open_queue.preview(parsed) if dry_run else queued(open_queue, settings, parsed)
        if not wait:
            render.emit(sheet(parsed, put), as_json=as_json)
        for remark in remarks(parsed, put, dry_run):
            say(remark)
        is_up = serving.facts(settings) is not None
        for warning in warnings(parsed, known, absent(parsed, set(put.new), nodes, open_queue), is_up):
            say(f"warning: {warning}")
        if wait and not dry_run:
            failed = wait_for(settings, open_queue, parsed.name)
            show_table(open_queue, parsed.name, as_json=as_json)
            raise typer.Exit(1 if failed else 0)
    if not as_json and not dry_run:
        render.say_next(f"farm watch {parsed.name}", f"farm table {parsed.name}")


def queued(queue: Queue, settings: Settings, study: Study) -> Put:
    """Queue the study, and record it; where that fails, an agent records it again. Raises: Conflict."""
    put = queue.put(study)
    on_record(settings, lambda store: store.keep(study), f"{study.name} is queued, but not on record before it trains")
    return put


def sheet(study: Study, put: Put) -> Sheet:
    """A row per run: queued now, or the state it has already."""
    rows = [
        {
            "run": run.id,
            "arm": run.arm,
            "machine": run.machine,
            "seeds": str(run.seeds),
            "now": str(put.known[run.id]) if run.id in put.known else "new",
        }
        for run in study.runs()
    ]
    more = {"study": study.name, "new": len(put.new), "known": len(put.known)}
    return Sheet("farm.submit/1", COLUMNS, rows, more=more, shown=SHOWN)


def remarks(study: Study, put: Put, dry_run: bool) -> Iterator[str]:
    """One line: how many are new and how many known, and one more for those that need `retry`."""
    counts = Counter(WORDS.get(state, "already queued or running") for state in put.known.values())
    told = [f"{count} {word}" for word, count in counts.items()]
    told.append(f"{len(put.new)} {'would be queued' if dry_run else 'queued'}")
    yield f"{study.name}: of {len(put.new) + len(put.known)} runs {', '.join(told)}"
    if State.FAILED in put.known.values():
        yield f"failed runs stay failed until: farm retry {study.name}"


def absent(study: Study, ids: Collection[str], nodes: dict[str, int], queue: Queue) -> dict[str, bool]:
    """The machine classes of the runs `ids` that no node offers now -> whether an autoscaler can start one."""
    supply = queue.supply()
    names = sorted({name for run in study.runs() if run.id in ids for name in parts(run.machine)} - nodes.keys())
    return {name: name in supply and supply[name].most > 0 for name in names}


def guard_budget(study: Study, known: dict[str, Machine], queue: Queue) -> None:
    """Raises: Guard: all of `study` would cost more than its policy allows."""
    limit = study.policy.usd_limit
    if limit is None:
        return
    results = [status.result for status in queue.statuses() if status.result]
    usd = forecast(study, known, results).usd
    if usd is not None and usd > limit:
        raise Guard(
            f"{study.name} would take ${usd:,.2f} and its policy.usd_limit is ${limit:,.2f}.",
            remedy="Raise the limit or train less (see farm plan); or -y: then no run starts once the limit is spent.",
        )


def guard_waiting(study: Study, nodes: dict[str, int], queue: Queue) -> None:
    """Raises: Guard: the wait could have no end, because some runs have no machine."""
    known = queue.preview(study).known
    waited_for = {run.id for run in study.runs() if run.id not in known or not known[run.id].is_final}
    for_good = [name for name, can_start in absent(study, waited_for, nodes, queue).items() if not can_start]
    if for_good:
        raise Guard(
            f"nothing is queued: {no_node(', '.join(for_good), nodes)}.",
            remedy=f"{START if not nodes else JOIN}; or leave out --wait; or wait for one to come with -y.",
        )


def warnings(study: Study, known: dict[str, Machine], absent: dict[str, bool], is_up: bool) -> Iterator[str]:
    """What a submitter should know: classes that no node offers or that a limit does not see, and what is slow there.

    `is_up`: whether a farm is up on this machine.
    """
    if starting := [name for name, can_start in absent.items() if can_start]:
        yield f"no live node of class {', '.join(starting)}: the autoscaler starts one"
    if waiting := [name for name, can_start in absent.items() if not can_start]:
        again = " ".join(f"--machine {name}" for name in waiting)
        here = f"offer it here with: farm down; farm up {again}" if is_up else START.lower()
        yield f"no live node of class {', '.join(waiting)}: those runs wait. {JOIN}, or {here}"
    if study.policy.usd_limit is not None and (free := unpriced(study, known)):
        yield f"{', '.join(free)}: no usd_per_hour is declared, so policy.usd_limit does not see what runs there cost"
    yield from advice(study, known)


def wait_for(settings: Settings, queue: Queue, study: str) -> bool:
    """Follow a study until all its runs are final; whether one did not succeed."""
    try:
        statuses = follow(queue, lambda: queue.statuses(study), why=lambda: waits(settings, queue, queue.statuses()))
    except KeyboardInterrupt:
        say(f"{study} goes on without you; see it with: farm watch {study}")
        raise
    return any(status.state is not State.SUCCEEDED for status in statuses)
