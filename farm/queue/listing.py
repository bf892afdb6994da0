"""Answers of the queue to any reader: where runs stand, and what happened to them (Q9)."""

import json
from collections.abc import Collection
from typing import Literal, NamedTuple

from farm.errors import Conflict, Unreadable
from farm.queue.scripts import Scripts
from farm.queue.spelling import FIELDS, StatusRow, pairs, read_event, read_pause, read_status
from farm.queue.unreadable import UNREADABLE, Flaw, readable, spoilt_run
from farm.queue.values import Event, Pause, Point, Status
from farm.study.run import State


class Picture(NamedTuple):
    """Runs at one instant: those that can be read, and by run id what is wrong with the others."""

    statuses: list[Status]
    flaws: dict[str, Flaw]


class Training(NamedTuple):
    """A run that holds a lease, the newest point of its curve and the newest one with a validation loss."""

    status: Status
    last: Point | None
    validated: Point | None


class Held(NamedTuple):
    """How many runs hold a lease, the first of them, and by run id what is wrong with those of these that cannot be
    read.
    """

    total: int
    first: list[Training]
    flaws: dict[str, Flaw]


class Front(NamedTuple):
    """The queued runs that come first, how many others of its class are ahead of each by run id, and by run id what is
    wrong with those that cannot be read.
    """

    first: list[Status]
    ahead: dict[str, int]
    flaws: dict[str, Flaw]


class Scope(NamedTuple):
    """Which runs: all, those of the study `name`, or the one run of the id `name`."""

    which: Literal["all", "study", "one"]
    name: str = ""


