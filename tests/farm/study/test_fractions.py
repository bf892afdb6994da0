"""The catalogue of fractions: each entry against its own definition, what is published of it, and pydoe's searches."""

from collections import Counter
from functools import reduce
from itertools import combinations
from operator import xor

import numpy as np
import pytest
from pydoe import fracfact_aliasing, fracfact_by_res, fracfact_opt

from farm.study.fractions import MOST, Fraction, sizes

EVERY = [(k, one) for k in range(3, MOST + 1) for one in sizes(k)]


def lengths(k: int, fraction: Fraction) -> Counter[int]:
    """How many words of each length define it: 2^p - 1 of them, the products of p."""
    crossed = k - len(fraction.generators.split())
    own = [
        sum(1 << (ord(letter) - ord("a")) for letter in word) | 1 << (crossed + at)
        for at, word in enumerate(fraction.generators.split())
    ]
    chosen = (subset for size in range(1, len(own) + 1) for subset in combinations(own, size))
    return Counter(reduce(xor, subset).bit_count() for subset in chosen)


@pytest.mark.parametrize(("k", "fraction"), EVERY)
def test_each_has_as_many_arms_and_the_resolution_that_it_says(k: int, fraction: Fraction) -> None:
    levels = np.array(fraction.levels(k))
    assert levels.shape == (fraction.arms, k) == (2 ** (k - len(fraction.generators.split())), k)
    assert len({tuple(row) for row in levels}) == fraction.arms
    assert np.array_equal(levels.T @ levels, fraction.arms * np.eye(k)), "no two single effects are aliased"
    assert min(lengths(k, fraction)) == fraction.resolution


@pytest.mark.parametrize("k", range(3, MOST + 1))
def test_every_size_is_there_and_none_smaller_has_a_resolution(k: int) -> None:
    own = sizes(k)
    assert [one.arms for one in own] == [2**power for power in range(own[0].arms.bit_length() - 1, k)]
    assert own[0].arms // 2 <= k, "half as many arms would not tell the single effects apart"
    for resolution in (3, 4, 5):
        least = next((one.arms for one in own if one.resolution >= resolution), 2**k)
        assert least == len(fracfact_by_res(k, resolution))


# Chen, Sun & Wu (1993), and Box, Hunter & Hunter (2005): how many words have 3, 4, 5 letters.
PUBLISHED = {
    (6, 16): (0, 3, 0),
    (7, 16): (0, 7, 0),
    (7, 32): (0, 1, 2),
    (8, 32): (0, 3, 4),
    (8, 64): (0, 0, 2),
    (9, 16): (4, 14, 8),
    (9, 32): (0, 6, 8),
    (9, 64): (0, 1, 4),
    (10, 32): (0, 10, 16),
    (10, 64): (0, 2, 8),
    (10, 128): (0, 0, 3),
    (11, 32): (0, 25, 0),
    (11, 64): (0, 4, 14),
    (11, 128): (0, 0, 6),
}


def test_their_words_are_as_long_as_those_of_the_published_designs() -> None:
    found = {(k, one.arms): tuple(lengths(k, one)[size] for size in (3, 4, 5)) for k, one in EVERY}
    assert {key: found[key] for key in PUBLISHED} == PUBLISHED


@pytest.mark.parametrize(("k", "arms"), [(5, 8), (6, 8), (6, 16), (7, 8), (7, 16)])
def test_no_fraction_of_the_size_aliases_less(k: int, arms: int) -> None:
    """pydoe tries every set of generators: seconds for these, hours for the largest."""
    own = next(one for one in sizes(k) if one.arms == arms)
    best = fracfact_opt(k, len(own.generators.split()))[2]
    assert list(fracfact_aliasing(np.array(own.levels(k)))[1]) == list(best)
