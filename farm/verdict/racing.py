"""`farm resolve`: which arms get more seed pairs after a look, and when to stop.

A race (Maron & Moore 1994; Birattari 2009, Tuning Metaheuristics, chapter 4): all arms start, and after every look only
those that are not resolved go on. The money goes where it most likely changes a verdict: an arm's chance to be resolved
at its next stage, if the truth is what was seen so far, over the cost of getting there. That choice may follow the data
as it likes, for the tests of farm.verdict.sequential hold whatever it is.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import NamedTuple

from farm.queue.budget import Spending, usage
from farm.queue.values import Status
from farm.record.result import Result
from farm.record.score import Score
from farm.stats import mean, sd
from farm.study.arms import BASELINE
from farm.study.looks import Decision, Look, Looks, Standing, key
from farm.study.machine import Machine, parts
from farm.study.recipe import Seeds
from farm.study.run import Run, State
from farm.study.seeding import extend, widen
from farm.study.study import Study
from farm.verdict import sequential
from farm.verdict.cohort import by_seeds
from farm.verdict.forecast import forecast, sum_known
from farm.verdict.inference import ALPHA
from farm.verdict.row import Row
from farm.verdict.seen import see
from farm.verdict.table import rank

WORTH = 0.5  # of the best arm's chance per cost: arms that have as much go on beside it, and machines do not idle
UNKNOWN = 0.5  # chance of an arm with fewer than two pairs: nothing is known of it yet, so a look is worth it


class Budget(NamedTuple):
    """The limits on what the added runs may take, counted from the first look; None is no limit."""

    usd: float | None = None
    hours: float | None = None
    runs: int | None = None

    def __str__(self) -> str:
        told = [] if self.usd is None else [f"${self.usd:,.2f}"]
        told += [] if self.hours is None else [f"{self.hours:,.4g} node hours"]
        told += [] if self.runs is None else [f"{self.runs:,} runs"]
        return " and ".join(told)


class Bill(NamedTuple):
    """Of some runs. A figure is None where nothing tells it."""

    usd: float | None
    hours: float | None
    runs: int


class Round(NamedTuple):
    """The outcome of a look: the look itself, and the study with it, and with the pairs that it added."""

    look: Look
    study: Study


class _Choice(NamedTuple):
    """An arm that could go on: the pairs that take it to its next stage on every machine where it is open."""

    arm: str
    pairs: int
    chances: dict[str, float]  # machine -> to be resolved there
    avoid: frozenset[Seeds]  # pairs of which a run failed

    @property
    def chance(self) -> float:
        """Verdicts to expect."""
        return sum(self.chances.values())


def looks_so_far(study: Study, statuses: Sequence[Status], known: Mapping[str, Machine], now: float) -> Looks:
    """The looks of the study so far; before the first, what that starts from."""
    planned = _planned_pairs(study)
    order = tuple(dict.fromkeys(seeds for arm in study.arms() for seeds in arm.seeds))
    if study.looks is None:
        spent = usage(study, statuses, known, now)
        return Looks(first=planned, order=order, usd=spent.usd, hours=spent.hours)
    first = {name: study.looks.first.get(name, count) for name, count in planned.items()} | study.looks.first
    order = tuple(dict.fromkeys((*study.looks.order, *order)))
    return study.looks.model_copy(update={"first": first, "order": order})


def _planned_pairs(study: Study) -> dict[str, int]:
    """arm@machine -> the seed pairs that arm and baseline ask for there, the baseline itself left out."""
    baseline, *others = study.arms()
    return {
        key(arm.name, machine): len(set(arm.seeds) & set(baseline.seeds))
        for arm in others
        for machine in arm.machines
        if machine in baseline.machines
    }


def look(
    study: Study,
    statuses: Sequence[Status],
    known: Mapping[str, Machine],
    budget: Budget,
    now: float,
    scores: Mapping[str, Sequence[Score]] | None = None,
) -> Round:
    """Look at a study of which no run is under way, and decide how it goes on.

    `statuses` are those of the study's runs, `scores` theirs by run id. Verdicts that were reached stay. An arm that
    gained no complete pair from what the last look gave it is given up: its runs fail.
    """
    looks = looks_so_far(study, statuses, known, now)
    finished = [status.result for status in statuses if status.result]
    results = see(finished, scores, study.study.score, study.evaluations).results
    found = rank(results, statuses, study.study.margin, looks=looks)
    rows = {key(row.arm, row.machine): row for row in found.rows if not row.aside}
    spent = usage(study, statuses, known, now)
    spent = spent._replace(usd=max(0.0, spent.usd - looks.usd), hours=max(0.0, spent.hours - looks.hours))
    standings = [_standing(name, rows.get(name), looks, statuses) for name in looks.first]
    noise = {name: _differences(rows, name, results, looks) for name in looks.first}
    choices = _choices(study, standings, noise, looks, statuses)
    wider = _choose(study, choices, remainder(budget, spent, looks.runs), _prices(study, known, finished))
    decision, why = _decision(standings, wider is not None, budget)
    made = Look(
        at=now,
        usd=spent.usd,
        hours=spent.hours,
        runs=looks.runs,
        decision=decision,
        why=why,
        standings=tuple(_explain(one, choices, study, wider) for one in standings),
        added_runs=len(wider.runs()) - len(study.runs()) if wider else 0,
    )
    planned = [seeds for arm in (wider or study).arms() for seeds in arm.seeds]
    order = tuple(dict.fromkeys((*looks.order, *planned)))
    looks = looks.model_copy(update={"order": order, "looks": (*looks.looks, made)})
    return Round(made, (wider or study).model_copy(update={"looks": looks}))


def remainder(budget: Budget, spent: Spending, runs: int) -> Budget:
    """The rest of a budget."""
    return Budget(
        None if budget.usd is None else budget.usd - spent.usd,
        None if budget.hours is None else budget.hours - spent.hours,
        None if budget.runs is None else budget.runs - runs,
    )


def _standing(name: str, row: Row | None, looks: Looks, statuses: Sequence[Status]) -> Standing:
    arm, _, machine = name.partition("@")
    word = (row.verdict if row else None) or "unresolved"
    pairs = row.pairs if row else 0
    why = _reason_to_stop(arm, machine, pairs, looks, statuses) if word == "unresolved" else ""
    delta, p = (row.delta, row.p) if row else (None, None)
    return Standing(arm=arm, machine=machine, pairs=pairs, delta=delta, p=p, word=word, given_up=bool(why), why=why)


def _reason_to_stop(arm: str, machine: str, pairs: int, looks: Looks, statuses: Sequence[Status]) -> str:
    """Why an arm gets no more pairs: those that it got were not completed. '' where they were, or none failed."""
    theirs = [status for status in statuses if status.run.machine == machine and status.run.arm in (arm, BASELINE)]
    failed = sum(status.state in (State.FAILED, State.CANCELLED) for status in theirs)
    last = [one for seen in looks.looks[-1:] for one in seen.standings if (one.arm, one.machine) == (arm, machine)]
    is_barren = pairs <= last[0].pairs and (last[0].added > 0 or last[0].given_up) if last else pairs == 0
    if not failed or not is_barren:
        return ""
    return f"no pair was completed: {failed} runs of {arm} and the baseline failed or were cancelled (farm runs)"


def _differences(rows: Mapping[str, Row], name: str, results: Sequence[Result], looks: Looks) -> list[float]:
    """The complete pairs of an arm as the table has them, its loss less the baseline's."""
    machine = name.partition("@")[2]
    own, base = rows.get(name), rows.get(key(BASELINE, machine))
    if own is None or base is None:
        return []
    losses, others = (by_seeds(one for one in results if one.run_id in row.runs) for row in (own, base))
    return sequential.in_order(losses, others, looks.order)


