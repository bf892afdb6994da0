"""The table: ranks within a machine and an evaluation, seeds as replicates, hardware apart, nothing hidden."""

import statistics
import tomllib

import pytest
from results import result, study_text, tiny_study
from tables import LOSSES, finished, runs, strange

from farm.queue.queue import Queue
from farm.record.imported import ImportedRun
from farm.record.result import Result
from farm.study.machine import BUILT_IN
from farm.study.recipe import Seeds
from farm.study.study import Study
from farm.verdict import cohort
from farm.verdict.advice import advice
from farm.verdict.forecast import baseline_sd, forecast
from farm.verdict.table import Table, rank


def row(table: Table, arm: str, machine: str = "cpu"):
    return next(row for row in table.rows if (row.arm, row.machine) == (arm, machine))


def test_arms_are_ranked_by_mean_with_sd_over_n_minus_1_and_delta_to_the_baseline() -> None:
    table = rank(finished(runs()))
    assert [(row.rank, row.arm) for row in table.rows] == [
        (1, "remove-dropout"),
        (2, "baseline"),
        (2, "gradient-clipping"),
    ], "what the noise does not tell from the baseline shares its rank"
    best, losses = row(table, "remove-dropout"), list(LOSSES["remove-dropout"].values())
    assert best.n == 3
    assert best.test_loss_mean == pytest.approx(statistics.mean(losses), abs=1e-12)
    assert best.test_loss_sd == pytest.approx(statistics.stdev(losses), abs=1e-12)
    assert best.delta == pytest.approx(statistics.mean(losses) - 3.67, abs=1e-12)
    assert row(table, "baseline").delta == 0.0
    assert best.hours == pytest.approx(0.01)
    assert best.tokens_per_second == 1000.0
    assert len(best.runs) == 3
    assert [row.verdict for row in table.rows] == ["better", None, "unresolved"]


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
    assert [(r.machine, r.rank) for r in table.rows] == [(m, k) for m in ("cpu", "cpu-x2") for k in (1, 2, 2)]
    assert row(table, "remove-dropout", "cpu-x2").delta == pytest.approx(row(table, "remove-dropout").delta, abs=1e-12)
    without = rank([r for r in shifted if (r.arm, r.machine) != ("baseline", "cpu-x2")])
    assert row(without, "remove-dropout", "cpu-x2").delta is None
    assert row(without, "remove-dropout").delta is not None


def test_different_evaluations_are_never_ranked_together() -> None:
    results = finished(runs(init=(42,)))
    results[0] = results[0].model_copy(update={"evaluation": "test_loss@other"})
    table = rank(results)
    assert table.evaluations == ["test_loss@other", results[1].evaluation], "that of the baseline first"
    assert row(table, "baseline").evaluation == "test_loss@other"
    assert row(table, "baseline").rank == 1
    assert row(table, "remove-dropout").delta is None, "its baseline was measured by another evaluation"


def index_of(results: list[Result], arm: str, init: int) -> int:
    return next(i for i, r in enumerate(results) if (r.arm, r.seeds.init) == (arm, init))


def test_an_arm_that_began_from_other_weights_says_so() -> None:
    assert row(rank(finished(runs(init=(42,)))), "baseline").init_hash == f"{42:064x}"[:12]
    results = finished(runs(init=(42, 22)))
    assert row(rank(results), "remove-dropout").same_init is True
    index = index_of(results, "remove-dropout", 42)
    prints = results[index].fingerprints.model_copy(update={"initial": "e" * 64})
    results[index] = results[index].model_copy(update={"fingerprints": prints})
    table = rank(results)
    assert row(table, "remove-dropout").same_init is False
    assert row(table, "gradient-clipping").same_init is True


def test_unequal_seeds_are_compared_pair_by_pair() -> None:
    """A baseline that lacks its best seed must not make the arms look worse, nor their first weights different."""
    results = finished(runs())
    whole = row(rank(results), "remove-dropout")
    assert (whole.pairs, whole.n, whole.asked) == (3, 3, 3)
    del results[index_of(results, "baseline", 22)]
    table = rank(results)
    lacking, arm = row(table, "baseline"), row(table, "remove-dropout")
    assert (lacking.n, lacking.pairs) == (2, 2)
    assert (arm.n, arm.pairs, arm.same_init) == (3, 2, True)
    assert arm.delta == pytest.approx(statistics.mean([3.64 - 3.69, 3.61 - 3.67]), abs=1e-12)
    assert arm.delta != pytest.approx(arm.test_loss_mean - lacking.test_loss_mean)


