"""What a difference is worth: hand-checked and independent figures, odd studies, and studies whose truth is known."""

import itertools
import statistics
from collections.abc import Sequence

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import TTestPower
from statsmodels.stats.weightstats import ttest_ind, ttost_paired

from benchmarks import validate
from farm.study.recipe import Seeds
from farm.verdict import dunnett, inference, paired, power, unpaired
from farm.verdict.inference import Contrast, holm, judge
from farm.verdict.needs import Cost, needs
from farm.verdict.ranks import ranks

PUBLISHED = (3.691526, 3.673453, 3.653593, 3.681356, 3.680505, 3.673943, 3.664345)
SINGLE = {
    "weight-tying": 3.874305,
    "weight-decay-cerebras": 3.813856,
    "no-amp": 3.678968,
    "gradient-clipping": 3.678317,
    "qkv-bias": 3.669385,
    "weight-decay-gpt2": 3.642940,
    "remove-dropout": 3.641282,
    "schedule-learning-rate": 3.601917,
}


def runs(losses: Sequence[float], first: int = 0) -> dict[Seeds, float]:
    return {Seeds(init=first + index, train=23): loss for index, loss in enumerate(losses)}


def judged(
    baseline: dict[Seeds, float], margin: float | None = None, **arms: dict[Seeds, float]
) -> dict[str, Contrast]:
    return judge([(baseline, arms)], margin)[0]


# Against other implementations


def test_dunnett_s_distribution_is_that_of_his_tables() -> None:
    """Dunnett 1964, Biometrics 20:482, table II: two-sided 5 %, correlation one half."""
    for (arms, df), edge in {(2, 10): 2.57, (3, 10): 2.76, (5, 20): 2.73, (8, 60): 2.73, (2, 5): 3.03}.items():
        assert dunnett.critical(dunnett.blocks(arms), df, 0.05) == pytest.approx(edge, abs=0.006)
        assert float(dunnett.critical_blocks(arms, df, 0.05)) == pytest.approx(edge, abs=0.006)


def test_dunnett_s_p_values_are_scipy_s() -> None:
    generator = np.random.default_rng(3)
    control, *arms = generator.normal(0, 1, (4, 6)) + np.array([[0], [0.5], [1], [1.5]])
    theirs = stats.dunnett(*arms, control=control, rng=np.random.default_rng(0))
    variance = np.mean([np.var(sample, ddof=1) for sample in (control, *arms)])
    t = [(arm.mean() - control.mean()) / (variance * 2 / 6) ** 0.5 for arm in arms]
    assert dunnett.p_values(t, dunnett.blocks(3), 20) == pytest.approx(theirs.pvalue, abs=1e-3)


def test_one_arm_in_blocks_is_the_paired_t_test() -> None:
    """R's sleep data: t.test(extra ~ group, paired): t = -4.0621, df = 9, p = 0.002833, -2.4598858 to -0.7001142."""
    first = (0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0)
    second = (1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4)
    seen = judged(runs(second), arm=runs(first))["arm"]
    assert seen.method == "paired"
    assert (seen.p, seen.ci_low, seen.ci_high) == pytest.approx((0.002833, -2.4598858, -0.7001142), abs=1e-6)
    assert seen.check is not None
    assert seen.check.p == pytest.approx(4 / 2**10), "of the 1,024 flips two in each tail are as extreme"


def test_equivalence_is_that_of_statsmodels() -> None:
    generator = np.random.default_rng(1)
    one, other = generator.normal(0, 1, (2, 9))
    for margin in (0.2, 0.5, 0.8, 1.0, 1.5):
        p = ttost_paired(one, other, -margin, margin)[0]
        seen = judged(runs(list(other)), margin, arm=runs(list(one)))["arm"]
        assert (seen.word == "same") == (p < 0.05)


def test_holm_s_adjustment_is_that_of_statsmodels() -> None:
    generator = np.random.default_rng(2)
    for size in (1, 2, 5, 9):
        p = list(generator.uniform(0, 0.2, size))
        assert holm(p) == pytest.approx(list(multipletests(p, method="holm")[1]))


