"""What is ranked need not be the test loss: other scores, both directions, what is out of date, and items' errors."""

import random
from statistics import fmean, stdev

import pytest
from results import result, score, tiny_study

from farm.errors import NotFound
from farm.record.result import Result
from farm.record.score import Score, block_sizes, blocks
from farm.study.recipe import FurtherEvaluation
from farm.verdict.items import items_error
from farm.verdict.row import Row
from farm.verdict.seen import find_name, names, see
from farm.verdict.table import Table, rank

LOSSES = {"baseline": (3.69, 3.65, 3.67), "remove-dropout": (3.64, 3.60, 3.61), "gradient-clipping": (3.70, 3.66, 3.69)}
WIKI = {"wiki": FurtherEvaluation(offset=8)}
RESULTS = [
    result(run, LOSSES[run.arm][[42, 22, 67].index(run.seeds.init)]) for run in tiny_study(init=(42, 22, 67)).runs()
]
ITEMS = 1000


def scored(of: Result, name: str, value: float, **changes) -> Score:
    """With items that scatter by 1 around `value`, the same items for every run."""
    noise = random.Random(name)
    return score(of, [value + noise.gauss() for _ in range(ITEMS)], name, value=value, **changes)


def wiki(of: Result, value: float, **changes) -> Score:
    recipe = of.recipe.with_test(WIKI["wiki"])
    own = {"evaluation": recipe.evaluation_id("wiki"), "definition": recipe.tested, "items": "9" * 64}
    return scored(of, "wiki", value, **own | changes)


def row(table: Table, arm: str) -> Row:
    return next(row for row in table.rows if row.arm == arm)


def by_wiki(turn: int = 1, **changes) -> Table:
    """The table by an evaluation that gives each arm `turn` times its test loss."""
    scores = {one.run_id: [wiki(one, turn * one.test_loss, **changes)] for one in RESULTS}
    return rank(see(RESULTS, scores, "wiki", WIKI).results, margin=0.005)


def test_a_table_by_another_score_is_the_table_of_its_numbers() -> None:
    plain, table = rank(RESULTS, margin=0.005), by_wiki()
    assert [(one.arm, one.rank, one.verdict) for one in table.rows] == [
        (one.arm, one.rank, one.verdict) for one in plain.rows
    ]
    for one, other in zip(table.rows, plain.rows, strict=True):
        assert (one.mean, one.sd, one.delta, one.p) == (other.mean, other.sd, other.delta, other.p)
        assert (one.score, one.unit, other.score) == ("wiki", "nats per token", "test_loss")
        assert one.test_loss_mean == other.test_loss_mean == other.mean
        assert one.evaluation.startswith("wiki@")


def test_where_higher_is_better_the_ranking_and_the_verdicts_are_turned_round_and_the_numbers_are_not() -> None:
    lower, higher = by_wiki(), by_wiki(-1, direction="higher", unit="points")
    assert [one.arm for one in higher.rows] == [one.arm for one in lower.rows]
    for one, other in zip(higher.rows, lower.rows, strict=True):
        assert (one.rank, one.verdict, one.p, one.sd) == (other.rank, other.verdict, other.p, other.sd)
        assert (one.mean, one.unit, one.direction) == (-other.mean, "points", "higher")
        assert one.test_loss_mean == other.test_loss_mean
        if one.arm != "baseline":
            assert one.delta == -other.delta
            assert (one.ci_low, one.ci_high) == (-other.ci_high, -other.ci_low)
    assert row(higher, "remove-dropout").verdict == "better"
    assert row(higher, "remove-dropout").delta > 0
    same = by_wiki(direction="higher")
    assert [one.verdict for one in same.rows if one.arm == "remove-dropout"] == ["worse"]


def test_scores_of_an_older_evaluation_are_ranked_by_themselves_and_say_in_what_they_differ() -> None:
    now = RESULTS[0].recipe.with_test(WIKI["wiki"])
    old = {"evaluation": "wiki@00000000", "definition": now.tested | {"code": 0, "offset": 7}}
    scores = {one.run_id: [wiki(one, one.test_loss, **(old if one.arm == "baseline" else {}))] for one in RESULTS}
    table = rank(see(RESULTS, scores, "wiki", WIKI).results)
    assert len(table.evaluations) == 2
    assert row(table, "baseline").stale == "offset was 7, is 8 now, code was 0, is 1 now"
    assert row(table, "remove-dropout").stale is None
    assert row(table, "remove-dropout").delta is None
    assert table.differences == (f"{now.evaluation_id('wiki')}: offset 7 and 8, code 0 and 1",)