def test_the_order_is_that_of_the_pairs() -> None:
    """Without its unlucky seed an arm has the lowest mean, and still it is worse than the baseline."""
    losses = {"baseline": {42: 3.80, 22: 3.60}, "remove-dropout": {22: 3.62}, "gradient-clipping": {42: 3.79, 22: 3.59}}
    results = [
        result(run, losses[run.arm][run.seeds.init]) for run in runs(init=(42, 22)) if run.seeds.init in losses[run.arm]
    ]
    table = rank(results)
    assert min(table.rows, key=lambda r: r.test_loss_mean).arm == "remove-dropout"
    assert [r.arm for r in table.rows] == ["gradient-clipping", "baseline", "remove-dropout"]
    assert row(table, "remove-dropout").delta == pytest.approx(0.02)


def test_an_arm_that_shares_no_seed_with_the_baseline_has_no_delta() -> None:
    results = finished(runs(init=(42, 22)))
    kept = [r for r in results if (r.arm == "baseline") == (r.seeds.init == 42)]
    arm = row(rank(kept), "remove-dropout")
    assert (arm.pairs, arm.delta, arm.same_init) == (0, None, None)


def test_a_row_says_how_many_seeds_its_study_asks_for(queue: Queue) -> None:
    study = tiny_study()
    queue.put(study)
    results = finished(study.runs())
    del results[index_of(results, "gradient-clipping", 67)]
    arm = row(rank(results, queue.listing.statuses()), "gradient-clipping")
    assert (arm.n, arm.asked) == (2, 3)


@pytest.mark.parametrize("field", ["head", "trained", "tested"])
def test_an_arm_that_saw_other_tokens_is_set_aside_with_both_fingerprints_and_dates(field: str) -> None:
    results = [strange(r, **{field: "9" * 64}) if r.arm == "remove-dropout" else r for r in finished(runs())]
    table = rank(results)
    apart = row(table, "remove-dropout")
    assert (apart.rank, apart.delta, apart.same_init) == (None, None, None)
    assert apart.aside is not None
    split = "validation" if field == "tested" else "train"
    assert apart.aside.startswith(f"the {split} split of builtin:python-reference held other tokens: {'9' * 12}")
    usual = {"head": "c", "trained": "d", "tested": "e"}[field] * 12
    assert f"{'9' * 12} (1970-01-05), not {usual} (1970-01-01)" in apart.aside
    assert [(r.arm, r.rank) for r in table.rows if r.rank] == [("baseline", 1), ("gradient-clipping", 1)]


def test_where_the_baseline_itself_saw_both_most_of_its_runs_decide() -> None:
    results = [strange(r, trained="9" * 64) if r.seeds.init == 22 else r for r in finished(runs())]
    table = rank(results)
    ranked = {r.arm: r for r in table.rows if r.rank}
    assert {r.n for r in ranked.values()} == {2}
    assert all(r.n == 1 and r.aside for r in table.rows if not r.rank)
    assert len(table.rows) == 6
    even = rank([r for r in results if r.seeds.init != 67])
    assert {r.aside is None for r in even.rows if r.runs and "s22" in r.runs[0]} == {True}, "of two, the newer"


def test_another_corpus_that_the_recipe_names_is_an_intervention() -> None:
    study = tomllib.loads(study_text())
    study["baseline"]["evaluation"]["source"] = "/data/common"
    study["interventions"]["other-corpus"] = {"data": {"source": "/data/other"}}
    members = Study.build(study).runs()
    results = [
        strange(result(run, 3.6), trained="9" * 64, head="8" * 64)
        if run.arm == "other-corpus"
        else result(run, LOSSES[run.arm][run.seeds.init])
        for run in members
    ]
    table = rank(results)
    assert row(table, "other-corpus").aside is None
    assert row(table, "other-corpus").pairs == 3
    assert len(table.evaluations) == 1


