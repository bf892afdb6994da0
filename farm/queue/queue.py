"""The promises of the queue: a run is put, claimed, renewed, ended. A verb is one Lua script of lua/, all or nothing.

Q1  put is idempotent by run id: submitted twice = queued once, and says so. What is known under another name (the same
    recipe, seeds and machine class) is not trained again: the new run is born succeeded, with that result.
Q2  claim gives a run to at most one live lease; priority, then first in; only to a machine class it names.
Q3  a lease past its deadline may be claimed by anyone; the old epoch is then dead. Redis' TIME is the only clock.
    Until a claim or a sweep ends it, its holder may still renew it; and while Redis itself is down no one can, so
    after its start every lease has its own length again.
Q4  renew, checkpoint, record, finish, fail, release, recall and pause with a dead epoch raise LeaseLost and change
    nothing.
Q5  finish is final; repeating it with the same result is fine; a different result is a Conflict.
Q6  fail requeues with back-off until attempts are spent, then the run is failed with every cause kept. Three crashes
    at the same step = failed (poison), if the training caused them and an agent that lived said so. A lease that ran
    out, a machine, Ray, a network or a storage that failed cost an attempt and are never poison. Progress beyond that
    step resets the count, and so does a release of a lease that had begun.
Q7  release returns the run unharmed and is no attempt. If the lease was recalled, the recall's reason counts.
Q8  cancel of a queued run is immediate; of a running one, the next renew says Cancelled. A cancelled run never gains
    a result.
Q9  listing is a consistent picture: the states of all listed runs at one instant. put = queued + running + succeeded +
    failed + cancelled + forgotten, at every event. forget takes final runs only, and a result that others have adopted
    stays with them.
Q10 an acknowledged write survives kill -9 of anything, Redis included (farm.site.server sees to it).
Q11 pause returns the run unharmed and is no attempt; from then on no run of its study that reads the same corpus is
    claimed, anywhere or on the node that it names, until the study is put again or one of them is retried.

A lost reply is harmless: the client repeats a call that got no answer, and every verb may be repeated. Any method may
raise Unreachable, Refused or StorageFull.
"""

import json
from collections.abc import Collection, Iterable, Sequence
from typing import Any, NoReturn
from uuid import uuid4

from redis import Redis

from farm.errors import Changed, Conflict, Refused
from farm.queue.asking import Asking
from farm.queue.evaluations import Evaluations
from farm.queue.index import Index
from farm.queue.listing import Listing
from farm.queue.live import Live
from farm.queue.news import News
from farm.queue.roster import Roster
from farm.queue.scripts import Scripts
from farm.queue.spelling import (
    milliseconds,
    pairs,
    read_checkpoint,
    read_recipe,
    read_run,
    read_seconds,
    spell_losses,
    spell_run,
    spell_scores,
)
from farm.queue.studies import Studies
from farm.queue.unreadable import UNREADABLE, why
from farm.queue.values import Claim, Forgotten, Point, Put
from farm.record.result import Result
from farm.record.score import Score
from farm.study.differences import differences
from farm.study.recipe import Recipe, canonical_json, identity
from farm.study.run import OF, Checkpoint, Lease, State
from farm.study.schema import stamp
from farm.study.study import Study

LEASE_SECONDS = 30.0
HEARTBEAT_SECONDS = 10.0
BACKOFF_SECONDS = 1.0
BACKOFF_LIMIT_SECONDS = 60.0
CURVE_POINTS = 2000  # kept at least, evenly over the steps; at most twice as many
NEWEST_POINTS = 200  # kept whole
MESSAGE_CHARACTERS = 4000