def test_welch_s_statistic_is_that_of_statsmodels_and_its_critical_value_the_weighted_t() -> None:
    arm, baseline = np.array([2.1, 2.9, 3.3]), np.array([1.9, 2.0, 2.4, 2.2, 1.8])
    found = unpaired.means(arm, baseline)
    assert found.delta / found.error == pytest.approx(ttest_ind(arm, baseline, usevar="unequal")[0])
    weights = np.var(arm, ddof=1) / 3, np.var(baseline, ddof=1) / 5
    by_hand = (weights[0] * 4.302653 + weights[1] * 2.776445) / sum(weights)  # t tables: 0.975 of 2 and of 4
    assert unpaired.critical(found, 0.05) == pytest.approx(by_hand, abs=1e-6)
    p = unpaired.p_value(found)
    assert unpaired.critical(found, p) == pytest.approx(found.delta / found.error)


def test_the_degrees_of_freedom_are_greenhouse_and_geisser_s() -> None:
    """By their formula on the covariances of the differences, and with one arm the paired t's own."""
    differences = np.random.default_rng(4).normal(0, 1, (7, 3))
    covariances = np.cov(differences.T)
    epsilon = np.trace(covariances) ** 2 / (3 * np.sum(covariances**2))
    found = paired.pool(differences)
    assert found.df == pytest.approx(6 * 3 * epsilon)
    assert found.correlation == pytest.approx(dunnett.blocks(3))
    assert paired.pool(differences[:, :1]).df == pytest.approx(6)


def test_missing_blocks_keep_the_mean_of_an_arm_s_own_pairs() -> None:
    differences = np.array([[0.1, 0.5], [0.3, np.nan], [0.2, 0.7]])
    found = paired.pool(differences)
    assert found.delta == pytest.approx([0.2, 0.6])
    assert found.correlation[0, 1] == pytest.approx(0.5 * 2 / (3 * 2) ** 0.5)
    variance = (2 * np.var([0.1, 0.3, 0.2], ddof=1) + np.var([0.5, 0.7], ddof=1)) / 3
    own = np.var([0.5, 0.7], ddof=1)
    assert found.error == pytest.approx([(variance / 3) ** 0.5, (max(variance, own) / 2) ** 0.5])


def test_the_power_of_one_arm_is_that_of_statsmodels() -> None:
    for n in (3, 5, 10, 40):
        theirs = TTestPower().solve_power(None, nobs=n, alpha=0.05, power=0.8)
        assert power.smallest_effect(n, 1) == pytest.approx(theirs, rel=0.05)
    assert power.pairs_for(0.5, 1) == pytest.approx(TTestPower().solve_power(0.5, alpha=0.05, power=0.8), abs=2)


# The published series


def test_of_eight_published_single_runs_three_stand_out() -> None:
    baseline = runs(PUBLISHED)
    sd = statistics.stdev(PUBLISHED)
    assert (statistics.mean(PUBLISHED), sd) == pytest.approx((3.674103, 0.012339), abs=5e-7)
    assert unpaired.one_run_resolves(sd, 7) == pytest.approx(0.0323, abs=5e-5)
    seen = judge([(baseline, {name: {Seeds(init=0, train=23): loss} for name, loss in SINGLE.items()})], None)[0]
    assert {one.method for one in seen.values()} == {"prediction"}
    assert {name: one.word for name, one in seen.items() if one.word != "unresolved"} == {
        "weight-tying": "worse",
        "weight-decay-cerebras": "worse",
        "schedule-learning-rate": "better",
    }
    alone = judge([(baseline, {"remove-dropout": {Seeds(init=0, train=23): 3.641282}})], None)[0]["remove-dropout"]
    assert alone.ci_high - alone.delta == pytest.approx(0.0323, abs=5e-5), "without the other seven it would"


# Which test an arm gets


