"""The looks that `farm resolve` has taken at a study: the observations, decision and reason of each.

They are part of the study as it is submitted, so that Redis, the storage and a reindex keep them, and a table can tell
that its intervals must hold over several looks.
"""

from typing import Literal

from pydantic import Field

from farm.study.recipe import Frozen, Seeds

Decision = Literal["add", "resolved", "spent", "given up"]


class Standing(Frozen):
    """One arm on one machine at a look."""

    arm: str
    machine: str
    pairs: int = Field(description="complete seed pairs")
    delta: float | None = None
    p: float | None = Field(None, description="adjusted for all arms and all looks")
    word: str = Field(description="its verdict at this look")
    chance: float | None = Field(None, description="of being resolved at the next stage, if the truth is as observed")
    added: int = Field(0, description="seed pairs that were queued for it because of this look")
    given_up: bool = False
    why: str = ""


class Look(Frozen):
    """One look at all arms, taken while no run of the study was under way."""

    at: float = Field(description="Unix seconds")
    usd: float = Field(description="spent since the first look")
    hours: float = Field(description="node hours used since the first look")
    runs: int = Field(description="runs queued by the looks before this one")
    decision: Decision
    why: str
    standings: tuple[Standing, ...]
    added_runs: int = 0


class Looks(Frozen):
    """All looks at a study, oldest first, and what fixes the test over all of them."""

    first: dict[str, int] = Field(description="arm@machine -> the seed pairs that it asked for at its first look")
    order: tuple[Seeds, ...] = Field(description="seed pairs as they were planned: a test of n pairs takes the first n")
    usd: float = Field(description="that the study had cost at its first look")
    hours: float = Field(description="node hours that it had used then")
    looks: tuple[Look, ...] = ()

    @property
    def runs(self) -> int:
        """Runs that looks have queued."""
        return sum(look.added_runs for look in self.looks)


def key(arm: str, machine: str) -> str:
    """How `Looks.first` names an arm on a machine; neither can hold an @."""
    return f"{arm}@{machine}"
