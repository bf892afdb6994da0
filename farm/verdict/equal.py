"""Arms at equal cost: ranked by the validation loss that a budget bought, or by what it cost to reach a loss.

The cost of a point of a curve is that of the steps that count up to there: their tokens, their seconds, and these at
the machine's price. What was lost, waited for, checkpointed or validated is left out: it is no property of an arm.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from math import exp, isfinite
from typing import Any, Literal, NamedTuple, get_args

from pydantic import Field

from farm.errors import BadStudy
from farm.record.result import Result, Validated
from farm.stats import mean, sd
from farm.study.arms import BASELINE
from farm.study.looks import Looks
from farm.study.machine import is_mixed
from farm.study.recipe import Frozen, Seeds
from farm.study.run import Run
from farm.verdict.cohort import by_arm, count_seeds, sides, sort
from farm.verdict.cost import Curve, Reach, SpeedUp, loss_at, reach, speed_ups, together
from farm.verdict.inference import Contrast, Losses, Method, Word
from farm.verdict.ranks import ranks
from farm.verdict.sequential import judge_all

Kind = Literal["hours", "usd", "tokens"]
NO_CURVE = "no validation curve: evaluation.every was 0, or the split had no room for a slice beside the test's"
OTHER_SLICE = (
    "validated on different tokens from the baseline's; give all arms the same evaluation.validation_sequences"
)


class Allowance(NamedTuple):
    """The amount that every run may cost."""

    kind: Kind
    amount: float


class BoundedCost(Frozen):
    """A cost: a value; or a bound, where some run told no more than that."""

    value: float | None
    at_least: float | None = Field(None, description="not every run reached the loss before its end")
    at_most: float | None = Field(None, description="some runs had reached it before their first validation")


class CostRow(Frozen):
    """An arm on a machine, by its validation curves."""

    evaluation: str
    machine: str
    mixed: bool
    arm: str
    n: int = Field(description="different seeds whose curves say something")
    asked: int = Field(description="different seeds that the study asks for")
    aside: str | None = Field(None, description="why it is not compared")
    runs: tuple[str, ...]


class Bought(CostRow):
    """The loss that a budget bought."""

    rank: int | None = Field(None, description="shared within the noise; None: set aside, or no run got there")
    short: tuple[str, ...] = Field((), description="runs that ended before they had cost so much")
    early: tuple[str, ...] = Field((), description="runs that had cost more when they were first validated")
    unpriced: tuple[str, ...] = Field((), description="runs whose dollars are not known")
    validation_loss_mean: float | None = Field(None, description="nats per token, linear between validations")
    validation_loss_sd: float | None = None
    delta: float | None = None
    ci_low: float | None = None
    ci_high: float | None = None
    p: float | None = None
    method: Method | None = None
    margin: float | None = None
    verdict: Word | None = None


class Reached(CostRow):
    """The cost of reaching a loss: geometric means over seeds."""

    reached: int = Field(description="of the n: how many reached it before their end")
    steps: BoundedCost | None = None
    tokens: BoundedCost | None = None
    hours: BoundedCost | None = None
    usd: BoundedCost | None = None
    speedup: float | None = Field(
        None, description="the baseline's hours over its own, paired by seeds; 2: twice as fast"
    )
    speedup_at_least: float | None = Field(None, description="where runs that never reached the loss leave no value")
    speedup_at_most: float | None = None
    ci_low: float | None = Field(None, description="95 % interval of speedup, for all arms at once; None: withheld")
    ci_high: float | None = None
    p: float | None = None
    method: Method | None = Field(None, description="how the logarithms of the hours were compared")
    verdict: Word | None = Field(None, description="better: sooner than the baseline")


def budget(text: str) -> Allowance:
    """`hours=2`, `usd=10` or `tokens=1e9`. Raises: BadStudy: not a positive amount of one of them."""
    kind, _, amount = text.partition("=")
    number = _number(amount)
    if kind not in get_args(Kind) or number is None:
        raise BadStudy(f"--at {text} is not a budget.", remedy="Write --at hours=2, --at usd=10 or --at tokens=1e9.")
    return Allowance(kind, number)  # type: ignore[arg-type]


def target(text: str) -> float:
    """A loss. Raises: BadStudy: not a positive number of nats."""
    number = _number(text)
    if number is None:
        raise BadStudy(f"--target {text} is not a loss.", remedy="Write nats per token, such as --target 3.7.")
    return number


def _number(text: str) -> float | None:
    try:
        number = float(text.replace("_", "").replace(",", ""))
    except ValueError:
        return None
    return number if isfinite(number) and number > 0 else None


def at(
    results: Iterable[Result],
    runs: Iterable[Run],
    amount: Allowance,
    margin: float | None = None,
    looks: Looks | None = None,
) -> list[Bought]:
    """Rank the arms of each evaluation and machine by what `amount` bought. `runs` are all that the study asks for;
    after `looks` (of farm resolve) the verdicts are those that hold over all of them, as in the table.
    """
    groups, asked = _groups(list(results)), count_seeds(runs)
    losses = [
        {
            arm: _by_seeds(its, lambda result: loss_at(_curve(result, amount.kind), amount.amount), mean)
            for arm, its in group.arms.items()
        }
        for group in groups
    ]
    told = [{arm: its for arm, its in group.items() if its} for group in losses]
    machines = [group.machine for group in groups]
    found = judge_all([sides(one) for one in told], machines, margin, looks)
    return [
        row
        for group, its, seen in zip(groups, told, found, strict=True)
        for row in [*_budget_rows(group, its, seen, amount, margin, asked), *_set_aside(group, asked, Bought)]
    ]


def to(results: Iterable[Result], runs: Iterable[Run], loss: float, looks: Looks | None = None) -> list[Reached]:
    """The cost of each arm of each evaluation and machine until it had come down to `loss`, soonest first."""
    groups, asked = _groups(list(results)), count_seeds(runs)
    hours = [_reaches(group, "hours", loss) for group in groups]
    machines = [group.machine for group in groups]
    found = speed_ups([sides(one) for one in hours], machines, looks)
    return [
        row
        for group, its, fast in zip(groups, hours, found, strict=True)
        for row in [*_target_rows(group, its, fast, loss, asked), *_set_aside(group, asked, Reached, reached=0)]
    ]


class _Contenders(NamedTuple):
    """The results of one evaluation on one machine: those to compare, by arm, and the others with the reasons."""

    evaluation: str
    machine: str
    arms: dict[str, list[Result]]
    aside: list[tuple[Result, str]]


def _groups(results: list[Result]) -> list[_Contenders]:
    first = {result.evaluation for result in results if result.arm == BASELINE}
    found: list[_Contenders] = []
    for evaluation in sorted({result.evaluation for result in results}, key=lambda name: (name not in first, name)):
        members = [result for result in results if result.evaluation == evaluation]
        cohort = sort(members)
        aside = cohort.aside | _without_curve([result for result in members if result.run_id not in cohort.aside])
        for machine in sorted({result.machine for result in members}):
            here = [result for result in members if result.machine == machine]
            arms = by_arm(result for result in here if result.run_id not in aside)
            others = [(result, aside[result.run_id]) for result in here if result.run_id in aside]
            found.append(_Contenders(evaluation, machine, arms, others))
    return found


def _without_curve(results: Sequence[Result]) -> dict[str, str]:
    """Run id -> why, for the results without a curve, and those whose curve is of other tokens than the baseline's."""
    with_curves = [result for result in results if result.validation]
    of = [result for result in with_curves if result.arm == BASELINE] or with_curves
    usual = Counter(result.fingerprints.tokens.validated for result in of).most_common(1)
    return {
        result.run_id: NO_CURVE if not result.validation else OTHER_SLICE
        for result in results
        if not result.validation or result.fingerprints.tokens.validated != usual[0][0]
    }