class Queue:
    """The queue under `prefix` of a Redis (a client from `farm.site.client.connect`), and what is told beside it."""

    def __init__(
        self,
        redis: Redis,
        prefix: str = "farm:",
        *,
        backoff_seconds: float = BACKOFF_SECONDS,
        backoff_limit_seconds: float = BACKOFF_LIMIT_SECONDS,
    ):
        self.redis = redis
        self.prefix = prefix
        self.backoff_seconds = backoff_seconds
        self.backoff_limit_seconds = backoff_limit_seconds
        self.scripts = Scripts(redis, prefix)
        self.asking = Asking(redis, prefix)
        self.listing = Listing(self.scripts)
        self.live = Live(self.scripts)
        self.evaluations = Evaluations(self.scripts, self.asking)
        self.studies = Studies(self.scripts)
        self.roster = Roster(self.scripts)
        self.index = Index(self.scripts)
        self.news = News(self.scripts)

    # The submitter's verbs

    def put(self, study: Study, leaving: Collection[str] = (), since: str = "*") -> Put:
        """Queue every run of `study` that is not there yet, but for the runs `leaving`: all of them or none (Q1).

        An arm may have another recipe than before as long as none of its runs has a result: its old runs leave the
        study, and those that no other study has are cancelled and then forgotten. With `since`, the edition that
        `study` was made from (`studies.edition`), no other change to it is overwritten.

        Raises: Conflict: an arm of a study of that name has results of another recipe; says what differs. Changed: it
        is another than `since`.
        """
        try:
            return self._put("put", study, leaving, since)
        except Refused as refused:
            text = stamp(study.model_dump_json())
            said = self.asking.ask(refused, "put", text, tuple(sorted(leaving)), since=since)
            assert said.put is not None
            return said.put

    def preview(self, study: Study) -> Put:
        """Return what `put` would answer now; nothing is queued.

        Raises: Conflict
        """
        return self._put("preview", study, ())

    def cancel(self, run_id: str) -> State:
        """Cancel a run (Q8) and say what it is now: a running one stays so until its worker hears of it.

        Raises: NotFound
        """
        try:
            return self._state(run_id, self.scripts.call("cancel", run_id))
        except Refused as refused:
            said = self.asking.ask(refused, "cancel", run_id)
            assert said.state is not None
            return said.state

    def retry(self, run_id: str) -> State:
        """Queue a failed or cancelled run again, in its old place and with all its attempts; end its pause (Q11).

        Raises: NotFound. Conflict: it has succeeded, or is still being cancelled.
        """
        said, *details = self.scripts.call("retry", run_id)
        if said == "superseded":
            raise Conflict(
                f"the arm of {run_id} has another recipe now: this run is about to be forgotten.",
                remedy="To train it, submit its recipe as an arm of another name.",
            )
        if said == "conflict":
            if details[0] == State.SUCCEEDED:
                raise Conflict(f"{run_id} has succeeded: its result stays.", remedy="To repeat it, raise study.reruns.")
            raise Conflict(f"{run_id} is still being cancelled.", remedy="Retry it when it has stopped.")
        return self._state(run_id, [said, *details])

    def forget(self, run_ids: Sequence[str], study: str = "") -> Forgotten:
        """Take final runs out of `study`, and out of the queue where no other study has them: all of them or none.

        A study without runs is gone. `study` left out: the one that has the one run named. A run that is put again
        begins above its last epoch here.

        Raises: NotFound. Conflict: some are queued or running; or several studies have the run.
        """
        said, *details = self.scripts.call("forget", study, *run_ids)
        if said == "missing":
            self.scripts.refuse_unknown(details[0])
        if said == "open":
            name = study if len(run_ids) > 1 else run_ids[0]
            raise Conflict(
                f"{len(details)} of {len(run_ids)} runs are queued or running: nothing was forgotten."
                if len(run_ids) > 1
                else f"{run_ids[0]} is queued or running: nothing was forgotten.",
                remedy=f"Cancel first: farm cancel {name}",
            )
        if said == "shared":
            raise Conflict(
                f"{run_ids[0]} belongs to {len(details)} studies, {', '.join(sorted(details))}: nothing was forgotten.",
                remedy="Forget it in each of them, as in: farm forget STUDY --arm ARM",
            )
        gone, kept = details
        return Forgotten(gone={run_id: int(epoch) for run_id, epoch in pairs(gone)}, kept=tuple(kept))

    def _put(self, mode: str, study: Study, leaving: Collection[str], since: str = "*") -> Put:
        runs = study.runs()
        recipes = {run.arm: run.recipe for run in runs}
        arms = {name: canonical_json(identity(recipe)) for name, recipe in recipes.items()}
        spelled = [text for run in runs if (text := spell_run(run))[0] not in leaving]
        said, *details = self.scripts.call(
            "put",
            mode,
            study.name,
            stamp(study.model_dump_json()),
            since,
            len(arms),
            *(text for arm in arms.items() for text in arm),
            *(text for run in spelled for text in run),
        )
        if said == "changed":
            raise Changed(f"{study.name} was changed by another command meanwhile: nothing was queued.")
        if said == "arm":
            _refuse_arms(study.name, {arm: read_recipe(text) for arm, text in pairs(details)}, recipes)
        if said == "run":
            raise Conflict(f"another run already has the id {details[0]!r}.", remedy="Rename its arm.")
        states, replaced, again, adopted, twins = details
        found, has_result = dict(zip((run_id for run_id, *_ in spelled), states, strict=True)), dict(pairs(adopted))
        return Put(
            new=tuple(run_id for run_id, state in found.items() if not state and run_id not in has_result),
            known={run_id: State(state) for run_id, state in found.items() if state},
            adopted=has_result,
            twins=dict(pairs(twins)),
            again=tuple(again),
            replaced=dict(pairs(replaced)),
        )

    def _state(self, run_id: str, answer: list[Any]) -> State:
        if answer[0] == "missing":
            self.scripts.refuse_unknown(run_id)
        return State(answer[1])

    # The worker's verbs

    def claim(
        self,
        machine: str,
        worker: str,
        seconds: float,
        node: str = "",
        passing: Collection[str] = (),
        marker: str = "",
    ) -> Claim | None:
        """Lease the next run for a machine class, for `seconds`; None when there is none (Q2, Q3).

        `node`: where it will run, if that is known, or `node+node` for a mixed group; None is the answer when one of
        them was drained or rests. Passed over are the runs of the studies `passing`, and those paused (Q11).
        `marker`: of the storage that the run will be recorded in; None is the answer where this Redis is not its index.
        """
        said, *details = self.scripts.call(
            "claim", uuid4().hex, machine, worker, milliseconds(seconds), node, marker, *passing
        )
        if said == "none":
            return None
        run_id, epoch, deadline, spec, study, checkpoint = details
        lease = Lease(run_id=run_id, epoch=int(epoch), deadline=read_seconds(deadline), worker=worker)
        try:
            return Claim(lease=lease, run=read_run(spec), study=study, checkpoint=read_checkpoint(checkpoint))
        except UNREADABLE as error:
            self.fail(lease, "unreadable", f"what Redis holds of it: {why(error)}", 0, retryable=False)
            return self.claim(machine, worker, seconds, node, passing, marker)

    def sweep(self) -> list[str]:
        """End every expired lease; their runs are queued again, or failed, or cancelled (Q3)."""
        return self.scripts.call("sweep")

    def renew(
        self,
        lease: Lease,
        step: int,
        seconds: float = LEASE_SECONDS,
        job: str | None = None,
        node: str | None = None,
    ) -> Lease:
        """Prolong a lease to `seconds` from now, and note the progress.

        Raises: LeaseLost. Cancelled: stop, then `acknowledge_cancel`.
        """
        answer = self.scripts.call_under(lease, "renew", milliseconds(seconds), step, job or "", node or "")
        return lease.model_copy(update={"deadline": read_seconds(answer[1])})

    def checkpoint(self, lease: Lease, checkpoint: Checkpoint) -> None:
        """Point at a newer checkpoint; an older one than is known changes nothing.

        Raises: LeaseLost
        """
        self.scripts.call_under(lease, "checkpoint", checkpoint.step, checkpoint.epoch, canonical_json(checkpoint))

    def record(self, lease: Lease, points: Sequence[Point]) -> None:
        """Append to the curve. Points already there at these steps or later are replaced. A long curve is thinned out,
        but keeps those with a validation as long as it can.

        Raises: LeaseLost
        """
        texts = [(p.step, json.dumps(list(p.model_dump().values()))) for p in sorted(points, key=lambda p: p.step)]
        self.scripts.call_under(
            lease, "record", CURVE_POINTS, NEWEST_POINTS, *(part for text in texts for part in text)
        )

    def finish(self, lease: Lease, result: Result, scores: Iterable[Score] = ()) -> None:
        """Record that the run has succeeded, with the scores of its model (Q5).

        Raises: LeaseLost. Cancelled. Conflict: it finished with another result, or this is another run's.
        """
        if result.run_id != lease.run_id or result.epoch > lease.epoch:  # an earlier one: recorded, but never told us
            raise Conflict(
                f"the result is of {result.run_id} epoch {result.epoch},"
                f" the lease of {lease.run_id} epoch {lease.epoch}."
            )
        text = stamp(canonical_json(result))
        told = result.tokens_per_second, spell_losses(result)
        self.scripts.call_under(lease, "finish", result.steps, text, *told, *spell_scores(scores))

    def deliver(self, lease: Lease, score: Score) -> None:
        """Record that an evaluation has succeeded, with its score (Q5).

        Raises: LeaseLost. Cancelled. Conflict: it came to another score, or this is of another run or evaluation.
        """
        if not lease.run_id.startswith(f"{score.run_id}{OF}") or score.epoch > lease.epoch:
            raise Conflict(f"the score is of {score.run_id} by {score.evaluation}, the lease of {lease.run_id}.")
        self.scripts.call_under(lease, "finish", 0, stamp(canonical_json(score)), "", "", *spell_scores([score]))

    def fail(self, lease: Lease, cause: str, message: str, step: int, retryable: bool) -> State:
        """An attempt failed at `step`: the run is queued again after a back-off, or failed, or cancelled (Q6).

        Raises: LeaseLost
        """
        detail = {"cause": cause, "message": message[:MESSAGE_CHARACTERS], "step": step, "retryable": retryable}
        backoff = milliseconds(self.backoff_seconds), milliseconds(self.backoff_limit_seconds)
        answer = self.scripts.call_under(
            lease, "fail", uuid4().hex, step, int(retryable), cause, json.dumps(detail), *backoff
        )
        return State(answer[1])

    def release(self, lease: Lease, reason: str, above: int = 0, is_silent: bool = False) -> str:
        """Give a run back unharmed, and say why: for `reason`, unless the lease was recalled for another (Q7).

        `above`: an epoch that its directory holds; the next lease is above that. `is_silent`: only if no agent has
        taken it up; where one has meanwhile, it is lost for the caller.

        Raises: LeaseLost
        """
        return self.scripts.call_under(lease, "release", uuid4().hex, reason, above, int(is_silent))[1]

    def recall(self, lease: Lease, reason: str) -> None:
        """Record why a lease is wanted back. Its holder is told by other means, and will release it.

        Raises: LeaseLost
        """
        self.scripts.call_under(lease, "recall", reason)

    def pause(self, lease: Lease, reason: str, node: str | None = None) -> None:
        """Give a run back unharmed, and let none of its study start that reads the same corpus (Q11): on `node`, or
        anywhere.

        Raises: LeaseLost
        """
        self.scripts.call_under(lease, "pause", uuid4().hex, reason[:MESSAGE_CHARACTERS], node or "")

    def acknowledge_cancel(self, lease: Lease) -> None:
        """The agent has stopped a run that was cancelled while it ran (Q8).

        Raises: LeaseLost. Conflict: it was not cancelled.
        """
        self.scripts.call_under(lease, "acknowledge_cancel")

    def note(self, lease: Lease, event: str, detail: str) -> None:
        """Record an event, such as a damaged checkpoint.

        Raises: LeaseLost
        """
        self.scripts.call_under(lease, "note", event, detail[:MESSAGE_CHARACTERS])


def _refuse_arms(study: str, stored: dict[str, Recipe], given: dict[str, Recipe]) -> NoReturn:
    """`stored`: arm -> its recipe, of those that have results; `given`: of all that are submitted."""
    arm, *more = stored
    before, now = stored[arm].model_dump(mode="json"), given[arm].model_dump(mode="json")
    changes = "; ".join(
        f"{path} was {was!r}, is now {is_now!r}" for path, was, is_now in sorted(differences(before, now))
    )
    also = f" (and {len(more)} more arms: {', '.join(more[:3])}{', ...' * (len(more) > 3)})" if more else ""
    which = "" if more else f" --arm {arm}"
    raise Conflict(
        f"study {study!r} has results of another {arm!r}{also}: {changes}.",
        remedy=f"Give the study or the arm another name, or drop those results: farm forget {study}{which}",
        study=study,
        arm=arm,
        page="docs/method.md#identity",
    )
