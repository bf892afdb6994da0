"""Twins: runs of one recipe and the same seeds on two machines, and what these do to the loss."""

from collections.abc import Iterable, Sequence
from itertools import combinations
from math import ceil, log10
from typing import Any

from pydantic import Field

from farm.record.imported import EVALUATION as IMPORTED
from farm.record.imported import ImportedRun
from farm.record.result import Result
from farm.study.machine import is_mixed
from farm.study.recipe import Frozen
from farm.verdict.noise import HardwareEffect, Observation, hardware


class Pair(Frozen):
    """One recipe with the same seeds on two machines."""

    arm: str
    seeds: str
    runs: tuple[str, str]
    test_losses: tuple[float, float]

    @property
    def difference(self) -> float:
        return self.test_losses[1] - self.test_losses[0]


class Twins(Frozen):
    """The effect of the hardware alone: every pair of twins that two machines share."""

    evaluation: str
    machines: tuple[str, str]
    pairs: tuple[Pair, ...]
    hardware: HardwareEffect = Field(
        description="the effect of the machine, with its interval, and whether arms differ in it"
    )

    @property
    def max_difference(self) -> float:
        return max(abs(pair.difference) for pair in self.pairs)

    @property
    def agreement(self) -> str:
        """In words: identical to the bit, to which power of ten they agree, or how far apart they are."""
        worst = self.max_difference
        if worst == 0:
            return "identical to the bit"
        return f"agree to 1e{ceil(log10(worst))}" if worst <= 1e-3 else f"differ by up to {worst:.4f}"


def twins_of(cohorts: Sequence[Sequence[Result]]) -> Iterable[Twins]:
    """Mixed groups have none: what differs there is no one machine's doing."""
    for left, right in combinations([cohort for cohort in cohorts if not is_mixed(cohort[0].machine)], 2):
        there = {_twin_key(result): result for result in right}
        both = [(result, there[key]) for result in left if (key := _twin_key(result)) in there]
        if both:
            machines = (left[0].machine, right[0].machine)
            pairs = sorted((_pair(*two) for two in both), key=lambda pair: (pair.arm, pair.seeds, pair.runs))
            effect = _effect((one.recipe.digest, one, other) for one, other in both)
            yield Twins(evaluation=left[0].evaluation, machines=machines, pairs=tuple(pairs), hardware=effect)


def _effect(pairs: Iterable[tuple[str, Result | ImportedRun, Result | ImportedRun]]) -> HardwareEffect:
    """The effect of the second machine on the loss of the first; each pair comes with what names its recipe."""
    runs = [
        Observation(recipe, run.machine, run.seeds, run.rerun, run.test_loss)
        for recipe, *both in pairs
        for run in both
        if run.seeds
    ]
    (found,) = hardware(runs)
    return found


def imported_twins(runs: Sequence[ImportedRun]) -> Iterable[Twins]:
    """Imported runs of one arm and known seeds on two machines; their source says that these are one recipe."""
    machines: dict[str, dict[tuple[str, str, int], ImportedRun]] = {}
    for run in runs:
        if run.seeds and not is_mixed(run.machine):
            machines.setdefault(run.machine, {})[run.arm, str(run.seeds), run.rerun] = run
    for left, right in combinations(sorted(machines), 2):
        one, other = machines[left], machines[right]
        pairs = [
            Pair(
                arm=key[0],
                seeds=key[1],
                runs=(one[key].id, other[key].id),
                test_losses=(one[key].test_loss, other[key].test_loss),
            )
            for key in sorted(one.keys() & other.keys())
        ]
        if pairs:
            effect = _effect((key[0], one[key], other[key]) for key in sorted(one.keys() & other.keys()))
            yield Twins(evaluation=IMPORTED, machines=(left, right), pairs=tuple(pairs), hardware=effect)


def _twin_key(result: Result) -> tuple[Any, ...]:
    return result.recipe.digest, result.seeds, result.rerun


def _pair(left: Result, right: Result) -> Pair:
    losses = (left.test_loss, right.test_loss)
    return Pair(arm=left.arm, seeds=str(left.seeds), runs=(left.run_id, right.run_id), test_losses=losses)
