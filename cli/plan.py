"""`farm plan STUDY`"""

import math
from collections.abc import Iterator, Sequence
from datetime import date
from typing import Annotated, NamedTuple

import typer

from cli import corpus, render
from cli.access import machines, queue, slots, study_file
from cli.options import Json, StudyFile, study_names
from cli.render import Column, Sheet, say
from cli.unread import Unread, unread
from farm.errors import BadStudy, Refused, Unreachable
from farm.queue.budget import dollars
from farm.queue.listing import Reached
from farm.queue.queue import Queue
from farm.site.settings import Settings
from farm.study.machine import Machine
from farm.study.recipe import TEST
from farm.study.study import Study
from farm.verdict.advice import advice
from farm.verdict.forecast import (
    UNKNOWN_NOISE,
    ClassTotal,
    Estimate,
    Forecast,
    Noise,
    baseline_sd,
    forecast,
    imported_noise,
    noise_of,
)
from farm.verdict.seen import see

COLUMNS = (
    Column("machine", "machine"),
    Column("arm", "arm"),
    Column("runs", "runs", render.count, is_number=True),
    Column("plan", "world x micro x accum", render.text),
    Column("gib", "GiB", render.text, is_number=True, is_spare=True),
    Column("hours", "hours", render.hours, is_number=True, digits=4),
    Column("wall_clock_hours", "wall clock", render.clock, is_number=True, digits=4),
    Column("usd", "$", render.dollars, is_number=True, digits=4),
    Column("basis", "hours are", render.text, is_spare=True),
    Column("resolves_sd", "resolves SD", render.or_unknown(lambda value: f"{value:.2f}"), is_number=True, digits=4),
    Column("resolves", "nats", render.loss, is_number=True, is_spare=True, digits=6),
)
ALL_ARMS, ALL_MACHINES = "(all arms)", "(all machines)"  # no arm and no machine can be called so
OLD_DAYS = 180  # of a price


Sd = Annotated[
    float | None,
    typer.Option("--sd", metavar="SD", help="Use this SD of one run's score (of the test loss, in nats)."),
]
NoiseOf = Annotated[
    str | None,
    typer.Option(
        "--noise",
        metavar="STUDY",
        help="Use the SD of this earlier study's baseline.",
        autocompletion=study_names,
    ),
]


def plan(study: StudyFile, sd: Sd = None, noise_from: NoiseOf = None, as_json: Json = False) -> None:
    """Forecast a study: plans, hours, dollars, and the smallest effect it resolves.

    Queues nothing, and works without Redis. Hours are summed for each machine class; classes work in parallel, so the
    wall clock is that of the slowest. The smallest effect is one that the table will call better or worse with 80 %
    power, all its arms counted: in standard deviations of one run's score (study.score; the test loss, unless it names
    another), and in its unit where that is measured (by the baseline's finished runs, or those of --noise) or stated
    (--sd). Ends with exit code 2, as farm submit would, if this machine sees that no run could train on the data.
    """
    settings = Settings.load()
    parsed = study_file(study, settings)
    known, reached, at_a_time, own = what_is_known(settings, parsed)
    noise = find_noise(parsed, sd, noise_from, settings) or own
    found = forecast(parsed, known, reached, at_a_time, noise)
    render.emit(sheet(found, parsed.study.score, as_json), as_json=as_json)
    for remark in remarks(found, parsed.study.score):
        say(remark)
    for warning in advice(parsed, known):
        say(f"warning: {warning}")
    for limit in limits_passed(parsed, found):
        then = "its runs stop and wait" if parsed.policy.limit_action == "stop" else "no run starts"
        say(f"more than {limit}: {then} once that is spent")
    corpus.check(parsed, settings, parsed.arms())
    if not as_json:
        render.say_next(f"farm submit {study}")


def limits_passed(study: Study, found: Forecast) -> Iterator[str]:
    """The limits of the study that all of it would exceed."""
    usd, hours = study.policy.usd_limit, study.policy.hours_limit
    if usd is not None and found.usd is not None and found.usd > usd:
        yield f"policy.usd_limit, {dollars(usd)}"
    if hours is not None and found.node_hours is not None and found.node_hours > hours:
        yield f"policy.hours_limit, {hours:,.3g} node hours"


