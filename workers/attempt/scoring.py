"""What the Ray worker process of an evaluation runs: model.rescore."""

import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from model.rescore import rescore
from workers.attempt.task import Scoring

PULSE_SECONDS = 0.2


def score_once(config: dict[str, Any]) -> dict[str, Any]:
    """Score the model of a Scoring; returns what was found, a Scored."""
    task = Scoring.model_validate_json(config["task"])
    torch.set_num_threads(task.threads)
    pulse, pulsed = Path(task.pulse), 0.0

    def advanced() -> None:
        nonlocal pulsed
        if time.monotonic() - pulsed >= PULSE_SECONDS:
            pulsed = time.monotonic()
            with suppress(OSError):
                pulse.touch()

    found = rescore(
        task.run, task.exam, Path(task.checkpoint), task.weights, task.size, Path(task.cache), advanced=advanced
    )
    return found.model_dump()