def _choices(
    study: Study,
    standings: Sequence[Standing],
    differences: Mapping[str, Sequence[float]],
    looks: Looks,
    statuses: Sequence[Status],
) -> list[_Choice]:
    """Every arm that is open somewhere, and what it would need."""
    spreads = [spread for seen in differences.values() if (spread := sd(list(seen)))]
    usual = max(spreads, default=None)
    found: list[_Choice] = []
    for arm in dict.fromkeys(one.arm for one in standings if one.word == "unresolved" and not one.given_up):
        theirs = [one for one in standings if one.arm == arm and one.word == "unresolved" and not one.given_up]
        pairs, chances = 0, {}
        for one in theirs:
            name = key(arm, one.machine)
            stage = sequential.next_stage(looks.first[name], one.pairs)
            spread = sd(list(differences[name])) or usual
            level, margin = ALPHA / len(looks.first), study.study.margin
            chances[one.machine] = (
                float(sequential.chance(one.delta, spread, stage, level, margin))
                if one.delta is not None and spread
                else UNKNOWN
            )
            pairs = max(pairs, stage.pairs - one.pairs)
        found.append(_Choice(arm, pairs, chances, _failed_seeds(arm, set(chances), statuses)))
    return found


def _failed_seeds(arm: str, machines: Collection[str], statuses: Sequence[Status]) -> frozenset[Seeds]:
    return frozenset(
        status.run.seeds
        for status in statuses
        if status.state in (State.FAILED, State.CANCELLED)
        and status.run.arm in (arm, BASELINE)
        and status.run.machine in machines
    )


