"""The energy that an attempt's accelerators used: a line every few seconds, so a killed attempt's is known too.

A file a node, in the attempt's folder. Each line holds what was used since the attempt's workers started.
"""

from collections.abc import Iterable

from pydantic import Field, ValidationError

from farm.study.recipe import Frozen

JOULES_PER_KWH = 3.6e6


class Used(Frozen):
    """A line: the energy since the workers started, in joules, and which meter says so."""

    seconds: float = Field(ge=0)
    joules: float = Field(ge=0)
    meter: str


def file(node: int) -> str:
    """The name of the file of one node of the attempt, counted from 0."""
    return f"energy-{node}"


def last(content: bytes) -> Used | None:
    """The last line that is whole; None where there is none."""
    for text in reversed(content.splitlines()):
        try:
            return Used.model_validate_json(text)
        except ValidationError:  # cut off, as the process was
            continue
    return None


class Integral:
    """Power over time, by the trapezoidal rule."""

    def __init__(self) -> None:
        self.joules = 0.0
        self._before: tuple[float, float] | None = None

    def add(self, seconds: float, watts: float) -> float:
        """The energy so far, `watts` being drawn at `seconds`."""
        if self._before is not None:
            then, before = self._before
            self.joules += (watts + before) / 2 * (seconds - then)
        self._before = (seconds, watts)
        return self.joules


def kwh(attempts: Iterable[Used | None]) -> float | None:
    """The sum over several attempts; None where one is unknown."""
    joules = [used.joules if used else None for used in attempts]
    return None if not joules or None in joules else sum(one or 0.0 for one in joules) / JOULES_PER_KWH
