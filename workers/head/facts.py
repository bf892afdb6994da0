"""What a person may want to hear of, as it stands now.

Each fact has a name, and a number that is higher when it is news again. A fact is read from what holds and not from
what passes by, so nothing is missed while no dispatcher looks.
"""

import platform
import threading
import time
from collections.abc import Iterator, Mapping
from typing import Literal, NamedTuple

from farm.queue.budget import Spending, spending
from farm.queue.node import Node
from farm.queue.queue import Queue
from farm.site import serving
from farm.site.settings import Settings

LOOK_SECONDS = 5.0
BUDGET_SECONDS = 15.0  # between two looks at what limited studies have spent
LOST_SECONDS = 90.0  # unseen, and a machine is lost: Ray is replaced, and Redis started again, in less
WELL_SECONDS = 600.0  # of health, and a farm that is degraded again is news: what fails every minute is told once
LEVELS = (80, 100)  # per cent of a budget

Kind = Literal["degraded", "machine", "budget", "failed", "done"]


class Fact(NamedTuple):
    """One thing to tell, with what its message needs."""

    kind: Kind
    about: str  # one of its kind: a run, a study, a limit, a machine
    number: int = 1
    study: str = ""
    text: str = ""
    at: float | None = None  # when it happened, by Redis' clock; None: it holds now

    @property
    def name(self) -> str:
        return f"{self.kind}:{self.about}"


class Facts(NamedTuple):
    """All that holds at one instant, by name, but for what is degraded here.

    `has_seen_machines`: long enough to say that one is lost.
    """

    by_name: Mapping[str, Fact]
    has_seen_machines: bool


class Watch:
    """look() says what holds; several threads may ask, and the first one reads it for all."""

    def __init__(self, here: Settings, queue: Queue):
        self._here, self._queue = here, queue
        self.own = f"{platform.node()}:{here.home}"  # of several farms that dispatch for one queue
        self._lock = threading.Lock()
        self._looked_at = self._counted_at = -BUDGET_SECONDS
        self._facts: Facts | None = None
        self._since: float | None = None  # machines have been looked at without a break
        self._seen: dict[str, tuple[float, Node]] = {}
        self._spent: list[Fact] = []
        self._degraded: tuple[float, str] | None = None
        self.degraded()  # what ended the process before this one, if the keeper put this one in its place

    def look(self) -> Facts | None:
        """What holds now, or did a moment ago; None where Redis was emptied and its records are not read again yet.

        Raises: FarmError: Redis is away.
        """
        with self._lock:
            if time.monotonic() - self._looked_at >= LOOK_SECONDS:
                try:
                    self._facts = self._read()
                except BaseException:
                    self._since = None  # machines may have come back meanwhile
                    raise
                self._looked_at = time.monotonic()
            return self._facts

    def machine(self, about: str) -> Node | None:
        """A machine as it was seen last, if this process has seen it."""
        return self._seen[about][1] if about in self._seen else None

    def degraded(self) -> Fact | None:
        """What `farm status` calls missing, and for a while what it did: Redis is not asked."""
        facts = serving.facts(self._here)
        if facts and (missing := serving.missing(self._here, facts)):
            self._degraded = time.monotonic(), "; ".join(missing)
        if self._degraded and time.monotonic() - self._degraded[0] < WELL_SECONDS:
            return Fact("degraded", self.own, text=self._degraded[1])
        return None

    def _read(self) -> Facts | None:
        if self._queue.index.origin() is None:
            self._since = None
            return None
        machines = list(self._machines())
        found = [*machines, *self._budgets(), *self._endings()]
        waited = time.monotonic() - self._since if self._since is not None else 0.0
        return Facts({fact.name: fact for fact in found}, waited >= LOST_SECONDS)

    def _machines(self) -> Iterator[Fact]:
        """Those that trained here lately, without the one that the farm was started on."""
        now, head = time.monotonic(), self._queue.roster.head()
        self._since = now if self._since is None else self._since
        for node in self._queue.roster.nodes():
            if node.units and (node.joined or head is None or node.host != head.host):
                self._seen[f"{node.name}@{node.host}"] = now, node
        for about, (seen, node) in self._seen.items():
            if now - max(seen, self._since) < LOST_SECONDS:
                units = ", ".join(f"{name} x {count}" for name, count in node.units.items())
                yield Fact("machine", about, text=f"{node}: {units}")

    def _budgets(self) -> list[Fact]:
        if time.monotonic() - self._counted_at >= BUDGET_SECONDS:
            self._spent = list(self._count())
            self._counted_at = time.monotonic()
        return self._spent

    def _count(self) -> Iterator[Fact]:
        limited = self._queue.studies.limited()
        theirs = [status for name in limited for status in self._queue.listing.paid_by(name).statuses]
        known = self._queue.roster.classes(self._here.machines)
        spent = spending(limited.values(), theirs, known, time.time(), self._queue.studies.dollars_spent())
        for name, one in spent.items():
            reached = [level for level in LEVELS if 100 * _share(one) >= level]
            if reached:
                limit = f"{one.limit:g}/{one.hours_limit:g}"  # one that is raised may be reached again
                yield Fact("budget", f"{name}:{limit}", max(reached), study=name, text=str(one))

    def _endings(self) -> Iterator[Fact]:
        for one in self._queue.news.endings():
            for run in one.failed:
                yield Fact("failed", run.run_id, run.epoch + 1, study=one.study, at=run.at)
            if one.is_done:
                yield Fact("done", one.study, one.number, study=one.study, at=one.at)


def _share(one: Spending) -> float:
    return max(one.usd / one.limit, one.hours / one.hours_limit)