def test_of_two_scores_that_of_todays_evaluation_is_taken_and_else_the_newest() -> None:
    one, *_ = RESULTS
    old = {"evaluation": "wiki@00000000", "definition": {"offset": 7}, "when": 9e9}
    older = {"evaluation": "wiki@11111111", "definition": {"offset": 6}, "when": 1e9}
    both = {one.run_id: [wiki(one, 1.0), wiki(one, 2.0, **old), wiki(one, 3.0, **older)]}
    (found,) = see([one], both, "wiki", WIKI).results
    assert (found.test_loss, found.stale) == (1.0, None)
    (found,) = see([one], {one.run_id: both[one.run_id][1:]}, "wiki", WIKI).results
    assert (found.test_loss, bool(found.stale)) == (2.0, True)


def test_a_run_without_the_score_is_told_and_not_ranked() -> None:
    first, second, *_ = RESULTS
    sight = see([first, second], {first.run_id: [wiki(first, 1.0)]}, "wiki", WIKI)
    assert [one.run_id for one in sight.results] == [first.run_id]
    assert sight.unscored == [second]
    assert [one.test_loss for one in see([first]).results] == [first.test_loss], "its result says the test loss"


def test_every_score_of_an_arm_is_in_its_row() -> None:
    scores = {one.run_id: [scored(one, "test_loss", one.test_loss), wiki(one, 2 * one.test_loss)] for one in RESULTS}
    table = rank(see(RESULTS, scores, evaluations=WIKI).results)
    cell = row(table, "baseline").scores["wiki"]
    assert (cell.mean, cell.n, cell.stale) == (pytest.approx(2 * 3.67), 3, None)
    assert cell.sd == pytest.approx(2 * stdev(LOSSES["baseline"]))
    assert row(table, "baseline").scores["test_loss"].mean == pytest.approx(3.67)


def test_an_evaluation_that_nobody_knows_is_refused_with_the_nearest() -> None:
    among = names({"x": [wiki(RESULTS[0], 1.0)]}, {"web": FurtherEvaluation(offset=9)})
    assert among == ["test_loss", "web", "wiki"]
    with pytest.raises(NotFound, match="no evaluation 'wikki'; did you mean 'wiki'"):
        find_name("wikki", among)


# The error of the test set


def test_the_error_of_the_test_set_is_that_of_the_paired_items() -> None:
    noise = random.Random(1)
    base, *_ = RESULTS
    items = [noise.gauss(3, 1) for _ in range(200)]
    effects = [noise.gauss(0.1, 0.3) for _ in range(200)]
    ours, theirs = blocks([a + b for a, b in zip(items, effects, strict=True)]), blocks(items)
    error = items_error({base.seeds: ours}, {base.seeds: theirs}, block_sizes(200), is_paired=True)
    assert error == pytest.approx(stdev(effects) / 200**0.5), "whatever the items themselves scatter"
    assert items_error({base.seeds: ours[:1]}, {base.seeds: theirs[:1]}, [1], is_paired=True) is None


def test_neighbours_that_are_alike_count_as_one_observation() -> None:
    """Documents of 40 sequences each: the error is that of the documents, several times that of as many lone items."""
    noise = random.Random(2)
    seeds = RESULTS[0].seeds
    ratios = []
    for _ in range(40):
        effects = [effect for _ in range(256) for effect in [noise.gauss(0, 1)] * 40]
        found = items_error({seeds: blocks(effects)}, {seeds: [0.0] * 256}, block_sizes(len(effects)), is_paired=True)
        ratios.append((found or 0.0) / (1 / 256**0.5))
    assert fmean(ratios) == pytest.approx(1.0, abs=0.03)


def test_the_row_has_both_errors_of_its_difference() -> None:
    def table(spread: float) -> Table:
        """The items of every arm but the baseline scatter by `spread` about those of the baseline."""
        scores = {}
        for one in RESULTS:
            shared, own = random.Random(0), random.Random(one.arm)
            apart = 0.0 if one.arm == "baseline" else spread
            values = [one.test_loss + shared.gauss() + apart * own.gauss() for _ in range(ITEMS)]
            scores[one.run_id] = [score(one, values, value=one.test_loss)]
        return rank(see(RESULTS, scores).results)

    small, large = row(table(0.01), "remove-dropout"), row(table(2.0), "remove-dropout")
    assert small.seed_error == large.seed_error > 0
    assert small.test_set_error == pytest.approx(0.01 / ITEMS**0.5, rel=0.15)
    assert large.test_set_error == pytest.approx(2.0 / ITEMS**0.5, rel=0.15)
    assert small.test_set_error < small.seed_error < large.test_set_error
    assert row(rank(RESULTS), "remove-dropout").test_set_error is None, "of results without scores nothing is known"
