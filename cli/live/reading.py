"""What the live view shows is read beside it, so that keys are answered while Redis is slow or away.

Every second only the runs that a screen has room for are read; every few seconds the front of the queue and the counts;
the table when a run has finished. Nothing takes more than a fifth of the time.
"""

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from cli.access import machines
from cli.cells import arm, difference, seeds
from cli.live.picture import Picture, Reached, Standing, Waiting, bar, key_of, peaks
from cli.ranking import ranking
from cli.runs import exhausted, outlook, outlook_of
from farm.errors import FarmError, NotFound, Unreachable
from farm.queue.budget import Spending, price
from farm.queue.live import Held, Scope
from farm.queue.queue import Queue
from farm.queue.values import Status
from farm.site.settings import Settings
from farm.study.recipe import TEST
from farm.study.run import State

LOOK_SECONDS = 1.0
QUEUE_SECONDS = 5.0
RANK_SECONDS = 5.0  # between looks for a run that has finished since
STALE_SECONDS = 60.0  # the table is ranked anew, as scores may have come; and spending is counted anew
SHARES = 20  # of a trace


class Beat(threading.Thread):
    """Calls `read` again and again, `seconds` apart or four times what it took, until it is stopped or an error other
    than an absent Redis ends it.
    """

    def __init__(self, read: Callable[[], None], seconds: float):
        super().__init__(daemon=True)  # one that waits for Redis must not keep the terminal
        self.read, self.seconds = read, seconds
        self.away: str | None = None
        self.error: Exception | None = None
        self._wake, self._is_over = threading.Event(), False

    def run(self) -> None:
        while not self._is_over:
            began = time.monotonic()
            try:
                self.read()
                self.away = None
            except Unreachable as error:
                self.away = str(error)
            except Exception as error:  # raised where the view is drawn
                self.error = error
                return
            self._wake.wait(max(self.seconds, 4 * (time.monotonic() - began)))
            self._wake.clear()

    def hurry(self) -> None:
        """Read now."""
        self._wake.set()

    def stop(self) -> None:
        self._is_over = True
        self._wake.set()


class Around(NamedTuple):
    """What is read every few seconds."""

    counts: Mapping[State, int] = {}
    waiting: Sequence[Waiting] = ()
    warnings: Sequence[str] = ()
    rates: Mapping[tuple[str, str], float | None] = {}  # (study, machine class) -> dollars an hour
    traces: Mapping[str, Sequence[float]] = {}  # run id -> its loss so far