class Listing:
    """Runs as they stand; nothing here changes them."""

    def __init__(self, scripts: Scripts):
        self._scripts = scripts

    def statuses(self, study: str | None = None) -> list[Status]:
        """Every run, of a study or of all, in the order they were submitted, at one instant (Q9)."""
        return self.picture(study).statuses

    def picture(self, study: str | None = None) -> Picture:
        """As `statuses`, with what it leaves out: a conclusion from fewer runs than there are has to say so."""
        found = Picture([], {})
        for text in self._scripts.call("statuses", "study" if study else "all", study or "", *FIELDS):
            found.statuses.extend(_read_or_note(text, found.flaws))
        return found

    def unfinished(self) -> list[Status]:
        """The runs that are queued or running, in the order they were submitted, at one instant: for those who ask what
        waits, and need not know what has ended.
        """
        return list(readable(read_status, self._scripts.call("statuses", "open", "", *FIELDS)))

    def paid_by(self, study: str) -> list[Status]:
        """The runs that count against the limits of a study, since it submitted them first, at one instant."""
        return list(readable(read_status, self._scripts.call("statuses", "paid", study, *FIELDS)))

    def studies(self) -> list[str]:
        """The studies that submitted runs, by the last of them, newest first."""
        return self._scripts.call("newest")

    def running(self) -> list[Status]:
        """The runs that hold a lease, next deadline first: a small part of `statuses`, for frequent callers."""
        return list(readable(read_status, self._scripts.call("statuses", "running", "", *FIELDS)))

    def training(self, scope: Scope, most: int) -> Held:
        """The first `most` runs that hold a lease, in the order they were submitted, and how they do; the rest are not
        read: for those who look every second.
        """
        total, *rows = self._scripts.call("training", *scope, most, *FIELDS)
        found = Held(total, [], {})
        for text, points in rows:
            for status in _read_or_note(text, found.flaws):
                last, validated, *_ = (*map(_read_point, points), None, None)
                found.first.append(Training(status, last, validated))
        return found

    def front(self, scope: Scope, most: int, barred: Collection[str] = ()) -> Front:
        """The first `most` queued runs, of every machine class in turn; the rest are not read.

        A run of the studies `barred`, or one that is paused everywhere (Q11), is ahead of nobody.
        """
        found = Front([], {}, {})
        for text, ahead in pairs(self._scripts.call("front", *scope, most, len(FIELDS), *FIELDS, *barred)):
            for status in _read_or_note(text, found.flaws):
                found.first.append(status)
                found.ahead[status.run.id] = ahead
        return found

    def tally(self, study: str) -> dict[State, int]:
        """How many runs of a study are in each state, at one instant; those in none are left out."""
        return {State(state): count for state, count in pairs(self._scripts.call("tally", study))}

    def trace(self, run_id: str, shares: int) -> list[float]:
        """The loss of a run over its steps so far: the means over at most `shares` equal shares of them."""
        return [float(mean) for mean in self._scripts.call("trace", run_id, shares)]

    def status(self, run_id: str) -> Status:
        """One run, by its id or a beginning of it that no other run shares.

        Raises: NotFound: names the nearest. Conflict: several begin so. Unreadable
        """
        found = self._scripts.call("find", run_id)
        if not found or not run_id:
            self._scripts.refuse_unknown(run_id)
        if len(found) > 1:
            some = ", ".join(found[:3]) + (", ..." if len(found) > 3 else "")
            raise Conflict(f"{len(found)} runs begin with {run_id!r}: {some}.", remedy="Write more of the id.")
        (text,) = self._scripts.call("statuses", "one", found[0], *FIELDS)
        try:
            return read_status(text)
        except UNREADABLE as error:
            raise Unreadable(str(spoilt_run(found[0], error)), run_id=found[0]) from None

    def names(
        self, kind: Literal["studies", "arms", "runs"], start: str, study: str = "", count: int = 200
    ) -> list[str]:
        """At most `count` studies, arms (of one study or of all) or run ids that begin with `start`, for a shell."""
        return sorted(self._scripts.call("names", kind, start, study, count))

    def counts(self) -> dict[State, int]:
        """How many runs are in each state, at one instant; with `forgotten_count` they add up to `put_count` (Q9)."""
        counted = count(self._scripts)
        return {state: counted.get(state, 0) for state in State}

    def put_count(self) -> int:
        """How many runs were ever put."""
        counted = count(self._scripts)
        return counted["put"] - counted.get("evaluation put", 0)

    def forgotten_count(self) -> int:
        """How many runs were put and are gone."""
        return count(self._scripts).get("forgotten", 0)

    def backlog(self, passing: Collection[str] = ()) -> dict[str, int]:
        """How many runs each machine class may claim now, in the order of their next runs: priority, then first in.

        Those that back off, are of the studies `passing` or are paused on every node (Q11) are not counted.
        """
        return {machine: int(count) for machine, count in pairs(self._scripts.call("queued", *passing))}

    def pauses(self) -> list[Pause]:
        """Everything that is paused (Q11)."""
        return [read_pause(place, reason) for place, reason in pairs(self._scripts.call("pauses"))]

    def curve(self, run_id: str) -> list[Point]:
        """The curve of a run, steps ascending, thinned out evenly when long, and more so when the run is final."""
        return [_read_point(text) for text in self._scripts.call("curve", run_id)]

    def newest(self, run_id: str) -> tuple[Point | None, Point | None]:
        """The newest point of a run's curve, and the newest one with a validation loss; None where there is none."""
        last, validated, *_ = (*map(_read_point, self._scripts.call("reached", run_id)), None, None)
        return last, validated

    def events(self, run_id: str, count: int = 100) -> list[Event]:
        """The last `count` events of a run, oldest first."""
        return [read_event(*entry) for entry in reversed(self._scripts.call("events", run_id, count))]


def _read_or_note(text: str, flaws: dict[str, Flaw]) -> list[Status]:
    """The run that a row tells of; none if it cannot be read, which `flaws` then says."""
    try:
        return [read_status(text)]
    except UNREADABLE as error:
        run_id = StatusRow(*json.loads(text)).id
        flaws[run_id] = spoilt_run(run_id, error)
        return []


def _read_point(text: str) -> Point:
    return Point(**dict(zip(Point.model_fields, json.loads(text), strict=True)))


def count(scripts: Scripts) -> dict[str, int]:
    """How many runs and, as "evaluation STATE", evaluations there are; `put` has both."""
    both, *rest = scripts.call("counts")
    return {"put": int(both)} | {name: int(count) for name, count in pairs(rest)}
