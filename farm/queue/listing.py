"""Answers of the queue to any reader: where runs stand, and what happened to them (Q9).

One class of 27 short methods, since all of them read the same keys.
"""

import json
from collections.abc import Collection, Iterable, Sequence
from contextlib import suppress
from typing import Literal, NamedTuple

from farm.errors import Conflict, Unreadable
from farm.queue.scripts import PAGE, Scripts, pieces
from farm.queue.spelling import (
    FIELDS,
    LISTED,
    ListedRow,
    StatusRow,
    pairs,
    read_event,
    read_listed,
    read_pause,
    read_run,
    read_status,
)
from farm.queue.unreadable import UNREADABLE, Flaw, readable, spoilt_run
from farm.queue.values import Event, Listed, Pause, Point, Status
from farm.study.recipe import Recipe
from farm.study.run import State
from farm.study.study import Study

STATES = 2_000  # asked for in one call
LISTED_AT_A_TIME = 200  # 5 ms: a quarter of the work of a status
SPEEDS = 500  # looked at in one call: a fifth of the work of a status


class Picture(NamedTuple):
    """Runs that can be read, and by run id what is wrong with the others."""

    statuses: list[Status]
    flaws: dict[str, Flaw]


class Overview(NamedTuple):
    """As a picture, of what a listing shows."""

    statuses: list[Listed]
    flaws: dict[str, Flaw]


class Reached(NamedTuple):
    """What a run that has finished reached."""

    run_id: str
    machine: str
    recipe: Recipe
    tokens_per_second: float


