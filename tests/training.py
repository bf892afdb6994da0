"""Runs of the tiny model, trained here."""

from pathlib import Path
from typing import Any

from worlds import attempt, planned

from farm.study.run import Run


def whole(run: Run, folder: Path, world: int, microbatch: int = 1) -> dict[str, Any]:
    outcome, told = attempt(run, planned(run, world, microbatch), folder / f"world-{world}")
    return {"outcome": outcome, "told": told}
