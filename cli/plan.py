"""`farm plan STUDY`"""

from collections.abc import Iterator

from cli import render
from cli.access import machines, queue
from cli.options import Json, StudyFile
from cli.render import Column, Sheet, say
from farm import settings as settings_
from farm import study as study_
from farm.advice import advice
from farm.errors import Refused, Unreachable
from farm.forecast import Estimate, Forecast, forecast
from farm.machine import Machine
from farm.result import Result
from farm.settings import Settings

COLUMNS = (
    Column("machine", "machine"),
    Column("arm", "arm"),
    Column("runs", "runs", render.count, is_number=True),
    Column("plan", "world x micro x accum"),
    Column("gib", "GiB", render.text, is_number=True, is_spare=True),
    Column("hours", "hours", render.hours, is_number=True),
    Column("usd", "$", render.dollars, is_number=True),
    Column("basis", "hours are", render.text, is_spare=True),
    Column("resolves_sd", "resolves SD", render.known(lambda value: f"{value:.2f}"), is_number=True),
    Column("resolves_nats", "nats", render.loss, is_number=True, is_spare=True),
)


def plan(study: StudyFile, as_json: Json = False) -> None:
    """What a study would take: plans, hours, dollars, and the smallest effect it resolves.

    Queues nothing, and works without Redis. An effect is in standard deviations of one run: a two-sided test at 0.05
    finds it with 80 % power.
    """
    settings = settings_.load()
    parsed = study_.load(study)
    known, results = what_is_known(settings)
    found = forecast(parsed, known, results)
    render.emit(sheet(found), as_json=as_json)
    for remark in remarks(found):
        say(remark)
    for warning in advice(parsed, known):
        say(f"warning: {warning}")
    limit = parsed.policy.usd_limit
    if limit is not None and found.usd is not None and found.usd > limit:
        say(f"more than policy.usd_limit, ${render.dollars(limit)}: no run starts once that is spent")
    if not as_json:
        render.say_next(f"farm submit {study}")


def what_is_known(settings: Settings) -> tuple[dict[str, Machine], list[Result]]:
    """Machine classes and results; without Redis, what the settings declare."""
    try:
        with queue(settings) as open_queue:
            results = [status.result for status in open_queue.statuses() if status.result]
            return machines(settings, open_queue), results
    except (Unreachable, Refused) as error:
        say(f"warning: planning without what nodes registered and runs measured: {error}")
        return machines(settings, None), []


def sheet(found: Forecast) -> Sheet:
    """A row per machine and arm; the totals go to JSON beside them."""
    rows = sorted(found.estimates, key=lambda estimate: estimate.machine)  # stable: arms keep the study's order
    totals = {"study": found.study, "total": {"runs": found.runs, "hours": found.hours, "usd": found.usd}}
    return Sheet("farm.plan/1", COLUMNS, [_row(estimate) for estimate in rows], more=totals)


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


def remarks(found: Forecast) -> Iterator[str]:
    """The totals, and why anything shows as '-'."""
    hours = "hours unknown" if found.hours is None else f"{render.hours(found.hours)} h"
    usd = "$ unknown" if found.usd is None else f"${render.dollars(found.usd)}"
    yield f"{found.runs:,} runs, {hours}, {usd}"
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
        yield "no effect can be resolved where arm and baseline have fewer than 3 seeds together: add seeds"
    elif others and all(estimate.resolves_nats is None for estimate in others):
        yield "effects in nats: unknown until two seeds of the baseline have finished"
