"""The cost of studies so far, in dollars and node hours, and which of them have spent what their policy allows.

A node hour is one machine for an hour under a lease, whatever became of the attempt; a mixed group has several. A run
costs its study what it held a machine for, whatever became of it. One that several studies ask for costs the one
that submitted it first, whose limit it counts against (`Status.study`); the others have it for nothing.
"""

import math
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import NamedTuple

from farm.errors import BadStudy
from farm.queue.values import Status
from farm.study.machine import Machine, Mixed, parts
from farm.study.study import Study

_NOTHING: Mapping[str, float] = MappingProxyType({})


class Spending(NamedTuple):
    """Dollars and node hours spent, how many may be, and how many more the runs that train now take in an hour."""

    usd: float
    limit: float = math.inf
    usd_per_hour: float = 0.0
    hours: float = 0.0
    hours_limit: float = math.inf
    nodes: int = 0  # that train now

    @property
    def is_over(self) -> bool:
        """Whether a limit is reached."""
        return self.usd >= self.limit or self.hours >= self.hours_limit

    @property
    def seconds_left(self) -> float:
        """When a limit is reached, if the runs that train go on and nothing else starts."""
        dollars_last = _lasts(self.limit - self.usd, self.usd_per_hour)
        return min(dollars_last, _lasts(self.hours_limit - self.hours, self.nodes))

    def __str__(self) -> str:
        of_hours = f"{self.hours:,.3g} node hours used of {self.hours_limit:,.3g}"
        of_dollars = f"{dollars(self.usd)} spent of {dollars(self.limit)}"
        return of_hours if self.usd < self.limit and self.hours_limit < math.inf else of_dollars


def _lasts(left: float, per_hour: float) -> float:
    """Seconds; infinite where nothing is taken."""
    return max(0.0, left) / per_hour * 3600 if per_hour and left < math.inf else math.inf


def spending(
    studies: Iterable[Study],
    statuses: Iterable[Status],
    known: Mapping[str, Machine],
    now: float,
    told: Mapping[str, float] = _NOTHING,
) -> dict[str, Spending]:
    """The spending of each study that has a policy.usd_limit or a policy.hours_limit.

    `statuses` are those of these studies at least; `now` is in Unix seconds. A study's limit is that of its last form.
    `told`: what a dispatcher counted lately, by study. It knows the prices that the head's settings declare, which
    `known` may lack elsewhere; and money once spent stays so.
    """
    limited = {study.name: study for study in studies if study.policy.is_limited}
    theirs: dict[str, list[Status]] = {name: [] for name in limited}
    for status in statuses:
        theirs.get(status.study, []).append(status)
    found = {}
    for name, study in limited.items():
        spent, policy = usage(study, theirs[name], known, now), study.policy
        found[name] = spent._replace(
            usd=told.get(name, spent.usd),
            limit=math.inf if policy.usd_limit is None else policy.usd_limit,
            hours_limit=math.inf if policy.hours_limit is None else policy.hours_limit,
        )
    return found


def usage(study: Study, statuses: Iterable[Status], known: Mapping[str, Machine], now: float) -> Spending:
    """The spending of `study` on those of its runs that it pays for, whatever its limits."""
    spent = Spending(0.0)
    for status in statuses:
        if status.study == study.name:
            rate, count = price(study, status.run.machine, known), len(parts(status.run.machine))
            is_held = status.deadline is not None
            spent = spent._replace(
                usd=spent.usd + cost(status, rate, now),
                usd_per_hour=spent.usd_per_hour + rate * is_held,
                hours=spent.hours + held_hours(status, now) * count,
                nodes=spent.nodes + count * is_held,
            )
    return spent


def find_exhausted(
    studies: Iterable[Study],
    statuses: Iterable[Status],
    known: Mapping[str, Machine],
    now: float,
    told: Mapping[str, float] = _NOTHING,
) -> dict[str, Spending]:
    """The studies that have spent a limit of theirs: no run of theirs may start. Arguments as of `spending`."""
    found = spending(studies, statuses, known, now, told)
    return {name: one for name, one in found.items() if one.is_over}


def cost(status: Status, usd_per_hour: float, now: float) -> float:
    """The dollars that a run has cost its study: for the time that it held a machine, this moment included, or as its
    result says if that is more: of a run that was leased, since another run paid for any other result, such as one that
    it adopted.
    """
    held = held_hours(status, now) * usd_per_hour
    told = status.result.usd if status.result and status.epoch and not status.result.adopted else None
    return max(held, told or 0.0)  # never less than before it finished: what was over its limit stays so


def held_hours(status: Status, now: float) -> float:
    """The time that a run was under leases, this moment included."""
    current = now - status.started if status.deadline is not None and status.started is not None else 0.0
    return (status.held_seconds + max(0.0, current)) / 3600


def find_unpriced(study: Study, known: dict[str, Machine]) -> list[str]:
    """The machine classes of `study` that count nothing against a limit, because their price is unknown."""
    classes = sorted({name for arm in study.arms() for name in arm.machines})
    return [name for name in classes if study.machine(name, known).usd_per_hour is None]


def price(study: Study, name: str, known: Mapping[str, Machine]) -> float:
    """Dollars an hour of a machine class, or of those classes of a mixed group whose price is known."""
    try:
        machine = study.machine(name, dict(known))
    except BadStudy:  # a run of an earlier form of the study, on a class that is not known any more
        return 0.0
    own = machine.parts if isinstance(machine, Mixed) else (machine,)
    return sum(part.usd_per_hour or 0.0 for part in own)


def dollars(usd: float) -> str:
    """An amount as people write it; one below ten cents with its two first digits."""
    places = 2 if usd >= 0.1 or usd <= 0 else 1 - math.floor(math.log10(usd))
    return f"${usd:,.{places}f}"
