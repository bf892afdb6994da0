"""Small-sample statistics against published figures and against simulation."""

import random
import statistics
import subprocess
import sys

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


@pytest.mark.parametrize(
    ("n", "effect"),
    [(3, 3.0709), (4, 2.3808), (26, 0.7923), (64, 0.4991)],  # G*Power 3.1, two independent means, 0.05 two-sided, 0.8
)
def test_the_detectable_effect_agrees_with_published_tables(n: int, effect: float) -> None:
    assert stats.detectable_effect(n, n) == pytest.approx(effect, abs=5e-4)


@pytest.mark.parametrize(("n_arm", "n_baseline"), [(1, 2), (2, 1), (1, 3), (1, 7), (2, 2), (40, 3)])
def test_the_detectable_effect_has_the_wanted_power_at_every_small_n(n_arm: int, n_baseline: int) -> None:
    effect = stats.detectable_effect(n_arm, n_baseline)
    assert effect is not None
    assert stats.power(effect, n_arm, n_baseline) == pytest.approx(0.8, abs=1e-6)
    assert stats.power(0.0, n_arm, n_baseline) == pytest.approx(0.05, abs=1e-9)


def test_the_power_is_what_simulated_t_tests_find() -> None:
    from scipy.stats import ttest_ind

    generator, effect, trials = random.Random(1), stats.detectable_effect(3, 4), 4000
    assert effect is not None
    arms = [[generator.gauss(effect, 1) for _ in range(3)] for _ in range(trials)]
    baselines = [[generator.gauss(0, 1) for _ in range(4)] for _ in range(trials)]
    found = (ttest_ind(arms, baselines, axis=1).pvalue < 0.05).mean()
    assert found == pytest.approx(0.8, abs=4 * (0.8 * 0.2 / trials) ** 0.5)


@pytest.mark.parametrize(("n_arm", "n_baseline"), [(1, 1), (0, 5), (5, 0), (0, 0)])
def test_too_few_runs_resolve_nothing(n_arm: int, n_baseline: int) -> None:
    assert stats.detectable_effect(n_arm, n_baseline) is None


def test_scipy_is_not_imported_before_it_is_needed() -> None:
    code = "import sys, farm.stats as s; s.sd([1.0, 2.0]); assert 'scipy' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
