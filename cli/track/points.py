"""A run's ledger as trackers take it: one point a step, with the names that nanoGPT gives them."""

from collections.abc import Iterator, Sequence
from math import isfinite
from typing import Any, NamedTuple

from farm.record.ledger import Line
from farm.study.run import Run


class Point(NamedTuple):
    """What is known of one optimiser step. Values that are not finite are left out: no tracker draws them."""

    step: int
    at: float  # Unix seconds: the run's first start, and the time that its steps have taken since
    values: dict[str, float]


class Tracked(NamedTuple):
    """A run, as a tracker files it."""

    run: Run
    study: str
    started: float

    @property
    def id(self) -> str:
        return self.run.id

    @property
    def config(self) -> dict[str, Any]:
        """Every key of its recipe, with dots, and what else tells it from others."""
        whose = {"study": self.study, "arm": self.run.arm, "machine": self.run.machine, "seeds": str(self.run.seeds)}
        return whose | dict(_flat(self.run.recipe.model_dump(mode="json")))


def points(lines: Sequence[Line], started: float, after: int) -> list[Point]:
    """The points of the steps after `after`. The same ledger gives the same points, whoever asks and when."""
    found, at = [], started
    for line in lines:
        at += line.seconds + (line.validation.seconds if line.validation else 0.0)
        if line.step > after:
            found.append(Point(line.step, at, {name: value for name, value in _values(line) if isfinite(value)}))
    return found


def _values(line: Line) -> Iterator[tuple[str, float]]:
    yield "train/loss", line.loss_sum / line.tokens
    if line.validation:
        yield "val/loss", line.validation.loss_sum / line.validation.tokens
    yield "lr", line.lr
    if line.grad_norm is not None:
        yield "grad_norm", line.grad_norm
    if line.seconds > 0:
        yield "tokens/s", line.tokens / line.seconds


def _flat(tables: dict[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tables.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{above}{key}.")
        else:
            yield above + key, value