class Reader:
    """The pictures of the runs of a scope, one after the other; `rows` is how many runs a screen has room for."""

    def __init__(self, settings: Settings, queue: Queue, scope: Scope, title: str):
        self.settings, self.queue, self.scope, self.title = settings, queue, scope, title
        self.rows = 24
        self.is_over = False  # none of the runs goes on by itself
        self.beats = (Beat(self._look, LOOK_SECONDS), Beat(self._rank, RANK_SECONDS))
        self._held, self._at = Held(0, [], {}), time.time()
        self._around, self._looked_around = Around(), -QUEUE_SECONDS
        self._spent: dict[str, Spending] = {}
        self._counted_spending = -STALE_SECONDS
        self._standing: Standing | None = None
        self._ranked: tuple[str, int, float] | None = None  # study, runs finished then, when
        self._peaks: dict[tuple[str, str], Reached] = {}

    def start(self) -> None:
        """Take the first picture, then go on beside the caller. Raises: FarmError."""
        self._look()
        for beat in self.beats:
            beat.start()

    def stop(self) -> None:
        for beat in self.beats:
            beat.stop()

    def hurry(self) -> None:
        """Look at everything anew, now: something was done."""
        self._looked_around = -QUEUE_SECONDS
        for beat in self.beats:
            beat.hurry()

    def picture(self) -> Picture:
        """The newest picture. Raises: what reading it has raised, but for Unreachable, which the picture says."""
        for beat in self.beats:
            if beat.error:
                raise beat.error
        held, around = self._held, self._around
        away = next((beat.away for beat in self.beats if beat.away), None)
        when = time.strftime("%H:%M:%S", time.localtime(self._at))
        return Picture(
            title=self.title,
            at=self._at if away else time.time(),
            counts=around.counts,
            running=[
                bar(
                    one,
                    self._at if away else time.time(),
                    around.rates.get((one.status.study, one.status.run.machine)),
                    around.traces.get(one.status.run.id, ()),
                    self._peaks.get(key_of(one.status.run)),
                )
                for one in held.first
            ],
            running_count=held.total,
            waiting=around.waiting,
            standing=self._standing,
            warnings=[*around.warnings, *(self._standing.warnings if self._standing else ())],
            away=f"Redis is away; this is the picture of {when}, and the view goes on. {away}" if away else None,
        )

    def _look(self) -> None:
        self._held = self.queue.live.training(self.scope, self.rows)
        if time.monotonic() - self._looked_around >= QUEUE_SECONDS:
            self._look_around()
            self._looked_around = time.monotonic()
        self._at = time.time()

    def _look_around(self) -> None:
        if time.monotonic() - self._counted_spending >= STALE_SECONDS:
            self._spent = exhausted(self.settings, self.queue)
            self._counted_spending = time.monotonic()
        held, front = self._held, self.queue.live.front(self.scope, self.rows, self._spent)
        found = outlook_of(self.settings, self.queue, front.first, self._spent, front.ahead)
        flaws = {**held.flaws, **front.flaws}
        self._around = Around(
            counts=self._count(),
            waiting=[Waiting(status, found.why.get(status.run.id, "")) for status in front.first],
            warnings=[f"cannot be read: {flaw}" for flaw in flaws.values()],
            rates=self._rates([one.status for one in held.first]),
            traces={one.status.run.id: self.queue.live.trace(one.status.run.id, SHARES) for one in held.first},
        )
        self.is_over = self._find_end(not front.first or found.is_stuck(front.first))

    def _count(self) -> Mapping[State, int]:
        if self.scope.which == "all":
            return self.queue.listing.counts()
        if self.scope.which == "one":
            return {self.queue.listing.status(self.scope.name).state: 1}
        counted = self.queue.live.tally(self.scope.name)
        return {state: counted.get(state, 0) for state in State}

    def _rates(self, statuses: Sequence[Status]) -> Mapping[tuple[str, str], float | None]:
        """The prices that are known of these runs' machines."""
        known = machines(self.settings, self.queue)
        found: dict[tuple[str, str], float | None] = {}
        for name in {status.study for status in statuses}:
            try:
                study = self.queue.studies.one(name)
            except Unreachable:
                raise
            except FarmError:  # no such study any more, or one that cannot be read: no price, and the run is shown
                continue
            for machine in {status.run.machine for status in statuses if status.study == name}:
                found[name, machine] = price(study, machine, known) or None
        return found

    def _find_end(self, may_be_stuck: bool) -> bool:
        """Whether all runs of the scope are final or wait for a person. `may_be_stuck`: those at the front do."""
        if self.scope.which == "all" or self._held.total or not may_be_stuck:
            return False
        if self.scope.which == "one":
            statuses = [self.queue.listing.status(self.scope.name)]
        else:
            statuses = self.queue.listing.statuses(self.scope.name)
        if any(status.state is State.RUNNING for status in statuses):
            return False
        left = [status for status in statuses if not status.state.is_final]
        return not left or outlook(self.settings, self.queue).is_stuck(left)

    def _rank(self) -> None:
        study = self._study()
        if study is None:
            return
        counted = self.queue.live.tally(study)
        finished, now = counted.get(State.SUCCEEDED, 0), time.monotonic()
        if self._ranked and self._ranked[:2] == (study, finished) and now - self._ranked[2] < STALE_SECONDS:
            return
        try:
            found = ranking(self.queue, study)
        except NotFound:  # it was forgotten meanwhile
            self._standing = None
            return
        rows = [
            {
                "rank": row.rank,
                "label": arm(row),
                "machine": row.machine,
                "seeds": seeds(row.n, row.asked),
                "mean": row.mean,
                "difference": difference(row.model_dump()),
                "verdict": row.verdict,
            }
            for row in found.table.rows
            if row.evaluation == found.table.evaluations[0]  # the study's own; farm table has the others
        ]
        score = "test loss" if found.by == TEST else found.by
        self._standing = Standing(study, finished, sum(counted.values()), rows, score, found.passed.lines)
        self._peaks = peaks([status.result for status in found.statuses if status.result])
        self._ranked = study, finished, now

    def _study(self) -> str | None:
        """The study whose table is shown: of the whole farm, that which queued a run last."""
        if self.scope.which == "all":
            return next(iter(self.queue.listing.studies()), None)
        if self.scope.which == "one":
            return self.queue.listing.status(self.scope.name).study
        return self.scope.name
