"""Which test each arm gets, and what it says: delta, interval and p, simultaneous over all comparisons of a table.

How an arm is tested follows from who trained which seeds and from a test of equal variances, never from the differences
themselves. A table's comparisons share one error rate: a family of k of K gets k/K of it (Bonferroni over families),
and Dunnett's distribution or Holm's rule shares that out within the family.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

from farm.stats import mean, sd
from farm.study.recipe import Frozen
from farm.verdict import dunnett, paired, student, unpaired
from farm.verdict.memory import remembered

ALPHA = 0.05  # the chance that a table in which nothing has an effect calls anything better or worse
CHECKED_FROM = 6  # pairs: with fewer, no sign-flip can reach p = 0.05
RESAMPLES = 9_999

Method = Literal["paired", "paired-own", "welch", "prediction", "sequential"]
Word = Literal["better", "worse", "same", "unresolved"]
# Of an arm on a machine, repetitions averaged, by block: the seed pair, or the id of an imported run whose seeds nobody
# knows.
Losses = Mapping[Any, float]


class Check(Frozen):
    """The verdict on one arm of two methods that take no distribution for granted, unadjusted for the other arms."""

    ci_low: float  # BCa bootstrap of the mean difference, 95 %
    ci_high: float
    p: float  # all, or 9,999, flips of the differences' signs


class Contrast(Frozen):
    """An arm against the baseline of its ranking."""

    delta: float
    ci_low: float
    ci_high: float
    p: float
    method: Method
    word: Word
    noise: float  # the SD of a difference between two runs of one seed pair, or that two independent runs would have
    error: float  # standard error of delta over the seeds
    arms: int  # of its family
    level: float  # the family's share of ALPHA
    first: int | None = None  # of `sequential`: the pairs at the first look, which fix the next ones
    check: Check | None = None


class Family(NamedTuple):
    """Arms of one ranking that are tested together."""

    method: Method
    arms: tuple[str, ...]


class Tested(NamedTuple):
    """An arm's difference with the half-widths of its intervals at the two levels, and its p within the family."""

    delta: float
    half: float
    narrow: float | None  # for the equivalence test; None where there is no margin
    p: float
    noise: float
    error: float


@remembered
def judge(rankings: Sequence[tuple[Losses, Mapping[str, Losses]]], margin: float | None) -> list[dict[str, Contrast]]:
    """Test, in each ranking (a baseline, and its arms by name), those arms that can be tested at all."""
    found: list[dict[str, Contrast]] = [{} for _ in rankings]
    tested = [(index, family) for index, (baseline, arms) in enumerate(rankings) for family in families(baseline, arms)]
    count = sum(len(family.arms) for _, family in tested)
    for index, family in tested:
        found[index] |= _compare(family, *rankings[index], count, margin)
    return found


def families(baseline: Losses, arms: Mapping[str, Losses]) -> list[Family]:
    """Arms that share two seed pairs or more with the baseline are compared pair by pair, the others as two sets.

    A single run, of the arm or of the baseline, joins the pairs if they leave as many degrees of freedom as the set on
    the other side; else it is one run against that set.
    """
    if not baseline:
        return []
    shared = {name: len(_common(losses, baseline)) for name, losses in arms.items()}
    most = max(shared.values(), default=0) if len(baseline) > 1 else 0
    blocks, welch, single, lone = [], [], [], []
    for name, losses in arms.items():
        n, m = len(losses), len(baseline)
        if shared[name] > 1 or (shared[name] == 1 and n == 1 and most > 1 and most >= m):
            blocks.append(name)
        elif n > 1 and m > 1:
            welch.append(name)
        elif m > 1:
            single.append(name)
        elif n > 1:
            lone.append(name)
    if blocks and bool(paired.objects(_differences(baseline, arms, blocks))):
        single += [name for name in blocks if shared[name] == 1]
        blocks = [name for name in blocks if shared[name] > 1]
        found = [Family("paired-own", tuple(blocks)), Family("welch", tuple(welch))]
    else:
        found = [Family("paired", tuple(blocks)), Family("welch", tuple(welch))]
    found += [Family("prediction", tuple(single)), *(Family("prediction", (name,)) for name in lone)]
    return [family for family in found if family.arms]


