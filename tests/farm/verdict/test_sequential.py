"""Verdicts over repeated looks: the stages, p values at all times, and what a table makes of them."""

import numpy as np
import pytest
from scipy import stats

from benchmarks import validate
from farm.study.looks import key
from farm.study.recipe import Seeds
from farm.verdict import sequential
from farm.verdict.inference import ALPHA
from farm.verdict.needs import Cost, needs
from farm.verdict.sequential import judge, list_stages, look_at, next_stage

NOISE = (0.01, -0.02, 0.015, -0.005, 0.02, -0.01, 0.0, 0.005, -0.015)


def runs(losses: list[float]) -> dict[Seeds, float]:
    return {Seeds(init=index, train=23): loss for index, loss in enumerate(losses)}


def judged(arms: dict[str, list[float]], first: int = 3, margin: float | None = None):
    """Arms as differences to a baseline of 2.0 in each block, noise in both."""
    base = runs([2.0 + one for one in NOISE])
    sides = {name: runs([2.0 + one + d for one, d in zip(NOISE, ds, strict=False)]) for name, ds in arms.items()}
    order = list(base)
    return judge([(base, sides)], ["cpu"], {key(name, "cpu"): first for name in arms}, order, margin)[0]


@pytest.mark.parametrize("first", [1, 2, 3, 5, 40])
def test_the_rungs_of_a_ladder_spend_no_more_than_the_whole_error_rate(first: int) -> None:
    stages = list_stages(first)
    assert sum(stage.share for stage in stages) <= 1.0
    assert sum(stage.share for stage in stages[:6]) == pytest.approx(0.95)
    assert [stage.pairs for stage in stages] == sorted({stage.pairs for stage in stages})
    assert stages[0].pairs == max(3, first)


def test_what_was_seen_later_never_changes_an_earlier_rung() -> None:
    assert list_stages(3, 9) == list_stages(3, 40)[:4]
    assert next_stage(3, 4).pairs == 6
    assert next_stage(3, 500).pairs > 500


def test_a_rung_is_the_paired_t_test_of_its_pairs() -> None:
    differences = np.array([0.1, -0.05, 0.2, 0.11, 0.02, 0.15])
    found = look_at(differences, 3)
    theirs = [stats.ttest_1samp(differences[:n], 0.0).pvalue for n in (3, 4, 6)]
    assert found.p == pytest.approx(theirs)
    shares = [stage.share for stage in list_stages(3, 6)]
    assert float(found.always) == pytest.approx(min(p / share for p, share in zip(theirs, shares, strict=True)))


def test_an_arm_that_was_resolved_stays_so_though_later_pairs_speak_against_it() -> None:
    sure = [-0.5, -0.501, -0.499, -0.5]
    early = judged({"arm": sure})["arm"]
    late = judged({"arm": [*sure, 0.9, 1.0]})["arm"]
    assert (early.word, late.word) == ("better", "better")
    assert (late.delta, late.p) == (early.delta, early.p)
    assert late.ci_low <= late.delta <= late.ci_high < 0


def test_between_two_rungs_nothing_is_tested() -> None:
    assert judged({"arm": [0.1, 0.11, 0.09, 0.1, 5.0]}) == judged({"arm": [0.1, 0.11, 0.09, 0.1]})
    assert judged({"arm": [0.1, 0.11]}) == {}, "below the first stage"


def test_the_order_of_the_pairs_is_that_of_the_plan_whatever_finished_first() -> None:
    base, order = runs([2.0] * 4), [Seeds(init=index, train=23) for index in (2, 0, 3, 1)]
    arm = dict(zip(base, [2.0, 9.0, 2.1, 2.2], strict=True))
    shuffled = dict(sorted(arm.items(), key=lambda pair: -pair[0].init))
    expected = [pytest.approx(x) for x in (0.1, 0.0, 0.2, 7.0)]
    assert sequential.in_order(arm, base, order) == sequential.in_order(shuffled, base, order) == expected


