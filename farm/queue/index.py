"""Redis as the index of a storage: what the run directories hold is restored into it."""

from collections.abc import Collection, Iterable, Sequence
from uuid import uuid4

from farm.errors import Conflict
from farm.queue.scripts import Scripts
from farm.queue.spelling import spell_history, spell_losses, spell_run, spell_scores
from farm.queue.values import Cause, Origin
from farm.record.result import Result
from farm.record.score import Score
from farm.study.recipe import canonical_json
from farm.study.run import Checkpoint, Run, State
from farm.study.schema import stamp


class Index:
    """The way from the run directories into the queue."""

    def __init__(self, scripts: Scripts):
        self._scripts = scripts

    def restore(
        self,
        run: Run,
        study: str,
        state: State,
        *,
        epoch: int = 0,
        causes: Sequence[Cause] = (),
        checkpoint: Checkpoint | None = None,
        result: Result | None = None,
        held_seconds: float = 0.0,
        released: Collection[int] = (),
    ) -> bool:
        """Bring back a run as its directory tells it, unless the queue knows as much; whether it was brought back.

        What the queue knows with an epoch below, or without its result, becomes what the directory tells; the lease
        that it may be under ends. One that has succeeded or was cancelled stays so, and goes on above that epoch.

        `causes`: of every failure, oldest first. A queued run whose attempts they spend, or that may not be tried again
        after them (Q6), has failed. `released`: epochs of attempts that were given back.
        """
        steps = [cause.step for cause in causes] + [checkpoint.step if checkpoint else 0]
        at = (canonical_json(checkpoint), checkpoint.step, checkpoint.epoch) if checkpoint else ("", "", "")
        answer = self._scripts.call(
            "restore",
            *spell_run(run),
            study,
            state,
            epoch,
            result.steps if result else max(steps),
            round(held_seconds * 1000),
            *at,
            stamp(canonical_json(result)) if result else "",
            result.tokens_per_second if result and not result.adopted else "",
            spell_losses(result) if result else "",
            *spell_history(causes, released),
        )
        return bool(answer)

    def keep_scores(self, run_id: str, scores: Iterable[Score]) -> None:
        """Take in the scores that the directory of a run holds; nothing changes for a run that has not succeeded."""
        if texts := spell_scores(scores):
            self._scripts.call("keep_scores", run_id, *texts)

    def omit(self, run_id: str, epoch: int) -> None:
        """A run of the directories stays out, forgotten or not readable: should it be put, it begins above `epoch`."""
        self._scripts.call("omit", run_id, epoch)

    def origin(self) -> Origin | None:
        """Whose index this Redis is; None for one that is new or was emptied."""
        marker, name = self._scripts.call("index")
        return Origin(marker, name) if marker and name else None

    def begin(self, marker: str) -> str:
        """Begin to read the records of the storage `marker` into this Redis; returns a token for that.

        Raises: Conflict: it is the index of another storage.
        """
        token = uuid4().hex
        said, *_ = self._scripts.call("indexing", token, marker)
        if said == "conflict":
            raise Conflict(
                "this Redis belongs to a farm with another storage.",
                remedy="Set FARM_STORAGE to that one, or FARM_REDIS_URL to a Redis of your own.",
                page="docs/machines/storage.md#rebuilding-redis-farm-reindex",
            )
        return token

    def end(self, token: str, marker: str) -> Origin | None:
        """All those records are in this Redis, which is their index now; None if it was emptied in between."""
        said, *name = self._scripts.call("indexed", token, marker, uuid4().hex[:16])
        return Origin(marker, name[0]) if said == "ok" else None
