"""How an attempt ends: first its record in the run directory, then the word to the queue that closes the lease."""

import threading
import time
from collections.abc import Callable
from typing import TypeVar

from farm import energy, ledger
from farm.errors import (
    Cancelled,
    CheckpointInvalid,
    Conflict,
    FarmError,
    StorageFull,
    StorageUnusable,
    Unreachable,
    WorkerDied,
)
from farm.machine import Machine, parts
from farm.planner import Plan
from farm.queue import Queue
from farm.result import Outcome, Provenance, Result
from farm.run import Attempt, Lease, Run, State
from farm.store import Store
from workers import hardware

PATIENCE_SECONDS = 600.0  # with a Redis or a storage that is away
LAST_SECONDS = 20.0  # with a storage, where a drain may wait for it, or little is lost
Said = TypeVar("Said")


def until_heard(say: Callable[[], Said]) -> Said:
    """Say it until Redis, or the storage, hears it: a run that is done is not trained again for that.

    Raises: what `say` raises; Unreachable, StorageUnusable and StorageFull only after PATIENCE_SECONDS.
    """
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            return say()
        except (Unreachable, StorageUnusable, StorageFull):
            if time.monotonic() > deadline:
                raise
            time.sleep(1.0)


def briefly(do: Callable[[], object], seconds: float) -> None:
    """Do it, for no longer than `seconds`: a storage may hang, and it goes on by itself."""
    doing = threading.Thread(target=do, daemon=True)
    doing.start()
    doing.join(seconds)


class Closing:
    """The last words of the attempt that holds `lease`. Every one may raise LeaseLost."""

    def __init__(self, queue: Queue, store: Store, lease: Lease):
        self._queue, self._store, self._lease = queue, store, lease

    def finish(self, result: Result) -> bool:
        """The run has succeeded. False: it was cancelled in the meantime, and its result is withdrawn (Q8)."""
        try:
            until_heard(lambda: self._queue.finish(self._lease, result))
        except Cancelled:
            until_heard(lambda: self._store.withdraw(result.run_id, self._lease.epoch))
            self.cancel()
            print("Cancelled before the farm knew of the result, which is withdrawn.")
            return False
        print(f"Finished: test loss {result.test_loss:.6f} nats per token.")
        return True

    def fail(self, error: FarmError, step: int) -> None:
        """The attempt has failed at `step`."""
        what = (error.cause, str(error), step, error.retryable)
        state: State = until_heard(lambda: self._queue.fail(self._lease, *what))
        print(f"The run is {state}.")

    def release(self, reason: str, above: int = 0) -> str:
        """The run goes back unharmed. Returns why: for `reason`, unless its lease was recalled for another.

        `above`: an epoch that its directory holds.
        """
        return until_heard(lambda: self._queue.release(self._lease, reason, above))

    def pause(self, reason: str, node: str | None) -> None:
        """The run goes back unharmed, and none that would meet the same starts: on `node`, or anywhere."""
        until_heard(lambda: self._queue.pause(self._lease, reason, node))

    def cancel(self) -> None:
        """Tell the queue that the cancelled run has stopped."""
        until_heard(lambda: self._queue.acknowledge_cancel(self._lease))

    def acknowledge(self) -> None:
        """The same, and in the run directory too if that can be written now."""
        briefly(self._withdraw, LAST_SECONDS)
        self.cancel()

    def _withdraw(self) -> None:
        try:
            self._store.withdraw(self._lease.run_id, self._lease.epoch)
        except (FarmError, OSError) as unwritten:
            print(f"Not recorded: {unwritten}")

    def record(self, result: Result) -> Result:
        """The result as the run directory has it: an attempt that had lost its lease may have recorded first."""
        try:
            self._store.record(result)
        except Conflict:
            return self._store.result(result.run_id) or result
        return result

    def end(self, attempt: Attempt, outcome: str, step: int | None, error: BaseException | None = None) -> None:
        """Record how the attempt ended; the queue knows it too, so that a storage that is away now is only said."""
        try:
            self._store.end(attempt.model_copy(update=_ending(outcome, error) | {"step": step}))
        except FarmError as unwritten:
            print(f"Not recorded: {unwritten}")


