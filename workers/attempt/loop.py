"""The code of each Ray worker process of an attempt: it runs model.train and sends its losses home."""

import platform
import threading
import time
from bisect import bisect
from contextlib import AbstractContextManager, nullcontext
from itertools import accumulate
from pathlib import Path
from typing import Any

import ray
import torch
from ray import train as ray_train
from ray.train.torch import get_device

from farm.errors import BadCorpus, FarmError, LeaseLost, WorkerDied
from farm.queue.queue import Queue
from farm.queue.values import Point
from farm.record import energy
from farm.record.ledger import Line
from farm.record.result import Peaks
from farm.record.store import Store
from farm.site.session import session
from farm.site.settings import Settings
from farm.study.processor import cores
from farm.study.run import Checkpoint
from model.assignment import Assignment, Listener, Resume
from model.corpus.checks import items, prepare
from model.group import meet
from model.meter import Signal
from model.train import train
from workers.attempt.curve import point
from workers.attempt.gauges import Gauges
from workers.attempt.meter import Metered, meter
from workers.attempt.pulse import Pulse
from workers.attempt.task import PULSE_FILE, STOP_FILE, Task
from workers.node.gpus import gpus

FLUSH_SECONDS = 1.0
LOOK_SECONDS = 0.2
PRINT_SECONDS = 10.0


def loop(config: dict[str, Any]) -> dict[str, Any]:
    """Train this worker's share of a Task. Rank 0 returns the Outcome."""
    task = _here(Task.model_validate_json(config["task"]))
    torch.set_num_threads(task.threads)
    reporter = _Reporter(task) if ray_train.get_context().get_world_rank() == 0 else None
    try:
        with _meter(task):
            outcome = train(_assignment(task), reporter or Listener())
    finally:
        if reporter:
            reporter.close()
    return outcome.model_dump()


def _assignment(task: Task) -> Assignment:
    resume = Resume(Path(task.resume.checkpoint), task.resume.epoch) if task.resume else None
    return Assignment(
        task.run,
        task.plan,
        Path(task.folder),
        Path(task.cache),
        epoch=task.lease.epoch,
        resume=resume,
        tokens=task.tokens,
        exams=task.exams,
        samples=task.samples,
    )


def _meter(task: Task) -> AbstractContextManager[object]:
    """Reads this node's meter meanwhile, in one worker of each node."""
    around = ray_train.get_context()
    if around.get_local_rank() != 0:
        return nullcontext()
    local = around.get_local_world_size()
    here = gpus()[:local] if get_device().type == "cuda" else ()
    found = meter(here, has_the_node=local * task.threads >= cores())
    return Metered(found, Path(task.folder) / energy.file(around.get_node_rank()))


