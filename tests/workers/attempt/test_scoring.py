"""What the process of an evaluation does: the score of the end of training, and a pulse while it scores."""

from pathlib import Path

import torch
from worlds import attempt, corpus, planned, tiny

from farm.record.result import Measurement
from workers.attempt.scoring import score_once
from workers.attempt.task import Scoring


def test_a_model_is_scored_as_at_the_end_of_its_training_and_the_pulse_tells_that_it_advances(tmp_path: Path) -> None:
    run = tiny(corpus(tmp_path))
    outcome, _ = attempt(run, planned(run, 1, 2), tmp_path / "run")
    assert outcome.fingerprints
    task = Scoring(
        run=run,
        exam=outcome.scores[0].exam,
        checkpoint=str(tmp_path / "run" / "1" / str(outcome.checkpoint)),
        weights=outcome.fingerprints.final,
        size=2,
        threads=torch.get_num_threads(),
        cache=str(tmp_path / "cache"),
        pulse=str(tmp_path / "pulse"),
        name="its-attempt",
    )
    found = Measurement.model_validate(score_once({"task": task.model_dump_json()}))
    assert found == outcome.scores[0]
    assert (tmp_path / "pulse").exists()