class Listing:
    """Runs as they stand; nothing here changes them.

    What may be long is read in pages, for Redis does nothing else while it answers, and then brought to one instant
    (Q9) by what has changed meanwhile.
    """

    def __init__(self, scripts: Scripts):
        self._scripts = scripts

    def statuses(self, study: str | None = None) -> list[Status]:
        """Every run, of a study or of all, in the order they were submitted."""
        return self.picture(study).statuses

    def picture(self, study: str | None = None) -> Picture:
        """As `statuses`, with what it leaves out: a conclusion from fewer runs than there are has to say so."""
        return picture_of(self.texts(study))

    def texts(self, study: str | None = None) -> list[str]:
        """What `picture` is of, as Redis tells it."""
        return self._scripts.at_once("statuses", "study" if study else "all", study or "", FIELDS)

    def overview(self) -> Overview:
        """Every run, in the order they were submitted, as a listing shows it: recipes and results are not read, and not
        looked at for faults, but for those of runs that an older farm put or finished.
        """
        found, flaws = dict[str, Listed | None](), dict[str, Flaw]()
        for text in self._scripts.at_once("statuses", "all", "", LISTED, most=LISTED_AT_A_TIME):
            row = ListedRow(*json.loads(text))
            try:
                found[row.id] = read_listed(row)
            except UNREADABLE as error:
                flaws[row.id] = spoilt_run(row.id, error)
        older = self.these([run_id for run_id, one in found.items() if one is None])
        found |= {status.id: Listed.of(status) for status in older.statuses}
        return Overview([one for one in found.values() if one], flaws | older.flaws)

    def unfinished(self) -> list[Status]:
        """The runs that are queued or running, in the order they were submitted: for those who ask what waits, and need
        not know what has ended.
        """
        return list(readable(read_status, self._scripts.at_once("statuses", "open", "", FIELDS)))

    def paid_by(self, study: str) -> Picture:
        """The runs that count against the limits of a study, since it submitted them first, and what of them is left
        out: its cost is not counted.
        """
        return picture_of(self._scripts.at_once("statuses", "paid", study, FIELDS))

    def costs(self, study: Study) -> list[Status]:
        """The runs that decide what `study` still costs: those that it has in this form, and what else it pays for."""
        own = self.these([run.id for run in study.runs()]).statuses
        return list({status.id: status for status in [*own, *self.paid_by(study.name).statuses]}.values())

    def studies(self) -> list[str]:
        """The studies that submitted runs, by the last of them, newest first."""
        return self._scripts.call("newest")

    def running(self) -> list[Status]:
        """The runs that hold a lease, next deadline first: a small part of `statuses`, for frequent callers."""
        return self.running_picture().statuses

    def running_picture(self) -> Picture:
        """As `running`, with what it leaves out."""
        found = picture_of(self._scripts.at_once("statuses", "running", "", FIELDS))
        found.statuses.sort(key=lambda status: status.deadline or 0.0)
        return found

    def status(self, run_id: str) -> Status:
        """One run, by its id or a beginning of it that no other run shares.

        Raises: NotFound: names the nearest. Conflict: several begin so. Unreadable
        """
        count, *found = self._scripts.call("find", run_id, 3) if run_id else (0,)
        if not found:
            self._scripts.refuse_unknown(run_id)
        if count > 1:
            some = ", ".join(found) + (", ..." if count > 3 else "")
            raise Conflict(f"{count} runs begin with {run_id!r}: {some}.", remedy="Write more of the id.")
        picture = self.these(found)
        if picture.flaws:
            raise Unreadable(str(picture.flaws[found[0]]), run_id=found[0])
        return picture.statuses[0]

    def these(self, ids: Sequence[str]) -> Picture:
        """The runs of these ids, as far as they are there."""
        pages = (self._scripts.call("statuses", "these", "", FIELDS, "", PAGE, *some) for some in pieces(ids, PAGE))
        return picture_of(text for _, _, _, *texts in pages for text in texts)

    def states(self, ids: Sequence[str]) -> dict[str, State]:
        """Where the runs of these ids stand, as far as they are there."""
        found: dict[str, State] = {}
        for some in pieces(ids, STATES):
            answers = zip(some, self._scripts.call("states", *some), strict=True)
            found |= {run_id: State(state) for run_id, state in answers if state in list(State)}
        return found

    def waited_for(self) -> list[str]:
        """The machine classes that queued runs wait for, whatever keeps them from starting."""
        return self._scripts.call("waited_for")

    def speeds(self) -> list[Reached]:
        """How fast each run was that has finished here, in the order they were submitted, but for those that cannot be
        read.
        """
        found: list[Reached] = []
        for machine, spec, told in self._scripts.pages("speeds", most=SPEEDS):
            with suppress(*UNREADABLE):
                recipe = read_run(spec).recipe
                found += [Reached(run_id, machine, recipe, float(speed)) for run_id, speed in pairs(told)]
        return found

    def namesakes(self, ids: Sequence[str]) -> list[str]:
        """The other runs of the same trainings (the same digest), whose results some may have adopted."""
        return [other for some in pieces(ids, STATES) for other in self._scripts.call("namesakes", *some)]

    def ids(self, study: str) -> list[str]:
        """The ids of a study's runs, in the order they were submitted."""
        return list(self._scripts.pages("members", study))

    def near(self, run_id: str) -> list[str]:
        """Run ids that begin as this one does, as far as some do."""
        return self._scripts.near(run_id)

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
        return [read_point(text) for text in self._scripts.call("curve", run_id)]

    def events(self, run_id: str, count: int = 100) -> list[Event]:
        """The last `count` events of a run, oldest first."""
        return [read_event(*entry) for entry in reversed(self._scripts.call("events", run_id, count))]


def picture_of(texts: Iterable[str]) -> Picture:
    found = Picture([], {})
    for text in texts:
        found.statuses.extend(read_or_note(text, found.flaws))
    return found


def read_or_note(text: str, flaws: dict[str, Flaw]) -> list[Status]:
    """The run that a row tells of; none if it cannot be read, which `flaws` then says."""
    try:
        return [read_status(text)]
    except UNREADABLE as error:
        run_id = StatusRow(*json.loads(text)).id
        flaws[run_id] = spoilt_run(run_id, error)
        return []


def read_point(text: str) -> Point:
    return Point(**dict(zip(Point.model_fields, json.loads(text), strict=True)))


def count(scripts: Scripts) -> dict[str, int]:
    """How many runs and, as "evaluation STATE", evaluations there are; `put` has both."""
    both, *rest = scripts.call("counts")
    return {"put": int(both)} | {name: int(count) for name, count in pairs(rest)}