def _ending(outcome: str, error: BaseException | None) -> dict:
    cause = error.cause if isinstance(error, FarmError) else type(error).__name__ if error else None
    retryable = error.retryable if isinstance(error, FarmError) else True
    return {
        "outcome": outcome,
        "ended": time.time(),
        "cause": cause,
        "message": str(error) if error else None,
        "retryable": retryable if outcome == "failed" else None,
    }


def result_of(store: Store, run: Run, split: Plan, machine: Machine, attempt: Attempt, outcome: Outcome) -> Result:
    """The Result of a finished run: the ledger's sums, the outcome, and what this node knows of itself.

    Raises: WorkerDied: the ledger or the outcome is not that of a finished run. Nonfinite: no loss in it counts.
    """
    try:
        lines = store.lines(run.id)
    except CheckpointInvalid as damaged:  # while this attempt trained: the next goes on from where it is whole
        raise WorkerDied(f"The ledger of the run was damaged while it trained: {damaged}") from None
    totals = ledger.totals(lines)
    if totals.steps != run.recipe.steps:
        raise WorkerDied(f"The ledger holds {totals.steps} steps, the recipe has {run.recipe.steps}.")
    if outcome.test_loss is None or outcome.test_tokens is None or outcome.fingerprints is None:
        raise WorkerDied("Training finished without a test loss.")
    if outcome.best_loss is None or outcome.best_step is None:
        raise WorkerDied("Training finished without a step that counts.")
    if outcome.checkpoint_seconds_stalled is None or outcome.kernels is None:
        raise WorkerDied("Training finished, but did not say how it computed.")
    ended = time.time()
    past_attempts, unread = store.readable_attempts(run.id)
    others = [past for past in past_attempts if past.epoch != attempt.epoch]
    before = [store.reached(past) for past in others]
    last = store.used(attempt.model_copy(update={"step": outcome.step}), len(parts(run.machine)))
    told = [last, *(store.used(past, len(parts(run.machine))) for past in others)]
    seconds = ended - attempt.started + sum(took for _, took in before)
    folder = store.attempt_folder(run.id, attempt.epoch).relative_to(store.root)
    return Result(
        run_id=run.id,
        arm=run.arm,
        machine=run.machine,
        seeds=run.seeds,
        rerun=run.rerun,
        recipe=run.recipe,
        plan=split,
        epoch=attempt.epoch,
        evaluation=run.recipe.evaluation_version,
        test_loss=outcome.test_loss,
        test_tokens=outcome.test_tokens,
        train_loss=ledger.train_loss(lines),
        best_loss=outcome.best_loss,
        best_step=outcome.best_step,
        steps=totals.steps,
        tokens=totals.tokens,
        skipped_steps=totals.skipped,
        clipped_steps=totals.clipped,
        started=attempt.started,
        ended=ended,
        seconds=seconds,
        train_seconds=totals.seconds,
        tokens_per_second=totals.tokens / totals.seconds,
        peak_bytes=outcome.peak_bytes or 0,
        checkpoint_seconds_stalled=outcome.checkpoint_seconds_stalled,
        kernels=outcome.kernels,
        prices=machine.prices,
        kwh=None if unread else energy.kwh(told),
        energy_meter=last.meter if last else None,
        usd=None if machine.usd_per_hour is None else seconds / 3600 * machine.usd_per_hour,
        hardware=hardware.hardware(machine, outcome.threads or 1),
        provenance=Provenance.model_validate(attempt.provenance),
        fingerprints=outcome.fingerprints,
        checkpoint=f"{folder}/{outcome.checkpoint}",
    )
