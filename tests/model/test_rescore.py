"""A stored model scored anew: the bits that the end of its training gave, and nothing from what is not whole."""

from pathlib import Path

import pytest
from worlds import attempt, corpus, planned, tiny

from farm.errors import CheckpointInvalid
from farm.record.result import Exam, Outcome
from farm.study.recipe import TEST, FurtherEvaluation
from farm.study.run import Run
from model.corpus.checks import exams_of
from model.rescore import rescore


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, Path, Outcome]:
    """A run with a test and a further evaluation in another precision, where its attempt lies, and how it went."""
    home = tmp_path_factory.mktemp("trained")
    run = tiny(corpus(home))
    exams = exams_of(run.recipe, {"rough": FurtherEvaluation(precision="bf16", sequences=5)}, home / "cache")
    outcome, _ = attempt(run, planned(run, 1, 2), home / "run", exams=exams)
    return run, home, outcome


def again(run: Run, home: Path, outcome: Outcome, exam: Exam, weights: str | None = None):
    assert outcome.checkpoint is not None
    assert outcome.fingerprints is not None
    folder = home / "run" / "1" / outcome.checkpoint
    batches: list[int] = []
    found = rescore(
        run, exam, folder, weights or outcome.fingerprints.final, 2, home / "cache", lambda: batches.append(1)
    )
    assert len(batches) == (exam.recipe.evaluation.sequences + 1) // 2
    return found


@pytest.mark.parametrize("name", [TEST, "rough"])
def test_the_bits_are_those_of_the_end_of_training(trained: tuple[Run, Path, Outcome], name: str) -> None:
    (before,) = [one for one in trained[2].scores if one.exam.name == name]
    assert again(*trained, before.exam) == before
    assert name != TEST or before.value == trained[2].test_loss


def test_other_weights_than_the_result_s_are_refused(trained: tuple[Run, Path, Outcome]) -> None:
    with pytest.raises(CheckpointInvalid, match="the result is for 00000000"):
        again(*trained, trained[2].scores[0].exam, weights="0" * 64)


def test_another_run_s_checkpoint_is_refused(trained: tuple[Run, Path, Outcome]) -> None:
    run, home, outcome = trained
    other = run.model_copy(update={"rerun": 1})
    with pytest.raises(CheckpointInvalid, match="belongs to run"):
        again(other, home, outcome, outcome.scores[0].exam)
