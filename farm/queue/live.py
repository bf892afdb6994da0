"""Runs as they are watched: what is shown of them, and nothing that is not, for those who look every second (Q9)."""

from collections import Counter
from collections.abc import Collection, Sequence
from typing import Literal, NamedTuple

from farm.queue.listing import read_or_note, read_point
from farm.queue.scripts import Scripts
from farm.queue.spelling import FIELDS, pairs
from farm.queue.unreadable import Flaw
from farm.queue.values import Point, Status
from farm.study.run import State

COUNTED = 1_000  # runs in one call: 5 ms, as a page of a listing


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


class Live:
    """The first runs of a scope, how they do, and how many there are besides; nothing here changes them."""

    def __init__(self, scripts: Scripts):
        self._scripts = scripts

    def training(self, scope: Scope, most: int) -> Held:
        """The first `most` runs that hold a lease, in the order they were submitted; the rest are not read."""
        total, *rows = self._scripts.call("training", *scope, most, FIELDS)
        found = Held(total, [], {})
        for text, points in rows:
            for status in read_or_note(text, found.flaws):
                found.first.append(Training(status, *_newest(points)))
        return found

    def front(self, scope: Scope, most: int, barred: Collection[str] = ()) -> Front:
        """The first `most` queued runs, of every machine class in turn; the rest are not read.

        A run of the studies `barred`, or one that is paused everywhere (Q11), is ahead of nobody.
        """
        found = Front([], {}, {})
        for text, ahead in pairs(self._scripts.call("front", *scope, most, FIELDS, *barred)):
            for status in read_or_note(text, found.flaws):
                found.first.append(status)
                found.ahead[status.run.id] = ahead
        return found

    def tally(self, study: str) -> dict[State, int]:
        """How many runs of a study are in each state, at one instant; those in none are left out."""
        counted = Counter[State]()
        for state, count in pairs(self._scripts.unmoved("tally", study, most=COUNTED)):
            counted[State(state)] += count
        return dict(counted)

    def trace(self, run_id: str, shares: int) -> list[float]:
        """The loss of a run over its steps so far: the means over at most `shares` equal shares of them."""
        return [float(mean) for mean in self._scripts.call("trace", run_id, shares)]

    def newest(self, run_id: str) -> tuple[Point | None, Point | None]:
        """The newest point of a run's curve, and the newest one with a validation loss; None where there is none."""
        return _newest(self._scripts.call("reached", run_id))


def _newest(points: Sequence[str]) -> tuple[Point | None, Point | None]:
    """The newest point and the newest one with a validation loss, as reached.lua says them."""
    last, validated, *_ = (*map(read_point, points), None, None)
    return last, validated
