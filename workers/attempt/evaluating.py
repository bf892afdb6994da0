"""Scoring a model that was trained, as the work of an agent: from a claimed evaluation to its score on record."""

import time
from pathlib import Path
from tempfile import TemporaryDirectory

from farm.errors import CheckpointInvalid, Conflict, NotFound
from farm.queue.values import Status
from farm.record import layout
from farm.record.result import Exam, Result
from farm.record.score import Score
from farm.record.store import Store
from farm.study.machine import Machine, Mixed
from farm.study.run import Attempt, Evaluating
from model.checkpoint import verify
from model.corpus.checks import items
from workers.attempt.closing import until_heard
from workers.attempt.ending import Barred, Broken, Done, Ending, Finished
from workers.attempt.launch import score
from workers.attempt.post import Post, Unprepared, find_out
from workers.attempt.scores import Scorer, score_of
from workers.attempt.task import PULSE_FILE, Scoring
from workers.node import hardware


class Evaluator:
    """One attempt at scoring a model. It keeps no record of its own: a score says who made it."""

    attempt: Attempt | None = None
    log: Path | None = None  # Ray's job log is all that there is
    seen = 0  # it has no steps

    def __init__(self, post: Post):
        self._post, self._store = post, post.store
        self._pulse: Path | None = None

    def take_over(self, status: Status) -> None:
        """Nothing of an earlier attempt is gone on from."""

    def occupy(self) -> Barred | None:
        """Nothing: it writes nothing but a score, which is created exclusively."""
        return None

    def do(self, status: Status) -> Done:
        """Score the model, and record the score.

        Raises: FarmError
        """
        run = status.run
        assert isinstance(run, Evaluating)
        result = self._result(run)
        stored = until_heard(lambda: self._post.queue.studies.one(status.study))
        machine = stored.machine(
            run.machine, until_heard(lambda: self._post.queue.roster.classes(self._post.here.machines))
        )
        with TemporaryDirectory(prefix="farm-score-") as folder:
            try:
                return Finished(self._score(run, result, machine, Path(folder)))
            except Unprepared as unprepared:
                return Broken(unprepared.error)

    def tell(self, is_lost: bool) -> bool:
        """There is nothing to save, and so nothing to wait for."""
        return False

    def sign(self) -> object | None:
        """Changes while scoring advances; None before the first batch, when getting ready takes what it takes."""
        return self._pulse.stat().st_mtime if self._pulse and self._pulse.exists() else None

    def newest_step(self) -> int:
        return 0

    def settle(self, seconds: float, is_urgent: bool) -> None:
        """A score is in the storage as soon as it is recorded."""

    def record(self, end: Ending) -> None:
        """The score is the record; where there is none, the queue knows why."""

    def complete(self) -> None:
        """It has no curve."""

    def withdraw(self) -> None:
        """A score stays true even if it is no longer wanted."""

    def deliver(self, product: Result | Score) -> str:
        """Give the queue the score. Returns a sentence about it.

        Raises: LeaseLost, Cancelled, Conflict
        """
        assert isinstance(product, Score)
        self._post.queue.deliver(self._post.lease, product)
        return f"{product.name} = {product.value:.6f} {product.unit}."

    def leave(self) -> None:
        """There is nothing to clear away: what it copied is gone already."""

    def _result(self, run: Evaluating) -> Result:
        """The result of the run that trained the model, as it was when the score was asked for.

        Raises: NotFound, CheckpointInvalid
        """
        result = until_heard(lambda: self._store.runs.result(run.of))
        if result is None:
            raise NotFound(f"{self._store.place(run.of)} holds no result: there is no model to score.")
        if result.fingerprints.final != run.weights:
            raise CheckpointInvalid(
                f"the result of {run.of} has different weights now than when this score was requested.",
                remedy=f"Ask again: farm eval {run.of}",
            )
        return result

    def _score(self, run: Evaluating, result: Result, machine: Machine, folder: Path) -> Score:
        trained = until_heard(lambda: self._store.runs.run(run.of))
        checkpoint = self._checkpoint(result, folder)
        cache = self._post.here.home / "cache"
        exam = Exam(name=run.evaluation, recipe=run.recipe, items=find_out(lambda: items(run.recipe, cache)))
        self._pulse = folder / PULSE_FILE
        one = machine.parts[0] if isinstance(machine, Mixed) else machine
        task = Scoring(
            run=trained,
            exam=exam,
            checkpoint=str(checkpoint),
            weights=run.weights,
            size=result.plan.microbatch,
            threads=result.hardware.threads,
            cache=str(cache),
            pulse=str(self._pulse),
            name=f"{run.id}-a{self._post.lease.epoch}",
        )
        print(f"Scoring {run.of} by {run.evaluation}: {run.recipe.evaluation.sequences} sequences on {one.name}.")
        found = score(task, one, self._post.node, str(folder / "ray"), self._post.job)
        here = hardware.hardware(one, result.hardware.threads)
        by = Scorer(here, hardware.provenance().code, time.time(), self._post.lease.epoch)
        made = score_of(result, found, by)
        until_heard(lambda: self._post.queue.renew(self._post.lease, 0))  # who has lost the lease records nothing
        return until_heard(lambda: self._record(made, found.values))

    def _record(self, made: Score, values: tuple[float, ...]) -> Score:
        """The score as the run directory has it: an attempt whose lease was lost later may have recorded first."""
        try:
            self._store.scores.keep(made, values)
        except Conflict:
            there = [one for one in self._store.scores.of(made.run_id)[0] if one.evaluation == made.evaluation]
            if not there:
                raise
            print(f"An earlier attempt has recorded {there[0].value:.6f}; this one came to {made.value:.6f}.")
            return there[0]
        return made

    def _checkpoint(self, result: Result, folder: Path) -> Path:
        """The final checkpoint, on this node and whole. A copy from a bucket is this attempt's own, in `folder`:
        another evaluation of the same model may be here at the same time.

        Raises: CheckpointInvalid: damaged, or gone.
        """
        place = Store(self._post.here.storage, folder / "copies").copies.bring(result.checkpoint)
        if not (place / layout.MANIFEST).exists():
            raise CheckpointInvalid(
                f"{self._store.uri}/{result.checkpoint} is gone: the model of {result.run_id} cannot be scored.",
                remedy="Restore it, or train the run again: farm forget it, then resubmit its study.",
            )
        verify(place)
        return place
