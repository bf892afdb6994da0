"""Equal cost: what a budget buys, what a loss costs; and what was never reached is neither dropped nor guessed."""

from itertools import product
from math import exp, inf, log
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from results import result, tiny_study
from scipy import stats

from farm.errors import BadStudy
from farm.record.result import Result, Validated
from farm.study.recipe import Seeds
from farm.study.run import Run
from farm.verdict.cost import Reach, frontier, loss_at, reach, speed_ups, together
from farm.verdict.equal import NO_CURVE, OTHER_SLICE, Allowance, BoundedCost, at, budget, target, to
from farm.verdict.table import rank

CURVE = [(1.0, 4.0), (2.0, 3.0), (4.0, 3.2), (5.0, 2.0)]


@pytest.mark.parametrize(
    ("cost", "loss"),
    [(1.0, 4.0), (1.5, 3.5), (2.0, 3.0), (3.0, 3.1), (4.5, 2.6), (5.0, 2.0), (0.99, None), (5.01, None)],
)
def test_a_loss_is_read_between_two_points_and_never_beyond_them(cost: float, loss: float | None) -> None:
    assert loss_at(CURVE, cost) == (loss if loss is None else pytest.approx(loss))
    assert loss_at([], cost) is None
    assert loss_at([(1.0, 4.0)], cost) == (4.0 if cost == 1.0 else None)


@pytest.mark.parametrize(
    ("loss", "cost"),
    [
        (3.5, Reach(1.5, 1.5)),
        (3.0, Reach(2.0, 2.0)),
        (2.6, Reach(4.5, 4.5)),
        (2.0, Reach(5.0, 5.0)),
        (1.9, Reach(5.0, inf)),  # never: above all that it cost
        (4.0, Reach(1.0, 1.0)),
        (4.1, Reach(0.0, 1.0)),  # before anybody looked
    ],
)
def test_the_cost_of_a_loss_is_known_or_bounded(loss: float, cost: Reach) -> None:
    found = reach(CURVE, loss)
    assert found == (pytest.approx(cost.low), pytest.approx(cost.high))
    assert reach([], loss) == Reach(0.0, inf)


curves = st.lists(st.floats(1.0, 9.0), min_size=2, max_size=9).map(lambda losses: list(enumerate(losses, start=1)))


@given(curves, st.floats(1.0, 9.0))
def test_a_loss_and_its_cost_belong_together(curve: list[tuple[int, float]], loss: float) -> None:
    found = reach(curve, loss)
    assert found.is_censored == all(seen > loss for _, seen in curve)
    if found.is_known:
        assert loss_at(curve, found.low) == pytest.approx(loss)
        assert all(seen > loss for cost, seen in curve if cost < found.low - 1e-9)


def test_several_costs_are_averaged_as_ratios_and_stay_bounds() -> None:
    assert together([Reach(1, 1), Reach(4, 4)]) == (pytest.approx(2), pytest.approx(2))
    assert together([Reach(1, 1), Reach(4, inf)]) == (pytest.approx(2), inf)
    assert together([Reach(1, 1), Reach(0, 4)]) == (0, pytest.approx(2))


def known(costs: dict[Seeds, float]) -> dict[Seeds, Reach]:
    return {seeds: Reach(cost, cost) for seeds, cost in costs.items()}


PAIRS = [Seeds(init=init, train=1) for init in range(1, 6)]


def test_a_speed_up_is_the_paired_ratio_with_students_interval_of_its_logarithm() -> None:
    random = np.random.default_rng(3)
    base = dict(zip(PAIRS, random.uniform(8, 12, 5).tolist(), strict=True))
    arm = {seeds: cost / 1.5 * random.uniform(0.97, 1.03) for seeds, cost in base.items()}
    (found,) = speed_ups([(known(base), {"arm": known(arm)})])
    ratios = [log(base[seeds] / arm[seeds]) for seeds in PAIRS]
    interval = stats.ttest_1samp(ratios, 0).confidence_interval(0.95)
    seen = found["arm"].seen
    assert seen
    assert seen.method == "paired"
    assert seen.word == "better"
    assert found["arm"].low == found["arm"].high == pytest.approx(exp(np.mean(ratios)))
    assert (exp(-seen.ci_high), exp(-seen.ci_low)) == pytest.approx((exp(interval.low), exp(interval.high)))