@pytest.mark.parametrize(
    ("baseline", "arm", "method"),
    [
        (runs([1.0, 1.1, 1.3]), runs([1.2, 1.1, 1.2]), "paired"),
        (runs([1.0, 1.1, 1.3]), runs([1.2, 1.1, 1.2], first=3), "welch"),
        (runs([1.0, 1.1, 1.3]), runs([1.2, 1.1, 1.2], first=2), "welch"),
        (runs([1.0, 1.1, 1.3]), runs([1.2]), "prediction"),
        (runs([1.0]), runs([1.2, 1.1, 1.2]), "prediction"),
        (runs([1.0]), runs([1.2]), None),
        (runs([1.0]), runs([1.2], first=5), None),
        ({}, runs([1.2, 1.3]), None),
    ],
)
def test_who_trained_which_seeds_decides_the_test(baseline: dict, arm: dict, method: str | None) -> None:
    seen = judged(baseline, arm=arm)
    assert (seen["arm"].method if seen else None) == method


def test_a_single_run_joins_the_pairs_of_the_others() -> None:
    seen = judged(runs([1.0, 1.4]), full=runs([1.1, 1.51]), late=runs([1.12]))
    assert {name: one.method for name, one in seen.items()} == {"full": "paired", "late": "paired"}
    assert seen["late"].delta == pytest.approx(0.12)
    many = judged(runs([1.0, 1.4, 1.2, 1.3]), full=runs([1.1, 1.51]), late=runs([1.12]))
    assert many["late"].method == "prediction", "three degrees of freedom of the set, against one of the pairs"


def test_unequal_variances_are_not_pooled() -> None:
    generator = np.random.default_rng(5)
    quiet = {f"quiet-{i}": runs(list(generator.normal(0, 0.01, 8))) for i in range(3)}
    loud = {f"loud-{i}": runs(list(generator.normal(0, 3, 8))) for i in range(3)}
    seen = judged(runs(list(generator.normal(0, 0.01, 8))), **quiet, **loud)
    assert {one.method for one in seen.values()} == {"paired-own"}


def test_all_comparisons_of_a_table_share_one_error_rate() -> None:
    """A second machine costs the first: its p doubles, as its family has half of the comparisons."""
    one = (runs([1.0, 1.1, 1.3]), {"arm": runs([1.2, 1.1, 1.2])})
    (alone,), both = judge([one], None), judge([one, one], None)
    assert both[0]["arm"].p == pytest.approx(min(1, 2 * alone["arm"].p))
    assert both[0]["arm"].level == pytest.approx(0.025)


@pytest.mark.parametrize("n", [1, 2, 3, 7])
@pytest.mark.parametrize("shift", [0.0, 0.25])
def test_ties_crash_nothing(n: int, shift: float) -> None:
    """Losses without any noise: equal ones are never told apart, and the interval is a number."""
    for first in (0, 20):
        seen = judged(runs([2.0] * n), margin=0.01, arm=runs([2.0 + shift] * n, first))
        for one in seen.values():
            assert np.isfinite([one.ci_low, one.ci_high, one.p]).all()
            assert one.word == ("worse" if shift else "same")
    assert judged(runs([2.0] * n), arm=runs([2.0] * n)).get("arm", None) is None or n > 1


def test_a_difference_below_the_margin_is_the_same_however_sure() -> None:
    baseline, arm = runs([1.0, 2.0, 3.0, 4.0]), runs([1.0011, 2.0010, 3.0009, 4.0010])
    assert judged(baseline, arm=arm)["arm"].word == "worse"
    assert judged(baseline, 0.005, arm=arm)["arm"].word == "same"
    assert judged(baseline, 0.0005, arm=arm)["arm"].word == "worse"


# Ranks, and what more would cost


