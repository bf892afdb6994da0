"""Two runs side by side: what is said of them is what is in their ledgers and results, and no more."""

from math import nan
from typing import Any

import pytest
from results import result, score, tiny_study

from farm.record.ledger import Line
from farm.study.recipe import Seeds
from farm.study.run import Attempt, Run, State
from farm.verdict.comparison import DRIFT, Comparison, Side, compare
from farm.verdict.seen import see

BASELINE, WITHOUT_DROPOUT = tiny_study(init=(42,)).runs()[:2]
TOKENS = 256


def lines(*losses: float) -> list[Line]:
    return [
        Line(step, TOKENS, loss * TOKENS, 1e-3, 1.0, clipped=False, skipped=False, seconds=0.1)
        for step, loss in enumerate(losses, start=1)
    ]


def finished(run: Run, *losses: float, test_loss: float = 3.0, **changes) -> Side:
    return Side(run, State.SUCCEEDED, lines(*losses), result(run, test_loss, **changes))


def running(run: Run, *losses: float, **known) -> Side:
    return Side(run, State.RUNNING, lines(*losses), **known)


def paths(found: Comparison) -> list[str]:
    return [difference.what for difference in found.differences]


def test_a_run_and_its_repetition_differ_in_nothing_else() -> None:
    again = BASELINE.model_copy(update={"rerun": 1})
    found = compare(finished(BASELINE, 9, 8, 7), finished(again, 9, 8, 7))
    assert paths(found) == ["rerun"]
    assert (found.same_initial_weights, found.same_order, found.same_final_weights) == (True,) * 3
    assert (found.same_trained, found.same_tested, found.apart) == (True, True, None)
    assert (found.parted, found.drifted) == (None, None)
    assert found.test_loss is not None
    assert found.test_loss.difference == 0
    assert found.last is not None
    assert (found.last.step, found.last.first, found.last.difference) == (3, 7, 0)


def test_what_differs_is_named_by_its_path() -> None:
    other = WITHOUT_DROPOUT.model_copy(update={"seeds": Seeds(init=22), "machine": "cpu-x1"})
    first, second = finished(BASELINE), finished(other)
    assert second.result is not None
    older = second.result.provenance.model_copy(update={"torch": "1"})
    second = second._replace(result=second.result.model_copy(update={"provenance": older}))
    found = compare(first, second)
    assert paths(found) == ["arm", "model.dropout", "seeds.init", "machine", "plan.machine", "software.torch"]
    dropout = found.differences[1]
    assert (dropout.first, dropout.second) == (0.1, 0.0)
    assert found.same_initial_weights is False


def test_the_first_bit_and_the_first_real_difference_are_told_apart() -> None:
    bit = 8 * (1 + 2**-52)
    found = compare(finished(BASELINE, 9, 8, 7, 6), finished(WITHOUT_DROPOUT, 9, bit, 7, 6 * (1 + 2 * DRIFT)))
    assert found.parted is not None
    assert (found.parted.step, found.parted.difference) == (2, bit - 8)
    assert found.drifted is not None
    assert found.drifted.step == 4
    assert found.drifted.difference == pytest.approx(6 * 2 * DRIFT)


@pytest.mark.parametrize(("loss", "drifts"), [(8 * (1 + 0.9 * DRIFT), False), (8 * (1 + 1.1 * DRIFT), True)])
def test_a_drift_is_relative_to_the_loss(loss: float, drifts: bool) -> None:
    assert (compare(finished(BASELINE, 8), finished(WITHOUT_DROPOUT, loss)).drifted is not None) == drifts


def test_a_loss_that_is_not_finite_in_one_run_only_is_a_parting() -> None:
    assert compare(running(BASELINE, nan), running(WITHOUT_DROPOUT, nan)).parted is None
    found = compare(running(BASELINE, 9, nan), running(WITHOUT_DROPOUT, 9, 8))
    assert found.parted == found.drifted
    assert found.parted is not None
    assert (found.parted.step, found.parted.first, found.parted.second, found.parted.difference) == (2, None, 8, None)


def test_a_run_that_still_trains_is_compared_as_far_as_it_is() -> None:
    found = compare(finished(BASELINE, 9, 8, 7), running(WITHOUT_DROPOUT, 9, 8.5, initial=f"{42:064x}"))
    assert (found.first_steps, found.second_steps, found.common_steps) == (3, 2, 2)
    assert found.last is not None
    assert (found.last.step, found.last.difference) == (2, 0.5)
    assert found.train_loss is not None
    assert (found.train_loss.first, found.train_loss.second) == (8, 8.5), "not 7: only one of them did that step"
    assert (found.same_initial_weights, found.same_trained, found.same_final_weights) == (True, None, None)
    assert found.test_loss is None


