"""The cells of a table of arms, as people see them."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from cli import render
from cli.render import Column
from farm.study.machine import is_mixed

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


def seeds(row: Mapping[str, Any]) -> str:
    """The number of seeds behind a row, and how many the study asks for if it has fewer."""
    return f"{row['n']} of {row['asked']}" if row["n"] < row["asked"] else str(row["n"])


def list_rows(rows: Sequence[Placed]) -> str:
    return ", ".join(f"{row.arm} on {row.machine}" for row in rows)
