"""The cells of a table of arms, as people see them."""

from collections.abc import Sequence
from typing import Any, Protocol

from cli import render
from cli.render import Column
from farm.study.machine import is_mixed
from farm.verdict.row import Row

RANK = Column("rank", "#", render.count, is_number=True)
VERDICT = Column("verdict", "verdict", render.text)


class Placed(Protocol):
    """An arm on a machine."""

    @property
    def arm(self) -> str: ...
    @property
    def machine(self) -> str: ...


def machine(name: str) -> str:
    """A machine class for people; mixed groups are marked."""
    return f"{name} (mixed)" if is_mixed(name) else name


def difference(seen: dict[str, Any]) -> str:
    """A difference with the half-width of its interval; with both where Holm's rule cut one side at 0."""
    delta, low, high = seen["delta"], seen["ci_low"], seen["ci_high"]
    if low is None or delta is None:
        return render.signed(delta)
    below, above = f"{delta - low:.4f}", f"{high - delta:.4f}"
    return f"{render.signed(delta)} ± {below}" if below == above else f"{render.signed(delta)} -{below} +{above}"


def seeds(n: int, asked: int) -> str:
    """The number of seeds behind a row, and how many the study asks for if it has fewer."""
    return f"{n} of {asked}" if n < asked else str(n)


def arm(row: Row) -> str:
    """An arm for people; one that was imported says so."""
    return f"{row.arm} (imported)" if row.imported else row.arm


def interval(low: float | None, high: float | None, form: str = "+.4f") -> str:
    """An interval from end to end; '-' where it is unknown."""
    return render.UNKNOWN if low is None or high is None else f"{low:{form}} to {high:{form}}"


MACHINE = Column("machine", "machine", render.or_unknown(machine))
MEAN = Column("mean", "test loss", render.loss, is_number=True, digits=6)


def chance(p: float | None) -> str:
    """A p value in a sentence."""
    return f"p = {render.probability(p)}".replace("= <", "< ")


def list_rows(rows: Sequence[Placed]) -> str:
    return ", ".join(f"{row.arm} on {row.machine}" for row in rows)