def test_a_run_that_never_got_there_leaves_a_bound_and_no_interval() -> None:
    base, arm = known(dict.fromkeys(PAIRS, 8.0)), known(dict.fromkeys(PAIRS, 4.0))
    slow = arm | {PAIRS[0]: Reach(16.0, inf)}
    (found,) = speed_ups([(base, {"fast": arm, "slow": slow})])
    assert found["slow"].seen is None
    assert found["slow"].low is None, "it may have taken for ever"
    assert found["slow"].high == pytest.approx((2**4 * 0.5) ** (1 / 5))
    assert found["fast"].seen, "the others are compared as before"
    (found,) = speed_ups([(base | {PAIRS[0]: Reach(16.0, inf)}, {"fast": arm})])
    assert found["fast"].seen is None, "without that pair the baseline would look faster than it is"
    assert (found["fast"].low, found["fast"].high) == (pytest.approx((2**4 * 4) ** (1 / 5)), None)
    both = known(dict.fromkeys(PAIRS, 8.0)) | {PAIRS[0]: Reach(16.0, inf)}
    (found,) = speed_ups([(both, {"slow": slow})])
    assert (found["slow"].low, found["slow"].high, found["slow"].seen) == (None, None, None)


def test_a_speed_up_of_one_pair_has_a_value_and_no_interval() -> None:
    (found,) = speed_ups([({PAIRS[0]: Reach(8, 8)}, {"arm": {PAIRS[0]: Reach(4, 4)}})])
    assert (found["arm"].low, found["arm"].high, found["arm"].seen) == (pytest.approx(2), pytest.approx(2), None)
    assert speed_ups([({}, {"arm": {PAIRS[0]: Reach(4, 4)}})]) == [{"arm": (None, None, None)}]


def test_speed_ups_of_nothing_are_found_in_one_study_of_twenty() -> None:
    """Three arms and four seed pairs, all as fast as the baseline, seeds that make their pairs alike slow."""
    random, wrong, studies = np.random.default_rng(5), 0, 70
    for _ in range(studies):
        seed = random.normal(0, 0.1, 4)
        logs = 2 + seed + random.normal(0, 0.05, (4, 4))
        sides = [known({PAIRS[i]: exp(x) for i, x in enumerate(row)}) for row in logs]
        (found,) = speed_ups([(sides[0], {"a": sides[1], "b": sides[2], "c": sides[3]})])
        wrong += any(one.seen and one.seen.word != "unresolved" for one in found.values())
    assert stats.binomtest(wrong, studies, 0.05, alternative="greater").pvalue > 0.01, wrong


def test_the_frontier_holds_what_nothing_beats_in_both() -> None:
    places = {"good": (1, 10.0), "cheap": (3, 5.0), "bad": (3, 9.0), "worst": (4, 20.0), "mean": (2, 10.1)}
    assert frontier(places) == {"good", "cheap", "bad"}, "a shared rank beats nothing, and 1 % of a cost is its noise"
    assert frontier({"one": (1, 1.0)}) == {"one"}
    assert frontier({}) == set()


# --- studies ---------------------------------------------------------------------------------------------------------


LOSSES = {"baseline": 3.0, "remove-dropout": 2.8, "gradient-clipping": 3.1}
SPEEDS = {"baseline": 1.0, "remove-dropout": 2.0, "gradient-clipping": 1.0}


def watched(run: Run, steps: int = 10, slice_: str = "a" * 64, usd: float | None = 3.6, **changes: Any) -> Result:
    """A run whose loss falls linearly to its arm's: a point every other step of an hour, or of half an hour."""
    noise = (run.seeds.init * len(run.arm) * 7919 % 21 - 10) / 1000
    end, hours = LOSSES[run.arm] + noise, 1 / SPEEDS[run.arm]
    curve = tuple(
        Validated(step=s, tokens=s * 256, seconds=s * 3600 * hours, loss=end + (steps - s) / 10)
        for s in range(2, steps + 1, 2)
    )
    made = result(run, end, usd=usd, seconds=3600.0, train_seconds=steps * 3600 * hours, validation=curve)
    tokens = made.fingerprints.tokens.model_copy(update={"validated": slice_})
    return made.model_copy(update={"fingerprints": made.fingerprints.model_copy(update={"tokens": tokens})} | changes)