def _common(one: Losses, other: Losses) -> list[Any]:
    return [seeds for seeds in one if seeds in other]


def _differences(baseline: Losses, arms: Mapping[str, Losses], names: Sequence[str]) -> Any:
    """(blocks, arms), NaN where an arm lacks a block of the baseline."""
    import numpy as np

    nan = float("nan")
    return np.array([[arms[name].get(seeds, nan) - loss for name in names] for seeds, loss in baseline.items()])


def _compare(
    family: Family, baseline: Losses, arms: Mapping[str, Losses], count: int, margin: float | None
) -> dict[str, Contrast]:
    size, own = len(family.arms), {name: arms[name] for name in family.arms}
    level = ALPHA * size / count
    tests = {"paired": _paired, "paired-own": _paired_own, "welch": _welch, "prediction": _prediction}
    tested = tests[family.method](baseline, own, level, margin is not None)
    found = {}
    for name, one in zip(family.arms, tested, strict=True):
        p = min(1.0, one.p * count / size)
        low, high = interval(one.delta, one.half, p)
        found[name] = Contrast(
            delta=one.delta,
            ci_low=low,
            ci_high=high,
            p=p,
            method=family.method,
            word=_word(one, p, margin),
            noise=one.noise,
            error=one.error,
            arms=size,
            level=level,
            check=_check(own[name], baseline) if family.method.startswith("paired") else None,
        )
    return found


def interval(delta: float, half: float, p: float) -> tuple[float, float]:
    """Both ends. Holm's rule may settle the sign where the simultaneous interval reaches over 0: then it ends there."""
    low, high = delta - half, delta + half
    if p < ALPHA and low < 0 < high:
        return (low, 0.0) if delta < 0 else (0.0, high)
    return low, high


def _word(one: Tested, p: float, margin: float | None) -> Word:
    """`same` by two one-sided tests (Schuirmann 1987, J. Pharmacokinet. Biopharm. 15:657), simultaneous like intervals.

    It comes first, for what is smaller than the margin is no improvement, however sure.
    """
    if margin is not None and one.narrow is not None and abs(one.delta) + one.narrow < margin:
        return "same"
    if p < ALPHA:
        return "better" if one.delta < 0 else "worse"
    return "unresolved"


# --- the four tests --------------------------------------------------------------------------------------------------


def _paired(baseline: Losses, arms: Mapping[str, Losses], level: float, is_margin: bool) -> list[Tested]:
    found = paired.pool(_differences(baseline, arms, list(arms)))
    df, R = float(found.df), found.correlation
    error = [max(float(one), rounding(baseline)) for one in found.error]
    edge, narrow = _edges(R, df, level, is_margin)
    p = dunnett.p_values([delta / e for delta, e in zip(found.delta, error, strict=True)], R, df)
    return [
        Tested(float(delta), edge * e, narrow and narrow * e, chance, e * float(n) ** 0.5, e)
        for delta, e, chance, n in zip(found.delta, error, p, found.n, strict=True)
    ]


def _paired_own(baseline: Losses, arms: Mapping[str, Losses], level: float, is_margin: bool) -> list[Tested]:

    found, k = paired.own(_differences(baseline, arms, list(arms))), len(arms)
    level *= paired.AFTER_A_LOOK
    error = [max(float(one), rounding(baseline)) for one in found.error]
    alone = [2 * float(student.sf(abs(d) / e, df)) for d, e, df in zip(found.delta, error, found.df, strict=True)]
    p = [min(1.0, one / paired.AFTER_A_LOOK) for one in holm(alone)]
    return [
        Tested(
            float(delta),
            float(student.isf(level / 2 / k, df)) * e,
            float(student.isf(level / k, df)) * e,
            chance,
            e * float(n) ** 0.5,
            e,
        )
        for delta, e, df, chance, n in zip(found.delta, error, found.df, p, found.n, strict=True)
    ]


