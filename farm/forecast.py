"""What a study would take, before anything is queued: plans, hours, dollars, and the smallest effect it can resolve."""

from collections.abc import Iterable, Sequence

from pydantic import Field

from farm.cohort import by_seeds, sort
from farm.errors import DoesNotFit
from farm.machine import Machine, Mixed
from farm.planner import Basis, Plan, Speed, declared_speed, hours, plan
from farm.recipe import Frozen, Recipe
from farm.result import Result
from farm.stats import detectable_effect, mean, sd
from farm.study import BASELINE, Arm, Study


class Estimate(Frozen):
    """One arm on one machine class."""

    arm: str
    machine: str
    runs: int
    seeds: int
    steps: int
    plan: Plan
    hours: float | None = Field(description="wall clock of all its runs, one after the other")
    usd: float | None
    basis: Basis | None = Field(description="behind the hours: this recipe here, another recipe here, or a declaration")
    resolves_sd: float | None = Field(description="smallest effect in SDs of one run: two-sided 0.05, power 80 %")
    resolves_nats: float | None = Field(description="the same in nats, by the SD of finished baseline runs")


class Forecast(Frozen):
    """All of it. Totals are None when any part is unknown."""

    study: str
    estimates: tuple[Estimate, ...]
    runs: int
    hours: float | None
    usd: float | None


def forecast(study: Study, known: dict[str, Machine], results: Sequence[Result] = ()) -> Forecast:
    """Plan every run of `study`, with `known` machine classes and the speeds and noise that `results` show.

    Raises: BadStudy: a machine class is unknown. DoesNotFit: some arm has no plan on some machine.
    """
    baseline = study.arms()[0]
    estimates = tuple(
        _estimate(arm, machine, split, study, baseline, results) for arm, machine, split in plans(study, known, results)
    )
    return Forecast(
        study=study.name,
        estimates=estimates,
        runs=sum(estimate.runs for estimate in estimates),
        hours=_total(estimate.hours for estimate in estimates),
        usd=_total(estimate.usd for estimate in estimates),
    )


def plans(study: Study, known: dict[str, Machine], results: Sequence[Result] = ()) -> list[tuple[Arm, Machine, Plan]]:
    """How every arm is trained on each of its machines; `results` show how fast the classes of mixed groups are.

    Raises: BadStudy: a machine class is unknown. DoesNotFit: some arm has no plan on some machine.
    """
    pairs = [(arm, study.machine(name, known)) for arm in study.arms() for name in arm.machines]
    return [(arm, machine, _planned(arm, machine, results)) for arm, machine in pairs]


def _planned(arm: Arm, machine: Machine, results: Sequence[Result]) -> Plan:
    try:
        return plan(arm.recipe, machine, speeds(arm.recipe, machine, results))
    except DoesNotFit as error:
        raise DoesNotFit(f"arm {arm.name}: {error.message}", remedy=error.remedy, **error.fields) from None


def _estimate(
    arm: Arm, machine: Machine, split: Plan, study: Study, baseline: Arm, results: Sequence[Result]
) -> Estimate:
    count = len(arm.seeds) * (study.study.reruns + 1)
    speed, basis = speed_of(arm.recipe, machine, results)
    one = hours(arm.recipe, machine, speed)
    total = None if one is None else one * count
    effect = None if arm.name == BASELINE else _resolves(arm, baseline, machine.name)
    noise = baseline_sd(baseline.recipe, machine.name, results)
    return Estimate(
        arm=arm.name,
        machine=machine.name,
        runs=count,
        seeds=len(arm.seeds),
        steps=arm.recipe.steps,
        plan=split,
        hours=total,
        usd=None if total is None or machine.usd_per_hour is None else total * machine.usd_per_hour,
        basis=basis,
        resolves_sd=effect,
        resolves_nats=None if effect is None or noise is None else effect * noise,
    )


def speed_of(recipe: Recipe, machine: Machine, results: Sequence[Result]) -> tuple[float | None, Basis | None]:
    """Tokens per second to expect of the whole machine, and what says so; the first None leaves it to `hours`."""
    here = [result for result in results if result.machine == machine.name]
    same = [result.tokens_per_second for result in here if result.recipe.digest == recipe.digest]
    if same:
        return mean(same), "measured"
    if here:  # as in planner.hours
        size = recipe.model.multiplied
        return mean([r.tokens_per_second * r.recipe.model.multiplied / size for r in here]), "scaled"
    return None, "declared" if machine.tokens_per_second is not None else None


def speeds(recipe: Recipe, machine: Machine, results: Sequence[Result]) -> dict[str, Speed]:
    """What each class of a mixed group is expected to reach by itself, where anything is known."""
    found = {}
    for part in machine.parts if isinstance(machine, Mixed) else ():
        speed, basis = speed_of(recipe, part, results)
        if basis and (speed := speed or declared_speed(recipe, part)):
            found[part.name] = Speed(speed, basis)
    return found


def baseline_sd(recipe: Recipe, machine: str, results: Sequence[Result]) -> float | None:
    """The SD of the test loss over seeds of finished runs of `recipe` there, as the table has it."""
    same = [r for r in results if r.machine == machine and r.recipe.digest == recipe.digest]
    return sd(list(by_seeds(sort(same).together).values()))


def _resolves(arm: Arm, baseline: Arm, machine: str) -> float | None:
    """The smallest effect that this arm's seeds show against the baseline's on the same machine."""
    return detectable_effect(len(arm.seeds), len(baseline.seeds) if machine in baseline.machines else 0)


def _total(parts: Iterable[float | None]) -> float | None:
    """The sum, or None when a part is unknown."""
    known = list(parts)
    return None if None in known else sum(part for part in known if part is not None)
