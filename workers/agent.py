"""The Ray job of one attempt: lease -> plan -> fit -> record -> finish. It runs on the node that trains.

The dispatcher opened the lease; the agent closes it, whatever happens: finish, fail, release, or cancelled. If it
dies before that, the lease runs out and the queue hands the run to another.
"""

import argparse
import logging
import os
import platform
import secrets
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import TypeVar

import ray
from redis import Redis

from farm import ledger, settings
from farm.errors import (
    BadCorpus,
    Cancelled,
    CheckpointInvalid,
    FarmError,
    Hung,
    LeaseLost,
    StorageFull,
    StorageUnusable,
    Unreachable,
    WorkerDied,
    first_line,
)
from farm.folder import Folder
from farm.forecast import speeds
from farm.machine import MIXED, Machine, Mixed
from farm.planner import Plan, Speed, continued, plan
from farm.queue import Queue, Status
from farm.recipe import FurtherEvaluation
from farm.result import Outcome
from farm.run import Attempt, Checkpoint, Lease, Run
from farm.server import session
from farm.settings import Settings
from farm.store import LOG, Store
from model.checkpoint import valid
from model.corpus.checks import exams_of, prepare
from workers import hardware
from workers.closing import LAST_SECONDS, PATIENCE_SECONDS, Closing, briefly, result_of, until_heard
from workers.curve import complete
from workers.environment import STOP_WAIT_SECONDS, stand_apart
from workers.group import HOLD_SECONDS, Also, held, places
from workers.heartbeat import keep
from workers.launch import fit
from workers.mirror import Mirror
from workers.probing import probed
from workers.scores import scores_of
from workers.task import PULSE_FILE, STOP_FILE, Place, Task
from workers.transcript import copied_to

Fetched = TypeVar("Fetched")
NETWORK_SECONDS = 30.0  # for a network that is away for a moment, before the corpus is given up
REST_SECONDS = 120.0  # of a node whose storage cannot be used: then it is tried again
STOP_SECONDS = STOP_WAIT_SECONDS - 15.0  # from being told to stop: for a checkpoint, and then to close the lease