def _here(task: Task) -> Task:
    """`task` as this node has it. Of a mixed group, each node has its own threads, corpus cache and copy of the
    checkpoint to go on from; one worker of each sees to the last two while the others wait.

    Raises: WorkerDied: Ray gave this rank to another node than its share was made for. BadCorpus: this node has other
    tokens. StorageUnusable
    """
    if not task.places:
        return task
    around, node = ray_train.get_context(), ray.get_runtime_context().get_node_id()
    index = bisect(list(accumulate(place.workers for place in task.places)), around.get_world_rank())
    place = task.places[index]
    if place.node != node:
        raise WorkerDied(f"rank {around.get_world_rank()} has the share of a {place.machine}, but runs on node {node}.")
    task = task.model_copy(update={"threads": place.threads or max(1, cores() // place.workers)})
    if index:
        task = _bring(task, is_first=around.get_local_rank() == 0)
    meet()
    return task


def _bring(task: Task, is_first: bool) -> Task:
    """`task` with the cache and the checkpoint of a node that the agent is not on."""
    here = Settings.load()
    store, cache = Store(here.storage, here.home / "work"), here.home / "cache"
    update: dict[str, object] = {"cache": str(cache)}
    if is_first:
        store.check()
        if (here_too := prepare(task.run.recipe, cache)) != task.tokens:
            trains = here_too.trained != task.tokens.trained
            source = (task.run.recipe.data if trains else task.run.recipe.tested_data).source
            raise _other_tokens(source)
        for exam in task.exams:
            if items(exam.recipe, cache) != exam.items:
                raise _other_tokens(exam.recipe.tested_data.source)
    if task.resume:
        relative = str(Path(task.resume.checkpoint).relative_to(task.folder.removesuffix(task.place)))
        checkpoint = str(store.copies.bring(relative) if is_first else store.root / relative)
        update["resume"] = task.resume.model_copy(update={"checkpoint": checkpoint})
    return task.model_copy(update=update)


def _other_tokens(source: str) -> BadCorpus:
    return BadCorpus(f"{source} has different tokens on {platform.node()} than on the group's first node.")


class _Reporter(Listener):
    """Rank 0's line home: steps and checkpoints out to Redis and Ray's metrics, the agent's word in.

    A thread of its own does the sending, so that training never waits. When Redis is away or full, points and
    checkpoints wait here; they are also in the attempt's folder, which is the record.
    """

    def __init__(self, task: Task):
        self._task = task
        self._stop_file = Path(task.folder) / STOP_FILE
        self._pulse = Pulse(Path(task.folder) / PULSE_FILE)
        self._looked = 0.0
        self._lost = threading.Event()
        self._over = threading.Event()
        self._lock = threading.Lock()
        self._points: list[Point] = []
        self._notes: list[tuple[str, str]] = []
        self._checkpoint: Checkpoint | None = None
        self._newest: Point | None = None
        self._validation_loss: float | None = None  # the newest of this attempt
        self._gauges = Gauges(task.run, task.plan, task.study, get_device())
        self._printed = 0.0
        self._thread = threading.Thread(target=self._send, daemon=True)
        self._thread.start()

    def signal(self) -> Signal:
        """Return what the agent asks of training; looked up a few times a second."""
        if self._lost.is_set():
            return Signal.ABANDON
        if time.monotonic() - self._looked < LOOK_SECONDS:
            return Signal.CONTINUE
        self._looked = time.monotonic()
        try:
            return Signal[self._stop_file.read_text(encoding="utf-8").strip()]
        except FileNotFoundError:
            return Signal.CONTINUE

    def on_peaks(self, peaks: Peaks) -> None:
        self._gauges.peaks = peaks

    def on_step(self, line: Line) -> None:
        if made := point(line, self._task.run.recipe.tokens_per_step):
            with self._lock:
                self._points.append(made)

    def on_saved(self, step: int, path: Path, sha256: str) -> None:
        if self._task.is_mirrored:  # then the agent says so, once it is in the bucket
            return
        place = f"{self._task.place}/{path.relative_to(self._task.folder)}"
        with self._lock:
            self._checkpoint = Checkpoint(step=step, epoch=self._task.lease.epoch, path=place, sha256=sha256)

    def on_scoring(self) -> None:
        self._pulse.beat()

    def on_note(self, event: str, detail: str) -> None:
        print(f"{event}: {detail}")
        with self._lock:
            self._notes.append((event, detail))

    def close(self) -> None:
        self._over.set()
        self._thread.join(timeout=10)

    def _send(self) -> None:
        while not self._lost.is_set():
            try:
                with session(Settings.load()) as redis:
                    return self._pump(Queue(redis))
            except FarmError:
                if self._over.wait(FLUSH_SECONDS):
                    return None
        return None

    def _pump(self, queue: Queue) -> None:
        while not self._lost.is_set():
            last = self._over.wait(FLUSH_SECONDS)
            self._flush(queue)
            if last:
                return

    def _flush(self, queue: Queue) -> None:
        with self._lock:
            points, self._points = self._points, []
            checkpoint, self._checkpoint = self._checkpoint, None
            notes, self._notes = self._notes, []
        if points:
            self._newest = points[-1]
            validated = [point.validation_loss for point in points if point.validation_loss is not None]
            self._validation_loss = validated[-1] if validated else self._validation_loss
            self._print(points[-1])
        if self._newest:
            self._gauges.show(self._newest, self._validation_loss)
        try:
            if points:
                queue.record(self._task.lease, points)
            if checkpoint:
                queue.checkpoint(self._task.lease, checkpoint)
            while notes:
                queue.note(self._task.lease, *notes[0])
                del notes[0]
        except LeaseLost:
            self._lost.set()
        except FarmError:
            with self._lock:
                self._points = points + self._points
                self._checkpoint = self._checkpoint or checkpoint
                self._notes = notes + self._notes

    def _print(self, point: Point) -> None:
        """A line in the log, now and then."""
        if time.monotonic() - self._printed > PRINT_SECONDS:
            self._printed = time.monotonic()
            at = f"step {point.step}/{self._task.run.recipe.steps}"
            held_out = "" if self._validation_loss is None else f"  validation {self._validation_loss:.4f}"
            print(f"{at}  loss {point.loss:.4f}{held_out}  lr {point.lr:.3g}  {point.tokens_per_second:,.0f} tokens/s")