def runs_of(init: tuple[int, ...] = (1, 2, 3, 4)) -> list[Run]:
    return tiny_study(init=init).runs()


def test_at_equal_cost_a_faster_arm_has_trained_further() -> None:
    runs = runs_of()
    results = [watched(run) for run in runs]
    rows = {row.arm: row for row in at(results, runs, Allowance("hours", 4.0))}
    faster, baseline = rows["remove-dropout"], rows["baseline"]
    assert (faster.rank, faster.verdict) == (1, "better")
    noise = {run.seeds.init: watched(run).test_loss for run in runs if run.arm == "remove-dropout"}
    assert faster.validation_loss_mean == pytest.approx(np.mean(list(noise.values())) + 2 / 10), "8 of its 10 steps"
    assert baseline.validation_loss_mean == pytest.approx(
        np.mean([watched(run).test_loss for run in runs if run.arm == "baseline"]) + 6 / 10
    ), "4 of its 10 steps"
    assert faster.delta == pytest.approx(faster.validation_loss_mean - baseline.validation_loss_mean)
    assert (faster.ci_low, faster.method, baseline.delta, baseline.verdict) == (faster.ci_low, "paired", None, None)
    assert faster.ci_low < faster.delta < faster.ci_high < 0  # type: ignore[operator]
    same = {row.arm: row.validation_loss_mean for row in at(results, runs, Allowance("usd", 4 * 3.6))}
    assert same == {row.arm: pytest.approx(row.validation_loss_mean) for row in rows.values()}, "at $3.60 an hour"
    per_token = {row.arm: row for row in at(results, runs, Allowance("tokens", 5 * 256))}
    assert per_token["remove-dropout"].delta == pytest.approx(-0.2, abs=0.02), "at equal tokens speed is no matter"


def test_a_run_that_never_got_there_is_named_and_not_ranked() -> None:
    runs = runs_of()
    results = [watched(run) for run in runs]
    rows = {row.arm: row for row in at(results, runs, Allowance("hours", 7.0))}
    assert len(rows["remove-dropout"].short) == 4, "it has trained all it was to train within 5 hours"
    assert (rows["remove-dropout"].rank, rows["remove-dropout"].validation_loss_mean) == (None, None)
    assert {rows[arm].rank for arm in ("baseline", "gradient-clipping")} == {1, 2}
    early = at(results, runs, Allowance("hours", 1.5))
    assert {row.arm: (row.n, len(row.early)) for row in early} == {
        "remove-dropout": (4, 0),
        "baseline": (0, 4),
        "gradient-clipping": (0, 4),
    }
    assert all(row.verdict is None for row in early), "there is no baseline there"
    unpriced = at([watched(run, usd=None) for run in runs], runs, Allowance("usd", 1.0))
    assert {(row.n, len(row.unpriced)) for row in unpriced} == {(0, 4)}


def test_curves_of_other_tokens_or_none_are_set_aside() -> None:
    runs = runs_of()
    kinds = {"baseline": {}, "remove-dropout": {"slice_": "b" * 64}, "gradient-clipping": {"validation": ()}}
    results = [watched(run, **kinds[run.arm]) for run in runs]  # type: ignore[arg-type]
    for rows in (at(results, runs, Allowance("hours", 4.0)), to(results, runs, 3.2)):
        assert {row.arm: row.aside for row in rows} == {
            "baseline": None,
            "remove-dropout": OTHER_SLICE,
            "gradient-clipping": NO_CURVE,
        }
    assert at([], [], Allowance("hours", 1.0)) == []
    assert to([], [], 3.0) == []


