"""Means and spreads against the standard library and a published figure."""

import statistics

import pytest

from farm import stats


def test_the_sd_is_divided_by_n_minus_1() -> None:
    # The published battery's three baselines with both seeds varied: 0.01897, where the post printed 0.0154919.
    losses = [3.6915, 3.6556, 3.6743]
    assert stats.sd(losses) == pytest.approx(statistics.stdev(losses), abs=1e-15)
    assert stats.sd([1.0, 3.0]) == pytest.approx(2**0.5)
    assert stats.sd([3.0]) is None
    assert stats.sd([]) is None


def test_the_mean_is_correctly_rounded_and_the_sd_of_equal_values_is_zero() -> None:
    assert stats.mean([1e16, 1.0, -1e16]) == pytest.approx(1 / 3)
    assert stats.sd([3.123456789] * 7) == 0.0
