"""The other error of a difference: that of a finite test set, which no number of seeds makes smaller.

Two models are scored on the same items, so the difference is taken item by item, and how these differences scatter says
how far their mean may be from that over all the items there could have been. Blocks of consecutive items stand for
them: neighbours are often of one document, and are no independent evidence (batch means; with the correction for blocks
of unequal size this is the cluster-robust error of Liang & Zeger 1986, Biometrika 73:13).
"""

from collections.abc import Iterable, Mapping, Sequence
from math import fsum, sqrt

from farm.stats import mean
from farm.study.recipe import Seeds

Blocks = Mapping[Seeds, Sequence[float]]  # of an arm on a machine: the mean of each block, repetitions averaged


def items_error(arm: Blocks, baseline: Blocks, sizes: Sequence[int], *, is_paired: bool) -> float | None:
    """The standard error of the mean difference that is due to the items; None for a single block, or without items.

    `sizes`: how many items each block has. `is_paired`: the difference is that over the seeds which both have.
    """
    shared = [seeds for seeds in arm if seeds in baseline]
    ours, theirs = (shared, shared) if is_paired else (list(arm), list(baseline))
    if len(sizes) < 2 or not ours or not theirs:
        return None
    own, other = average(arm[seeds] for seeds in ours), average(baseline[seeds] for seeds in theirs)
    differences = [one - two for one, two in zip(own, other, strict=True)]
    count = sum(sizes)
    centre = fsum(size * d for size, d in zip(sizes, differences, strict=True)) / count
    scatter = fsum((size * (d - centre)) ** 2 for size, d in zip(sizes, differences, strict=True))
    return sqrt(scatter * len(sizes) / (len(sizes) - 1)) / count


def average(runs: Iterable[Sequence[float]]) -> list[float]:
    """The mean of one or more runs, block by block."""
    first, *others = runs
    if not others:  # as of most seeds, and 256 blocks of each of hundreds of runs take a tenth of a table's time
        return list(first)
    return [mean(values) for values in zip(first, *others, strict=True)]