def test_the_cost_of_a_loss_and_the_speed_up() -> None:
    runs = runs_of()
    results = [watched(run) for run in runs]
    rows = to(results, runs, 3.3)
    assert [row.arm for row in rows] == ["remove-dropout", "baseline", "gradient-clipping"], "soonest first"
    faster, baseline, clipped = rows
    assert (faster.reached, faster.n, faster.asked) == (4, 4, 4)
    assert baseline.hours and faster.hours and faster.steps and faster.tokens and faster.usd  # noqa: PT018
    assert faster.steps.value == pytest.approx(5, rel=0.05)
    assert faster.tokens.value == pytest.approx(faster.steps.value * 256)
    assert faster.hours.value == pytest.approx(faster.steps.value / 2)
    assert faster.usd.value == pytest.approx(faster.hours.value * 3.6)
    assert faster.speedup == pytest.approx(baseline.hours.value / faster.hours.value)  # type: ignore[operator]
    assert faster.ci_low and faster.ci_high and 1 < faster.ci_low < faster.speedup < faster.ci_high  # noqa: PT018
    assert (faster.verdict, faster.method, baseline.speedup, baseline.verdict) == ("better", "paired", None, None)
    assert clipped.speedup and clipped.speedup < 1  # noqa: PT018
    assert clipped.verdict in ("worse", "unresolved")


def test_what_is_never_reached_is_said_and_bounds_the_speed_up() -> None:
    runs = runs_of()
    results = [watched(run) for run in runs]
    rows = {row.arm: row for row in to(results, runs, 2.9)}
    assert (rows["baseline"].reached, rows["remove-dropout"].reached) == (0, 4)
    never = rows["baseline"].hours
    assert never
    assert (never.value, never.at_least, never.at_most) == (None, pytest.approx(10.0), None)
    faster = rows["remove-dropout"]
    assert (faster.speedup, faster.ci_low, faster.method, faster.verdict) == (None, None, None, "unresolved")
    assert faster.hours
    assert faster.speedup_at_least == pytest.approx(10.0 / faster.hours.value)  # type: ignore[operator]
    assert faster.speedup_at_most is None
    early = {row.arm: row for row in to(results, runs, 3.75)}["remove-dropout"]
    assert early.hours == BoundedCost(value=None, at_most=1.0), "it was there before it was looked at"


def test_repetitions_of_a_seed_pair_are_no_new_evidence() -> None:
    runs = runs_of((1, 2))
    again = [run.model_copy(update={"rerun": 1}) for run in runs]
    results = [watched(run) for run in [*runs, *again]]
    assert {(row.n, len(row.runs)) for row in at(results, runs, Allowance("tokens", 1000))} == {(2, 4)}
    assert {(row.n, row.reached) for row in to(results, runs, 3.3)} == {(2, 2)}


def test_pareto_marks_what_nothing_beats_in_both_loss_and_time() -> None:
    runs = runs_of((1, 2, 3, 4, 5, 6))
    rows = {row.arm: row for row in rank([watched(run) for run in runs]).rows}
    assert rows["remove-dropout"].verdict == "better"
    assert {arm: row.pareto for arm, row in rows.items()} == {
        "remove-dropout": True,
        "baseline": False,
        "gradient-clipping": False,
    }
    slow = [watched(run, train_seconds=1e6) if run.arm == "remove-dropout" else watched(run) for run in runs]
    assert {row.arm for row in rank(slow).rows if row.pareto} >= {"remove-dropout", "baseline"}
    aside = [watched(run, kernels=("torch",)) if run.arm == "remove-dropout" else watched(run) for run in runs]
    assert next(row.pareto for row in rank(aside).rows if row.arm == "remove-dropout") is None


WRONG = ["0", "-1", "nan", "inf", "", "two", "1e400"]


@pytest.mark.parametrize("text", [*(f"{k}={n}" for k, n in product(("hours", "usd", "tokens"), WRONG)), "days=2", "2"])
def test_a_budget_that_is_none_is_refused_by_name(text: str) -> None:
    with pytest.raises(BadStudy, match=r"--at .*is not a budget. Write --at hours=2"):
        budget(text)


@pytest.mark.parametrize("text", WRONG)
def test_a_target_that_is_none_is_refused_by_name(text: str) -> None:
    with pytest.raises(BadStudy, match=r"--target .*is not a loss"):
        target(text)


def test_budgets_are_read_as_people_write_them() -> None:
    assert budget("hours=2") == ("hours", 2.0)
    assert budget("tokens=1e9") == ("tokens", 1e9)
    assert budget("tokens=3_260_190_720") == ("tokens", 3_260_190_720.0)
    assert budget("usd=10.5") == ("usd", 10.5)
    assert target("3.7") == 3.7
