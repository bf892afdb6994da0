"""Verdicts that hold over repeated looks at a study that grows until it is resolved.

An arm is tested by Student's paired t at certain numbers of seed pairs, its stages, which its first look fixes. Each
stage has a share of the arm's error rate: the increments of the Pocock-type spending function of Lan and DeMets (1983,
Biometrika 70:659), ln(1 + (e - 1) t), over the share t of the pairs of the sixth stage. A twentieth is kept for the
stages beyond, halved at each, so that the stages have no end. The increments are added up (Bonferroni's inequality over
the looks) instead of integrated over a joint distribution, which costs some power and buys this: for every number of
pairs p is uniform without an effect, so min over looks of p / share is a p value at all times at once, whichever arm
got more pairs, for whatever reason seen in the data, and whenever the study stops. Holm's rule shares the error rate
out among the arms; variances are not pooled, for a pooled one would depend on how many pairs the other arms were given.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from math import e, log
from typing import Any, NamedTuple

from farm.study.looks import Looks, key
from farm.study.recipe import Seeds
from farm.verdict import inference, student
from farm.verdict.inference import ALPHA, Contrast, Losses, Word, holm, interval, rounding
from farm.verdict.memory import remembered

LEAST = 3  # pairs of the first stage: two say next to nothing of a variance
STAGES = 6
TAIL = 0.05  # of the error rate, for the stages beyond
MOST_PAIRS = 1_000


class Stage(NamedTuple):
    """A number of seed pairs at which an arm is tested, and its share of the arm's error rate."""

    pairs: int
    share: float


class History(NamedTuple):
    """Arms at all stages that they have reached. Arrays are (..., stages)."""

    delta: Any
    error: Any
    p: Any
    df: Any  # (stages,)
    share: Any  # (stages,)

    @property
    def always(self) -> Any:
        """The p value that holds over all looks."""
        import numpy as np

        return np.minimum((self.p / self.share).min(-1), 1.0) if self.share.size else np.ones(self.p.shape[:-1])