def test_an_arm_that_comes_later_has_its_part_of_the_error_rate() -> None:
    """One comparison more costs every arm the same, tested yet or not."""
    arm = {Seeds(init=i, train=23): 2.0 + d for i, d in enumerate((-0.1, -0.13, -0.11))}
    base = runs([2.0] * 3)
    alone = judge([(base, {"arm": arm})], ["cpu"], {"arm@cpu": 3}, list(base), None)[0]["arm"]
    two = judge([(base, {"arm": arm})], ["cpu"], {"arm@cpu": 3, "late@cpu": 3}, list(base), None)[0]["arm"]
    assert two.p == pytest.approx(min(1.0, 2 * alone.p))
    assert two.level == ALPHA / 2


def test_the_same_within_the_margin_over_all_looks() -> None:
    tiny = [0.0001, -0.0001, 0.0002, 0.0]
    assert judged({"arm": tiny}, margin=0.05)["arm"].word == "same"
    assert judged({"arm": tiny})["arm"].word == "unresolved"


def test_losses_without_any_noise_crash_nothing() -> None:
    found = judged({"tie": [0.0] * 4, "apart": [0.3] * 4}, margin=0.01)
    assert {name: one.word for name, one in found.items()} == {"tie": "same", "apart": "worse"}
    assert all(np.isfinite([one.ci_low, one.ci_high, one.p]).all() for one in found.values())


def test_what_would_resolve_it_is_a_later_rung() -> None:
    arm = [-0.02, 0.01, -0.03, -0.025]
    one = judged({"arm": arm})["arm"]
    assert one.word == "unresolved"
    more = needs(one, runs(arm), runs([0.0] * 4), Cost(1.0, 10.0), Cost(1.0, 10.0))
    assert more is not None
    assert 4 + more.pairs in [stage.pairs for stage in list_stages(3)]
    stage = next(stage for stage in list_stages(3) if stage.pairs == 4 + more.pairs)
    assert sequential.chance(one.delta, one.noise, stage, one.level) >= 0.8


def test_races_are_wrong_in_at_most_5_percent_of_studies() -> None:
    """`make validate` in small: every look of every study, arms chosen by what was seen."""
    studies = 1_500
    for one in validate.races(studies, [3], [3]):
        assert validate.lost(one, studies) == []


def test_the_simulation_sees_looks_that_are_not_paid_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the whole error rate at every stage, the promise is broken."""
    real = sequential.list_stages
    monkeypatch.setattr(
        sequential, "list_stages", lambda first, pairs=1000: [stage._replace(share=1.0) for stage in real(first, pairs)]
    )
    differences = np.random.default_rng(1).standard_normal((1_500, validate.RACED, 1))
    wrong = (validate.race(differences, 3, 40).p < ALPHA).any(-1).mean()
    assert wrong > validate.allowed(ALPHA, 1_500) + 0.03


def test_the_simulation_judges_as_the_table_does() -> None:
    differences = np.random.default_rng(2).standard_normal((6, validate.RACED, 3)) * 0.1 + [0.0, 0.2, 0.4]
    raced = validate.race(differences, 3, 12)
    for study, pairs, p in zip(differences, raced.pairs, raced.p, strict=True):
        base = runs([2.0] * validate.RACED)
        arms = {str(i): runs([2.0 + d for d in study[: pairs[i], i]]) for i in range(3)}
        found = judge([(base, arms)], ["cpu"], {f"{i}@cpu": 3 for i in range(3)}, list(base), None)[0]
        assert [found[str(i)].p for i in range(3)] == pytest.approx(list(p))


def test_same_has_the_share_of_its_look_in_the_error_rate() -> None:
    differences, margin = [0.01, -0.02, 0.015, -0.005], 0.04
    theirs = [stats.ttest_1samp(differences[:n], margin, alternative="less").pvalue for n in (3, 4)]
    shares = [stage.share for stage in list_stages(3, 4)]
    assert max(theirs) < ALPHA, "each look alone would call it the same"
    assert min(p / share for p, share in zip(theirs, shares, strict=True)) > ALPHA
    assert judged({"arm": differences}, margin=margin)["arm"].word == "unresolved"
