"""The way to settle an arm that is not resolved: more seed pairs, the runs that they lack, and their price."""

from typing import NamedTuple

from farm.study.recipe import Frozen
from farm.verdict import sequential
from farm.verdict.inference import Contrast, Losses
from farm.verdict.power import POWER, pairs_for


class Cost(NamedTuple):
    """Of one run."""

    hours: float | None
    usd: float | None


class Needs(Frozen):
    """Seed pairs to add so that a true difference as large as the one seen is found with a power of 80 %."""

    pairs: int
    runs: int  # of the arm and of the baseline
    hours: float | None  # of the machine, for all of them; None when those of a run are unknown
    usd: float | None  # None when a price is unknown


def needs(seen: Contrast, arm: Losses, baseline: Losses, own: Cost, other: Cost) -> Needs | None:
    """None where a thousand pairs would not do. One pair at least: what is unresolved needs something.

    Pairs that lack only one side come first: they cost one run.
    """
    have = sum(seeds in baseline for seeds in arm)
    effect = abs(seen.delta) / seen.noise
    if seen.first is None:
        wanted = pairs_for(effect, seen.arms, seen.level)
    else:
        wanted = sequential.pairs_for(effect, seen.first, have, seen.level, POWER)
    if wanted is None:
        return None
    more = max(1, wanted - have)
    with_baseline = min(more, len(baseline) - have)
    with_arm = min(more - with_baseline, len(arm) - have)
    arms, baselines = more - with_arm, more - with_baseline
    hours = _total((arms, own.hours), (baselines, other.hours))
    return Needs(pairs=more, runs=arms + baselines, hours=hours, usd=_total((arms, own.usd), (baselines, other.usd)))


def _total(*parts: tuple[int, float | None]) -> float | None:
    """Numbers of runs, each at its own cost; None where a cost that counts is unknown."""
    if any(n and each is None for n, each in parts):
        return None
    return sum(n * (each or 0.0) for n, each in parts)
