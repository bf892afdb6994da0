"""What studies have cost so far, and which of them have spent what their policy allows."""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from farm.errors import BadStudy
from farm.machine import Machine
from farm.queue import Status
from farm.study import Study


class Spending(NamedTuple):
    """Dollars spent, and how many may be."""

    usd: float
    limit: float


def exhausted(
    studies: Iterable[Study], statuses: Iterable[Status], known: dict[str, Machine], now: float
) -> dict[str, Spending]:
    """The studies that have spent their policy.usd_limit: no further run of theirs may start.

    `statuses` are those of these studies at least; `now` is in Unix seconds. A study's limit is that of its last form.
    """
    limited = {study.name: study for study in studies if study.policy.usd_limit is not None}
    spent = dict.fromkeys(limited, 0.0)
    for status in statuses:
        if study := limited.get(status.study):
            spent[study.name] += cost(status, _price(study, status.run.machine, known), now)
    found = {name: Spending(usd, limited[name].policy.usd_limit or 0.0) for name, usd in spent.items()}
    return {name: spending for name, spending in found.items() if spending.usd >= spending.limit}


def cost(status: Status, usd_per_hour: float, now: float) -> float:
    """What a run has cost: what its result says, else the time that it held a machine, this moment included.

    One that adopted its result has cost nothing.
    """
    if status.result and status.result.adopted:
        return 0.0
    if status.result and status.result.usd is not None:
        return status.result.usd
    current = now - status.started if status.deadline is not None and status.started is not None else 0.0
    return (status.held_seconds + max(0.0, current)) / 3600 * usd_per_hour


def unpriced(study: Study, known: dict[str, Machine]) -> list[str]:
    """The machine classes of `study` that count nothing against a limit, because nobody said what they cost."""
    classes = sorted({name for arm in study.arms() for name in arm.machines})
    return [name for name in classes if study.machine(name, known).usd_per_hour is None]


def _price(study: Study, name: str, known: Mapping[str, Machine]) -> float:
    try:
        return study.machine(name, dict(known)).usd_per_hour or 0.0
    except BadStudy:  # a run of an earlier form of the study, on a class that nobody knows any more
        return 0.0