def test_two_runs_that_never_began_have_their_recipes_to_compare() -> None:
    found = compare(Side(BASELINE, State.QUEUED), Side(WITHOUT_DROPOUT, State.QUEUED))
    assert paths(found) == ["arm", "model.dropout"]
    assert (found.parted, found.last, found.train_loss, found.common_steps) == (None, None, None, 0)


def test_the_newest_attempt_speaks_for_a_run_without_a_result() -> None:
    attempt = Attempt(run_id=BASELINE.id, epoch=1, worker="w", started=0.0, hardware={"threads": 2, "host": "here"})
    found = compare(running(BASELINE, attempt=attempt), finished(BASELINE))
    assert paths(found) == [
        "hardware.threads",
        "hardware.accelerator",
        "hardware.accelerators",
        "hardware.memory_bytes",
        "hardware.cpu",
        "hardware.cores",
    ]
    assert paths(compare(running(BASELINE), finished(BASELINE))) == [], "nothing is known, so nothing differs"


def test_another_train_seed_is_another_order_only_when_it_shuffles() -> None:
    other = BASELINE.model_copy(update={"seeds": Seeds(train=24)})
    assert compare(running(BASELINE), running(other)).same_order
    runs = [
        run.model_copy(update={"recipe": run.recipe.with_patch({"data": {"order": "shuffled"}})})
        for run in (BASELINE, other)
    ]
    assert not compare(*map(running, runs)).same_order
    assert compare(running(runs[0]), running(runs[0])).same_order


def test_test_losses_of_two_evaluations_are_not_subtracted() -> None:
    other = BASELINE.model_copy(update={"recipe": BASELINE.recipe.with_patch({"evaluation": {"sequences": 4}})})
    found = compare(finished(BASELINE), finished(other))
    assert found.test_loss is None
    assert found.apart == "tested differently: sequences 8 and 4"


@pytest.mark.parametrize(
    ("field", "split"), [("head", "train"), ("trained", "train"), ("tested", "validation")], ids=str
)
def test_test_losses_over_other_tokens_are_not_subtracted(field: str, split: str) -> None:
    usual = finished(BASELINE).result
    assert usual is not None
    prints = usual.fingerprints
    tokens = prints.tokens.model_copy(update={field: "9" * 64})
    strange = finished(WITHOUT_DROPOUT, fingerprints=prints.model_copy(update={"tokens": tokens}))
    found = compare(finished(BASELINE), strange)
    assert found.test_loss is None
    assert found.apart is not None
    assert found.apart.startswith(f"the {split} split of builtin:python-reference held other tokens: ")
    assert "9" * 12 in found.apart
    assert (found.same_trained, found.same_tested) == (field != "trained", field != "tested")


def test_scores_by_one_evaluation_are_subtracted_and_others_are_not() -> None:
    """Where higher is better, the difference is still the second less the first, and the direction is told."""

    def side(run: Run, value: float, **changes: Any) -> Side:
        made = result(run, 3.0)
        scored = score(made, [value] * 2, "points", unit="points", direction="higher", **changes)
        found = see([made], {run.id: [scored]}, "points").results
        return Side(run, State.SUCCEEDED, result=made, score="points", seen=found)

    (one,) = compare(side(BASELINE, 40.0), side(WITHOUT_DROPOUT, 42.0)).scores
    assert (one.evaluation, one.unit, one.direction, one.difference) == ("points", "points", "higher", 2.0)
    (one,) = compare(side(BASELINE, 40.0), side(WITHOUT_DROPOUT, 42.0, evaluation="points@0")).scores
    assert (one.difference, one.apart is not None) == (None, True)
    lacking = compare(side(BASELINE, 40.0), side(WITHOUT_DROPOUT, 42.0)._replace(seen=()))
    assert (lacking.scores, lacking.unscored) == ((), {"points": (WITHOUT_DROPOUT.id,)})


def test_other_kernels_are_named_as_the_reason_for_other_bits() -> None:
    first, second = finished(BASELINE, 9, 8), finished(BASELINE, 9, 8.5, kernels=("torch",))
    assert "computed.kernels" in paths(compare(first, second))
    assert compare(first, second).other_bits == "computed.kernels: farm and torch"
    assert compare(first, first).other_bits is None
    assert compare(first, finished(BASELINE, 9, 8, kernels=("torch",))).other_bits is None, "the bits are the same"
    assert compare(first, running(BASELINE, 9, 8.5)).other_bits is None, "what computes it is not on record yet"