def list_stages(first: int, pairs: int = MOST_PAIRS) -> list[Stage]:
    """The stages up to `pairs` of an arm that had `first` pairs at its first look: each half as many again.

    >>> [stage.pairs for stage in list_stages(3, 20)]
    [3, 4, 6, 9, 13, 19]
    """
    counts = [max(LEAST, first)]
    while len(counts) < STAGES or counts[-1] < pairs:
        counts.append(counts[-1] + counts[-1] // 2)
    spent = [0.0, *(log(1 + (e - 1) * n / counts[STAGES - 1]) for n in counts[:STAGES])]
    shares = [(1 - TAIL) * (after - before) for before, after in pairwise(spent)]
    shares += [TAIL / 2 ** (1 + place) for place in range(len(counts) - STAGES)]
    return [Stage(n, share) for n, share in zip(counts, shares, strict=True) if n <= pairs]


def next_stage(first: int, pairs: int) -> Stage:
    """The first stage above `pairs`."""
    return next(stage for stage in list_stages(first, 2 * max(pairs, first, LEAST)) if stage.pairs > pairs)


def look_at(differences: Any, first: int, least_error: float = 0.0) -> History:
    """Differences (..., pairs) to the baseline, in the order in which they were planned, at every stage."""
    import numpy as np

    differences = np.asarray(differences, float)
    stages = list_stages(first, differences.shape[-1])
    shape = differences.shape[:-1]
    delta, error = np.empty((*shape, len(stages))), np.empty((*shape, len(stages)))
    for place, (n, _) in enumerate(stages):
        delta[..., place] = differences[..., :n].mean(-1)
        error[..., place] = differences[..., :n].std(-1, ddof=1) / n**0.5
    df, share = np.array([n - 1 for n, _ in stages]), np.array([share for _, share in stages])
    error = np.maximum(error, least_error or np.finfo(float).tiny)
    return History(delta, error, 2 * student.sf(np.abs(delta) / error, df), df, share)


def judge_all(
    rankings: Sequence[tuple[Losses, Mapping[str, Losses]]],
    machines: Sequence[str],
    margin: float | None,
    looks: Looks | None,
) -> list[dict[str, Contrast]]:
    """Test the arms of each ranking: over all `looks` where there were any, else as of one."""
    if looks is None:
        return inference.judge(rankings, margin)
    return judge(rankings, machines, looks.first, looks.order, margin)


@remembered
def judge(
    rankings: Sequence[tuple[Losses, Mapping[str, Losses]]],
    machines: Sequence[str],
    first: Mapping[str, int],
    order: Sequence[Seeds],
    margin: float | None,
) -> list[dict[str, Contrast]]:
    """As `inference.judge`, over all looks. `machines` are those of the rankings, `first` and `order` those of the
    study's looks.

    Arms that have not reached their first stage are left out. All that were looked at share the error rate.
    """
    found: list[dict[str, Contrast]] = [{} for _ in rankings]
    tested = {
        (index, name): one
        for index, (baseline, arms) in enumerate(rankings)
        for name, losses in arms.items()
        if (one := _look(losses, baseline, first.get(key(name, machines[index]), LEAST), order)).share.size
    }
    count = max(len(tested), len(first))
    waiting = [1.0] * (count - len(tested))  # an arm without a test yet still has its part of the error rate
    p = holm([*(float(one.always) for one in tested.values()), *waiting])
    same = holm([*(_same(one, margin) for one in tested.values()), *waiting])
    for place, ((index, name), one) in enumerate(tested.items()):
        begun = first.get(key(name, machines[index]), LEAST)
        found[index][name] = _contrast(one, p[place], same[place], margin, count, begun)
    return found


def chance(delta: Any, sd: Any, stage: Stage, level: float, margin: float | None = None) -> Any:
    """The chance that an arm is resolved at `stage`, if the truth is what was seen. `level` is the arm's error rate."""
    import numpy as np

    edge, error = student.isf(level * stage.share / 2, stage.pairs - 1), sd / stage.pairs**0.5
    differs = student.sf(edge - np.abs(delta) / error, stage.pairs - 1)
    if margin is None:
        return differs
    edge = student.isf(level * stage.share, stage.pairs - 1)
    room = margin / error - edge  # |estimate| / error below it is `same`
    there = delta / error
    is_same = student.cdf(room - there, stage.pairs - 1) - student.cdf(-room - there, stage.pairs - 1)
    return np.clip(differs + is_same * (room > 0), 0, 1)


@remembered
def pairs_for(effect: float, first: int, have: int, level: float, power: float = 0.8) -> int | None:
    """The first stage above `have` at which a true difference of `effect` SDs is found with `power`; None: too many."""
    return next(
        (
            stage.pairs
            for stage in list_stages(first)
            if stage.pairs > have and effect > 0 and float(chance(effect, 1.0, stage, level)) >= power
        ),
        None,
    )


def in_order(losses: Losses, baseline: Losses, order: Sequence[Seeds]) -> list[float]:
    """An arm's complete pairs as they were planned: its losses less the baseline's."""
    planned = {seeds: place for place, seeds in enumerate(order)}
    shared = [seeds for seeds in losses if seeds in baseline]
    shared.sort(key=lambda seeds: (planned.get(seeds, len(planned)), seeds.init, seeds.train))
    return [losses[seeds] - baseline[seeds] for seeds in shared]


def _look(losses: Losses, baseline: Losses, first: int, order: Sequence[Seeds]) -> History:
    return look_at(in_order(losses, baseline, order), first, rounding(baseline) if baseline else 0.0)


def _same(one: History, margin: float | None) -> float:
    """The p value over all looks of "differs by the margin or more": two one-sided tests at each."""
    return 1.0 if margin is None else min(1.0, float(_equivalence(one, margin).min()))


def _equivalence(one: History, margin: float) -> Any:
    """(stages,) p / share."""
    return student.sf((margin - abs(one.delta)) / one.error, one.df) / one.share


def _contrast(one: History, p: float, same: float, margin: float | None, count: int, first: int) -> Contrast:
    """The look that decided, or where none did, the newest."""
    word: Word = "unresolved"
    place = len(one.share) - 1
    if margin is not None and same < ALPHA:
        word, place = "same", int(_equivalence(one, margin).argmin())
    elif p < ALPHA:
        place = int((one.p / one.share).argmin())
        word = "better" if one.delta[place] < 0 else "worse"
    delta, error, df = float(one.delta[place]), float(one.error[place]), int(one.df[place])
    half = float(student.isf(ALPHA * float(one.share[place]) / count / 2, df)) * error
    low, high = interval(delta, half, p)
    return Contrast(
        delta=delta,
        ci_low=low,
        ci_high=high,
        p=p,
        method="sequential",
        word=word,
        noise=error * (df + 1) ** 0.5,
        error=error,
        arms=1,
        level=ALPHA / count,
        first=first,
    )
