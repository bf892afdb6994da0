"""Follow runs until they are final: a bar per running run on a terminal, plain lines elsewhere. All of it on stderr."""

import os
import re
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from cli.render import clean, console, duration, loss
from cli.unread import unread
from farm.queue.listing import Picture
from farm.queue.queue import Queue
from farm.queue.values import Listed, Point, Status
from farm.queue.waiting import SOON, Outlook
from farm.study.run import Run, State

POLL_SECONDS = 1.0
MAX_BARS = 16
TENTHS = 10  # without a terminal, a line for every tenth of a run


def follow(
    queue: Queue,
    fetch: Callable[[], Picture],
    check: Callable[[], None] = lambda: None,
    outlook: Callable[[], Outlook] = Outlook,
) -> Picture:
    """Show the runs that `fetch` gives until all are final, or wait for a person, and return them. `check` is asked at
    every look, and `outlook` while none of the runs trains. Runs that cannot be read are named, and not waited for.

    Raises: whatever `check` raises.
    """
    with (Bars if sys.stderr.isatty() and can_move_cursor() else Lines)(queue) as view:
        while True:
            began = time.monotonic()
            picture = fetch()
            statuses = picture.statuses
            view.pass_over(picture)
            view.update(statuses)
            if all(status.state.is_final for status in statuses):
                return picture
            check()
            if not any(status.state is State.RUNNING for status in statuses):
                found = outlook()
                view.explain(statuses, found.why)
                if found.is_stuck(statuses):
                    return picture
            # A study of thousands takes a while to list: look at most a fifth of the time.
            time.sleep(max(POLL_SECONDS, 4 * (time.monotonic() - began)))


def can_move_cursor() -> bool:
    """Whether the terminal is more than one that prints line after line."""
    return os.environ.get("TERM", "dumb") not in ("dumb", "unknown", "")


def can_be_live() -> bool:
    """Whether a person is at a terminal where a screen can be drawn and keys be answered."""
    return can_move_cursor() and all(stream.isatty() for stream in (sys.stdin, sys.stdout, sys.stderr))


def label(run: Run) -> str:
    """A run's short name for people."""
    rerun = f" rerun {run.rerun}" if run.rerun else ""
    return f"{run.arm} s{run.seeds}{rerun} on {run.machine}"


def finished_line(status: Status) -> str:
    """How a run ended, on one line."""
    name, result = label(status.run), status.result
    if result:
        return f"{status.state}  {name}: test loss {loss(result.test_loss)} after {duration(result.seconds)}"
    last = status.causes[-1] if status.causes else None
    return f"{status.state}  {name}" + (f": {last.cause}: {last.message}" if last else "")


class Lines:
    """A line when a run starts, at every tenth of it, and when it is final."""

    def __init__(self, queue: Queue):
        self.queue = queue
        self.said: dict[str, tuple] = {}
        self.reason = ""
        self.unread: list[str] = []

    def __enter__(self) -> "Lines":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def update(self, statuses: Sequence[Status]) -> None:
        for status in statuses:
            key = self._key(status)
            if self.said.get(status.run.id) != key:
                self.said[status.run.id] = key
                self._say(status)

    def pass_over(self, picture: Picture) -> None:
        """Say which runs cannot be read, whenever that has changed."""
        if (lines := unread(picture).lines) != self.unread:
            self.unread = lines
            for told in lines:
                self.write(told)

    def explain(self, statuses: Sequence[Status], why: Mapping[str, str]) -> None:
        """Say why the first of the runs waits, if the reason has changed in more than its numbers."""
        first = next((status.run for status in statuses if why.get(status.run.id, SOON) != SOON), None)
        if first is None:
            return
        reason = f"queued     {label(first)}: {why[first.id]}"
        if re.sub(r"\d+", "", reason) != re.sub(r"\d+", "", self.reason):
            self.reason = reason
            self.write(reason)

    def _key(self, status: Status) -> tuple:
        """The values whose change is worth a line."""
        if status.state is not State.RUNNING:
            return status.state, status.epoch
        step = newest(self.queue, status).step
        return status.state, status.epoch, step * TENTHS // status.run.recipe.steps

    def _say(self, status: Status) -> None:
        self._say_change(status)
        if status.state is State.RUNNING:
            steps = status.run.recipe.steps
            now = newest(self.queue, status)
            step, shown = now.step, f", {now}" if now.loss is not None else ""
            again = f"attempt {status.epoch}, " if status.epoch > 1 else ""
            self.write(f"running    {label(status.run)}: {again}step {step:,}/{steps:,}{shown}")

    def _say_change(self, status: Status) -> None:
        if status.state.is_final:
            self.write(finished_line(status))
        elif status.state is State.QUEUED and status.causes:
            self.write(f"queued     {label(status.run)}: again, after {status.causes[-1].cause}")

    def write(self, text: str) -> None:
        sys.stderr.write(clean(text) + "\n")
        sys.stderr.flush()


