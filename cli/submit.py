"""`farm submit STUDY`"""

import time
from collections.abc import Collection, Iterator, Sequence
from typing import Annotated, Any

import typer

from cli import corpus, render
from cli.access import count_offers, machines, queue, slots, study_file
from cli.ending import exit_code
from cli.options import Json, StudyFile, Yes
from cli.outcome import remarks
from cli.plan import class_line
from cli.progress import follow
from cli.render import Column, Sheet, say
from cli.runs import outlook
from cli.storage import on_record, refuse_unindexed
from cli.table import show_table
from farm.errors import Guard
from farm.queue.budget import Spending, dollars, find_unpriced, spending
from farm.queue.queue import Queue
from farm.queue.values import Put, Status
from farm.queue.waiting import no_node
from farm.record.store import Store
from farm.site import serving
from farm.site.settings import Settings
from farm.study.machine import Machine, parts
from farm.study.seeding import carry_over
from farm.study.study import Study
from farm.verdict.advice import advice
from farm.verdict.forecast import Reached, forecast, least_hours, least_limit, plans

COLUMNS = (
    Column("run", "run"),
    Column("arm", "arm"),
    Column("machine", "machine"),
    Column("seeds", "seeds"),
    Column("now", "now"),
)
JOIN, START = "Join one with: farm join HEAD", "Start one here with: farm up"
MaxUsd = Annotated[
    float | None, typer.Option("--max-usd", metavar="USD", help="Stop the study once it has cost this much.")
]
MaxHours = Annotated[
    float | None,
    typer.Option("--max-hours", metavar="HOURS", help="Stop it after this many node hours, of all attempts together."),
]
SHOWN = 40  # runs on a terminal; a pipe and JSON get all


def submit(
    study: StudyFile,
    wait: Annotated[bool, typer.Option("--wait", help="Follow the runs, then show the table.")] = False,
    twin: Annotated[
        bool, typer.Option("--twin", help="Train every arm on every machine class of the study, as with twins = true.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Queue nothing; print what would be queued.")] = False,
    max_usd: MaxUsd = None,
    max_hours: MaxHours = None,
    yes: Yes = False,
    as_json: Json = False,
) -> None:
    """Queue every new run of a study.

    Submitting twice queues nothing twice, and a run that has a result under another name is not trained again. An arm's
    recipe may change while none of its runs has a result. Every run is planned first: if any run fits no machine, or
    this machine sees that no run could train on the data, the whole study is rejected. Seed pairs that farm seeds and
    farm resolve have added stay. --max-usd and --max-hours replace the study's policy.usd_limit and policy.hours_limit
    until it is submitted again; once one is spent, running runs save a checkpoint and wait. Exits with 7 unless -y is
    given if the forecast exceeds such a limit, or if --wait could never end because no node offers a machine class and
    no autoscaler can start one.
    """
    settings = Settings.load()
    parsed = study_file(study, settings).with_limits(max_usd, max_hours)
    parsed = parsed.with_twins() if twin else parsed
    with queue(settings) as open_queue:
        since = open_queue.studies.edition(parsed.name)
        parsed = carry_over(parsed, open_queue.studies.stored(parsed.name))
        refuse_unindexed(settings, open_queue)
        known, nodes = machines(settings, open_queue), count_offers(settings, open_queue)
        plans(parsed, known)  # refuses what no machine can run
        corpus.check(parsed, settings, corpus.of_runs(parsed, open_queue.preview(parsed).new))
        if not yes:
            guard_budget(parsed, known, open_queue)
        if wait and not dry_run and not yes:
            guard_waiting(parsed, nodes, open_queue)
        put = open_queue.preview(parsed) if dry_run else enqueue(open_queue, settings, parsed, since)
        if not wait:
            render.emit(sheet(parsed, put), as_json=as_json)
        for remark in remarks(open_queue, parsed, put, dry_run):
            say(remark)
        is_up = serving.facts(settings) is not None
        for warning in warnings(parsed, known, absent(parsed, set(put.new), nodes, open_queue), is_up):
            say(f"warning: {warning}")
        if wait and not dry_run:
            code = wait_for(settings, open_queue, parsed.name)
            passed = show_table(open_queue, parsed.name, as_json=as_json)
            raise typer.Exit(code or int(passed.is_any))
    if not as_json and not dry_run:
        render.say_next(f"farm watch {parsed.name}", f"farm table {parsed.name}")


def enqueue(queue: Queue, settings: Settings, study: Study, since: str = "*") -> Put:
    """Queue the study, which was made from its edition `since`, and record it; where that fails, an agent records it
    again. Raises: Conflict, Changed.
    """
    refuse_unindexed(settings, queue)
    put = queue.put(study, since=since)

    def record(store: Store) -> None:
        store.studies.keep(study)
        for run_id in put.again:
            store.runs.remember(run_id)

    on_record(settings, record, f"{study.name} is queued, but not recorded in the storage until it trains")
    return put