def _curve(result: Result, kind: str) -> Curve:
    """(cost, loss); empty where the cost is in dollars and these are not known."""
    rate = result.usd / result.seconds if result.usd is not None and result.seconds > 0 else None
    costs: dict[str, Callable[[Validated], float]] = {
        "steps": lambda point: float(point.step),
        "tokens": lambda point: float(point.tokens),
        "hours": lambda point: point.seconds / 3600,
    }
    if rate is not None:
        costs["usd"] = lambda point: point.seconds * rate
    return [(costs[kind](point), point.loss) for point in result.validation] if kind in costs else []


def _by_seeds(
    results: Iterable[Result], value: Callable[[Result], Any], averaged: Callable[[list[Any]], Any]
) -> dict[Seeds, Any]:
    """The value of each seed pair, repetitions averaged; without those that have none."""
    groups: dict[Seeds, list[Any]] = {}
    for result in results:
        if (found := value(result)) is not None:
            groups.setdefault(result.seeds, []).append(found)
    return {seeds: averaged(values) for seeds, values in groups.items()}


def _place(
    group: _Contenders, arm: str, n: int, asked: Mapping[tuple[str, str], int], results: Sequence[Result]
) -> dict:
    return {
        "evaluation": group.evaluation,
        "machine": group.machine,
        "mixed": is_mixed(group.machine),
        "arm": arm,
        "n": n,
        "asked": asked.get((arm, group.machine), n),
        "runs": tuple(sorted(result.run_id for result in results)),
    }


def _set_aside(group: _Contenders, asked: Mapping[tuple[str, str], int], kind: type[Any], **more: Any) -> list[Any]:
    found: dict[tuple[str, str], list[Result]] = {}
    for result, why in group.aside:
        found.setdefault((result.arm, why), []).append(result)
    return [kind(**_place(group, arm, 0, asked, its), aside=why, **more) for (arm, why), its in found.items()]


