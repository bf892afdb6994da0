"""Why a queued run waits."""

from collections.abc import Iterable, Mapping

from farm.queue import Status
from farm.run import State


def reasons(statuses: Iterable[Status], nodes: Mapping[str, int], now: float) -> dict[str, str]:
    """Run id -> why it waits, for every queued run of `statuses`, which must be those of all studies.

    `nodes`: machine class -> living nodes that train it.
    """
    queued = [status for status in statuses if status.state is State.QUEUED]
    queued.sort(key=lambda status: -status.run.policy.priority)  # stable: then first in
    ahead: dict[str, int] = {}
    found = {}
    for status in queued:
        machine = status.run.machine
        found[status.run.id] = _reason(status, ahead.get(machine, 0), nodes, now)
        if not _backs_off(status, now):
            ahead[machine] = ahead.get(machine, 0) + 1
    return found


def _backs_off(status: Status, now: float) -> bool:
    return status.not_before is not None and status.not_before > now


def _reason(status: Status, ahead: int, nodes: Mapping[str, int], now: float) -> str:
    if not nodes.get(status.run.machine):
        return f"no node of class {status.run.machine}"
    if _backs_off(status, now):
        last = status.causes[-1].cause if status.causes else "a failure"
        return f"backing off {(status.not_before or now) - now:.0f} s after {last}"
    return f"behind {ahead} other{'s' * (ahead > 1)}" if ahead else "next in line"