def test_what_is_not_told_from_the_baseline_shares_its_rank() -> None:
    losses = {"a": runs([1.0, 1.1]), "b": runs([1.5, 1.6]), "base": runs([2.0, 2.1]), "c": runs([2.0, 2.2])}
    words = {"a": "better", "b": "better", "c": "unresolved", "base": None}
    assert ranks(["a", "b", "base", "c"], "base", losses, words) == {"a": 1, "b": 2, "base": 3, "c": 3}
    noisy = losses | {"b": runs([1.5, 0.7])}
    assert ranks(["a", "b", "base", "c"], "base", noisy, words)["b"] == 1
    looked = ranks(["a", "b", "base", "c"], "base", losses, words, is_looked=True)
    assert looked == {"a": 1, "b": 1, "base": 3, "c": 3}, "no test between them holds over looks"
    none = dict.fromkeys(words)
    assert set(ranks(["a", "b", "base", "c"], "base", losses, none).values()) == {1}


def test_arms_without_a_baseline_are_ranked_by_what_tells_them_apart() -> None:
    losses = {"a": runs([1.0, 1.1, 1.2]), "b": runs([1.1, 1.2, 1.29]), "c": runs([1.0, 1.2, 1.1])}
    assert ranks(["a", "c", "b"], "base", losses, {}) == {"a": 1, "c": 1, "b": 2}


def test_more_pairs_are_priced_with_the_runs_that_they_lack() -> None:
    baseline, arm = runs([1.0, 1.2, 1.1, 1.3]), runs([1.05, 1.11])
    seen = judged(baseline, arm=arm)["arm"]
    wanted = power.pairs_for(abs(seen.delta) / seen.noise, 1)
    more = needs(seen, arm, baseline, Cost(1.0, 10.0), Cost(2.0, 20.0))
    assert more is not None
    assert wanted is not None
    assert wanted > 4
    assert more.pairs == wanted - 2
    assert more.runs == more.pairs + (more.pairs - 2), "two pairs of the baseline are there already"
    assert (more.hours, more.usd) == (more.pairs + 2 * (more.pairs - 2), 10 * more.pairs + 20 * (more.pairs - 2))
    unpriced = needs(seen, arm, baseline, Cost(1.0, None), Cost(2.0, 20.0))
    assert unpriced is not None
    assert unpriced.usd is None
    none = seen.model_copy(update={"delta": 0.0})
    assert needs(none, arm, baseline, Cost(1.0, 10.0), Cost(2.0, 20.0)) is None


# Studies whose truth is known


def test_the_simulation_judges_as_the_table_does() -> None:
    """Study by study: the same intervals, whichever variances the test of equal ones chose."""
    sds, studies, seen_methods = np.r_[1, np.where(np.arange(4) % 2, 1, 3)], 12, set()
    draws = np.random.default_rng(9).standard_normal((studies, 7, 5)) * sds
    seen = validate.pairs(7, sds, studies, np.random.default_rng(9))
    for index, study in enumerate(draws):
        baseline, *arms = (runs(list(column)) for column in study.T)
        found = judge([(baseline, {str(i): arm for i, arm in enumerate(arms)})], None)[0]
        for place, one in enumerate(found.values()):
            half = max(one.delta - one.ci_low, one.ci_high - one.delta)  # Holm may have cut the other side
            assert half == pytest.approx(seen.half[index, place], rel=5e-3)
            seen_methods.add(one.method)
    assert seen_methods == {"paired", "paired-own"}


@pytest.mark.parametrize("arms", [1, 4])
def test_verdicts_are_wrong_in_at_most_5_percent_of_studies_and_find_what_was_promised(arms: int) -> None:
    """`make validate` in small; it writes docs/validation.md."""
    studies = 3_000
    broken = [
        (cell, fault)
        for cell in validate.cells(studies, [arms], [2, 3, 6, 10])
        for fault in validate.broken(cell, studies)
    ]
    assert broken == []


