"""Training, as the work of an agent: from a claimed run to its result on record."""

import secrets
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from farm.errors import (
    FarmError,
    LeaseLost,
    OutOfMemory,
    StorageFull,
)
from farm.queue.values import Status
from farm.record import ledger
from farm.record.folder import Folder
from farm.record.layout import LOG
from farm.record.result import Outcome, Result
from farm.record.score import Score
from farm.study.machine import Machine, Mixed, resource
from farm.study.planner import Plan, Speed, plan
from farm.study.processor import cores
from farm.study.run import Attempt, Checkpoint, Run
from farm.study.study import Study
from farm.verdict.forecast import speeds
from model.corpus.checks import exams_of, prepare
from workers.attempt.closing import LAST_SECONDS, PATIENCE_SECONDS, until_heard
from workers.attempt.curve import complete
from workers.attempt.ending import Barred, Broken, Done, Ending, Failed, Finished, Lost, Stopped
from workers.attempt.group import HOLD_SECONDS, hold, places
from workers.attempt.launch import fit
from workers.attempt.mirror import Mirror
from workers.attempt.outcome import record, result_of
from workers.attempt.post import Post, Unprepared, find_out
from workers.attempt.probing import lower, probe_microbatch
from workers.attempt.resuming import as_before, newest, past
from workers.attempt.task import PULSE_FILE, STOP_FILE, Resuming, Task
from workers.node import hardware


