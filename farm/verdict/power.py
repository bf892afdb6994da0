"""The power of a number of seed pairs, found by trying the very test that will be used on simulated studies.

An effect is in SDs of a difference of two runs of one seed pair. In each simulated study the test resolves every effect
above its half-width less its luck; the smallest effect with a power of 80 % is the 80th percentile of that.
"""

from collections.abc import Collection, Mapping, Sequence
from functools import lru_cache
from typing import Any

from farm.study.recipe import Seeds
from farm.verdict import dunnett, paired, student, unpaired
from farm.verdict.inference import ALPHA, Family, families
from farm.verdict.memory import remembered

POWER = 0.8
STUDIES = 2_000
MOST_PAIRS = 1_000  # beyond, a difference is as good as none
EXACT_FROM = 16  # pairs: from here the distribution of many degrees of freedom serves
ARMS = 12  # simulated at most: a larger family is several of these, each with its share of the level


Planned = Collection[Seeds]  # what an arm will have trained on a machine


def resolvable(plans: Sequence[tuple[Planned, Mapping[str, Planned]]]) -> list[dict[str, float]]:
    """The smallest difference that each arm of each ranking will show with a power of 80 %, in SDs of one run.

    A ranking is the baseline's seeds and each arm's. Equal variances, and no gain from blocks: runs that share their
    seeds' luck show smaller differences. Arms that no test will reach are left out.
    """
    found: list[dict[str, float]] = [{} for _ in plans]
    losses = [
        (dict.fromkeys(baseline, 0.0), {name: dict.fromkeys(seeds, 0.0) for name, seeds in arms.items()})
        for baseline, arms in plans
    ]
    tested = [(index, family) for index, sides in enumerate(losses) for family in families(*sides)]
    count = sum(len(family.arms) for _, family in tested)
    for index, family in tested:
        level = ALPHA * len(family.arms) / count
        for name in family.arms:
            effect = _smallest_planned(family, level, plans[index][0], plans[index][1], name)
            found[index] |= {} if effect is None else {name: effect}
    return found


def _smallest_planned(
    family: Family, level: float, baseline: Planned, arms: Mapping[str, Planned], name: str
) -> float | None:
    n, m, k = len(arms[name]), len(baseline), len(family.arms)
    if family.method == "welch":
        return smallest_of_sets(n, m, k, level)
    if family.method == "prediction":
        return smallest_of_one(max(n, m), k, level)
    shared = {arm: len(set(arms[arm]) & set(baseline)) for arm in family.arms}
    pairs = shared[name] if shared[name] > 1 else max(shared.values())  # a single run borrows the others' noise
    effect = smallest_effect(pairs, k, level)
    return None if effect is None else effect * (2 * pairs / shared[name]) ** 0.5


@lru_cache(maxsize=4096)
def smallest_effect(pairs: int, arms: int, level: float = ALPHA) -> float | None:
    """The smallest true difference that `pairs` seed pairs show with a power of 80 %, in SDs of a difference.

    All `arms` of the family have as many, and equal variances. None for fewer than two pairs.
    """
    import numpy as np

    if pairs < 2:
        return None
    arms, level = _simulated(arms, level)
    if pairs >= EXACT_FROM:
        return _of_many(pairs, arms, level)
    differences = _noise(pairs, arms)
    found = paired.pool(differences)
    half = dunnett.critical_blocks(arms, found.df, level) * found.error[..., 0]
    return float(np.quantile(half + found.delta[..., 0], POWER))


@remembered
def pairs_for(effect: float, arms: int, level: float = ALPHA) -> int | None:
    """The fewest seed pairs with which a true difference of `effect` SDs is found with 80 % power; None: too many."""
    if not effect > 0:
        return None
    low, high = (1, 2) if _shows(effect, EXACT_FROM, arms, level) else (EXACT_FROM, 2 * EXACT_FROM)
    while not _shows(effect, high, arms, level):
        low, high = high, high * 2
        if low >= MOST_PAIRS:
            return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if _shows(effect, middle, arms, level) else (middle, high)
    return high if high <= MOST_PAIRS else None


@lru_cache(maxsize=4096)
def _shows(effect: float, pairs: int, arms: int, level: float) -> bool:
    """Whether `smallest_effect` is at most `effect`. Of many pairs without that effect itself, which takes longer."""
    if pairs < EXACT_FROM:
        least = smallest_effect(pairs, arms, level)
        return least is not None and least <= effect

    arms, level = _simulated(arms, level)
    df = _df_of_many(pairs, arms)
    edge = effect * pairs**0.5 - float(student.ppf(POWER, df))
    return not dunnett.is_beyond(edge, dunnett.blocks(arms), df, level)


@lru_cache(maxsize=512)
def smallest_of_one(baseline: int, arms: int, level: float = ALPHA) -> float | None:
    """As `smallest_effect`, for arms of one run each against `baseline` runs, in SDs of one run."""
    import numpy as np

    if baseline < 2:
        return None
    generator, factor = np.random.default_rng(0), (1 + 1 / baseline) ** 0.5
    luck = factor * generator.standard_normal(STUDIES)
    spread = np.sqrt(generator.chisquare(baseline - 1, STUDIES) / (baseline - 1))
    arms, level = _simulated(arms, level)
    edge = dunnett.critical(unpaired.one_run_correlation(baseline, arms), baseline - 1, level)
    return float(np.quantile(edge * factor * spread + luck, POWER))


@lru_cache(maxsize=512)
def smallest_of_sets(arm: int, baseline: int, arms: int, level: float = ALPHA) -> float | None:
    """As `smallest_effect`, for two sets of runs that share no seeds, in SDs of one run."""
    import numpy as np

    if min(arm, baseline) < 2:
        return None
    generator = np.random.default_rng(0)
    found = unpaired.means(generator.standard_normal((STUDIES, arm)), generator.standard_normal((STUDIES, baseline)))
    return float(np.quantile(unpaired.critical(found, level / arms) * found.error + found.delta, POWER))


def _of_many(pairs: int, arms: int, level: float) -> float:

    df = _df_of_many(pairs, arms)
    edge = float(dunnett.critical_blocks(arms, df, level))
    return (edge + float(student.ppf(POWER, df))) / pairs**0.5


def _df_of_many(pairs: int, arms: int) -> float:
    """Box's, of equal variances: arms share the baseline's noise."""
    return (pairs - 1) * 4 * arms / (arms + 3)


def _simulated(arms: int, level: float) -> tuple[int, float]:
    return (ARMS, level * ARMS / arms) if arms > ARMS else (arms, level)


def _noise(pairs: int, arms: int) -> Any:
    """Differences of simulated studies without any effect, each of SD 1."""
    import numpy as np

    runs = np.random.default_rng(0).standard_normal((STUDIES, pairs, arms + 1)) / 2**0.5
    return runs[..., 1:] - runs[..., :1]