def _welch(baseline: Losses, arms: Mapping[str, Losses], level: float, is_margin: bool) -> list[Tested]:
    import numpy as np

    k, other = len(arms), np.array(list(baseline.values()))
    least = rounding(baseline) ** 2
    means = [unpaired.means(np.array(list(losses.values())), other) for losses in arms.values()]
    means = [one._replace(arm=max(one.arm, least), baseline=max(one.baseline, least)) for one in means]
    p = holm([unpaired.p_value(one) for one in means])
    return [
        Tested(
            float(one.delta),
            float(unpaired.critical(one, level / k) * one.error),
            float(unpaired.critical(one, 2 * level / k) * one.error),
            chance,
            float(one.arm * (one.arm_df + 1) + one.baseline * (one.baseline_df + 1)) ** 0.5,
            float(one.error),
        )
        for one, chance in zip(means, p, strict=True)
    ]


def _prediction(baseline: Losses, arms: Mapping[str, Losses], level: float, is_margin: bool) -> list[Tested]:
    """One run against a set: that it is one more of them is a t test with the set's SD, for the noise of one run cannot
    be seen. Several single runs share the set's mean and SD, for which Dunnett's distribution is exact.
    """
    sets = list(baseline.values()) if len(baseline) > 1 else list(next(iter(arms.values())).values())
    n, k = len(sets), len(arms)
    spread = sd(sets) or 0.0
    error = max(spread * (1 + 1 / n) ** 0.5, rounding(baseline))
    deltas = [mean(list(losses.values())) - mean(list(baseline.values())) for losses in arms.values()]
    R = unpaired.one_run_correlation(n, k)
    edge, narrow = _edges(R, n - 1, level, is_margin)
    p = dunnett.p_values([delta / error for delta in deltas], R, n - 1)
    noise = max(spread, rounding(baseline)) * 2**0.5
    return [
        Tested(delta, edge * error, narrow and narrow * error, one, noise, error)
        for delta, one in zip(deltas, p, strict=True)
    ]


def _edges(correlation: Any, df: float, level: float, is_margin: bool) -> tuple[float, float | None]:
    """Dunnett's critical values of two sides and, for the equivalence test, of one: each takes eight integrals."""
    one = dunnett.critical(correlation, df, level, sides=1) if is_margin else None
    return dunnett.critical(correlation, df, level), one


def holm(p: Sequence[float]) -> list[float]:
    """Adjusted p values (Holm 1979, Scand. J. Stat. 6:65)."""
    order = sorted(range(len(p)), key=lambda i: p[i])
    adjusted, above = [0.0] * len(p), 0.0
    for place, i in enumerate(order):
        above = max(above, min(1.0, (len(p) - place) * p[i]))
        adjusted[i] = above
    return adjusted


def rounding(baseline: Losses) -> float:
    """The least standard error that means anything: losses that agree to the last bit are no proof of no noise."""
    return paired.ROUNDING * max(abs(loss) for loss in baseline.values()) or paired.ROUNDING


def _check(losses: Losses, baseline: Losses) -> Check | None:
    """Bootstrap (Efron 1987, JASA 82:171) and sign-flip test (Fisher 1935, Design of Experiments, section 21)."""
    import numpy as np

    differences = np.array([losses[seeds] - baseline[seeds] for seeds in _common(losses, baseline)])
    if len(differences) < CHECKED_FROM or np.ptp(differences) <= 2 * rounding(baseline):
        return None
    from scipy.stats import bootstrap, permutation_test

    generator = np.random.default_rng(0)
    sample = (differences,)
    ends = bootstrap(sample, np.mean, n_resamples=RESAMPLES, method="BCa", rng=generator).confidence_interval
    flips = permutation_test(
        sample, np.mean, permutation_type="samples", n_resamples=RESAMPLES, vectorized=True, rng=generator
    )
    return Check(ci_low=float(ends.low), ci_high=float(ends.high), p=float(flips.pvalue))
