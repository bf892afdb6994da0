"""The reasons why queued runs wait, and which of them wait for a person."""

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

from farm.queue.budget import Spending
from farm.queue.node import Node
from farm.queue.values import Pause, Status, Supply
from farm.study.machine import MIXED, is_mixed, parts
from farm.study.run import State

MESSAGE_CHARACTERS = 160
SOON = "next in line"  # the reason of a run that a dispatcher will take at once
_NONE: Mapping[str, Any] = MappingProxyType({})


class Outlook(NamedTuple):
    """The reasons why queued runs wait, by run id. `over_budget` and `paused` have those that wait for a person."""

    why: dict[str, str] = {}
    over_budget: dict[str, Spending] = {}
    paused: dict[str, str] = {}

    def is_stuck(self, statuses: Iterable[Status]) -> bool:
        """Whether none of these runs goes on by itself, though some are not final."""
        unfinished = [status.run.id for status in statuses if not status.state.is_final]
        return bool(unfinished) and all(run in self.over_budget or run in self.paused for run in unfinished)


def explain_pauses(statuses: Iterable[Status], pauses: Sequence[Pause], nodes: Iterable[Node]) -> dict[str, str]:
    """Run id -> why it is paused (Q11), for every queued run that can start on none of the living `nodes` for that.

    A class without a node is not paused: one that comes may do.
    """
    if not pauses:
        return {}
    reasons = {(pause.study, pause.corpus, pause.node): pause.reason for pause in pauses}
    offered: dict[str, list[str | None]] = {}
    for node in nodes:
        for name in node.units if node.drained is None else ():
            offered.setdefault(name, []).append(node.id)
    found = {}
    for status in statuses:
        if status.state is State.QUEUED:
            places: list[list[str | None]] = [[None]]  # everywhere, or all that a class has
            places += [offered.get(name, []) for name in parts(status.run.machine)]
            if why := next(filter(None, (_common(reasons, status, nodes) for nodes in places)), None):
                found[status.run.id] = why
    return found


def _common(reasons: Mapping[tuple, str], status: Status, nodes: Sequence[str | None]) -> str | None:
    """Why the run is paused on every one of `nodes`, of which there must be some; None if it is not."""
    told = [reasons.get((status.study, status.run.recipe.corpus, node)) for node in nodes]
    return told[0] if told and all(told) else None


def reasons(
    statuses: Iterable[Status],
    nodes: Mapping[str, int],
    now: float,
    supply: Mapping[str, Supply] = _NONE,
    exhausted: Mapping[str, Spending] = _NONE,
    drained: Mapping[str, str] = _NONE,
    paused: Mapping[str, str] = _NONE,
    ahead: Mapping[str, int] | None = None,
) -> dict[str, str]:
    """Run id -> why it waits, for every queued run of `statuses`, which must be those of all studies, or have said how
    many others of its class are `ahead` of each.

    `nodes`: machine class -> living nodes that train it. `supply`: what an autoscaler can start. `exhausted`: the
    studies that have spent what they may. `drained`: machine classes whose every node is drained -> why.
    `paused`: run id -> why it is, as `explain_pauses` says.
    """
    queued = [status for status in statuses if status.state is State.QUEUED]
    queued.sort(key=lambda status: -status.run.policy.priority)  # stable: then first in
    passed: dict[str, int] = {}  # machine class -> those before, which are ahead of the next
    found = {}
    for status in queued:
        machine = status.run.machine
        if spending := exhausted.get(status.study):
            found[status.run.id] = f"over budget: {spending}"
            continue
        if status.run.id in paused:
            found[status.run.id] = f"paused: {paused[status.run.id]}. Fix it, then: farm retry {status.study}"
            continue
        place = passed.get(machine, 0) if ahead is None else ahead[status.run.id]
        found[status.run.id] = _absent(machine, nodes, supply, drained, now) or _reason(status, place, now)
        if not _backs_off(status, now):
            passed[machine] = place + 1
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
    return f"{what}, and no autoscaler can start one; available: {up}" if up else f"{what} (no nodes at all)"


def _backs_off(status: Status, now: float) -> bool:
    return status.not_before is not None and status.not_before > now


def _reason(status: Status, ahead: int, now: float) -> str:
    past = _past(status)
    if _backs_off(status, now):
        return f"backing off {(status.not_before or now) - now:.0f} s after {past or 'a failure'}"
    place = f"behind {ahead} other{'s' * (ahead > 1)}" if ahead else SOON
    if is_mixed(status.run.machine):
        place += f", for a free {status.run.machine.replace(MIXED, ' and ')} on separate nodes at the same time"
    return f"{place}; before: {past}" if past else place


def _past(status: Status) -> str | None:
    """How the last lease ended, if there was one."""
    if status.released:
        return f"given back: {cut(status.released)}"
    if status.causes:
        last = status.causes[-1]
        return f"{last.cause}: {cut(last.message)}"
    return None


def _span(seconds: float) -> str:
    return f"{max(0.0, seconds):.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"
