"""The distributions behind the verdicts, against those of scipy.stats."""

import subprocess
import sys

import numpy as np
import pytest
from scipy import optimize, stats

from farm.verdict import distributions, dunnett
from farm.verdict.resampling import bootstrap_mean, sign_flips_p

X = np.array([-np.inf, -40.0, -3.1, -1e-9, 0.0, 0.3, 2.0, 2.0001, 12.7, 1e6, np.inf])
DF = np.array([1.0, 1.7, 2.0, 5.0, 19.0, 1e3, 1e6])[:, None]
CHANCES = np.array([1e-12, 1e-5, 0.0125, 0.05, 0.5, 0.8, 0.975, 1 - 1e-12])


def test_student_s_t_chi_square_and_f_are_scipy_s_to_the_bit() -> None:
    for ours, theirs, at in (
        (distributions.t_sf, stats.t.sf, X),
        (distributions.t_cdf, stats.t.cdf, X),
        (distributions.t_isf, stats.t.isf, CHANCES),
        (distributions.t_ppf, stats.t.ppf, CHANCES),
        (distributions.chi2_isf, stats.chi2.isf, CHANCES),
    ):
        assert np.array_equal(ours(at, DF), theirs(at, DF))
    beyond = np.array([0.0, 0.3, 4.0, 1e3, np.inf])
    assert np.array_equal(distributions.f_sf(beyond, DF, 7), stats.f.sf(beyond, DF, 7))


@pytest.mark.parametrize("sides", [1, 2])
@pytest.mark.parametrize(("count", "correlation"), [(1, 0.0), (2, 0.5), (3, 0.0), (5, 0.5), (9, 0.25)])
def test_the_largest_t_of_a_family_that_is_alike_is_scipy_s(count: int, correlation: float, sides: int) -> None:
    alike = np.full((count, count), correlation) + np.eye(count) * (1 - correlation)
    for df in (1.0, 3.3, 40.0):
        ours = distributions.largest_t_below(2.3, alike, df, sides)
        assert ours == pytest.approx(_below(2.3, alike, df, sides, 200_000), abs=1e-5)


@pytest.mark.parametrize("sides", [1, 2])
@pytest.mark.parametrize("count", [2, 3, 5, 12])
def test_where_arms_lack_seeds_it_is_nearer_to_the_truth_than_scipy_s(count: int, sides: int) -> None:
    """With as few points as scipy was given before: the truth is scipy's with a hundred times as many."""
    has = np.random.default_rng(count).random((20, count)) > 0.2
    n, common = has.sum(0), has.T.astype(float) @ has
    lacking = 0.5 * common / np.sqrt(np.outer(n, n))
    np.fill_diagonal(lacking, 1.0)
    truth = _below(2.3, lacking, 17.5, sides, 500_000)
    assert distributions.largest_t_below(2.3, lacking, 17.5, sides) == pytest.approx(truth, abs=1e-4)


def test_two_arms_that_pull_against_each_other() -> None:
    opposed = np.array([[1.0, -0.6], [-0.6, 1.0]])
    truth = _below(1.5, opposed, 9, 1, 200_000)
    assert distributions.largest_t_below(1.5, opposed, 9, 1) == pytest.approx(truth, abs=1e-5)


@pytest.mark.parametrize("sides", [1, 2])
def test_critical_values_of_many_degrees_of_freedom_are_those_of_each(sides: int) -> None:
    df = np.array([1.0, 1.2, 3.9, 11.0, 63.0, 5e3])
    for count in (1, 2, 4, 12):
        each = [dunnett.critical(dunnett.blocks(count), one, 0.05, sides) for one in df]
        assert dunnett.critical_blocks(count, df, 0.05, sides) == pytest.approx(each, rel=1e-5)


def test_the_studentized_range_is_scipy_s() -> None:
    for count, df in ((2, 1), (3, 2), (4, 3), (5, 12), (10, 171)):
        ours = distributions.studentized_range_isf(0.025, count, df)
        assert ours == pytest.approx(stats.studentized_range.isf(0.025, count, df), rel=1e-8)


def test_the_analysis_of_variance_is_scipy_s() -> None:
    generator = np.random.default_rng(2)
    groups = [generator.normal(at, 1, (50, size)) for at, size in ((0, 4), (0.3, 7), (0, 5))]
    assert distributions.one_way_p(groups) == pytest.approx(stats.f_oneway(*groups, axis=-1).pvalue, rel=1e-10)
    spread = [abs(group - np.median(group, axis=-1, keepdims=True)) for group in groups]
    assert distributions.one_way_p(spread) == pytest.approx(stats.levene(*groups, axis=-1).pvalue, rel=1e-10)


def test_a_root_is_scipy_s() -> None:
    steep = ((lambda x: x**9 - 1e-3, 0.0, 5.0), (lambda x: np.exp(x) - 1e6, -9.0, 50.0))
    for f, low, high in ((np.cos, 0.0, 3.0), *steep):
        assert distributions.root(f, low, high) == pytest.approx(optimize.brentq(f, low, high, xtol=1e-13), rel=1e-9)


@pytest.mark.parametrize("pairs", [6, 13, 14, 20, 41])
def test_resampling_is_scipy_s_draw_by_draw(pairs: int) -> None:
    sample, draws = np.random.default_rng(pairs).normal(0.4, 1, pairs), 9_999
    ours, theirs = np.random.default_rng(0), np.random.default_rng(0)
    found = stats.bootstrap((sample,), np.mean, n_resamples=draws, method="BCa", rng=theirs).confidence_interval
    assert bootstrap_mean(sample, draws, ours) == pytest.approx(tuple(found), rel=1e-12)
    flips = stats.permutation_test((sample,), np.mean, permutation_type="samples", n_resamples=draws, rng=theirs)
    assert sign_flips_p(sample, draws, ours) == flips.pvalue


def test_a_table_does_without_scipy_stats() -> None:
    """Nor optimize nor interpolate: each takes longer to import than the table takes to make."""
    code = (
        "import sys\n"
        "from farm.study.recipe import Seeds\n"
        "from farm.verdict import inference, noise, power, sequential\n"
        "losses = lambda at: {Seeds(init=i): at + (i * 7919 % 13) / 100 + at * (i * 31 % 7) / 500 for i in range(8)}\n"
        "arms = {'one': losses(3.0), 'two': dict(list(losses(3.1).items())[:6])}\n"
        "found = inference.judge([(losses(3.2), arms)], 0.01)[0]\n"
        "assert found['one'].check and power.pairs_for(0.5, 2)\n"
        "sequential.judge([(losses(3.2), arms)], ['cpu'], {}, [], 0.01)\n"
        "heavy = ('scipy.stats', 'scipy.optimize', 'scipy.interpolate', 'scipy.linalg', 'scipy.sparse')\n"
        "assert not {name for name in heavy if name in sys.modules}, sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def _below(edge: float, correlation: np.ndarray, df: float, sides: int, points: int) -> float:
    edges = np.full(len(correlation), edge)
    low = -edges if sides == 2 else np.full(len(correlation), -np.inf)
    generator = np.random.default_rng(0)
    found = stats.multivariate_t.cdf(
        edges, shape=correlation, df=df, lower_limit=low, maxpts=points, random_state=generator
    )
    return float(found)