def _prices(study: Study, known: Mapping[str, Machine], results: Sequence[Result]) -> Callable[[Run], Bill]:
    """The price of one run: what its arm's runs took on that machine, all attempts, or else what is expected."""
    took: dict[tuple[str, str], list[Result]] = {}
    for result in results:
        took.setdefault((result.arm, result.machine), []).append(result)
    estimates = {
        (one.arm, one.machine): one for one in forecast(study, dict(known), results, is_resolving=False).estimates
    }

    def price(run: Run) -> Bill:
        count = len(parts(run.machine))
        if seen := took.get((run.arm, run.machine)):
            paid = [result.usd for result in seen if result.usd is not None]
            return Bill(mean(paid) if paid else None, mean([result.seconds for result in seen]) / 3600 * count, 1)
        one = estimates[run.arm, run.machine]
        hours = None if one.hours is None else one.hours / one.runs
        usd = None if one.usd is None else one.usd / one.runs
        return Bill(usd, None if hours is None else hours * count, 1)

    return price


def _choose(study: Study, choices: Sequence[_Choice], budget: Budget, price: Callable[[Run], Bill]) -> Study | None:
    """The study with the pairs of the best arm and of those that are nearly as good, as far as the budget goes."""
    wider, taken, best = study, Bill(0.0, 0.0, 0), None
    for worth, choice in sorted(((_worth(study, one, price), one) for one in choices), key=lambda pair: -pair[0]):
        if best is not None and worth < WORTH * best:
            break
        more = extend(wider, choice.arm, choice.pairs, choice.avoid)
        candidate = widen(wider, more)
        costs = _sum([price(run) for run in _new(study, candidate)])
        if _fits(costs, budget):
            wider, taken, best = candidate, costs, worth if best is None else best
    return wider if taken.runs else None


def _worth(study: Study, choice: _Choice, price: Callable[[Run], Bill]) -> float:
    """Verdicts to expect for each dollar; where nothing costs any, for each hour, or run."""
    costs = _sum(
        [price(run) for run in _new(study, widen(study, extend(study, choice.arm, choice.pairs, choice.avoid)))]
    )
    return choice.chance / (costs.usd or costs.hours or costs.runs or 1)


def _new(study: Study, wider: Study) -> list[Run]:
    """The runs that `wider`, which differs in seed pairs alone, adds."""
    there = {(arm.name, seeds) for arm in study.arms() for seeds in arm.seeds}
    return [run for run in wider.runs() if (run.arm, run.seeds) not in there]


def _sum(prices: Sequence[Bill]) -> Bill:
    return Bill(sum_known(one.usd for one in prices), sum_known(one.hours for one in prices), len(prices))


def _fits(price: Bill, budget: Budget) -> bool:
    """Whether the budget pays for it; what nothing tells is taken to be small, as long as anything is left."""
    asked = ((price.usd, budget.usd), (price.hours, budget.hours), (price.runs, budget.runs))
    return price.runs > 0 and all(most is None or (most > 0 and (value or 0) <= most) for value, most in asked)


def _decision(standings: Sequence[Standing], goes_on: bool, budget: Budget) -> tuple[Decision, str]:
    open_ones = [one for one in standings if one.word == "unresolved"]
    if not open_ones:
        return "resolved", f"all {len(standings)} comparisons are resolved"
    if goes_on:
        return "add", f"{len(open_ones)} of {len(standings)} comparisons are not resolved"
    if all(one.given_up for one in open_ones):
        return "given up", f"{len(open_ones)} of {len(standings)} comparisons are not resolved, and their runs fail"
    return "spent", (
        f"{len(open_ones)} of {len(standings)} comparisons are not resolved, and what is left of {budget} cannot take"
        " any of them to its next test"
    )


def _explain(one: Standing, choices: Sequence[_Choice], study: Study, wider: Study | None) -> Standing:
    """A standing with what it got, and why."""
    choice = next((choice for choice in choices if choice.arm == one.arm and one.machine in choice.chances), None)
    if choice is None:
        return one
    before, after = ({arm.name: len(arm.seeds) for arm in form.arms()} for form in (study, wider or study))
    added = after[one.arm] - before[one.arm]
    chance = choice.chances[one.machine]
    more = f"{choice.pairs} more pair{'s' * (choice.pairs != 1)}"
    stage = f"{more} would resolve it with a chance of {share(chance)}, if the effect seen so far is the true one"
    why = stage if added else f"{stage}: others come first, or it costs more than is left"
    return one.model_copy(update={"chance": chance, "added": added, "why": why})


def share(chance: float) -> str:
    """In per cent, for people: none and all only where it is."""
    rounded = f"{100 * chance:.0f} %"
    return "<1 %" if rounded == "0 %" and chance else ">99 %" if rounded == "100 %" and chance < 1 else rounded
