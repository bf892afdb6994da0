"""`farm resolve [STUDY] --usd 50`"""

import math
import time
from collections.abc import Iterator
from typing import Annotated

import typer

from cli import render
from cli.access import machines, queue, study_or_newest, trained_study
from cli.options import Json, StudyName
from cli.render import Column, Sheet, say
from cli.submit import enqueue, wait_for
from cli.unread import unread
from farm.errors import BadSetting, Changed, Unreadable
from farm.queue.budget import find_unpriced
from farm.queue.queue import Queue
from farm.queue.values import Status
from farm.site.settings import Settings
from farm.study.looks import Look
from farm.study.machine import Machine
from farm.study.study import Study
from farm.verdict.forecast import plans
from farm.verdict.racing import Budget, look

COLUMNS = (
    Column("look", "look", is_number=True),
    Column("arm", "arm"),
    Column("machine", "machine"),
    Column("pairs", "pairs", is_number=True),
    Column("delta", "vs baseline", render.signed, is_number=True, digits=6),
    Column("p", "p", render.probability, is_number=True, figures=4),
    Column("word", "verdict"),
    Column("added", "added", is_number=True),
    Column("why", "why"),
)
Usd = Annotated[float | None, typer.Option("--usd", metavar="USD", help="What the added runs may cost.")]
Hours = Annotated[float | None, typer.Option("--hours", metavar="HOURS", help="Node hours that they may take.")]
Runs = Annotated[int | None, typer.Option("--runs", metavar="RUNS", help="How many runs may be added.")]


def resolve(
    study: StudyName = None,
    usd: Usd = None,
    hours: Hours = None,
    runs: Runs = None,
    no_wait: Annotated[
        bool, typer.Option("--no-wait", help="Look once; call it again when the runs are done.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Add seed pairs where they most likely change a verdict, until all are resolved or the budget is spent.

    It waits for the runs of the study, looks at its verdicts, and gives more pairs to the unresolved arms whose chance
    to be resolved is greatest for their cost; then it waits for those runs, and looks again. An arm is tested at 3, 4,
    6, 9, 13, 19, ... pairs (or from those that it began with), and its error rate is shared out over these tests, so
    that all looks together call anything better or worse by mistake in at most 5 of 100 studies; farm table uses the
    same intervals from the first look on. Every look is kept with the study, with its decisions and their reasons.
    Budgets count from the first look on: to spend more, name a larger one. Exit code 0: all resolved; 1: not all.
    """
    settings, budget = Settings.load(), budget_of(usd, hours, runs)
    with queue(settings) as open_queue:
        name = study_or_newest(open_queue, study)
        form = trained_study(open_queue, name)
        warn_unpriced(form, machines(settings, open_queue), budget)
        while True:
            if unfinished := sum(not status.state.is_final for status in whole(open_queue, name)):
                if no_wait:
                    say(f"{name}: {unfinished} runs are not done: call this again when they are")
                    break
                wait_for(settings, open_queue, name)
                if waiting := sum(not status.state.is_final for status in open_queue.listing.statuses(name)):
                    say(f"{name}: {waiting} runs wait for a person, so there is no look until they are done")
                    break
            if not step(settings, open_queue, name, budget) or no_wait:
                break
        form = open_queue.studies.one(name)
    taken = form.looks.looks if form.looks else ()
    rows = [row for number, one in enumerate(taken, 1) for row in rows_of(number, one)]
    render.emit(Sheet("farm.resolve/1", COLUMNS, rows, more={"study": name, "looks": taken}), as_json=as_json)
    if not as_json:
        render.say_next(f"farm table {name}")
    raise typer.Exit(int(not taken or taken[-1].decision != "resolved"))


def budget_of(usd: float | None, hours: float | None, runs: int | None) -> Budget:
    """Raises: BadSetting: none is given, or one is not a positive number."""
    given = {"--usd": usd, "--hours": hours, "--runs": runs}
    if all(value is None for value in given.values()):
        raise BadSetting("resolve needs a budget.", remedy="Write --usd 50, --hours 20 or --runs 12.")
    for option, value in given.items():
        if value is not None and not 0 < value < math.inf:
            raise BadSetting(f"{option} = {value:g} is not a budget.", remedy=f"Write a positive number: {option} 50.")
    return Budget(usd, hours, runs)


def warn_unpriced(study: Study, known: dict[str, Machine], budget: Budget) -> None:
    """Warn of machine classes that a budget in dollars does not count."""
    if budget.usd is not None and (free := find_unpriced(study, known)):
        say(f"warning: {', '.join(free)}: no usd_per_hour is declared, so --usd does not count runs there")


def whole(queue: Queue, name: str) -> list[Status]:
    """The runs of the study. Raises: Unreadable: money would be spent by a verdict from a part of them."""
    picture, scored = queue.listing.picture(name), queue.evaluations.scored(name, "study")
    passed = unread(picture, name, scored.flaws)
    if passed.is_any:
        first, *more = passed.lines
        raise Unreadable(first, remedy="Nothing was queued: every run counts in a verdict.", also=tuple(more))
    return picture.statuses


def step(settings: Settings, queue: Queue, name: str, budget: Budget) -> bool:
    """Look once, keep the look with the study, and queue what it adds. False: the race is over.

    Where another command has changed the study or queued runs of it since, nothing is looked at: their cost is not
    known yet, and two looks at once would spend the budget twice.
    """
    known, since = machines(settings, queue), queue.studies.edition(name)
    before, statuses = queue.studies.one(name), whole(queue, name)
    if not all(status.state.is_final for status in statuses):
        return True
    done = look(before, statuses, known, budget, time.time(), queue.evaluations.scores(name, "study"))
    plans(done.study, known)
    try:
        enqueue(queue, settings, done.study, since)
    except Changed:
        say(f"{name}: another command changed it meanwhile; looking again")
        return True
    for line in lines(len(done.study.looks.looks) if done.study.looks else 0, done.look):
        say(line)
    return done.look.decision == "add"


def lines(number: int, seen: Look) -> Iterator[str]:
    """A look in words: every arm, and what was decided."""
    for one in seen.standings:
        p = "" if one.p is None else f", p {render.probability(one.p)}"
        got = f"; {_pairs(one.added)} added" if one.added else ""
        why = f"; {one.why}" if one.why else ""
        difference = "no difference yet" if one.delta is None else render.signed(one.delta)
        yield f"look {number}: {one.arm} on {one.machine}: {one.word} ({_pairs(one.pairs)}, {difference}{p}){got}{why}"
    added = f"; {seen.added_runs} run{'s' * (seen.added_runs != 1)} queued" if seen.added_runs else ""
    yield f"look {number}: {seen.decision}: {seen.why}{added}"


def _pairs(count: int) -> str:
    return f"{count} pair{'s' * (count != 1)}"


def rows_of(number: int, seen: Look) -> list[dict]:
    return [{"look": number, **one.model_dump(mode="json")} for one in seen.standings]