class Known(NamedTuple):
    """What a forecast rests on."""

    machines: dict[str, Machine]
    reached: Sequence[Reached]  # by finished runs
    slots: dict[str, int]  # runs that can train at a time
    noise: Noise  # of the study's own baseline


def what_is_known(settings: Settings, planned: Study) -> Known:
    """What the farm knows for a forecast of `planned`; without Redis, what the settings declare."""
    try:
        with queue(settings) as open_queue:
            reached = open_queue.listing.speeds()
            noise = _own_noise(open_queue, planned, reached)
            return Known(machines(settings, open_queue), reached, slots(open_queue), noise)
    except (Unreachable, Refused) as error:
        say(f"warning: planning without registered nodes and measured speeds: {error}")
        return Known(machines(settings, None), [], {}, UNKNOWN_NOISE)


def _own_noise(queue: Queue, planned: Study, reached: Sequence[Reached]) -> Noise:
    """That of the finished runs of any study that have the baseline's recipe."""
    digest = planned.arms()[0].recipe.digest
    ids = [one.run_id for one in reached if one.recipe.digest == digest]
    picture, scored = queue.listing.these(ids), queue.evaluations.scored_of(ids)
    _warn(unread(picture, scores=scored.flaws))
    results = [status.result for status in picture.statuses if status.result]
    return lambda machine: baseline_sd(planned, machine, results, scored.scores)


def _warn(passed: Unread) -> None:
    """A forecast stands without them, on fewer measured losses."""
    for line in passed.lines:
        say(f"warning: {line}")


def find_noise(planned: Study, sd: float | None, study: str | None, settings: Settings) -> Noise | None:
    """The noise given by --sd, or shown by an earlier study in the score that `planned` ranks by; None without either.

    Raises: BadStudy: it is not a positive number, or both were given, or the earlier study has no such score.
    NotFound: there is no such study.
    """
    if sd is not None and not (0 < sd < math.inf):
        raise BadStudy(f"--sd = {sd:g} is not a valid SD.", remedy="State a positive number, such as --sd 0.012.")
    if sd is not None and study is not None:
        raise BadStudy("--sd and --noise cannot be used together.", remedy="Leave one out.")
    if study is None:
        return None if sd is None else lambda machine: sd
    score = planned.study.score
    with queue(settings) as open_queue:
        imported = open_queue.studies.imported(study).runs
        results = [status.result for status in open_queue.listing.statuses(study) if status.result]
        if not results and imported:
            if score != TEST:
                raise _no_such_noise(study, "imported test losses only", score)
            say(f"noise: that of {study}'s imported baseline, which was trained elsewhere")
            return imported_noise(imported)
        evaluations = open_queue.studies.one(study).evaluations
        found = see(results, open_queue.evaluations.scores(study, "study"), score, evaluations).results
        if results and not found:
            raise _no_such_noise(study, f"no score by {score}", score)
        return noise_of(found)


def _no_such_noise(study: str, has: str, score: str) -> BadStudy:
    return BadStudy(
        f"--noise {study}: it has {has}, and the planned study ranks by {score}.",
        remedy=f"State the SD of one run's {score} with --sd.",
    )


def sheet(found: Forecast, score: str, as_json: bool = False) -> Sheet:
    """A row per machine and arm, and below them the totals, which in JSON stand beside the rows."""
    columns = tuple(one._replace(heading=score) if one.key == "resolves" and score != TEST else one for one in COLUMNS)
    total = {"runs": found.runs, "wall_clock_hours": found.wall_clock_hours, "usd": found.usd}
    rows: list[dict] = []
    for one in found.classes:  # arms keep the study's order
        rows += [_row(estimate) for estimate in found.estimates if estimate.machine == one.machine]
        rows += [] if as_json else [one.model_dump(mode="json") | {"arm": ALL_ARMS}]
    if as_json:
        more = {"study": found.study, "total": total, "classes": found.classes}
        return Sheet("farm.plan/1", columns, rows, more=more)
    if len(found.classes) > 1:
        rows.append(total | {"machine": ALL_MACHINES, "arm": ALL_ARMS})
    blank = dict.fromkeys(column.key for column in COLUMNS)
    return Sheet("farm.plan/1", columns, [blank | row for row in rows])


