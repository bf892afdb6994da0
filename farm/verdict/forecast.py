"""A forecast of a study before anything is queued: plans, hours, dollars, and the smallest effect it can resolve."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Protocol, TypeVar

from pydantic import Field

from farm.errors import BadStudy, DoesNotFit
from farm.queue.budget import price
from farm.queue.values import Status
from farm.record.imported import ImportedRun
from farm.record.result import Result
from farm.record.score import Score
from farm.stats import mean, sd
from farm.study.arms import BASELINE, Arm
from farm.study.machine import Machine, Mixed, Price, parts
from farm.study.planner import Plan, check_precision, hours, plan
from farm.study.recipe import Frozen, Precision, Recipe
from farm.study.run import Run
from farm.study.speed import Basis, Speed, declared_speed, from_precision, unlike
from farm.study.study import Draft, Study
from farm.verdict.cohort import by_block, by_seeds, find_other_tests, find_other_training, sort
from farm.verdict.power import resolvable
from farm.verdict.seen import see

T = TypeVar("T")

Noise = Callable[[str], float | None]  # machine class -> SD of one run's score, in its unit, where it is known

UNKNOWN_NOISE: Noise = lambda machine: None  # noqa: E731
NO_SLOTS: Mapping[str, int] = MappingProxyType({})
NO_SCORES: Mapping[str, Sequence[Score]] = MappingProxyType({})


class Reached(Protocol):
    """A finished run as far as its speed goes: its result, or what the queue tells of it."""

    @property
    def machine(self) -> str: ...
    @property
    def recipe(self) -> Recipe: ...
    @property
    def tokens_per_second(self) -> float: ...


class Estimate(Frozen):
    """One arm on one machine class."""

    arm: str
    machine: str
    runs: int
    seeds: int
    steps: int
    plan: Plan
    hours: float | None = Field(description="of the machine, for all its runs")
    usd: float | None
    basis: Basis | None = Field(
        description="behind the hours: this recipe here, another recipe here, a declaration, or an assumed ratio"
    )
    note: str | None = Field(None, description="what the hours rest on, where that needs saying")
    resolves_sd: float | None = Field(description="smallest effect, in SDs of one run, that is found with 80 % power")
    resolves: float | None = Field(description="the same in the unit of the study's score, by the noise")
    noise: float | None = Field(description="SD of one run's score: of finished baseline runs, or as stated")


class ClassTotal(Frozen):
    """All arms on one machine class. A figure is None when any part of it is unknown."""

    machine: str
    runs: int
    hours: float | None = Field(description="of the machine, for all runs")
    slots: int = Field(description="runs that train there at a time: what is up now, or 1")
    wall_clock_hours: float | None
    usd: float | None
    prices: tuple[Price, ...] = Field(description="behind the dollars; several for a mixed group")


class Forecast(Frozen):
    """The whole study. Hours of different machine classes are never added: the classes work side by side."""

    study: str
    estimates: tuple[Estimate, ...]
    classes: tuple[ClassTotal, ...]
    runs: int
    wall_clock_hours: float | None = Field(description="of the class that takes longest; None when one is unknown")
    usd: float | None

    @property
    def node_hours(self) -> float | None:
        """Of all machines; that of a mixed group counts once for each of them. None when one is unknown."""
        return sum_known(one.hours and one.hours * len(parts(one.machine)) for one in self.classes)


def forecast(
    study: Study,
    known: dict[str, Machine],
    reached: Sequence[Reached] = (),
    slots: Mapping[str, int] = NO_SLOTS,
    noise: Noise = UNKNOWN_NOISE,
    *,
    is_resolving: bool = True,
) -> Forecast:
    """Plan every run of `study`, with `known` machine classes and the speeds that finished runs have `reached`.

    `slots`: machine class -> runs that can train there at a time now. `noise`: machine class -> SD of one run. What the
    study resolves takes a second to find; a caller that asks for the price alone leaves it out.

    Raises: BadStudy: a machine class is unknown. DoesNotFit: some arm has no plan on some machine.
    """
    planned = plans(study, known, reached)
    effects = _resolvable(study.arms()) if is_resolving else {}
    estimates = tuple(
        _estimate(arm, machine, split, study, effects.get((arm.name, machine.name)), noise(machine.name), reached)
        for arm, machine, split in planned
    )
    machines = {machine.name: machine for _, machine, _ in planned}
    classes = tuple(_class_total(machine, estimates, slots) for _, machine in sorted(machines.items()))
    clocks = [one.wall_clock_hours for one in classes if one.wall_clock_hours is not None]
    return Forecast(
        study=study.name,
        estimates=estimates,
        classes=classes,
        runs=sum(estimate.runs for estimate in estimates),
        wall_clock_hours=max(clocks) if len(clocks) == len(classes) else None,
        usd=sum_known(estimate.usd for estimate in estimates),
    )


def _class_total(machine: Machine, estimates: Iterable[Estimate], slots: Mapping[str, int]) -> ClassTotal:
    """No run is split over nodes, so the longest one is the least that a class takes."""
    own = [estimate for estimate in estimates if estimate.machine == machine.name]
    total = sum_known(estimate.hours for estimate in own)
    at_a_time = max(1, min(slots.get(part, 0) for part in parts(machine.name)))
    longest = max((estimate.hours or 0.0) / estimate.runs for estimate in own)
    return ClassTotal(
        machine=machine.name,
        runs=sum(estimate.runs for estimate in own),
        hours=total,
        slots=at_a_time,
        wall_clock_hours=None if total is None else max(total / at_a_time, longest),
        usd=sum_known(estimate.usd for estimate in own),
        prices=machine.prices,
    )


def least_limit(
    study: Study,
    statuses: Iterable[Status],
    known: Mapping[str, Machine],
    spent: float,
    reached: Sequence[Reached] = (),
) -> float | None:
    """The least policy.usd_limit, in whole cents, with which all of `study` is expected to be trained: what it has
    `spent`, and what is left to do. None when that is not known.

    `statuses` are those of its runs, and of what else it pays for: what another study has submitted first counts
    against the limit of that. Where nothing says how fast a class is, also not what was `reached`, the steps that runs
    have done there tell what one costs.
    """

    def dollars(run: Run, hours: float | None) -> float | None:
        rate = price(study, run.machine, known)
        return 0.0 if not rate else None if hours is None else hours * rate

    return _least(spent, dollars, _hours_left(study, statuses, known, reached))


def least_hours(
    study: Study,
    statuses: Iterable[Status],
    known: Mapping[str, Machine],
    used: float,
    reached: Sequence[Reached] = (),
) -> float | None:
    """As `least_limit`, the least policy.hours_limit in hundredths: what is `used`, and what is left to do."""

    def node_hours(run: Run, hours: float | None) -> float | None:
        return None if hours is None else hours * len(parts(run.machine))

    return _least(used, node_hours, _hours_left(study, statuses, known, reached))


def _least(
    so_far: float,
    cost: Callable[[Run, float | None], float | None],
    left: Iterable[tuple[Run, float | None]],
) -> float | None:
    """What was taken `so_far` and what the runs that are `left` cost, rounded up to hundredths; None: not known."""
    rest = sum_known(cost(run, hours) for run, hours in left)
    return None if rest is None else math.ceil(round((so_far + rest) * 100, 6)) / 100


def _hours_left(
    study: Study, statuses: Iterable[Status], known: Mapping[str, Machine], reached: Sequence[Reached]
) -> list[tuple[Run, float | None]]:
    """The runs that the study pays for and the time that each still takes; None where nothing tells."""
    there = {status.id: status for status in statuses}
    theirs = [status for status in there.values() if status.study == study.name]
    try:
        estimates = {
            (one.arm, one.machine): one for one in forecast(study, dict(known), reached, is_resolving=False).estimates
        }
    except (BadStudy, DoesNotFit):  # on a class that is known no more, or not here
        estimates = {}

    def remaining(run: Run, status: Status | None) -> float | None:
        if status and (status.state.is_final or status.study != study.name):
            return 0.0
        one = estimates.get((run.arm, run.machine))
        hours_a_run = one.hours / one.runs if one and one.hours is not None else None
        hours_a_step = _hours_per_step(theirs, run.machine) if hours_a_run is None else hours_a_run / run.recipe.steps
        undone = run.recipe.steps - (status.step if status else 0)
        return None if hours_a_step is None else undone * hours_a_step

    own = {run.id: run for run in study.runs()} | {status.id: status.run for status in theirs}
    return [(run, remaining(run, there.get(run_id))) for run_id, run in own.items()]


def _hours_per_step(statuses: Sequence[Status], machine: str) -> float | None:
    """Hours under leases that a step has taken there so far, all that was before the first one included."""
    seen = [status for status in statuses if status.run.machine == machine]
    steps = sum(status.step for status in seen)
    return sum(status.held_seconds for status in seen) / 3600 / steps if steps else None


def plans(study: Study, known: dict[str, Machine], reached: Sequence[Reached] = ()) -> list[tuple[Arm, Machine, Plan]]:
    """How every arm is trained on each of its machines; what was `reached` shows the classes of mixed groups.

    Raises: BadStudy: a machine class is unknown. DoesNotFit: some arm has no plan on some machine.
    """

    def plan_one(arm: Arm, name: str) -> tuple[Arm, Machine, Plan]:
        machine = study.machine(name, known)
        return arm, machine, plan(arm.recipe, machine, speeds(arm.recipe, machine, reached))

    found, wrong = _try(study.arms(), plan_one)
    if wrong:
        raise type(wrong[0])(wrong[0].message, remedy=wrong[0].remedy, also=tuple(map(str, wrong[1:])))
    return found


def misfits(draft: Draft, known: dict[str, Machine]) -> list[str]:
    """Why arms of a study that is refused would have no plan on some of their machines: a line for each reason."""
    if (study := draft.study) is None:
        return []
    wrong = _try(draft.arms, lambda arm, name: plan(arm.recipe, study.machine(name, known)))[1]
    wrong += _try(draft.partial, lambda arm, name: check_precision(arm.recipe, study.machine(name, known)))[1]
    return list(dict.fromkeys(map(str, wrong)))


def _try(arms: Iterable[Arm], attempt: Callable[[Arm, str], T]) -> tuple[list[T], list[BadStudy | DoesNotFit]]:
    """Try `attempt` on each arm and machine. Returns what it made, and each reason for failing with the first arm."""
    found: list[T] = []
    wrong: dict[str, BadStudy | DoesNotFit] = {}
    for arm in arms:
        for name in arm.machines:
            try:
                found.append(attempt(arm, name))
            except BadStudy as error:
                wrong.setdefault(error.message, error)
            except DoesNotFit as error:
                told = DoesNotFit(f"arm {arm.name}: {error.message}", remedy=error.remedy, **error.fields)
                wrong.setdefault(error.message, told)
    return found, list(wrong.values())


def _estimate(
    arm: Arm,
    machine: Machine,
    split: Plan,
    study: Study,
    effect: float | None,
    noise: float | None,
    reached: Sequence[Reached],
) -> Estimate:
    count = len(arm.seeds) * (study.study.reruns + 1)
    speed = speed_of(arm.recipe, machine, reached)
    one = hours(arm.recipe, machine, speed.tokens_per_second) if speed else None
    total = None if one is None else one * count
    return Estimate(
        arm=arm.name,
        machine=machine.name,
        runs=count,
        seeds=len(arm.seeds),
        steps=arm.recipe.steps,
        plan=split,
        hours=total,
        usd=_dollars(total, machine.usd_per_hour),
        basis=speed.basis if speed else None,
        note=speed.note if speed else None,
        resolves_sd=effect,
        resolves=None if effect is None or noise is None else effect * noise,
        noise=noise,
    )


def speed_of(recipe: Recipe, machine: Machine, reached: Sequence[Reached]) -> Speed | None:
    """The speed to expect of the whole machine: as this recipe had it there, else as others did, else as declared.

    Others of the same precision come first, and of those the ones that differ least in what changes the speed.
    """
    here = [result for result in reached if result.machine == machine.name]
    same = [result.tokens_per_second for result in here if result.recipe.digest == recipe.digest]
    if same:
        return Speed(mean(same), "measured")
    by_precision: dict[Precision, list[Reached]] = {}
    for result in here:
        by_precision.setdefault(result.recipe.train.precision, []).append(result)
    if alike := by_precision.get(recipe.train.precision):
        return _scale(recipe, alike)
    found = [
        from_precision(precision, recipe, machine, _scale(recipe, seen)) for precision, seen in by_precision.items()
    ]
    if found:  # a ratio that is known before one that is assumed, then the slower
        return max(found, key=lambda speed: (speed.basis != "assumed", -speed.tokens_per_second))
    return declared_speed(recipe, machine)


def _scale(recipe: Recipe, reached: Sequence[Reached]) -> Speed:
    """From the runs that are most like `recipe`, by the arithmetic that a token takes."""
    least = min(len(unlike(result.recipe, recipe)) for result in reached)
    nearest = [result for result in reached if len(unlike(result.recipe, recipe)) == least]
    own = recipe.model.flops_per_token
    speeds = [result.tokens_per_second * result.recipe.model.flops_per_token / own for result in nearest]
    others = sorted({name for result in nearest for name in unlike(result.recipe, recipe)})
    return Speed(
        mean(speeds), "scaled", f"scaled from runs with other settings: {', '.join(others)}" if others else None
    )


def speeds(recipe: Recipe, machine: Machine, reached: Sequence[Reached]) -> dict[str, Speed]:
    """The speed that each class of a mixed group is expected to reach by itself, where anything is known."""
    own = machine.parts if isinstance(machine, Mixed) else ()
    return {part.name: speed for part in own if (speed := speed_of(recipe, part, reached))}


def baseline_sd(
    study: Study, machine: str, results: Sequence[Result], scores: Mapping[str, Sequence[Score]] = NO_SCORES
) -> float | None:
    """The SD over seeds of the study's score of finished runs of its baseline there, as the table has it.

    None where fewer than two seeds have a score by the evaluation that the study has now.
    """
    digest = study.arms()[0].recipe.digest
    own = [result for result in results if result.machine == machine and result.recipe.digest == digest]
    return _spread([one for one in see(own, scores, study.study.score, study.evaluations).results if not one.stale])


def noise_of(results: Sequence[Result]) -> Noise:
    """The noise that the baseline of a study with these `results`, by some evaluation, shows on each machine."""
    baseline = [result for result in results if result.arm == BASELINE]
    return lambda machine: _spread([result for result in baseline if result.machine == machine])


def imported_noise(runs: Sequence[ImportedRun]) -> Noise:
    """The noise that an imported baseline shows on each machine."""
    baseline = [run for run in runs if run.arm == BASELINE]
    return lambda machine: sd(list(by_block([run for run in baseline if run.machine == machine]).values()))


def _spread(results: Sequence[Result]) -> float | None:
    return sd(list(by_seeds(sort(results).together).values()))


def _resolvable(arms: Sequence[Arm]) -> dict[tuple[str, str], float]:
    """(arm, machine) -> the smallest effect that the study shows there, in SDs of one run; only where it is tested."""
    apart, (baseline, *others) = find_other_tests(arms) | find_other_training(arms), arms
    names = list(dict.fromkeys(name for arm in arms for name in arm.machines))
    planned = [
        (
            baseline.seeds if machine in baseline.machines else (),
            {arm.name: arm.seeds for arm in others if machine in arm.machines and arm.name not in apart},
        )
        for machine in names
    ]
    found = zip(names, resolvable(planned), strict=True)
    return {(arm, machine): effect for machine, effects in found for arm, effect in effects.items()}


def _dollars(hours: float | None, usd_per_hour: float | None) -> float | None:
    """None where a factor is unknown; a machine that costs nothing costs nothing for any time."""
    if usd_per_hour == 0:
        return 0.0
    return None if hours is None or usd_per_hour is None else hours * usd_per_hour


def sum_known(parts: Iterable[float | None]) -> float | None:
    """The sum, or None when a part is unknown."""
    known = list(parts)
    return None if None in known else sum(part for part in known if part is not None)
