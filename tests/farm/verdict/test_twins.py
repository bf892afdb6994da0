"""Twins in the table: one recipe and the same seeds on two machines."""

import statistics

import pytest
from results import tiny_study
from tables import finished, runs, strange

from farm.record.imported import ImportedRun
from farm.verdict.table import rank


def test_runs_that_saw_other_tokens_are_no_twins() -> None:
    members = runs(("cpu-x1", "cpu-x2"), init=(42,))
    results = [strange(r, trained="9" * 64) if r.machine == "cpu-x2" else r for r in finished(members)]
    assert rank(results).twins == ()


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


def test_the_effect_of_the_hardware_has_an_interval_and_says_whether_arms_react_alike() -> None:
    members = runs(("cpu-x1", "cpu-x2"))
    results = [r for run in members for r in finished([run], 0.03 if run.machine == "cpu-x2" else 0.0)]
    results = [r.model_copy(update={"test_loss": r.test_loss + 1e-4 * (i * i % 7)}) for i, r in enumerate(results)]
    (twins,) = rank(results).twins
    effect = twins.hardware
    assert (effect.machines, effect.pairs) == (("cpu-x1", "cpu-x2"), 9)
    assert effect.difference == pytest.approx(statistics.mean(pair.difference for pair in twins.pairs))
    assert effect.ci_low is not None
    assert effect.ci_high is not None
    assert effect.ci_low < effect.difference < effect.ci_high
    assert effect.interaction_p is not None


def test_imported_twins_need_the_same_known_seeds() -> None:
    def run(machine: str, loss: float, train: int | None) -> ImportedRun:
        return ImportedRun(arm="a", machine=machine, init_seed=1, train_seed=train, test_loss=loss, source="a:1")

    (twins,) = rank([], imported=[run("m", 3.0, 2), run("n", 3.25, 2), run("m", 3.1, None), run("n", 3.3, None)]).twins
    assert (twins.evaluation, len(twins.pairs), twins.hardware.difference) == ("imported", 1, 0.25)
