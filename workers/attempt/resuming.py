"""The point where a run resumes: its earlier attempts, their newest usable checkpoint, and how it was trained there."""

from collections.abc import Mapping

from farm.errors import CheckpointInvalid, OutOfMemory
from farm.queue.values import Status
from farm.record import ledger
from farm.study.machine import Machine
from farm.study.planner import Plan, carry_on
from farm.study.run import Attempt, Checkpoint, Run
from model.checkpoint import valid
from workers.attempt.post import Post


def past(post: Post, run: Run) -> dict[int, Attempt]:
    """The run's attempts so far, by epoch. A record that cannot be read is noted."""
    attempts, unread = post.store.runs.readable_attempts(run.id)
    for reason in unread:
        post.note("attempt-invalid", f"{reason} The time and energy of that attempt are not counted.")
    return {attempt.epoch: attempt for attempt in attempts}


def newest(post: Post, status: Status, split: Plan, past: Mapping[int, Attempt]) -> Checkpoint | None:
    """The newest checkpoint of `past` attempts from which the run can resume: it is whole, it belongs to this run,
    there is a ledger of every step up to it and the record of its attempt. Each skipped one is noted, with the reason.
    """
    ledgers: ledger.Ledgers | None = None
    run, expected, passed = status.run, status.checkpoint, set()
    for step, epoch, name in post.store.runs.checkpoints(run.id):
        try:
            saved = valid(post.store.copies.bring(name), run, split)
            if saved.step != step:
                raise CheckpointInvalid(f"{name} is of step {saved.step}.")
            if epoch not in past:
                raise CheckpointInvalid(f"attempt {epoch} has no record that can be read.")
            ledgers = ledgers or post.store.copies.ledgers(run.id)  # after the first: none is ahead of its ledger
            ledgers.until(epoch, step)
        except CheckpointInvalid as invalid:
            post.note("checkpoint-invalid", f"{name} was skipped: {invalid}")
            passed.add(name)
            continue
        _say_lost(post, expected, passed, step)
        if beyond := ledgers.beyond(epoch):
            post.note("ledger-cut", f"{beyond}. Steps after {step} in that ledger do not count.")
        return Checkpoint(step=step, epoch=epoch, path=name, sha256=saved.sha256)
    _say_lost(post, expected, passed, 0)
    return None


def _say_lost(post: Post, expected: Checkpoint | None, passed: set[str], step: int) -> None:
    """Say so where the checkpoint that the queue points at is not there any more."""
    if expected and expected.step > step and expected.path not in passed:
        post.note("checkpoint-invalid", f"{expected.path} is gone: continuing from step {step}")


def as_before(
    status: Status, source: Checkpoint | None, split: Plan, past: Mapping[int, Attempt], machine: Machine
) -> Plan:
    """`split`, or as the plan of the attempt that this one resumes from has it, unless that has run out of memory."""
    if source is None:
        return split
    if any(cause.cause == OutOfMemory().cause and cause.epoch >= source.epoch for cause in status.causes):
        return split
    return carry_on(Plan.model_validate(past[source.epoch].plan), split, machine)