# --- what a budget bought --------------------------------------------------------------------------------------------


def _budget_rows(
    group: _Contenders,
    losses: Mapping[str, Losses],
    seen: Mapping[str, Contrast],
    amount: Allowance,
    margin: float | None,
    asked: Mapping[tuple[str, str], int],
) -> list[Bought]:
    rows = {arm: _row(group, arm, losses.get(arm, {}), seen.get(arm), amount, margin, asked) for arm in group.arms}
    if BASELINE not in losses:
        rows = {arm: row.model_copy(update={"verdict": None}) for arm, row in rows.items()}
    reference = rows[BASELINE].validation_loss_mean or 0.0 if BASELINE in rows else 0.0
    place = {
        arm: (row.validation_loss_mean or 0.0) if row.delta is None else reference + row.delta
        for arm, row in rows.items()
        if arm in losses
    }
    order = sorted(place, key=lambda arm: (place[arm], arm))
    ranked = ranks(order, BASELINE, losses, {arm: row.verdict for arm, row in rows.items()})
    order.sort(key=lambda arm: ranked[arm])
    there = [rows[arm].model_copy(update={"rank": ranked[arm]}) for arm in order]
    return there + [row for arm, row in rows.items() if arm not in losses]


def _row(
    group: _Contenders,
    arm: str,
    losses: Losses,
    seen: Contrast | None,
    amount: Allowance,
    margin: float | None,
    asked: Mapping[tuple[str, str], int],
) -> Bought:
    results = group.arms[arm]
    curves = {result.run_id: _curve(result, amount.kind) for result in results}
    values = list(losses.values())
    told = {name: getattr(seen, name) for name in ("delta", "ci_low", "ci_high", "p", "method")} if seen else {}
    is_arm = arm != BASELINE and bool(values)
    return Bought(
        **_place(group, arm, len(values), asked, results),
        short=tuple(sorted(run for run, curve in curves.items() if curve and curve[-1][0] < amount.amount)),
        early=tuple(sorted(run for run, curve in curves.items() if curve and amount.amount < curve[0][0])),
        unpriced=tuple(sorted(run for run, curve in curves.items() if not curve)),
        validation_loss_mean=mean(values) if values else None,
        validation_loss_sd=sd(values),
        margin=margin if is_arm else None,
        verdict=(seen.word if seen else "unresolved") if is_arm else None,
        **told,
    )


# --- what a loss cost ------------------------------------------------------------------------------------------------


def _reaches(group: _Contenders, kind: str, loss: float) -> dict[str, dict[Seeds, Reach]]:
    return {
        arm: _by_seeds(results, lambda result: _reach(_curve(result, kind), loss), together)
        for arm, results in group.arms.items()
    }


def _reach(curve: Curve, loss: float) -> Reach | None:
    return reach(curve, loss) if curve else None


def _target_rows(
    group: _Contenders,
    hours: Mapping[str, Mapping[Seeds, Reach]],
    fast: Mapping[str, SpeedUp],
    loss: float,
    asked: Mapping[tuple[str, str], int],
) -> list[Reached]:
    costs = {kind: _reaches(group, kind, loss) for kind in ("steps", "tokens", "usd")} | {"hours": hours}
    rows = []
    for arm, results in group.arms.items():
        own = list(hours[arm].values())
        more: dict[str, Any] = {kind: _span(list(of[arm].values()), len(own)) for kind, of in costs.items()}
        more |= _sooner(fast[arm]) if arm in fast and BASELINE in hours else {}
        more["reached"] = sum(not one.is_censored for one in own)
        rows.append(Reached(**_place(group, arm, len(own), asked, results), **more))
    return sorted(rows, key=lambda row: (row.reached < row.n, _order(row.hours), row.arm))


def _span(reaches: Sequence[Reach], expected: int) -> BoundedCost | None:
    if len(reaches) < expected:  # a run without a price
        return None
    mean_ = together(reaches)
    if mean_.is_known:
        return BoundedCost(value=mean_.low)
    return BoundedCost(value=None, at_least=mean_.low or None, at_most=None if mean_.is_censored else mean_.high)


def _order(span: BoundedCost | None) -> float:
    return (span.value or span.at_least or span.at_most or 0.0) if span else 0.0


def _sooner(found: SpeedUp) -> dict[str, Any]:
    if found.seen is None:
        is_known = found.low is not None and found.low == found.high
        bounds = {"speedup_at_least": found.low, "speedup_at_most": found.high}
        return ({"speedup": found.low} if is_known else bounds) | {"verdict": "unresolved"}
    seen = found.seen
    ends = {"ci_low": exp(-seen.ci_high), "ci_high": exp(-seen.ci_low)}
    return {"speedup": found.low, "p": seen.p, "method": seen.method, "verdict": seen.word} | ends
