"""`farm track RUN|STUDY --to TRACKER`: the curves of runs, from their ledgers to a tracker."""

import io
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, redirect_stdout, suppress
from typing import Annotated

import typer

from cli import render
from cli.access import queue, select, selected
from cli.options import Json, RunOrStudy
from cli.render import Column, Sheet, say
from cli.track.points import Tracked, points
from cli.track.targets import Target, open_target, place
from farm.errors import Conflict, FarmError, Unreachable, first_line
from farm.files import Lock
from farm.queue.queue import Queue
from farm.queue.values import Status
from farm.record.store import Store, open_store
from farm.site.settings import Settings, make_home

LOOK_SECONDS = 5.0
MOST_REST_SECONDS = 300.0  # between two tries at a tracker that is away

COLUMNS = (
    Column("run", "run"),
    Column("tracker", "tracker", render.text),
    Column("new", "new points", render.count, is_number=True),
    Column("step", "up to step", render.count, is_number=True),
    Column("fault", "fault", render.text, is_prose=True),
)
To = Annotated[
    list[str],
    typer.Option(
        "--to",
        metavar="TRACKER",
        help="tensorboard=DIR, mlflow=URI, wandb=PROJECT or trackio=PROJECT; repeatable.",
        show_default=False,
    ),
]
Follow = Annotated[bool, typer.Option("-f", "--follow", help="Follow until the runs are final.")]


def track(name: RunOrStudy, to: To, follow: Follow = False, as_json: Json = False) -> None:
    """Send the curves of runs to TensorBoard, MLflow, Weights & Biases or Trackio.

    Every step of their ledgers: train/loss, val/loss, lr, grad_norm and tokens/s. A step is sent once, so it can be
    repeated, and goes on where it stopped: after a restart or a resume no step is missing, and none is there twice. A
    tracker that is away stops no training; with --follow it is tried again, and its points are sent later.
    """
    settings = Settings.load()
    with ExitStack() as stack:
        targets = [_Feed(stack.enter_context(_alone(settings, word))) for word in dict.fromkeys(to)]
        open_queue = stack.enter_context(queue(settings))
        store = stack.enter_context(open_store(settings.storage))
        found, passed = selected(open_queue, name)
        statuses: Sequence[Status] = found
        stack.enter_context(redirect_stdout(io.StringIO()))  # of libraries that print what they do, URLs included
        for target in targets:
            stack.callback(target.end)
        while True:
            for target in targets:
                target.turn(store, statuses)
            if not follow or all(target.is_done(statuses) for target in targets):
                break
            time.sleep(LOOK_SECONDS)
            statuses = _again(open_queue, name, statuses)
    rows = [row for target in targets for row in target.rows(statuses)]
    render.emit(Sheet("farm.track/1", COLUMNS, rows), as_json=as_json)
    if any(row["fault"] for row in rows):
        raise typer.Exit(Unreachable.exit_code)
    passed.end()


@contextmanager
def _alone(settings: Settings, word: str) -> Iterator[Target]:
    """A tracker that no other command feeds: two would send each point twice.

    Raises: BadSetting, Conflict
    """
    target, folder = open_target(word, settings.home), place(word, settings.home)
    make_home(folder)
    with Lock(folder / "lock") as lock:
        if not lock.try_take():
            raise Conflict(f"another `farm track` sends to {target.name}.", remedy="Let that one go on, or stop it.")
        yield target


def _again(queue: Queue, name: str, before: Sequence[Status]) -> Sequence[Status]:
    """The runs as they stand now; as they stood `before`, where Redis does not say."""
    try:
        return select(queue, name)
    except Unreachable as error:
        say(f"{error}; trying again")
        return before


class _Feed:
    """Sends to one tracker what it does not have yet."""

    def __init__(self, target: Target):
        self.target = target
        self._reached: dict[str, int] = {}
        self._new: dict[str, int] = {}
        self._faults: dict[str, str] = {}
        self._closed: set[str] = set()
        self._tracked: dict[str, Tracked] = {}
        self._rest_seconds, self._rests_until = LOOK_SECONDS, 0.0

    def turn(self, store: Store, statuses: Sequence[Status]) -> None:
        """Send the new points of each run; after a fault that is the tracker's, the others wait for the next turn."""
        if time.monotonic() < self._rests_until:
            return
        for status in statuses:
            if (status.epoch == 0 and not status.result) or status.id in self._closed:
                continue
            try:
                self._feed(store, status)
                self._faults.pop(status.id, None)
                self._rest_seconds = LOOK_SECONDS
            except FarmError as error:  # a ledger that cannot be read
                self._faults[status.id] = str(error)
            except Exception as error:  # whatever the library of a tracker raises
                said = f"{type(error).__name__}: {first_line(error)}"
                self._faults[status.id] = re.sub(r"://[^/\s]*@", "://", said)  # it may repeat a URL with its password
                say(f"{self.target.name}: {status.id}: {self._faults[status.id]}")
                self._rests_until = time.monotonic() + self._rest_seconds
                self._rest_seconds = min(MOST_REST_SECONDS, 2 * self._rest_seconds)
                return

    def _feed(self, store: Store, status: Status) -> None:
        run = self._run(store, status)
        if run.id not in self._reached:
            self._reached[run.id] = self.target.reached(run)
        trained = (status.result and status.result.adopted) or status.id
        found = points(store.copies.lines(trained), run.started, self._reached[run.id])
        if found:
            try:
                self.target.take(run, found)
            except Exception:
                del self._reached[run.id]  # it may have taken some of them
                raise
            self._reached[run.id] = found[-1].step
            self._new[run.id] = self._new.get(run.id, 0) + len(found)
        if status.state.is_final:
            self.target.close(run, status.state)
            self._closed.add(run.id)

    def _run(self, store: Store, status: Status) -> Tracked:
        if status.id not in self._tracked:
            trained = (status.result and status.result.adopted) or status.id
            attempts = store.runs.readable_attempts(trained)[0]
            started = attempts[0].started if attempts else status.submitted
            self._tracked[status.id] = Tracked(status.run, status.study, started)
        return self._tracked[status.id]

    def is_done(self, statuses: Sequence[Status]) -> bool:
        """Whether all runs are final and sent; a ledger that cannot be read will not be better later."""
        return (
            all(
                status.state.is_final and (status.id in self._closed or status.id in self._faults or not status.epoch)
                for status in statuses
            )
            and time.monotonic() >= self._rests_until
        )

    def end(self) -> None:
        """Close what is open still: the runs go on, and so can this."""
        for run in self._tracked.values():
            if run.id not in self._closed:
                with suppress(Exception):  # of a tracker that is away, which was said
                    self.target.close(run, None)

    def rows(self, statuses: Sequence[Status]) -> Iterator[dict[str, object]]:
        for status in statuses:
            yield {
                "run": status.id,
                "tracker": self.target.name,
                "new": self._new.get(status.id, 0),
                "step": self._reached.get(status.id, 0),
                "fault": self._faults.get(status.id),
            }