def main() -> int:
    """Serve the lease named on the command line. Exit code 0 unless the attempt failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    for flag in ("--run", "--worker", "--job", "--node"):
        parser.add_argument(flag, required=True)
    parser.add_argument("--epoch", type=int, required=True)
    parser.add_argument("--also", type=Also.read, action="append", default=[], help="CLASS@NODE@CPUS of a mixed group")
    words = parser.parse_args()
    told = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: told.set())
    here = settings.load()
    stand_apart(here.home)
    try:
        ray.init(logging_level=logging.WARNING)
    except SystemExit:  # of the handler that Ray has set meanwhile
        told.set()
    signal.signal(signal.SIGTERM, lambda *_: told.set())
    lease = Lease(run_id=words.run, epoch=words.epoch, deadline=0.0, worker=words.worker)
    with opened(here) as redis:
        return _Agent(here, Queue(redis), lease, words.job, words.node, told, words.also).serve()


@contextmanager
def opened(here: Settings) -> Iterator[Redis]:
    """A session with Redis, waited for: a node that is cut off from it would spend the run's attempts one by one.

    Raises: Unreachable: it stayed away. Refused, BadSetting
    """
    with ExitStack() as stack:
        yield until_heard(lambda: stack.enter_context(session(here)))


class _Agent:
    """One attempt, from a lease to its end."""

    def __init__(
        self,
        here: Settings,
        queue: Queue,
        lease: Lease,
        job: str,
        node: str,
        told: threading.Event | None = None,
        also: Sequence[Also] = (),
    ):
        """`told` is set once somebody has asked this process to stop. `also`: the other places of a mixed group."""
        self.queue, self.lease = queue, lease
        self.store = Store(here.storage, here.home / "work")
        self.cache = here.home / "cache"
        self.known = here.machines
        self.job, self.node, self.also = job, node, also
        self.folder = self.store.attempt_folder(lease.run_id, lease.epoch)
        self.closing = Closing(queue, self.store, lease)
        self.mirror = Mirror(self.store, lease.run_id, lease.epoch, self._point_at, self._note)
        self.end: FarmError | None = None  # why training must stop before its last step
        self.unprepared: FarmError | None = None  # why the corpus will not do, or cannot be had
        self.draining = told or threading.Event()
        self.stopping = threading.Event()  # for one reason or the other
        self.attempt: Attempt | None = None  # as it began
        self.resumed = 0  # the step that it goes on from
        self.is_training = False

    def serve(self) -> int:
        """Train under the lease and close it."""
        threading.Thread(target=self._outlast, daemon=True).start()
        signal.signal(signal.SIGTERM, lambda *_: self._drain())  # first: whoever hears of the job may stop it
        if self.draining.is_set():
            self._give_up()
            return 0
        try:
            status = self._take_over()
        except LeaseLost as lost:
            print(f"Nothing to do: {lost}")
            return 0
        except Cancelled:
            self.closing.acknowledge()
            return 0
        try:
            self._check_same()  # first: the check would make a folder where the storage is not mounted
            self.store.check()
            taken = self._occupy()
            self.store.forget_stale_copies()
        except (StorageUnusable, StorageFull) as error:
            return self._refuse(error)
        except FarmError as error:
            return self._fail(error)
        if taken:
            return self._make_way(taken)
        with copied_to(self.folder / LOG), self._heart(status.run):
            code = self._closed(status.run, status.study)
        self._leave()
        return code

    def _take_over(self) -> Status:
        """The first renewal, which says who trains where; and the run as it stood before.

        Raises: LeaseLost, Cancelled
        """
        nodes = MIXED.join([self.node, *(other.node for other in self.also)])
        status = until_heard(lambda: self.queue.status(self.lease.run_id))
        self.resumed = status.checkpoint.step if status.checkpoint else 0
        self.lease = until_heard(lambda: self.queue.renew(self.lease, self.resumed, job=self.job, node=nodes))
        return status

    def _occupy(self) -> int:
        """0, or the epoch in the run directory that bars this one: nothing that an attempt wrote is written over."""
        owner = f"{self.job} {self.lease.worker} {secrets.token_hex(8)}"
        return until_heard(lambda: self.store.occupy(self.lease.run_id, self.lease.epoch, owner))

    def _make_way(self, taken: int) -> int:
        """The run goes back unharmed and begins again above what its directory holds: its Redis knew less."""
        reason = f"its directory holds attempt {taken}, and Redis handed out {self.lease.epoch} again"
        print(f"Given back: {reason}.")
        with suppress(LeaseLost):
            self.closing.release(reason, above=taken)
        return 0

    def _refuse(self, error: FarmError) -> int:
        """The fault is this node's: the run goes back unharmed, and none starts here for a while. Otherwise a node with
        a full disk, which is free again at once, would spend the attempts of every run that waits."""
        reason = f"on {platform.node()} {error}"
        print(f"Given back: {reason}")
        with suppress(LeaseLost):
            until_heard(lambda: self.queue.rest(self.node, reason, REST_SECONDS))
            self.closing.release(reason)
        return 1

    def _check_same(self) -> None:
        """Make sure that the storage is the farm's: a folder where nothing is mounted can be written, too.

        Raises: StorageUnusable
        """
        head = until_heard(self.queue.head)
        if head and self.store.marker() != head.marker:
            raise StorageUnusable(
                f"{self.store.uri} on this node is not the farm's storage, {head.storage} on {head.host}.",
                remedy="Mount that, or let FARM_STORAGE name it, as on the head.",
            )

    def _closed(self, run: Run, study: str) -> int:
        """The attempt, whatever becomes of it."""
        try:
            with held(self.also) as is_whole:
                return self._attempt(run, study) if is_whole else self._give_back()
        except FarmError as error:
            return self._fail(error)
        except Exception as error:
            traceback.print_exc()
            return self._fail(WorkerDied(f"{type(error).__name__}: {first_line(error)}"))

    def _leave(self) -> None:
        """Send the end of the log after the rest, and remove the copies here of what is in the bucket now.

        Unless the run goes on: its next attempt may be here already, and have brought the same files.
        """
        with suppress(FarmError):
            if self._is_settled(LAST_SECONDS) and self.queue.status(self.lease.run_id).state.is_final:
                self.store.forget_copies(self.lease.run_id, self.lease.epoch)

    def _give_back(self) -> int:
        """The group is not complete, which is no fault of the run."""
        missing = ", ".join(f"farm:{other.machine} on Ray node {other.node[:8]}" for other in self.also)
        reason = f"no free unit of {missing} within {HOLD_SECONDS:g} s"
        print(f"Given back: {reason}.")
        if isinstance(self.end, Cancelled):
            self.closing.acknowledge()
        elif self.end is None:
            self.closing.release(reason)
        return 0

    def _attempt(self, run: Run, study: str) -> int:
        if result := self.store.result(run.id):
            print("An earlier attempt saved the result but could not report it.")
            self.closing.finish(result)
            return 0
        stored = until_heard(lambda: self.queue.study(study))
        self.store.keep(stored)
        machine = stored.machine(run.machine, until_heard(lambda: self.queue.classes(self.known)))
        machine = probed(self.queue, machine, run.recipe, lambda: self.draining.is_set() or self.end is not None)
        split = plan(run.recipe, machine, self._speeds(run, machine))
        source = self._newest(run, split)
        self.resumed = source.step if source else 0
        split = self._continued(source, split, machine)
        leader = machine.parts[0] if isinstance(machine, Mixed) else machine
        threads = leader.threads or max(1, hardware.cores() // leader.accelerators)
        attempt = Attempt(
            run_id=run.id,
            epoch=self.lease.epoch,
            worker=self.lease.worker,
            plan=split.model_dump(mode="json"),
            hardware=hardware.hardware(machine, threads).model_dump(mode="json"),
            provenance=hardware.provenance().model_dump(mode="json"),
            resumed_from=source,
            started=time.time(),
        )
        self.store.begin(run, attempt, study)
        self.attempt = attempt
        if source:
            self._complete_curve(run, source)
        print(f"{run.id} attempt {attempt.epoch}: {split} sequences a step on {machine.name}, {run.recipe.steps} steps")
        try:
            group = places(machine, self.node, self.also)
            task = self._task(run, study, split, attempt, threads, group, stored.evaluations)
            with self.mirror, self._watched():
                outcome = fit(task, machine, self.node, str(self.folder / "ray"), self.job)
        except BaseException as error:
            self._is_settled(LAST_SECONDS)
            self._end(attempt, "released" if self._is_excused(error) else "failed", error)
            raise
        return self._close(run, split, machine, attempt, outcome)

    def _speeds(self, run: Run, machine: Machine) -> dict[str, Speed]:
        """How fast the classes of a mixed group are, as far as what finished there tells."""
        if not isinstance(machine, Mixed):
            return {}
        statuses = until_heard(self.queue.statuses)
        return speeds(run.recipe, machine, [status.result for status in statuses if status.result])

    def _task(
        self,
        run: Run,
        study: str,
        split: Plan,
        attempt: Attempt,
        threads: int,
        group: tuple[Place, ...],
        evaluations: Mapping[str, FurtherEvaluation],
    ) -> Task:
        source = attempt.resumed_from
        print(f"Resuming from step {source.step} of attempt {source.epoch}." if source else "Starting at step 0.")
        tokens = self._fetched(lambda: prepare(run.recipe, self.cache))
        exams = self._fetched(lambda: exams_of(run.recipe, evaluations, self.cache))
        return Task(
            run=run,
            study=study,
            plan=split,
            lease=self.lease,
            folder=str(self.folder),
            place=str(self.folder.relative_to(self.store.root)),
            cache=str(self.cache),
            resume=str(self.store.root / source.path) if source else None,
            resume_epoch=source.epoch if source else None,
            tokens=tokens,
            exams=exams,
            threads=threads,
            places=group,
            is_mirrored=self.store.bucket is not None,
        )

    def _fetched(self, fetch: Callable[[], Fetched]) -> Fetched:
        """Which tokens the run reads.

        Raises: BadCorpus, Unreachable, StorageUnusable, StorageFull: as `unprepared` has it from now on.
        """
        deadline = time.monotonic() + NETWORK_SECONDS
        while True:
            try:
                return fetch()
            except (BadCorpus, StorageUnusable, StorageFull) as error:
                self.unprepared = error
                raise
            except Unreachable as error:
                if time.monotonic() > deadline:
                    self.unprepared = error
                    raise
                print(f"Trying again: {error}")
                time.sleep(NETWORK_SECONDS / 6)

    def _pause(self, error: FarmError) -> None:
        """What is wrong would hurt every run that reads this corpus: this one goes back unharmed and none starts until
        somebody has mended it; or none on this node, where another proves at this moment that the corpus will do. For a
        mixed group units are kept free, which it could not use: it is paused everywhere."""
        own = until_heard(lambda: self.queue.status(self.lease.run_id))
        elsewhere = [
            other for other in until_heard(self.queue.running) if self.node not in other.nodes and _steps(other)
        ]
        is_good = any(other.run.recipe.corpus == own.run.recipe.corpus for other in elsewhere)
        reason = f"{error.cause}: {str(error).rstrip('.')} (on {platform.node()})"
        node = self.node if is_good and not self.also else None
        print(f"Paused{' on this node' if node else ''}: {reason}")
        self.closing.pause(reason, node)

    def _newest(self, run: Run, split: Plan) -> Checkpoint | None:
        """The newest checkpoint of any attempt that can be gone on from: it is whole, it belongs to this run, there is
        a ledger of every step up to it and the record of its attempt. What is passed over is said, and why."""
        ledgers: ledger.Ledgers | None = None
        attempts, unread = self.store.readable_attempts(run.id)
        for reason in unread:
            self._note("attempt-invalid", f"{reason} What that attempt took is not counted.")
        expected = until_heard(lambda: self.queue.status(run.id)).checkpoint
        passed = set()
        for step, epoch, name in self.store.saved(run.id):
            try:
                saved = valid(self.store.brought(name), run, split)
                if saved.step != step:
                    raise CheckpointInvalid(f"{name} is of step {saved.step}.")
                if not any(past.epoch == epoch for past in attempts):
                    raise CheckpointInvalid(f"attempt {epoch} has no record that can be read.")
                ledgers = ledgers or self.store.ledgers(run.id)  # after the first: none is ahead of its ledger
                ledgers.until(epoch, step)
            except CheckpointInvalid as invalid:
                self._note("checkpoint-invalid", f"{name} is passed over: {invalid}")
                passed.add(name)
                continue
            self._say_lost(expected, passed, step)
            if beyond := ledgers.beyond(epoch):
                self._note("ledger-cut", f"{beyond}. What is behind step {step} there does not count.")
            return Checkpoint(step=step, epoch=epoch, path=name, sha256=saved.sha256)
        self._say_lost(expected, passed, 0)
        return None

    def _say_lost(self, expected: Checkpoint | None, passed: set[str], step: int) -> None:
        """Say so where the checkpoint that the queue points at is not there any more."""
        if expected and expected.step > step and expected.path not in passed:
            self._note("checkpoint-invalid", f"{expected.path} is gone: going on from step {step}")

    def _continued(self, source: Checkpoint | None, split: Plan, machine: Machine) -> Plan:
        """`split`, or the plan of the attempt that this one goes on from."""
        for past in self.store.readable_attempts(self.lease.run_id)[0]:
            if source and past.epoch == source.epoch:
                return continued(Plan.model_validate(past.plan), split, machine)
        return split

    def _close(self, run: Run, split: Plan, machine: Machine, attempt: Attempt, outcome: Outcome) -> int:
        """Say what became of the attempt: to the run directory first, then to the queue."""
        if outcome.finished:
            self.mirror.settle(PATIENCE_SECONDS)
            made = until_heard(lambda: result_of(self.store, run, split, machine, attempt, outcome))
            result = until_heard(lambda: self.closing.record(made, scores_of(made, outcome)))
            self._end(attempt, "succeeded")
            self._complete_curve(run)
            if not self.closing.finish(result):
                self._end(attempt, "cancelled")
        elif isinstance(self.end, Cancelled):
            self._is_settled(LAST_SECONDS)
            self._end(attempt, "cancelled")
            self._complete_curve(run)
            self.closing.acknowledge()
            print(f"Cancelled at step {outcome.step}.")
        elif self.end is None and self.draining.is_set():
            self._is_settled(LAST_SECONDS)
            self._end(attempt, "released")
            self._complete_curve(run)
            reason = self.closing.release("drained")
            print(f"Given back: {reason}. Step {outcome.step} is saved and the run is queued again.")
        else:
            self._end(attempt, "lost", self.end)
            print(f"Stopped at step {outcome.step}: {self.end or 'the lease is gone'}")
        return 0

    def _complete_curve(self, run: Run, source: Checkpoint | None = None) -> None:
        """Send what of the ledger's steps never reached Redis, which was full or away when training ended: all of them,
        or those up to the checkpoint that this attempt goes on from."""
        with suppress(FarmError, OSError):  # a curve is only to be looked at: the ledger is the record
            ledgers = self.store.ledgers(run.id)
            lines = ledgers.until(source.epoch, source.step) if source else ledgers.newest()
            complete(self.queue, self.lease, lines, run.recipe.tokens_per_step)

    def _end(self, attempt: Attempt, outcome: str, error: BaseException | None = None) -> None:
        self.closing.end(attempt, outcome, self._step(), error)

    def _end_briefly(self, attempt: Attempt, outcome: str, error: BaseException | None = None) -> None:
        """As `_end`, but no longer than LAST_SECONDS: it may be the storage that hangs."""
        briefly(lambda: self._end(attempt, outcome, error), LAST_SECONDS)

    def _is_settled(self, seconds: float) -> bool:
        """Whether all that this attempt wrote is in the storage, after trying for a while; once told to stop, no longer
        than that."""
        is_urgent = self.draining.is_set() or self.end is not None
        try:
            (self.mirror.settle_within if is_urgent else self.mirror.settle)(seconds)
        except FarmError as error:
            print(f"Some of {self.folder} is on this node only: {error}")
            return False
        return True

    def _note(self, event: str, detail: str) -> None:
        """Say something about this attempt, in its log and among its events if Redis hears it."""
        print(f"{event}: {detail}")
        with suppress(FarmError):
            self.queue.note(self.lease, event, detail)

    def _point_at(self, checkpoint: Checkpoint) -> None:
        with suppress(LeaseLost):
            self.queue.checkpoint(self.lease, checkpoint)

    def _fail(self, error: FarmError) -> int:
        print(f"Failed: {error}")
        try:
            if isinstance(self.end, Cancelled):
                self.closing.acknowledge()
            elif self._was_killed(error):
                self._give_up()
            elif error is self.unprepared:
                self._refuse(error) if isinstance(error, StorageFull) else self._pause(error)
            elif not isinstance(self.end, LeaseLost):
                self.closing.fail(error, self._reached())
        except LeaseLost as lost:
            print(lost)
        return 1

    def _is_excused(self, error: BaseException) -> bool:
        """Whether the attempt does not count: for want of its corpus it never began, or its machine goes down."""
        return error is self.unprepared or self._was_killed(error)

    def _was_killed(self, error: BaseException) -> bool:
        """Whether a drain explains it: a machine that goes down may kill workers before it stops the agent."""
        return self.draining.is_set() and (not isinstance(error, FarmError) or error.retryable)

    @contextmanager
    def _heart(self, run: Run) -> Iterator[None]:
        with keep(self.queue, self.lease, self._reached, self._sign, run.policy.hang_seconds, self._stop):
            yield

    @contextmanager
    def _watched(self) -> Iterator[None]:
        """While the block runs, training that stands still is given up; afterwards a slow line is waited for."""
        self.is_training = True
        try:
            yield
        finally:
            self.is_training = False

    def _sign(self) -> object | None:
        """Changes while training, or the evaluation after it, advances. None before the first step: getting ready takes
        what it takes."""
        step = self._step() if self.is_training else None
        pulse = self.folder / PULSE_FILE
        return None if step is None else (step, pulse.stat().st_mtime if pulse.exists() else 0.0)

    def _reached(self) -> int:
        """The newest step that the run has got to under this lease: one that it resumed from counts."""
        return self._step() or self.resumed

    def _step(self) -> int | None:
        """The newest step in this attempt's ledger, or None before the first."""
        return ledger.last_step(self.folder / ledger.FILE)

    def _stop(self, end: FarmError) -> None:
        """The lease must not be used any longer: tell training, or end it where it cannot listen."""
        self.end = end
        if isinstance(end, Hung):
            self._fail(end)
            if self.attempt:
                self._end_briefly(self.attempt, "released" if self._is_excused(end) else "failed", end)
            sys.stdout.flush()
            os._exit(1)  # Ray ends the workers of a driver that is gone
        self.stopping.set()

    def _drain(self) -> None:
        """What SIGTERM does. Ray sends SIGKILL after it, when STOP_WAIT_SECONDS are over."""
        self.draining.set()
        self.stopping.set()

    def _outlast(self) -> None:
        """Tell training to stop once that is asked, and end this process if it takes too long to, or has no step to
        save yet: a lease that ran out instead would cost the run an attempt. In a thread, since a storage may block it.
        """
        self.stopping.wait()
        if has_begun := self._step() is not None:
            self._tell("ABANDON" if isinstance(self.end, LeaseLost) else "STOP")
            time.sleep(STOP_SECONDS)
        print(f"Stopped {'though it had not ended' if has_begun else 'before it began'}: what is saved stays.")
        sys.stdout.flush()
        if self._give_up() and self.attempt:
            self._end_briefly(self.attempt, "cancelled" if isinstance(self.end, Cancelled) else "released")
        os._exit(0)  # Ray ends the workers of a driver that is gone

    def _tell(self, word: str) -> None:
        try:
            here = (
                Folder(self.store.root) if self.store.bucket else self.store.records
            )  # which makes no lost storage anew
            place = self.folder.relative_to(self.store.root)
            here.put(f"{place}/{STOP_FILE}", word.encode())  # whole: half a word would end training with an error
        except (FarmError, OSError) as error:
            print(f"Training could not be told to stop: {error}")

    def _give_up(self) -> bool:
        """Close the lease and leave the run as it is, cancelled or queued again. False if it was closed already."""
        try:
            if isinstance(self.end, Cancelled):
                self.closing.acknowledge()
            else:
                self.closing.release("drained")
        except LeaseLost:
            return False
        return True


def _steps(status: Status) -> bool:
    """Whether a running run has done a step under its lease: one that resumes begins at its checkpoint's."""
    return status.job is not None and status.step > (status.checkpoint.step if status.checkpoint else 0)


def _exit(code: int) -> None:
    """End this process without taking it apart first: that takes 1.5 s, for which the next run waits."""
    ray.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    _exit(main())