def test_without_a_common_test_another_corpus_is_another_evaluation() -> None:
    study = tomllib.loads(study_text())
    study["interventions"] = {
        "other-corpus": {"data": {"source": "/data/other"}},
        "short": {"model": {"context": 16}},
    }
    table = rank([result(run, 3.6) for run in Study.build(study).runs()])
    assert len(table.evaluations) == 3
    assert row(table, "baseline").evaluation == table.evaluations[0]
    assert row(table, "other-corpus").delta is None
    assert any("source builtin:python-reference and /data/other" in text for text in table.differences)
    assert any("context 32 and 16" in text for text in table.differences)
    arms = Study.build(study).arms()
    assert cohort.find_other_tests(arms) == {
        "other-corpus": "source builtin:python-reference and /data/other",
        "short": "context 32 and 16",
    }


@pytest.mark.parametrize(
    ("patch", "says"),
    [
        ({"train": {"batch": 16}}, "trained with other batch: 16, not 8"),
        ({"train": {"reduction": "canonical", "canonical_microbatch": 4}}, "other reduction: canonical, not fast"),
    ],
)
def test_rows_of_other_batches_or_reductions_are_never_ranked_together(patch: dict, says: str) -> None:
    study = tomllib.loads(study_text())
    study["interventions"]["otherwise"] = patch
    built = Study.build(study)
    results = [result(run, LOSSES.get(run.arm, LOSSES["baseline"])[run.seeds.init]) for run in built.runs()]
    apart = row(rank(results), "otherwise")
    assert (apart.rank, apart.delta, apart.verdict) == (None, None, None)
    assert says in (apart.aside or "")
    assert row(rank(results), "remove-dropout").verdict == "better"
    assert set(cohort.find_other_training(built.arms())) == {"otherwise"}
    assert any("arm otherwise: trains differently from the baseline" in text for text in advice(built, BUILT_IN))
    assert {one.resolves_sd is None for one in forecast(built, BUILT_IN).estimates if one.arm == "otherwise"} == {True}


def test_other_kernels_are_set_aside_on_their_machine_and_compared_across_machines() -> None:
    members = runs(("cpu-x1", "cpu-x2"))
    results = [
        r.model_copy(update={"kernels": ("torch",)}) if r.machine == "cpu-x2" or r.run_id == members[4].id else r
        for r in finished(members)
    ]
    table = rank(results)
    (apart,) = [row for row in table.rows if row.aside]
    assert (apart.n, apart.aside) == (1, "trained with other kernels: torch, not farm")
    compiled = [r.model_copy(update={"compiled": (r.run_id == members[4].id,)}) for r in finished(members)]
    assert [row.aside for row in rank(compiled).rows if row.aside] == ["trained with other compile: true, not false"]
    assert table.twins, "another machine may have other kernels: that is part of what hardware does"


def test_no_baseline_failed_ones_and_ties_are_judged_for_what_they_are() -> None:
    others = [r for r in finished(runs()) if r.arm != "baseline"]
    assert {r.verdict for r in rank(others).rows} == {None}
    assert [r.rank for r in rank(others).rows] == [1, 2], "what tells two arms apart needs no baseline"
    tied = rank([r.model_copy(update={"test_loss": 3.6}) for r in finished(runs())], margin=0.01)
    assert {(r.rank, r.verdict) for r in tied.rows} == {(1, None), (1, "same")}
    alone = rank(finished(runs(init=(42,))))
    assert {(r.rank, r.verdict, r.method) for r in alone.rows if r.arm != "baseline"} == {(1, "unresolved", None)}


def test_what_is_unresolved_says_what_would_resolve_it_and_at_what_price() -> None:
    priced = [r.model_copy(update={"usd": 2.0}) for r in finished(runs())]
    arm = row(rank(priced), "gradient-clipping")
    assert arm.verdict == "unresolved"
    assert arm.needs_seeds
    assert (arm.needs_runs, arm.needs_usd) == (2 * arm.needs_seeds, 4.0 * arm.needs_seeds)
    assert arm.needs_hours == pytest.approx(0.02 * arm.needs_seeds)


