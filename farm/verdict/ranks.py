"""Ranks that the noise cannot turn round: what it cannot tell apart shares one."""

from collections.abc import Mapping, Sequence
from itertools import combinations

from farm.stats import mean, sd
from farm.verdict import student, unpaired
from farm.verdict.inference import ALPHA, Losses, Word
from farm.verdict.memory import remembered

Relation = set[tuple[str, str]]  # (better, worse)


@remembered
def ranks(
    order: Sequence[str],
    baseline: str,
    losses: Mapping[str, Losses],
    verdicts: Mapping[str, Word | None],
    *,
    is_looked: bool = False,
) -> dict[str, int]:
    """A rank for each arm of one ranking, the baseline among them, best first; `order` is that of their differences.

    Arms that are better than the baseline come first, then the baseline with all that is not told from it, which share
    one rank, then those that are worse. Of two better or two worse arms, a test at ALPHA over the number of all pairs
    (Bonferroni) decides, as it does of all arms where there is no baseline. A study that grew by what was seen in it
    (`is_looked`) has no such test: its better arms share one rank, and so do its worse ones.
    """
    if baseline not in losses:
        return _within(list(order), _relation(order, losses, None), 1)
    words = {name: verdicts.get(name) for name in order}
    tiers = [[name for name in order if words[name] == word] for word in ("better", "worse")]
    between = [name for name in order if words[name] not in ("better", "worse")]
    others = [name for name in order if name != baseline]
    is_tested = not is_looked and any(len(tier) > 1 for tier in tiers)
    apart = _relation(others, losses, losses[baseline]) if is_tested else set()
    found = _within(tiers[0], apart, 1)
    found |= dict.fromkeys(between, 1 + len(found))
    return found | _within(tiers[1], apart, 1 + len(found))


def _within(order: Sequence[str], apart: Relation, first: int) -> dict[str, int]:
    """`first` and the number of arms that are better, never less than the rank of the arm before."""
    found: dict[str, int] = {}
    highest = first
    for name in order:
        highest = max(highest, first + sum((other, name) in apart for other in order))
        found[name] = highest
    return found


def _relation(names: Sequence[str], losses: Mapping[str, Losses], baseline: Losses | None) -> Relation:
    pairs = list(combinations(names, 2))
    found: Relation = set()
    for one, other in pairs:
        if sign := _apart(losses[one], losses[other], baseline, ALPHA / len(pairs)):
            found.add((one, other) if sign < 0 else (other, one))
    return found


def _apart(one: Losses, other: Losses, baseline: Losses | None, level: float) -> int:
    """-1 or 1 if a test at `level` resolves that `one` is lower or higher than `other`, else 0."""
    import numpy as np

    shared = [one[seeds] - other[seeds] for seeds in one if seeds in other]
    delta = mean(list(one.values())) - mean(list(other.values()))
    several = list(max(one, other, key=len).values())
    if len(shared) > 1:
        delta, error = mean(shared), (sd(shared) or 0.0) / len(shared) ** 0.5
        edge = float(student.isf(level / 2, len(shared) - 1)) * error
    elif min(len(one), len(other)) > 1:
        found = unpaired.means(np.array(list(one.values())), np.array(list(other.values())))
        edge = float(unpaired.critical(found, level) * found.error) if found.error else 0.0
    elif len(several) > 1:
        edge = unpaired.one_run_resolves(sd(several) or 0.0, len(several), level)
    elif baseline and len(baseline) > 1:  # two single runs, by the baseline's noise
        edge = float(student.isf(level / 2, len(baseline) - 1)) * (sd(list(baseline.values())) or 0.0) * 2**0.5
    else:
        return 0
    return 0 if abs(delta) <= edge else -1 if delta < 0 else 1
