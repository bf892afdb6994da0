"""The table: ranks within a machine and an evaluation, seeds as replicates, hardware apart, nothing hidden."""

import statistics

import pytest
from results import result, tiny_study

from farm.result import Result
from farm.run import Run
from farm.table import Table, rank

LOSSES = {
    "baseline": {42: 3.69, 22: 3.65, 67: 3.67},
    "remove-dropout": {42: 3.64, 22: 3.60, 67: 3.61},
    "gradient-clipping": {42: 3.70, 22: 3.66, 67: 3.69},
}


def runs(machines: tuple[str, ...] = ("cpu",), init: tuple[int, ...] = (42, 22, 67)) -> list[Run]:
    return tiny_study(machines=machines, init=init).runs()


def finished(members: list[Run], shift: float = 0.0) -> list[Result]:
    return [result(run, LOSSES[run.arm][run.seeds.init] + shift) for run in members]


def row(table: Table, arm: str, machine: str = "cpu"):
    return next(row for row in table.rows if (row.arm, row.machine) == (arm, machine))


def test_arms_are_ranked_by_mean_with_sd_over_n_minus_1_and_delta_to_the_baseline() -> None:
    table = rank(finished(runs()))
    assert [(row.rank, row.arm) for row in table.rows] == [
        (1, "remove-dropout"),
        (2, "baseline"),
        (3, "gradient-clipping"),
    ]
    best, losses = row(table, "remove-dropout"), list(LOSSES["remove-dropout"].values())
    assert best.n == 3
    assert best.test_loss_mean == pytest.approx(statistics.mean(losses), abs=1e-12)
    assert best.test_loss_sd == pytest.approx(statistics.stdev(losses), abs=1e-12)
    assert best.delta == pytest.approx(statistics.mean(losses) - 3.67, abs=1e-12)
    assert row(table, "baseline").delta == 0.0
    assert best.hours == pytest.approx(0.01)
    assert best.tokens_per_second == 1000.0
    assert len(best.runs) == 3
    assert best.verdict is None


def test_one_seed_has_no_sd() -> None:
    assert row(rank(finished(runs(init=(42,)))), "baseline").test_loss_sd is None


def test_repetitions_of_a_seed_are_no_new_evidence() -> None:
    members = runs(init=(42, 22))
    again = [run.model_copy(update={"rerun": 1}) for run in members]
    table = rank(finished(members) + finished(again, shift=0.002))
    baseline = row(table, "baseline")
    assert (baseline.n, len(baseline.runs)) == (2, 4)
    assert baseline.test_loss_sd == pytest.approx(statistics.stdev([3.691, 3.651]), abs=1e-12)


def test_each_machine_has_its_own_ranking_against_its_own_baseline() -> None:
    members = runs(("cpu", "cpu-x2"))
    shifted = [r for run in members for r in finished([run], 0.5 if run.machine == "cpu-x2" else 0.0)]
    table = rank(shifted)
    assert [(r.machine, r.rank) for r in table.rows] == [(m, k) for m in ("cpu", "cpu-x2") for k in (1, 2, 3)]
    assert row(table, "remove-dropout", "cpu-x2").delta == pytest.approx(row(table, "remove-dropout").delta, abs=1e-12)
    without = rank([r for r in shifted if (r.arm, r.machine) != ("baseline", "cpu-x2")])
    assert row(without, "remove-dropout", "cpu-x2").delta is None
    assert row(without, "remove-dropout").delta is not None


def test_different_evaluations_are_never_ranked_together() -> None:
    results = finished(runs(init=(42,)))
    results[0] = results[0].model_copy(update={"evaluation": "test_loss@other"})
    table = rank(results)
    assert table.evaluations == sorted({r.evaluation for r in results})
    assert row(table, "baseline").evaluation == "test_loss@other"
    assert row(table, "baseline").rank == 1
    assert row(table, "remove-dropout").delta is None, "its baseline was measured by another evaluation"


def test_arms_that_began_alike_show_the_same_init_hash() -> None:
    assert row(rank(finished(runs(init=(42,)))), "baseline").init_hash == f"{42:064x}"[:12]
    results = finished(runs(init=(42, 22)))
    table = rank(results)
    assert row(table, "baseline").init_hash == row(table, "remove-dropout").init_hash
    index = next(i for i, result in enumerate(results) if result.arm == "remove-dropout")
    prints = results[index].fingerprints.model_copy(update={"initial": "e" * 64})
    results[index] = results[index].model_copy(update={"fingerprints": prints})
    table = rank(results)
    assert row(table, "baseline").init_hash != row(table, "remove-dropout").init_hash


@pytest.mark.parametrize(
    ("gap", "says"),
    [
        (0.0, "identical to the bit"),
        (8e-6, "agree to 1e-5"),
        (1.1e-5, "agree to 1e-4"),
        (0.04, "differ by up to 0.0400"),
    ],
)
def test_hardware_twins_get_their_own_line(gap: float, says: str) -> None:
    members = runs(("cpu-x1", "cpu-x2"), init=(42, 22))
    table = rank([r for run in members for r in finished([run], gap if run.machine == "cpu-x2" else 0.0)])
    (twins,) = table.twins
    assert twins.machines == ("cpu-x1", "cpu-x2")
    assert len(twins.pairs) == 6
    assert twins.max_difference == pytest.approx(gap, abs=1e-12)
    assert twins.agreement == says
    assert all(pair.difference == pytest.approx(gap, abs=1e-12) for pair in twins.pairs)


def test_runs_of_other_seeds_recipes_or_reruns_are_no_twins() -> None:
    left = finished(tiny_study(machines=("cpu-x1",), init=(42,)).runs())
    right = finished(tiny_study(machines=("cpu-x2",), init=(22,)).runs())
    assert rank(left + right).twins == ()
    again = [run.model_copy(update={"rerun": 1}) for run in tiny_study(machines=("cpu-x2",), init=(42,)).runs()]
    assert rank(left + finished(again)).twins == ()


def test_an_unknown_price_makes_the_row_s_price_unknown() -> None:
    results = finished(runs(init=(42, 22)))
    priced = [r.model_copy(update={"usd": 2.0}) for r in results]
    assert row(rank(priced), "baseline").usd == 2.0
    priced[0] = priced[0].model_copy(update={"usd": None})
    assert row(rank(priced), priced[0].arm).usd is None


def test_no_results_make_an_empty_table() -> None:
    assert rank([]) == Table(rows=())


def test_a_mixed_group_says_so_and_is_ranked_with_nobody_else() -> None:
    members = runs(("cpu", "cpu-x1+cpu-x2"))
    table = rank([r for run in members for r in finished([run], -0.5 if "+" in run.machine else 0.0)])
    assert [(r.machine, r.mixed, r.rank) for r in table.rows] == [
        *(("cpu", False, place) for place in (1, 2, 3)),
        *(("cpu-x1+cpu-x2", True, place) for place in (1, 2, 3)),
    ]
    assert row(table, "remove-dropout", "cpu-x1+cpu-x2").delta == pytest.approx(row(table, "remove-dropout").delta)
    assert table.twins == (), "what differs is no one machine's doing"
