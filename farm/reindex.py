"""Redis anew from the records: what the run directories hold and the queue does not know is brought back."""

import time
from collections.abc import Mapping
from typing import NamedTuple

from farm.errors import CheckpointInvalid, Conflict
from farm.queue.queue import Queue
from farm.queue.values import Cause
from farm.record.storage import explain
from farm.record.store import Store
from farm.study.run import Attempt, Run, State
from farm.study.study import Study

ORPHANS = "reindexed"  # the study of runs whose directories name none; nobody ever submitted it
COUNTED = ("failed", "lost")  # outcomes that cost an attempt


class Reindexed(NamedTuple):
    """The outcome of a reindex: the runs that it brought back, and what it could not read, each with its remedy."""

    brought: int
    unread: tuple[str, ...]


def reindex(store: Store, queue: Queue, is_own: bool = False) -> Reindexed:
    """Bring back into `queue` what it does not know of the directories of `store`, but for what was forgotten; from
    then on its Redis is their index. Of runs that it knows with less than the directories hold, that is made up for.

    `is_own`: Redis is the index of this storage even if that holds no record, and so might be the wrong one.

    Raises: Conflict: it is the index of another.
    """
    if not is_own and not store.has_records():
        return Reindexed(0, ())
    marker = store.mark()
    while True:
        token = queue.index.begin(marker)
        done = _Reading(store, queue).bring()
        if index := queue.index.end(token, marker):  # else it was emptied meanwhile
            store.take(index.name)
            return done


class _Reading:
    """One pass over the records. Records that cannot be read are skipped, and reported."""

    def __init__(self, store: Store, queue: Queue):
        self.store, self.queue = store, queue
        self.recorded, self.unread = store.studies.all()
        self.submitted = queue.studies.all()  # as they were submitted last, which may be since Redis was emptied

    def bring(self) -> Reindexed:
        begun = self.store.runs.ids()
        leaving = {run_id for run_id in begun if self._is_left_out(run_id)}
        brought = 0
        for run_id in (run_id for run_id in begun if run_id not in leaving):
            try:
                brought += self._restore(run_id)
            except (CheckpointInvalid, OSError) as error:
                self.unread.append(explain(error))
                leaving.add(run_id)
                self.queue.index.omit(run_id, self._newest(run_id))
        for study in self.recorded.values():
            if self.submitted.get(study.name, study) != study or all(run.id in leaving for run in study.runs()):
                continue
            try:
                put = self.queue.put(study, leaving)
            except Conflict as error:
                self.unread.append(f"{self.store.uri}/studies/{study.name}.json: {error}")
                continue
            brought += len(put.new) + len(put.adopted)
            for run_id in set(begun).intersection(put.new):
                if self.store.runs.cancelled_epoch(run_id) >= 0:
                    self.queue.cancel(run_id)
        self._bring_imported()
        self._bring_references()
        return Reindexed(brought, tuple(self.unread))

    def _bring_imported(self) -> None:
        found, unread = self.store.studies.all_imported()
        self.unread += unread
        for imported in found:
            self.queue.studies.bring(imported)

    def _bring_references(self) -> None:
        found, unread = self.store.studies.all_references()
        self.unread += unread
        for references in found:
            self.queue.studies.refer(references)

    def _is_left_out(self, run_id: str) -> bool:
        """Whether the run was forgotten and has not begun again since; the queue is told."""
        newest = self._newest(run_id)
        try:
            found = self.store.runs.forgotten_epoch(run_id)
        except (CheckpointInvalid, OSError) as error:  # that it is there says enough
            self.unread.append(explain(error))
            found = newest
        if found is None or found < newest:
            return False
        self.queue.index.omit(run_id, found)
        return True

    def _newest(self, run_id: str) -> int:
        return max(self.store.runs.epochs(run_id), default=0)

    def _restore(self, run_id: str) -> bool:
        """A run with a result has succeeded; one that was cancelled and not begun again is cancelled; one whose
        failures were final has failed, and so has one whose study is not known: an agent could not train it. Any other
        is queued, to go on from its newest checkpoint under a new epoch.
        """
        found = self.store.runs.run_and_study(run_id)
        if found is None:
            return False
        run, study = found
        result, (attempts, bad) = self.store.runs.result(run_id), self.store.runs.readable_attempts(run_id)
        self.unread += bad
        if result is None and (name := self.store.runs.torn_result(run_id)):
            self.unread.append(
                f"{name} is cut off, so it does not count as a result: {run_id} goes on from its newest checkpoint."
            )
        if result is None and _is_superseded(run, study, self.recorded | self.submitted):
            return False
        epoch = self._newest(run_id)
        state = State.SUCCEEDED if result else State.QUEUED
        if state is State.QUEUED and self.store.runs.cancelled_epoch(run_id) >= epoch:
            state = State.CANCELLED
        reached = {past.epoch: self.store.runs.progress(past) for past in attempts}
        causes = [
            _cause(past, reached[past.epoch][0])
            for past in attempts
            if past.outcome in COUNTED or (past.outcome == "running" and past.epoch < epoch)  # its worker was killed
        ]
        if state is State.QUEUED and study not in self.recorded.keys() | self.submitted.keys():
            causes.append(_without_study(run_id, study or ORPHANS, epoch))
        scores, bad = self.store.scores.of(run_id)
        self.unread += bad
        is_new = self.queue.index.restore(
            run,
            study or ORPHANS,
            state,
            epoch=epoch,
            causes=causes,
            checkpoint=self.store.runs.newest_checkpoint(run_id),
            result=result,
            held_seconds=sum(seconds for _, seconds in reached.values()),
            released=[past.epoch for past in attempts if past.outcome == "released"],
        )
        self.queue.index.keep_scores(run_id, scores)
        return is_new


def _is_superseded(run: Run, study: str | None, studies: Mapping[str, Study]) -> bool:
    """Whether the arm of `run` was given another recipe since."""
    if study is None or study not in studies:
        return False
    return any(arm.name == run.arm and arm.recipe.digest != run.recipe.digest for arm in studies[study].arms())


def _cause(attempt: Attempt, step: int) -> Cause:
    silent = attempt.outcome == "running"
    return Cause(
        epoch=attempt.epoch,
        cause=attempt.cause or ("lease-expired" if silent else attempt.outcome),
        message=attempt.message or (f"worker {attempt.worker} was never heard from again" if silent else ""),
        step=step,
        at=attempt.ended or attempt.started,
        retryable=attempt.retryable is not False,
    )


def _without_study(run_id: str, study: str, epoch: int) -> Cause:
    said = f"its study {study!r} is not in the storage: submit that, then farm retry {run_id}"
    return Cause(epoch=epoch, cause="not-found", message=said, step=0, at=time.time(), retryable=False)
