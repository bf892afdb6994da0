"""The record of a finished run, from what the training processes returned and what this node knows, and its storing."""

import time
from contextlib import suppress

from farm.errors import CheckpointInvalid, Conflict, WorkerDied
from farm.record import energy, ledger
from farm.record.result import Outcome, Provenance, Result, utilisation
from farm.record.store import Store
from farm.study.machine import Machine, parts
from farm.study.planner import Plan
from farm.study.run import Attempt, Run
from workers.attempt.curve import validation_curve
from workers.attempt.scores import scores_of
from workers.node import hardware


def result_of(store: Store, run: Run, split: Plan, machine: Machine, attempt: Attempt, outcome: Outcome) -> Result:
    """The Result of a finished run: the ledger's sums, the outcome, and what this node knows of itself.

    Raises: WorkerDied: the ledger or the outcome is not that of a finished run. Nonfinite: no loss in it counts.
    """
    try:
        lines = store.copies.lines(run.id)
    except CheckpointInvalid as damaged:  # while this attempt trained: the next goes on from where it is whole
        raise WorkerDied(f"The ledger of the run was damaged while it trained: {damaged}") from None
    totals = ledger.totals(lines)
    if totals.steps != run.recipe.steps:
        raise WorkerDied(f"The ledger holds {totals.steps} steps, the recipe has {run.recipe.steps}.")
    if outcome.test_loss is None or outcome.test_tokens is None or outcome.fingerprints is None:
        raise WorkerDied("Training finished without a test loss.")
    if outcome.best_loss is None or outcome.best_step is None:
        raise WorkerDied("Training finished without a step that counts.")
    if outcome.checkpoint_seconds_stalled is None or outcome.kernels is None or outcome.compiled is None:
        raise WorkerDied("Training finished without reporting its kernels or its checkpoint time.")
    ended, speed = time.time(), totals.tokens / totals.seconds
    past_attempts, unread = store.runs.readable_attempts(run.id)
    others = [past for past in past_attempts if past.epoch != attempt.epoch]
    before = [store.runs.progress(past) for past in others]
    last = store.runs.energy_used(attempt.model_copy(update={"step": outcome.step}), len(parts(run.machine)))
    used = [last, *(store.runs.energy_used(past, len(parts(run.machine))) for past in others)]
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
        validation=validation_curve(lines),
        validation_seconds=totals.validation_seconds,
        tokens_per_second=speed,
        utilisation=utilisation(outcome.peaks, run.recipe, split, speed) if outcome.peaks else None,
        peak_bytes=outcome.peak_bytes or 0,
        checkpoint_seconds_stalled=outcome.checkpoint_seconds_stalled,
        kernels=outcome.kernels,
        compiled=outcome.compiled,
        prices=machine.prices,
        kwh=None if unread else energy.kwh(used),
        energy_meter=last.meter if last else None,
        usd=None if machine.usd_per_hour is None else seconds / 3600 * machine.usd_per_hour,
        hardware=hardware.hardware(machine, outcome.threads or 1),
        provenance=Provenance.model_validate(attempt.provenance),
        fingerprints=outcome.fingerprints,
        checkpoint=f"{folder}/{outcome.checkpoint}",
    )


def record(store: Store, result: Result, outcome: Outcome) -> Result:
    """The result that the run directory has from now on. Scores go first: a run that has its result has them, too."""
    for score, values in scores_of(result, outcome):
        with suppress(Conflict):
            store.scores.keep(score, values)
    try:
        store.runs.record(result)
    except Conflict:
        return store.runs.result(result.run_id) or result
    return result