def test_the_simulation_sees_a_test_that_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the textbook's (blocks - 1) x arms degrees of freedom, a loud baseline breaks the promise."""
    real = paired.pool

    def textbook(differences: np.ndarray) -> paired.Differences:
        found = real(differences)
        blocks, count = differences.shape[-2:]
        runs = np.concatenate([np.zeros((*differences.shape[:-1], 1)), differences], -1)
        left = runs - runs.mean(-1, keepdims=True) - runs.mean(-2, keepdims=True) + runs.mean((-1, -2), keepdims=True)
        df = (blocks - 1) * count
        error = np.sqrt((left**2).sum((-1, -2)) / df * 2 / blocks)[..., None] * np.ones(count)
        return found._replace(error=error, df=np.full(found.df.shape, float(df)))

    monkeypatch.setattr(paired, "pool", textbook)
    seen = validate.pairs(4, np.r_[4, np.ones(8)], 3_000, np.random.default_rng(0))
    assert seen.wrong > 0.15
    equal = validate.pairs(4, np.ones(9), 3_000, np.random.default_rng(0))
    assert equal.wrong < validate.allowed(0.05, 3_000)


def test_holm_s_shorter_intervals_cover(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two of three arms differ for certain, so that Holm's rule cuts the third's interval at 0."""
    monkeypatch.setattr(inference, "_check", lambda *_: None)
    generator, missed, studies, cut = np.random.default_rng(6), 0, 200, 0
    effects = np.array([0.0, 9.0, 9.0, 1.2])
    for _ in range(studies):
        base, *arms = (generator.standard_normal((5, 4)) + effects).T
        ours = {str(i): runs(list(arm), 10 * i + 10) for i, arm in enumerate(arms)}
        seen = judge([(runs(list(base)), ours)], None)[0]
        cut += any(0.0 in (one.ci_low, one.ci_high) for one in seen.values())
        missed += any(
            not one.ci_low <= effect <= one.ci_high for one, effect in zip(seen.values(), effects[1:], strict=True)
        )
    assert cut > 0
    assert missed / studies < validate.allowed(0.05, studies)


def test_every_pattern_of_missing_runs_is_judged() -> None:
    """Whatever runs of a study have finished: figures, and words that are known."""
    cells = list(itertools.product(range(3), range(3)))
    generator = np.random.default_rng(8)
    losses = {cell: float(generator.normal(2, 0.1)) for cell in cells}
    for pattern in range(0, 2 ** len(cells), 5):
        there = [cell for bit, cell in enumerate(cells) if pattern >> bit & 1]
        sides = [{Seeds(init=s, train=1): losses[arm, s] for arm, s in there if arm == which} for which in range(3)]
        arms = {f"arm-{i}": side for i, side in enumerate(sides[1:]) if side}
        for one in judge([(sides[0], arms)], 0.01)[0].values():
            assert np.isfinite([one.delta, one.ci_low, one.ci_high]).all()
            assert 0 <= one.p <= 1
            assert one.ci_low <= one.delta <= one.ci_high


@pytest.mark.parametrize(("effect", "arms"), [(0.3, 2), (1.5, 2), (0.5, 1)])
def test_the_pairs_that_an_effect_needs_are_the_fewest_that_show_it(effect: float, arms: int) -> None:
    """Tried by the chance of an edge, as against the inverse: both are good to what the integral is."""
    pairs = power.pairs_for(effect, arms)
    assert pairs is not None
    assert power.smallest_effect(pairs, arms) <= effect * 1.002
    fewer = power.smallest_effect(pairs - 1, arms)
    assert fewer is None or fewer > effect * 0.998


def test_whether_a_chance_is_above_a_level_is_told_as_the_critical_value_says() -> None:
    correlation = dunnett.blocks(3)
    edge = dunnett.critical(correlation, 40.0, 0.05)
    assert dunnett.is_beyond(edge - 0.01, correlation, 40.0, 0.05)
    assert not dunnett.is_beyond(edge + 0.01, correlation, 40.0, 0.05)
    assert dunnett.is_beyond(-1.0, correlation, 40.0, 0.05)
    assert not dunnett.is_beyond(9.0, correlation, 40.0, 0.05), "Bonferroni's bound says so"
