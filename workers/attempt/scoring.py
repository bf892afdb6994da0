"""The code of an evaluation's Ray worker process: it runs model.rescore."""

from pathlib import Path
from typing import Any

import torch

from model.rescore import rescore
from workers.attempt.pulse import Pulse
from workers.attempt.task import Scoring


def score_once(config: dict[str, Any]) -> dict[str, Any]:
    """Score the model of a Scoring; returns what was found, a Scored."""
    task = Scoring.model_validate_json(config["task"])
    torch.set_num_threads(task.threads)
    beat = Pulse(Path(task.pulse)).beat
    return rescore(
        task.run, task.exam, Path(task.checkpoint), task.weights, task.size, Path(task.cache), beat
    ).model_dump()
