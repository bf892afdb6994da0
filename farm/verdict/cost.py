"""The loss that a budget buys and the cost of a loss, from validation curves; and the arms that nothing beats in both.

A curve is linear between its points and says nothing before the first or behind the last. So the cost to reach a loss
may be known, or known only to lie below the first point or beyond the last: an interval, and no run is dropped for it.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from math import exp, inf, log
from typing import NamedTuple

from farm.stats import mean
from farm.study.looks import Looks
from farm.study.recipe import Seeds
from farm.verdict.inference import Contrast
from farm.verdict.sequential import judge_all

SAME_COST = 0.02  # of a cost: timings of one recipe on one machine differ by as much

Curve = Sequence[tuple[float, float]]  # (cost, loss), costs ascending


class Reach(NamedTuple):
    """The cost at which a loss was reached: known, or from `low` to `high`; inf where it never was."""

    low: float
    high: float

    @property
    def is_known(self) -> bool:
        return self.low == self.high

    @property
    def is_censored(self) -> bool:
        """Whether it was never reached: the cost is above `low`."""
        return self.high == inf


class SpeedUp(NamedTuple):
    """How many times sooner than the baseline an arm reached the loss: from `low` to `high`, where that is known.

    `seen` compares the logarithms of the costs; None where a run of either side did not tell its cost.
    """

    low: float | None
    high: float | None
    seen: Contrast | None = None


def loss_at(curve: Curve, cost: float) -> float | None:
    """The loss at a cost, linear between two points; None before the first and behind the last."""
    for (below, worse), (above, better) in pairwise([*curve[:1], *curve]):
        if below <= cost <= above:
            return better if above == below else worse + (better - worse) * (cost - below) / (above - below)
    return None


def reach(curve: Curve, loss: float) -> Reach:
    """The cost at which the curve first came down to `loss`."""
    if not curve:
        return Reach(0.0, inf)
    if curve[0][1] <= loss:
        known = curve[0][1] == loss
        return Reach(curve[0][0] if known else 0.0, curve[0][0])
    for (below, worse), (above, better) in pairwise(curve):
        if better <= loss:
            cost = below + (above - below) * (worse - loss) / (worse - better)
            return Reach(cost, cost)
    return Reach(curve[-1][0], inf)


def together(reaches: Sequence[Reach]) -> Reach:
    """The geometric mean of several costs, as far as it is known: ratios are compared by their logarithms."""
    low = exp(mean([_log(one.low) for one in reaches]))
    if any(one.is_censored for one in reaches):
        return Reach(low, inf)
    return Reach(low, low if all(one.is_known for one in reaches) else exp(mean([_log(one.high) for one in reaches])))


def speed_ups(
    rankings: Sequence[tuple[Mapping[Seeds, Reach], Mapping[str, Mapping[Seeds, Reach]]]],
    machines: Sequence[str] = (),
    looks: Looks | None = None,
) -> list[dict[str, SpeedUp]]:
    """Tell for each ranking (a baseline, and its arms by name) how much sooner its arms reached the loss.

    Logarithms of costs are compared as losses are, at one error rate for all, of arms whose runs all told their cost.
    An arm with a run that did not has bounds and no interval: leaving that run out would favour its side, and a handful
    of seeds does not bear a model of what is censored. A baseline with such a run leaves none of its arms an interval.
    After `looks` (of farm resolve) at arms on these `machines` the intervals hold over all of them.
    """
    told = [
        (_logs(baseline), {n: logs for n, arm in arms.items() if (logs := _logs(arm))}) for baseline, arms in rankings
    ]
    sides = [(baseline or {}, arms if baseline else {}) for baseline, arms in told]
    seen = judge_all(sides, machines, None, looks)
    return [
        {name: _speed_up(arm, baseline, found.get(name)) for name, arm in arms.items()}
        for (baseline, arms), found in zip(rankings, seen, strict=True)
    ]


def frontier(places: Mapping[str, tuple[int, float]]) -> set[str]:
    """The arms, by (rank, cost), that no other beats in both: has a better rank, and costs no more than they do.

    A shared rank is no better one, and costs within SAME_COST are the same: what noise can turn round beats nothing.
    """
    return {
        name
        for name, (rank, cost) in places.items()
        if not any(other < rank and its <= cost * (1 + SAME_COST) for other, its in places.values())
    }


def _speed_up(arm: Mapping[Seeds, Reach], baseline: Mapping[Seeds, Reach], seen: Contrast | None) -> SpeedUp:
    """Pair by pair over the seeds that both have; without any, of both sides' means."""
    if not arm or not baseline:
        return SpeedUp(None, None)
    shared = [(baseline[seeds], arm[seeds]) for seeds in arm if seeds in baseline]
    pairs = shared or [(together(list(baseline.values())), together(list(arm.values())))]
    if seen:
        return SpeedUp(exp(-seen.delta), exp(-seen.delta), seen)
    return SpeedUp(
        _ratio([(before.low, after.high) for before, after in pairs]),
        _ratio([(before.high, after.low) for before, after in pairs]),
    )


def _ratio(pairs: Sequence[tuple[float, float]]) -> float | None:
    """The geometric mean of first / second; None where one of them has no bound."""
    if any(not 0 < side < inf for pair in pairs for side in pair):
        return None
    return exp(mean([log(first) - log(second) for first, second in pairs]))


def _logs(arm: Mapping[Seeds, Reach]) -> dict[Seeds, float] | None:
    """The logarithm of each seed pair's cost, if all are known."""
    if not arm or not all(one.is_known and one.low > 0 for one in arm.values()):
        return None
    return {seeds: log(one.low) for seeds, one in arm.items()}


def _log(cost: float) -> float:
    return log(cost) if cost > 0 else -inf