class Bars(Lines):
    """A bar for each running run, one for the whole, and a line above them when a run is final."""

    def __init__(self, queue: Queue):
        super().__init__(queue)
        self.bars: dict[str, Any] = {}
        self.progress = bars()

    def __enter__(self) -> "Bars":
        self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        for bar in self.progress.task_ids:
            self.progress.remove_task(bar)
        self.progress.stop()

    def update(self, statuses: Sequence[Status]) -> None:
        super().update(statuses)
        running = [status for status in statuses if status.state is State.RUNNING]
        for key in self.bars.keys() - {"all", *(status.run.id for status in running[:MAX_BARS])}:
            self.progress.remove_task(self.bars.pop(key))
        for status in running[:MAX_BARS]:
            self._draw(status)
        done = sum(status.state.is_final for status in statuses)
        waiting = len(statuses) - done - len(running)
        self._bar("all", "all", len(statuses), done, f"{len(running)} running, {waiting} queued")

    def _key(self, status: Status) -> tuple:
        return (status.state,)

    def _say(self, status: Status) -> None:
        self._say_change(status)

    def write(self, text: str) -> None:
        self.progress.console.print(clean(text))

    def _draw(self, status: Status) -> None:
        now = newest(self.queue, status)
        self._bar(status.run.id, label(status.run), status.run.recipe.steps, now.step, str(now))

    def _bar(self, key: str, name: str, total: int, done: int, note: str) -> None:
        if key not in self.bars:
            self.bars[key] = self.progress.add_task(name, total=total, note="")
        self.progress.update(self.bars[key], completed=done, note=note)


class Newest(NamedTuple):
    """Where a running run stands, and its losses, as far as they are known."""

    step: int
    loss: float | None = None
    validation_loss: float | None = None

    def __str__(self) -> str:
        """The losses, for people."""
        held_out = "" if self.validation_loss is None else f", validation {loss(self.validation_loss)}"
        return "" if self.loss is None else f"loss {loss(self.loss)}{held_out}"


def newest(queue: Queue, status: Status | Listed) -> Newest:
    """The step that a running run has reached and its losses: the curve is ahead of the heartbeat."""
    last, held_out = queue.live.newest(status.id)
    if last is None:
        return Newest(status.step)
    return Newest(max(status.step, last.step), last.loss, held_out.validation_loss if held_out else None)


def last_validation(curve: Sequence[Point]) -> Point | None:
    """The newest point with a validation loss."""
    return next((point for point in reversed(curve) if point.validation_loss is not None), None)


def bars() -> Any:
    """Bars on stderr that go when they are done; a task has a `note` beside its numbers."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
    from rich.table import Column

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        MofNCompleteColumn(table_column=Column(no_wrap=True)),  # where it is narrow the bar gives way, not the numbers
        TextColumn("{task.fields[note]}", markup=False),
        TimeRemainingColumn(table_column=Column(no_wrap=True)),
    )
    return Progress(*columns, console=console(stderr=True), transient=True)
