"""Why a queued run waits."""

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any

from farm.budget import Spending
from farm.machine import MIXED, is_mixed, parts
from farm.queue import Status, Supply
from farm.run import State

MESSAGE_CHARACTERS = 160
SOON = "next in line"  # the reason of a run that a dispatcher will take at once
_NONE: Mapping[str, Any] = MappingProxyType({})


def reasons(
    statuses: Iterable[Status],
    nodes: Mapping[str, int],
    now: float,
    supply: Mapping[str, Supply] = _NONE,
    exhausted: Mapping[str, Spending] = _NONE,
    drained: Mapping[str, str] = _NONE,
) -> dict[str, str]:
    """Run id -> why it waits, for every queued run of `statuses`, which must be those of all studies.

    `nodes`: machine class -> living nodes that train it. `supply`: what an autoscaler can start. `exhausted`: the
    studies that have spent what they may. `drained`: machine classes whose every node is drained -> why.
    """
    queued = [status for status in statuses if status.state is State.QUEUED]
    queued.sort(key=lambda status: -status.run.policy.priority)  # stable: then first in
    ahead: dict[str, int] = {}
    found = {}
    for status in queued:
        machine = status.run.machine
        if spending := exhausted.get(status.study):
            found[status.run.id] = f"over budget: ${spending.usd:,.2f} spent of ${spending.limit:,.2f}"
            continue
        place = ahead.get(machine, 0)
        found[status.run.id] = _absent(machine, nodes, supply, drained, now) or _reason(status, place, now)
        if not _backs_off(status, now):
            ahead[machine] = place + 1
    return found


def cut(text: str) -> str:
    """The first line of `text`; in a long one the middle makes way, since what to do stands at the end."""
    first = (text.strip().splitlines() or [""])[0]
    if len(first) <= MESSAGE_CHARACTERS:
        return first
    half = (MESSAGE_CHARACTERS - 5) // 2
    return f"{first[:half].rsplit(maxsplit=1)[0]} ... {first[-half:].split(maxsplit=1)[-1]}"


def _absent(
    machine: str, nodes: Mapping[str, int], supply: Mapping[str, Supply], drained: Mapping[str, str], now: float
) -> str | None:
    """Why no node trains `machine` now; None when one does."""
    if is_mixed(machine):
        return next(filter(None, (_absent(part, nodes, supply, drained, now) for part in parts(machine))), None)
    if nodes.get(machine):
        return None
    what = f"every node of class {machine} is drained: {cut(drained[machine])}" if machine in drained else None
    if machine not in supply:
        return what or no_node(machine, nodes)
    said = supply[machine]
    failed = f"; the last start failed: {cut(said.trouble)}" if said.trouble else ""
    if said.starting:
        return f"a node of class {machine} is starting, asked for {_span(now - (said.since or now))} ago{failed}"
    hope = "; the autoscaler starts one" if said.most else "; the cluster file allows none"
    return (what or f"no node of class {machine}") + (failed or hope)


def no_node(machine: str, nodes: Mapping[str, int]) -> str:
    """That no node trains `machine` nor will by itself, and which classes have one."""
    up = ", ".join(sorted(name for name, count in nodes.items() if count))
    what = f"no node of class {machine}"
    return f"{what}, and none starts by itself; there are: {up}" if up else f"{what}, nor of any other"


def _backs_off(status: Status, now: float) -> bool:
    return status.not_before is not None and status.not_before > now


def _reason(status: Status, ahead: int, now: float) -> str:
    past = _past(status)
    if _backs_off(status, now):
        return f"backing off {(status.not_before or now) - now:.0f} s after {past or 'a failure'}"
    place = f"behind {ahead} other{'s' * (ahead > 1)}" if ahead else SOON
    if is_mixed(status.run.machine):
        place += f", for a free {status.run.machine.replace(MIXED, ' and ')} on nodes of their own at once"
    return f"{place}; before: {past}" if past else place


def _past(status: Status) -> str | None:
    """What became of the last lease, if anything did."""
    if status.released:
        return f"given back: {cut(status.released)}"
    if status.causes:
        last = status.causes[-1]
        return f"{last.cause}: {cut(last.message)}"
    return None


def _span(seconds: float) -> str:
    return f"{max(0.0, seconds):.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"