class Training:
    """One attempt at training a run."""

    def __init__(self, post: Post):
        self._post = post
        self._store, self._queue, self._lease = post.store, post.queue, post.lease
        self._cache = post.here.home / "cache"
        self.folder = post.store.attempt_folder(post.lease.run_id, post.lease.epoch)
        self.mirror = Mirror(post.store, post.lease.run_id, post.lease.epoch, self._point_at, post.note)
        self.attempt: Attempt | None = None
        self.resumed = 0  # the step that it goes on from
        self.seen = 0  # as `newest_step` had it last
        self._is_training = False
        self._recording, self._is_closed = threading.Lock(), False

    @property
    def log(self) -> Path:
        """Where what the attempt prints is kept."""
        return self.folder / LOG

    def take_over(self, status: Status) -> None:
        """The run goes on from its newest checkpoint, as far as the queue knows."""
        self.seen = self.resumed = status.checkpoint.step if status.checkpoint else 0

    def occupy(self) -> Barred | None:
        """Have the attempt's folder for this agent alone: nothing that an attempt wrote is written over.

        A directory that holds a later attempt bars this one: its Redis knew less.
        """
        owner = f"{self._post.job} {self._lease.worker} {secrets.token_hex(8)}"
        taken = until_heard(lambda: self._store.runs.occupy(self._lease.run_id, self._lease.epoch, owner))
        if not taken:
            return None
        held = f"its directory holds attempt {taken}, and Redis handed out {self._lease.epoch} again"
        return Barred(held, above=taken)

    def do(self, status: Status) -> Done:
        """Train to the end, and record the result; or to the step where that is asked.

        Raises: FarmError
        """
        try:
            with hold(self._post.also) as is_whole:
                return self._do(status) if is_whole else self._without_group()
        except Unprepared as unprepared:
            return Broken(unprepared.error, "node" if isinstance(unprepared.error, StorageFull) else "corpus")

    def tell(self, is_lost: bool) -> bool:
        """Have training save a checkpoint and end, or just end where its lease is lost. False before the first step:
        then there is nothing to save, and no listener yet."""
        with suppress(OSError):
            if self.step() is None:
                return False
        self._say("ABANDON" if is_lost else "STOP")
        return True

    def _say(self, word: str) -> None:
        try:
            here = (
                Folder(self._store.root) if self._store.bucket else self._store.records
            )  # which makes no lost storage anew
            place = self.folder.relative_to(self._store.root)
            here.put(f"{place}/{STOP_FILE}", word.encode())  # whole: half a word would end training with an error
        except (FarmError, OSError) as error:
            print(f"Training could not be told to stop: {error}")

    def sign(self) -> object | None:
        """Changes while training, or the evaluation after it, advances. None before the first step, when getting ready
        takes what it takes, and after the last, when a slow line is waited for."""
        step = self.step() if self._is_training else None
        pulse = self.folder / PULSE_FILE
        return None if step is None else (step, pulse.stat().st_mtime if pulse.exists() else 0.0)

    def newest_step(self) -> int:
        """The newest step that the run has got to under this lease: one that it resumed from counts."""
        self.seen = self.step() or self.resumed
        return self.seen

    def step(self) -> int | None:
        """The newest step in this attempt's ledger, or None before the first."""
        return ledger.last_step(self.folder / ledger.FILE)

    def settle(self, seconds: float, is_urgent: bool) -> None:
        """See to it that all that this attempt wrote is in the storage, trying for so long; if it is urgent, for no
        longer."""
        self._is_settled(seconds, is_urgent)

    def record(self, end: Ending) -> None:
        """Leave in the run directory how the attempt has ended, if it had begun."""
        with self._recording:  # it may begin at this moment
            self._is_closed = True
        if self.attempt:
            self._store.runs.end(self.attempt.model_copy(update=_last_words(end) | {"step": self.step()}))

    def withdraw(self) -> None:
        """Record that the run was cancelled under this lease: a result of it does not count (Q8)."""
        self._store.runs.withdraw(self._lease.run_id, self._lease.epoch)

    def deliver(self, product: Result | Score) -> str:
        """Give the queue the result, and the scores beside it. Returns a sentence about it.

        Raises: LeaseLost, Cancelled, Conflict
        """
        assert isinstance(product, Result)
        scores, unread = self._store.scores.of(product.run_id)
        for what in unread:
            print(f"Not told: {what}")
        self._queue.finish(self._lease, product, scores)
        return f"test loss {product.test_loss:.6f} nats per token."

    def complete(self, source: Checkpoint | None = None) -> None:
        """Send what of the ledger's steps never reached Redis, which was full or away when training ended: all of them,
        or those up to the checkpoint that this attempt goes on from."""
        with suppress(FarmError, OSError):  # a curve is only to be looked at: the ledger is the record
            run = self._store.runs.run(self._lease.run_id)
            ledgers = self._store.copies.ledgers(run.id)
            lines = ledgers.until(source.epoch, source.step) if source else ledgers.newest()
            complete(self._queue, self._lease, lines, run.recipe.tokens_per_step)

    def leave(self) -> None:
        """Send the end of the log after the rest, and remove the copies here of what is in the bucket now.

        Unless the run goes on: its next attempt may be here already, and have brought the same files.
        """
        with suppress(FarmError):
            is_settled = self._is_settled(LAST_SECONDS, bool(self._post.asks.asked))
            if is_settled and self._queue.listing.status(self._lease.run_id).state.is_final:
                self._store.copies.forget(self._lease.run_id, self._lease.epoch)

    def _without_group(self) -> Barred:
        """The group is not complete, which is no fault of the run."""
        missing = ", ".join(f"{resource(other.machine)} on Ray node {other.node[:8]}" for other in self._post.also)
        return Barred(f"no free unit of {missing} within {HOLD_SECONDS:g} s")

    def _do(self, status: Status) -> Done:
        run, study = status.run, status.study
        if result := self._store.runs.result(run.id):
            print("An earlier attempt saved the result but could not report it.")
            return Finished(result)
        stored = until_heard(lambda: self._queue.studies.one(study))
        self._store.studies.keep(stored)
        machine = stored.machine(run.machine, until_heard(lambda: self._queue.roster.classes(self._post.here.machines)))
        machine = probe_microbatch(self._queue, machine, run.recipe, lambda: bool(self._post.asks.asked))
        split = plan(run.recipe, machine, self._speeds(run, machine))
        before = past(self._post, run)
        source = newest(self._post, status, split, before)
        self.resumed = source.step if source else 0
        split = as_before(status, source, split, before, machine)
        attempt = self._begin(run, study, machine, split, source)
        task = self._task(run, stored, split, attempt, machine)
        with self.mirror, self._watch():
            outcome = _fit(self._post, task, machine)
        return Finished(self._record(run, split, machine, attempt, outcome)) if outcome.finished else Stopped()

    def _begin(self, run: Run, study: str, machine: Machine, split: Plan, source: Checkpoint | None) -> Attempt:
        """The attempt, on record from now on."""
        attempt = Attempt(
            run_id=run.id,
            epoch=self._lease.epoch,
            worker=self._lease.worker,
            plan=split.model_dump(mode="json"),
            hardware=hardware.hardware(machine, _threads(machine)).model_dump(mode="json"),
            provenance=hardware.provenance().model_dump(mode="json"),
            resumed_from=source,
            started=time.time(),
        )
        with self._recording:
            if self._is_closed:
                raise FarmError("The attempt was closed before it began.")
            self._store.runs.begin(run, attempt, study)
            self.attempt = attempt
        if source:
            self.complete(source)
        print(f"{run.id} attempt {attempt.epoch}: {split} sequences a step on {machine.name}, {run.recipe.steps} steps")
        return attempt

    def _record(self, run: Run, split: Plan, machine: Machine, attempt: Attempt, outcome: Outcome) -> Result:
        """The result as the run directory has it, once all that it refers to is there too. An attempt that had lost
        its lease may have recorded first."""
        self.mirror.settle(PATIENCE_SECONDS)
        made = until_heard(lambda: result_of(self._store, run, split, machine, attempt, outcome))
        return until_heard(lambda: record(self._store, made, outcome))

    def _speeds(self, run: Run, machine: Machine) -> dict[str, Speed]:
        """How fast the classes of a mixed group are, as far as what finished there tells."""
        if not isinstance(machine, Mixed):
            return {}
        statuses = until_heard(self._queue.listing.statuses)
        return speeds(run.recipe, machine, [status.result for status in statuses if status.result])

    def _task(self, run: Run, study: Study, split: Plan, attempt: Attempt, machine: Machine) -> Task:
        source = attempt.resumed_from
        print(f"Resuming from step {source.step} of attempt {source.epoch}." if source else "Starting at step 0.")
        tokens = find_out(lambda: prepare(run.recipe, self._cache))
        exams = find_out(lambda: exams_of(run.recipe, study.evaluations, self._cache))
        return Task(
            run=run,
            study=study.study.name,
            plan=split,
            lease=self._lease,
            folder=str(self.folder),
            place=str(self.folder.relative_to(self._store.root)),
            cache=str(self._cache),
            resume=Resuming(checkpoint=str(self._store.root / source.path), epoch=source.epoch) if source else None,
            tokens=tokens,
            exams=exams,
            samples=study.samples,
            threads=_threads(machine),
            places=places(machine, self._post.node, self._post.also),
            is_mirrored=self._store.bucket is not None,
        )

    def _is_settled(self, seconds: float, is_urgent: bool) -> bool:
        try:
            (self.mirror.settle_within if is_urgent else self.mirror.settle)(seconds)
        except FarmError as error:
            print(f"Some of {self.folder} exists only on this node: {error}")
            return False
        return True

    @contextmanager
    def _watch(self) -> Iterator[None]:
        """While the block runs, training that stands still is given up."""
        self._is_training = True
        try:
            yield
        finally:
            self._is_training = False

    def _point_at(self, checkpoint: Checkpoint) -> None:
        with suppress(LeaseLost):
            self._queue.checkpoint(self._lease, checkpoint)


def _fit(post: Post, task: Task, machine: Machine) -> Outcome:
    """Train `task` through Ray. Where its microbatch runs out of memory, the next plan has a smaller one."""
    try:
        return fit(task, machine, post.node, str(Path(task.folder) / "ray"), post.job)
    except OutOfMemory:
        until_heard(lambda: lower(post.queue, machine, task.run.recipe, task.plan.microbatch))
        raise


def _last_words(end: Ending) -> dict[str, object]:
    """The fields of an attempt's record that tell of its end."""
    error = end.why if isinstance(end, Lost) and end.why else end.error
    return {
        "outcome": end.outcome,
        "ended": time.time(),
        "cause": error and error.cause,
        "message": error and str(error),
        "retryable": error.retryable if isinstance(end, Failed) and error else None,
    }


def _threads(machine: Machine) -> int:
    """torch threads of a worker; in a mixed group, of those that the leader has."""
    leader = machine.parts[0] if isinstance(machine, Mixed) else machine
    return leader.threads or max(1, cores() // leader.accelerators)