def _row(estimate: Estimate) -> dict:
    plan = estimate.plan
    return estimate.model_dump(mode="json", exclude={"plan"}) | {
        "plan": str(plan),
        "world": plan.world,
        "microbatch": plan.microbatch,
        "accumulation": plan.accumulation,
        "gib": round(plan.bytes_needed / 2**30, 1),
        "microbatch_basis": plan.basis,
        "shares": plan.shares,
        "shares_basis": plan.shares_basis,
    }


def remarks(found: Forecast, score: str) -> Iterator[str]:
    """The totals, what they rest on, and why anything shows as '-'."""
    for one in found.classes:
        yield class_line(one)
    if len(found.classes) > 1:
        clock = "wall clock unknown" if found.wall_clock_hours is None else render.clock(found.wall_clock_hours)
        yield f"all of it: {found.runs:,} runs, {clock} with the classes in parallel, {_usd(found.usd)}"
    yield from _notes(found)
    yield from _old_prices(found)
    shares = {(one.machine, one.plan.shares_basis) for one in found.estimates if one.plan.shares}
    for machine, basis in sorted(shares):
        why = "equal, since nothing is known of the speed of one" if basis == "equal" else f"by {basis} speed"
        yield f"shares of the batch over {machine}: {why}"
    slow = sorted({estimate.machine for estimate in found.estimates if estimate.hours is None})
    if slow:
        yield f"hours of {', '.join(slow)}: unknown until a run finished there, or tokens_per_second is declared"
    dear = sorted({estimate.machine for estimate in found.estimates if estimate.hours and estimate.usd is None})
    if dear:
        yield f"$ of {', '.join(dear)}: unknown until usd_per_hour is declared for the class"
    others = [estimate for estimate in found.estimates if estimate.arm != "baseline"]
    if any(estimate.resolves_sd is None for estimate in others):
        yield "no effect can be resolved where arm and baseline have one seed pair each: add seeds"
    elif others and all(estimate.resolves is None for estimate in others):
        unit, have = ("nats", "finished") if score == TEST else (score, f"a score by {score}")
        yield f"effects in {unit}: unknown until two seeds of the baseline have {have}; or give a noise with --sd"


def class_line(one: ClassTotal) -> str:
    """The runs of a machine class, how long they take there, and the price and its source."""
    runs = f"{one.machine}: {one.runs:,} run{'s' * (one.runs != 1)}"
    if one.hours is None:
        time = "hours unknown"
    else:
        at_a_time = "one" if one.slots == 1 else f"{one.slots:,}"
        time = f"{render.hours(one.hours)} h, {render.clock(one.wall_clock_hours)} with {at_a_time} at a time"
    return f"{runs}, {time}, {_usd(one.usd)}" + (f" at {render.prices(one.prices)}" if one.prices else "")


def _usd(usd: float | None) -> str:
    return "$ unknown" if usd is None else f"${render.dollars(usd)}"


def _notes(found: Forecast) -> Iterator[str]:
    """The basis of the hours, one line for the arms of a class that share a note."""
    arms: dict[tuple[str, str], list[str]] = {}
    for one in found.estimates:
        if one.note:
            arms.setdefault((one.machine, one.note), []).append(one.arm)
    for (machine, note), names in arms.items():
        yield f"hours of {', '.join(names)} on {machine}: {note}"


def _old_prices(found: Forecast) -> Iterator[str]:
    today = date.today()
    for one in found.classes:
        ages = [age for price in one.prices if (age := price.age_days(today)) is not None]
        if max(ages, default=0) > OLD_DAYS:
            yield (
                f"the price of {one.machine} is {max(ages) // 30} months old: check it, and write today's with its"
                " price_date in farm.toml, or in the labels of the cluster file"
            )
