"""What studies have cost so far, and which of them have spent what their policy allows.

A run costs its study what it held a machine for, whatever became of it. One that several studies ask for costs the one
that submitted it first, whose limit it counts against (`Status.study`); the others have it for nothing.
"""

import math
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import NamedTuple

from farm.errors import BadStudy
from farm.machine import Machine, Mixed
from farm.queue import Status
from farm.study import Study

_NOTHING: Mapping[str, float] = MappingProxyType({})


class Spending(NamedTuple):
    """Dollars spent, how many may be, and how many more the runs that train now cost in an hour."""

    usd: float
    limit: float
    usd_per_hour: float = 0.0

    @property
    def is_over(self) -> bool:
        """Whether the limit is reached."""
        return self.usd >= self.limit

    @property
    def seconds_left(self) -> float:
        """When the limit is reached, if what trains goes on and nothing else starts."""
        left = max(0.0, self.limit - self.usd)
        return left / self.usd_per_hour * 3600 if self.usd_per_hour else math.inf

    def __str__(self) -> str:
        return f"{dollars(self.usd)} spent of {dollars(self.limit)}"


def spending(
    studies: Iterable[Study],
    statuses: Iterable[Status],
    known: Mapping[str, Machine],
    now: float,
    told: Mapping[str, float] = _NOTHING,
) -> dict[str, Spending]:
    """What each study that has a policy.usd_limit has spent of it.

    `statuses` are those of these studies at least; `now` is in Unix seconds. A study's limit is that of its last form.
    `told`: what a dispatcher counted lately, by study. It knows the prices that the head's settings declare, which
    `known` may lack elsewhere; and money once spent stays so.
    """
    limited = {study.name: study for study in studies if study.policy.usd_limit is not None}
    spent = dict.fromkeys(limited, 0.0)
    burning = dict.fromkeys(limited, 0.0)
    for status in statuses:
        if study := limited.get(status.study):
            rate = price(study, status.run.machine, known)
            spent[study.name] += cost(status, rate, now)
            burning[study.name] += rate if status.deadline is not None else 0.0
    return {
        name: Spending(told.get(name, usd), limited[name].policy.usd_limit or 0.0, burning[name])
        for name, usd in spent.items()
    }


def exhausted(
    studies: Iterable[Study],
    statuses: Iterable[Status],
    known: Mapping[str, Machine],
    now: float,
    told: Mapping[str, float] = _NOTHING,
) -> dict[str, Spending]:
    """The studies that have spent their policy.usd_limit: no run of theirs may start. Arguments as of `spending`."""
    found = spending(studies, statuses, known, now, told)
    return {name: one for name, one in found.items() if one.is_over}


def cost(status: Status, usd_per_hour: float, now: float) -> float:
    """What a run has cost its study: the time that it held a machine, this moment included, or what its result says if
    that is more: of a run that was leased, since somebody else paid for any other result.
    """
    current = now - status.started if status.deadline is not None and status.started is not None else 0.0
    held = (status.held_seconds + max(0.0, current)) / 3600 * usd_per_hour
    told = status.result.usd if status.result and status.epoch else None
    return max(held, told or 0.0)  # never less than before it finished: what was over its limit stays so


def unpriced(study: Study, known: dict[str, Machine]) -> list[str]:
    """The machine classes of `study` that count nothing against a limit, because nobody said what they cost."""
    classes = sorted({name for arm in study.arms() for name in arm.machines})
    return [name for name in classes if study.machine(name, known).usd_per_hour is None]


def price(study: Study, name: str, known: Mapping[str, Machine]) -> float:
    """Dollars an hour of a machine class, or of those classes of a mixed group whose price is known."""
    try:
        machine = study.machine(name, dict(known))
    except BadStudy:  # a run of an earlier form of the study, on a class that nobody knows any more
        return 0.0
    parts = machine.parts if isinstance(machine, Mixed) else (machine,)
    return sum(part.usd_per_hour or 0.0 for part in parts)


def dollars(usd: float) -> str:
    """An amount as people write it; one below ten cents with its two first digits."""
    places = 2 if usd >= 0.1 or usd <= 0 else 1 - math.floor(math.log10(usd))
    return f"${usd:,.{places}f}"