def test_table_and_compare_agree_on_what_may_be_subtracted() -> None:
    first, second, *_ = finished(runs(init=(42,)))
    for other in (second, strange(second, tested="9" * 64), strange(second, trained="9" * 64)):
        is_ranked = row(rank([first, other]), other.arm).delta is not None
        assert is_ranked == (cohort.apart(first, other) is None)


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
        *(("cpu", False, place) for place in (1, 2, 2)),
        *(("cpu-x1+cpu-x2", True, place) for place in (1, 2, 2)),
    ]
    assert row(table, "remove-dropout", "cpu-x1+cpu-x2").delta == pytest.approx(row(table, "remove-dropout").delta)
    assert table.twins == (), "what differs is no one machine's doing"


def test_the_plan_s_noise_is_the_table_s_whatever_the_order_of_repetitions() -> None:
    """Three results of two seeds, one of them repeated: the last repetition must not win."""
    first, second = (run for run in runs(init=(42, 22)) if run.arm == "baseline")
    again = first.model_copy(update={"rerun": 1})
    results = [result(first, 3.0), result(again, 3.2), result(second, 3.4)]
    expected = statistics.stdev([3.1, 3.4])
    for order in (results, results[::-1], [results[1], results[0], results[2]]):
        assert baseline_sd(tiny_study(), "cpu", order) == pytest.approx(expected, abs=1e-12)
        assert row(rank(order), "baseline").test_loss_sd == pytest.approx(expected, abs=1e-12)


def test_the_plan_s_noise_is_that_of_one_corpus() -> None:
    results = finished([run for run in runs() if run.arm == "baseline"])
    apart = [strange(r, tested="9" * 64) if r.seeds.init == 67 else r for r in results]
    kept = [r.test_loss for r in results if r.seeds.init != 67]
    assert baseline_sd(tiny_study(), "cpu", apart) == pytest.approx(statistics.stdev(kept), abs=1e-12)


# Which noise, and what the hardware does


@pytest.mark.parametrize(
    ("seeds", "rung"),
    [
        ("{ init = [1, 2], train = [3] }", "init seed"),
        ("{ init = [1], train = [3, 4] }", "train seed"),
        ("[[1, 3], [2, 4]]", "both seeds"),
    ],
)
def test_a_verdict_names_the_noise_that_it_was_tested_against(seeds: str, rung: str) -> None:
    members = Study.parse(study_text().replace("{ init = [42, 22, 67], train = [23] }", seeds)).runs()
    arms = {"baseline": 0.0, "remove-dropout": -0.05, "gradient-clipping": 0.02}
    table = rank(result(run, 3.6 + arms[run.arm] + run.seeds.init / 1e3 + run.seeds.train / 1e4) for run in members)
    assert {r.rung for r in table.rows if r.arm != "baseline"} == {rung}
    assert row(table, "baseline").rung is None


def test_one_run_is_tested_against_the_noise_of_the_set_and_two_sets_against_that_of_both() -> None:
    results = finished(runs())
    one = [r for r in results if r.arm == "baseline" or r.seeds.init == 42]
    assert row(rank(one), "remove-dropout").rung == "init seed"
    others = [r.model_copy(update={"seeds": Seeds(init=1, train=r.seeds.init)}) for r in results if r.arm != "baseline"]
    welch = row(rank([*(r for r in results if r.arm == "baseline"), *others]), "remove-dropout")
    assert (welch.method, welch.rung) == ("welch", "both seeds")


def test_a_run_without_known_seeds_is_tested_against_a_noise_that_nobody_can_name() -> None:
    losses = {"baseline": (3.69, 3.66, 3.65), "odd": (3.2,)}
    unknown = [
        ImportedRun(arm=arm, machine="cpu", test_loss=loss, source="a:1") for arm, of in losses.items() for loss in of
    ]
    table = rank([], imported=unknown)
    assert (row(table, "odd").verdict, row(table, "odd").rung) == ("better", None)
    assert (row(table, "baseline").n, row(table, "baseline").imported) == (3, True)