def sheet(study: Study, put: Put) -> Sheet:
    """A row per run: queued now, or the state it has already."""
    rows = [
        {
            "run": run.id,
            "arm": run.arm,
            "machine": run.machine,
            "seeds": str(run.seeds),
            "now": "adopted" if run.id in put.adopted else str(put.known.get(run.id, "new")),
        }
        for run in study.runs()
    ]
    more: dict[str, Any] = {
        "study": study.name,
        "new": len(put.new),
        "known": len(put.known),
        "adopted": len(put.adopted),
    }
    more |= {"replaced": len(put.replaced)}
    return Sheet("farm.submit/1", COLUMNS, rows, more=more, shown=SHOWN)


def absent(study: Study, ids: Collection[str], nodes: dict[str, int], queue: Queue) -> dict[str, bool]:
    """The machine classes of the runs `ids` that no node offers now -> whether an autoscaler can start one."""
    supply = queue.roster.coming()
    names = sorted({name for run in study.runs() if run.id in ids for name in parts(run.machine)} - nodes.keys())
    return {name: name in supply and supply[name].most > 0 for name in names}


def guard_budget(study: Study, known: dict[str, Machine], queue: Queue) -> None:
    """Raises: Guard: all of `study`, with what it has cost already, would cost more than its policy allows."""
    if not study.policy.is_limited:
        return
    statuses, reached = queue.listing.costs(study), queue.listing.speeds()
    spent = spending([study], statuses, known, time.time(), queue.studies.dollars_spent())[study.name]
    passed = list(limits_passed(study, statuses, known, spent, reached))
    if passed:
        stops = study.policy.limit_action == "stop"
        told = "; ".join(map(class_line, forecast(study, known, reached, slots(queue), is_resolving=False).classes))
        raise Guard(
            f"{study.name} would take {', and '.join(passed)} ({told}).",
            remedy="Raise the limit or train less (see farm plan); or go ahead with -y: "
            + ("its runs stop and wait" if stops else "no run starts")
            + " once the limit is spent.",
            page="docs/machines/cost.md#a-limit",
        )


def limits_passed(
    study: Study,
    statuses: Sequence[Status],
    known: dict[str, Machine],
    spent: Spending,
    reached: Sequence[Reached],
) -> Iterator[str]:
    """The limits that all of `study`, with the amount `spent` already, would exceed."""
    usd = least_limit(study, statuses, known, spent.usd, reached) if study.policy.usd_limit is not None else None
    if usd is not None and usd > spent.limit:
        so_far = f", {dollars(spent.usd)} of it spent already," if spent.usd else ""
        yield f"{dollars(usd)}{so_far} and its policy.usd_limit is {dollars(spent.limit)}"
    is_timed = study.policy.hours_limit is not None
    hours = least_hours(study, statuses, known, spent.hours, reached) if is_timed else None
    if hours is not None and hours > spent.hours_limit:
        so_far = f", {spent.hours:,.2f} of them used already," if spent.hours else ""
        yield f"{hours:,.2f} node hours{so_far} and its policy.hours_limit is {spent.hours_limit:,.4g}"


def guard_waiting(study: Study, nodes: dict[str, int], queue: Queue) -> None:
    """Raises: Guard: the wait could have no end, because some runs have no machine."""
    put = queue.preview(study)
    done = put.adopted.keys() | {run_id for run_id, state in put.known.items() if state.is_final}
    waited_for = {run.id for run in study.runs()} - done
    for_good = [name for name, can_start in absent(study, waited_for, nodes, queue).items() if not can_start]
    if for_good:
        raise Guard(
            f"nothing is queued: {no_node(', '.join(for_good), nodes)}.",
            remedy=f"{START if not nodes else JOIN}; or leave out --wait; or wait for one with -y.",
            page="docs/machines/waiting.md",
        )


def warnings(study: Study, known: dict[str, Machine], absent: dict[str, bool], is_up: bool) -> Iterator[str]:
    """Warnings for a submitter: classes that no node offers or that a limit does not count, and slow settings.

    `is_up`: whether a farm is up on this machine.
    """
    if starting := [name for name, can_start in absent.items() if can_start]:
        yield f"no live node of class {', '.join(starting)}: the autoscaler starts one"
    if waiting := [name for name, can_start in absent.items() if not can_start]:
        again = " ".join(f"--machine {name}" for name in waiting)
        here = f"offer it here with: farm down; farm up {again}" if is_up else START.lower()
        yield f"no live node of class {', '.join(waiting)}: those runs wait. {JOIN}, or {here}"
    if study.policy.usd_limit is not None and (free := find_unpriced(study, known)):
        yield f"{', '.join(free)}: no usd_per_hour is declared, so policy.usd_limit does not count runs there"
    yield from advice(study, known)


def wait_for(settings: Settings, queue: Queue, study: str) -> int:
    """Follow a study until all its runs are final, or none goes on by itself; the exit code."""
    try:
        picture = follow(
            queue,
            lambda: queue.listing.picture(study),
            outlook=lambda: outlook(settings, queue),
        )
    except KeyboardInterrupt:
        say(f"{study} goes on in the background; follow it with: farm watch {study}")
        raise
    return exit_code(settings, queue, picture)
