"""The promises of the queue, over Redis. Each verb is one Lua script of farm/queue/, so each is all or nothing.

Q1  put is idempotent by run id: submitted twice = queued once, and says so. What is known under another name (the same
    recipe, seeds and machine class) is not trained again: the new run is born succeeded, with that result.
Q2  claim gives a run to at most one live lease; priority, then first in; only to a machine class it names.
Q3  a lease past its deadline may be claimed by anyone; the old epoch is then dead. Redis' TIME is the only clock.
    Until a claim or a sweep ends it, its holder may still renew it; and while Redis itself is down nobody can, so
    after its start every lease has its own length again.
Q4  renew, checkpoint, record, finish, fail, release, recall and pause with a dead epoch raise LeaseLost and change
    nothing.
Q5  finish is final; repeating it with the same result is fine; a different result is a Conflict.
Q6  fail requeues with back-off until attempts are spent, then the run is failed with every cause kept. Three crashes
    at the same step = failed (poison), if the training caused them and an agent that lived said so. A lease that ran
    out, a machine, Ray, a network or a storage that failed cost an attempt and are never poison. Progress beyond that
    step resets the count, and so does a release of a lease that had begun.
Q7  release returns the run unharmed and is no attempt. Where somebody recalled the lease, theirs is the reason.
Q8  cancel of a queued run is immediate; of a running one, the next renew says Cancelled. A cancelled run never gains
    a result.
Q9  listing is a consistent picture. put = queued + running + succeeded + failed + cancelled + forgotten, at every
    event. forget takes final runs only, and a result that others have adopted stays with them.
Q10 an acknowledged write survives kill -9 of anything, Redis included (farm.site.server sees to it).
Q11 pause returns the run unharmed and is no attempt; from then on no run of its study that reads the same corpus is
    claimed, anywhere or on the node that it names, until the study is put again or one of them is retried.

A lost reply is harmless: the client repeats a call that got no answer, and every verb may be repeated. Any method may
raise Unreachable, Refused or StorageFull.
"""

import hashlib
import json
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cache, lru_cache
from hashlib import sha1
from pathlib import Path
from typing import Any, Literal, NamedTuple, NoReturn, TypeVar
from uuid import uuid4

from pydantic import Field, ValidationError
from redis import Redis
from redis.exceptions import NoScriptError

from farm import errors
from farm.errors import (
    Cancelled,
    Changed,
    Conflict,
    FarmError,
    LeaseLost,
    NotFound,
    Refused,
    Unreachable,
    Unreadable,
    first_line,
    nearest,
)
from farm.queue.node import Head, Node
from farm.record.imported import Imported
from farm.record.reference import References
from farm.record.result import Result
from farm.record.score import Score
from farm.site.server import translated
from farm.study.machine import BUILT_IN, Machine, Price, layered, parts
from farm.study.recipe import Frozen, Recipe, canonical_json, identity
from farm.study.run import OF, Checkpoint, Evaluating, Lease, Run, State
from farm.study.schema import SCHEMA, check, stamped, unstamped
from farm.study.study import Study

LEASE_SECONDS = 30.0
HEARTBEAT_SECONDS = 10.0
BACKOFF_SECONDS = 1.0
BACKOFF_LIMIT_SECONDS = 60.0
CURVE_POINTS = 2000  # kept at least, evenly over the steps; at most twice as many
NEWEST_POINTS = 200  # kept whole
MESSAGE_CHARACTERS = 4000
CLERK_SECONDS = 5.0  # for a clerk to be there: it comes back within seconds after a restart of Redis
ANSWER_SECONDS = 60.0  # for it to answer: 10,000 runs take it two
UNREADABLE = (Unreadable, ValueError, TypeError, KeyError, AttributeError)  # ways in which a value is none of ours
Said = TypeVar("Said")

_SCRIPTS = Path(__file__).parent / "lua"


class Cause(Frozen):
    """Why an attempt failed."""

    epoch: int
    cause: str
    message: str
    step: int
    at: float
    retryable: bool


class Point(Frozen):
    """One point of a run's curve."""

    step: int = Field(ge=0)
    loss: float = Field(description="nats per token")
    lr: float
    grad_norm: float | None = None
    tokens_per_second: float
    validation_loss: float | None = Field(None, description="nats per token of held-out text, where it was looked at")


class Event(Frozen):
    """Something that happened to a run, `at` Unix seconds by Redis' clock."""

    at: float
    event: str
    epoch: int
    detail: str


class Put(Frozen):
    """What a put did, by run ids."""

    new: tuple[str, ...] = Field(description="queued now")
    known: dict[str, State] = Field(description="there already")
    adopted: dict[str, str] = Field({}, description="succeeded by now -> the run whose result they have")
    twins: dict[str, str] = Field({}, description="of the new: -> a run of the same digest that is not finished")
    again: tuple[str, ...] = Field((), description="of the new: those that were forgotten before")
    replaced: dict[str, str] = Field({}, description="old -> their arm, which had another recipe, and no result")


class Ask(Frozen):
    """What a user asks for who may write nothing (farm.queue.clerk)."""

    token: str = Field(pattern="^[0-9a-f]{32}$", description="of this asking alone; where the answer will be")
    verb: Literal["put", "cancel", "evaluate"]
    name: str = Field(description="a run id, a whole study as JSON, or the study that wants scores")
    leaving: tuple[str, ...] = ()
    since: str = Field("*", description="the edition of the study that this one was made from; *: whichever")
    jobs: tuple[Evaluating, ...] = Field((), description="what is to be scored")


class Reply(Frozen):
    """The answer: what the verb returned, or the error that it raised."""

    put: Put | None = None
    state: State | None = None
    before: dict[str, State | None] | None = Field(None, description="what an evaluate returned")
    error: str | None = Field(None, description="name of the class")
    message: str | None = None
    remedy: str | None = None


class Forgotten(Frozen):
    """What a forget did: the runs that are gone, with their last epochs, and those that another study has still."""

    gone: dict[str, int]
    kept: tuple[str, ...]


class Claim(Frozen):
    """A lease, and all that is needed to act on it."""

    lease: Lease
    run: Run = Field(description="or an Evaluating")
    study: str
    checkpoint: Checkpoint | None


class Status(Frozen):
    """Where a run stands. Times are Unix seconds by Redis' clock."""

    run: Run = Field(description="or an Evaluating, whose result is a score and not shown here")
    study: str = Field(description="that submitted it first; of an evaluation, that asked for it last")
    state: State
    epoch: int = Field(description="of the current or the last lease; 0 before the first")
    attempts: int = Field(description="failures that count against policy.attempts")
    step: int = Field(description="as last reported")
    submitted: float
    started: float | None = Field(description="of the current or the last lease")
    ended: float | None
    deadline: float | None = Field(description="of the current lease")
    worker: str | None
    job: str | None = Field(description="Ray submission id")
    node: str | None = Field(description="Ray's id of it; of a mixed group one for each class, in the same way")
    causes: tuple[Cause, ...]
    checkpoint: Checkpoint | None
    cancelling: bool
    not_before: float | None = Field(description="end of the back-off")
    released: str | None = Field(None, description="why its last lease was given back, if it has not begun again since")
    recalled: str | None = Field(None, description="why its lease is wanted back")
    held_seconds: float = Field(0.0, description="under leases that have ended")
    result: Result | None

    @property
    def id(self) -> str:
        return self.run.id

    @property
    def nodes(self) -> tuple[str, ...]:
        """The Ray nodes that its current or last lease was for, one for each of its machine classes."""
        return parts(self.node) if self.node else ()


class Flaw(Frozen):
    """A value in Redis that cannot be read, which everybody passes over."""

    what: str
    why: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.what}: {self.why.removesuffix('.')}. {self.remedy}"


class Pause(NamedTuple):
    """Why no run of a study that reads a corpus starts (Q11)."""

    study: str
    corpus: str  # Recipe.corpus
    node: str | None  # Ray's id of the only node where none starts; None: nowhere
    reason: str


class Index(NamedTuple):
    """What a Redis says of itself: the storage whose records it has, and its own name as their index."""

    marker: str  # Store.mark
    name: str


class Supply(Frozen):
    """What an autoscaler can do for a machine class."""

    most: int = Field(description="nodes that may be up at a time")
    starting: int = Field(0, description="nodes asked for and not up yet")
    since: float | None = Field(None, description="when the first of those was asked for, Unix seconds")
    trouble: str | None = Field(None, description="why the last start failed")
    price: Price | None = Field(None, description="of a node, as the cluster file says")


class Queue:
    """The queue under `prefix` of a Redis (a client from `farm.site.server.connect`)."""

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

    def install(self) -> None:
        """Load every script, so that a client that may not load any can call them."""
        with translated(self.redis):
            for path in sorted(_SCRIPTS.glob("*.lua")):
                self.redis.script_load(_script(path.stem).text)

    # What a submitter says

    def put(self, study: Study, leaving: Collection[str] = (), since: str = "*") -> Put:
        """Queue every run of `study` that is not there yet, but for the runs `leaving`: all of them or none (Q1).

        An arm may have another recipe than before as long as none of its runs has a result: its old runs leave the
        study, and those that no other study has are cancelled and then forgotten. With `since`, the `edition` that
        `study` was made from, nobody else's change to it is overwritten.

        Raises: Conflict: an arm of a study of that name has results of another recipe; says what differs. Changed: it
        is another than `since`.
        """
        try:
            return self._put("put", study, leaving, since)
        except Refused as refused:
            text = stamped(study.model_dump_json())
            said = self._ask(refused, "put", text, tuple(sorted(leaving)), since=since)
            assert said.put is not None
            return said.put

    def preview(self, study: Study) -> Put:
        """What `put` would answer now; nothing is queued.

        Raises: Conflict
        """
        return self._put("preview", study, ())

    def _put(self, mode: str, study: Study, leaving: Collection[str], since: str = "*") -> Put:
        runs = study.runs()
        recipes = {run.arm: run.recipe for run in runs}
        arms = {name: canonical_json(identity(recipe)) for name, recipe in recipes.items()}
        spelled = [text for run in runs if (text := _spelled(run))[0] not in leaving]
        said, *details = self._call(
            "put",
            mode,
            study.name,
            stamped(study.model_dump_json()),
            since,
            len(arms),
            *(text for arm in arms.items() for text in arm),
            *(text for run in spelled for text in run),
        )
        if said == "changed":
            raise Changed(f"{study.name} was changed by another command meanwhile: nothing was queued.")
        if said == "arm":
            _refuse_arms(study.name, {arm: _recipe(text) for arm, text in _pairs(details)}, recipes)
        if said == "run":
            raise Conflict(f"another run has the id {details[0]!r} already.", remedy="Rename its arm.")
        states, replaced, again, adopted, twins = details
        found, has_result = dict(zip((run_id for run_id, *_ in spelled), states, strict=True)), dict(_pairs(adopted))
        return Put(
            new=tuple(run_id for run_id, state in found.items() if not state and run_id not in has_result),
            known={run_id: State(state) for run_id, state in found.items() if state},
            adopted=has_result,
            twins=dict(_pairs(twins)),
            again=tuple(again),
            replaced=dict(_pairs(replaced)),
        )

    def evaluate(self, study: str, jobs: Sequence[Evaluating]) -> dict[str, State | None]:
        """Have trained models scored, for `study`: all of them or none. Returns what each job was before, by its id;
        None: it is new. What was under way stays so, and what was final is queued anew.

        Raises: NotFound: a run has no result. Conflict
        """
        spelled = [(*_spelled(job), job.of) for job in jobs]
        try:
            said, *details = self._call(
                "evaluate",
                study,
                *(
                    part
                    for name, _, machine, arm, priority, limit, spec, corpus, of in spelled
                    for part in (name, of, machine, arm, priority, limit, spec, corpus)
                ),
            )
        except Refused as refused:
            reply = self._ask(refused, "evaluate", study, jobs=tuple(jobs))
            assert reply.before is not None
            return reply.before
        if said == "missing":
            raise NotFound(f"run {details[0]} has not succeeded: it has no model to score.", remedy="See `farm runs`.")
        states = (State(state) if state else None for state in details[0])
        return dict(zip((name for name, *_ in spelled), states, strict=True))

    def evaluations(self, study: str | None = None) -> list[Status]:
        """Every evaluation that was asked for, of all studies or for one, in the order of asking, at one instant."""
        found = _readable(_status, self._call("statuses", "evaluations", ""))
        return [status for status in found if study is None or status.study == study]

    def cancel(self, run_id: str) -> State:
        """Cancel a run (Q8) and say what it is now: a running one stays so until its worker heard of it.

        Raises: NotFound
        """
        try:
            return self._moved(run_id, self._call("cancel", run_id))
        except Refused as refused:
            said = self._ask(refused, "cancel", run_id)
            assert said.state is not None
            return said.state

    # What a submitter asks a clerk for, who may not do it

    KEPT_SECONDS = 60

    @property
    def asked(self) -> str:
        """The channel on which submitters ask."""
        return f"{self.prefix}asked"

    def taken(self, ask: Ask) -> str:
        """The key that says that a clerk does it."""
        return f"{self.prefix}taken:{ask.token}"

    def said(self, ask: Ask) -> str:
        """The key that holds the answer."""
        return f"{self.prefix}said:{ask.token}"

    def _ask(
        self,
        refused: Refused,
        verb: Literal["put", "cancel", "evaluate"],
        name: str,
        leaving: tuple[str, ...] = (),
        jobs: tuple[Evaluating, ...] = (),
        since: str = "*",
    ) -> Reply:
        """Have a clerk do it.

        Raises: Refused: this user may not even ask. Unreachable: no clerk is there, or it did not answer. And what the
        verb raises.
        """
        ask = Ask(token=uuid4().hex, verb=verb, name=name, leaving=leaving, jobs=jobs, since=since)
        until, pause = time.monotonic() + CLERK_SECONDS, 0.002
        try:
            while not self._published(ask):
                if time.monotonic() > until:
                    raise Unreachable("no farm is up that takes what submitters ask for.", remedy="Have it started.")
                time.sleep(0.1)
        except Refused:
            raise refused from None
        until = time.monotonic() + ANSWER_SECONDS
        while (text := self._answer(ask)) is None:
            if time.monotonic() > until:
                raise Unreachable("the farm did not answer; it may have done it.", remedy="Look, and ask again.")
            time.sleep(pause)
            pause = min(2 * pause, 0.1)
        said = Reply.model_validate_json(text)
        if said.error:
            kind = getattr(errors, said.error, FarmError)
            raise kind(said.message, remedy=said.remedy)
        return said

    def _published(self, ask: Ask) -> bool:
        with translated(self.redis):
            return bool(self.redis.publish(self.asked, ask.model_dump_json()))

    def _answer(self, ask: Ask) -> str | None:
        with translated(self.redis):
            return self.redis.get(self.said(ask))  # type: ignore[return-value]

    def retry(self, run_id: str) -> State:
        """Queue a failed or cancelled run again, in its old place and with all its attempts; end its pause (Q11).

        Raises: NotFound. Conflict: it has succeeded, or is still being cancelled.
        """
        said, *details = self._call("retry", run_id)
        if said == "superseded":
            raise Conflict(
                f"the arm of {run_id} has another recipe now: this run is about to be forgotten.",
                remedy="To train it, submit its recipe as an arm of another name.",
            )
        if said == "conflict":
            if details[0] == State.SUCCEEDED:
                raise Conflict(f"{run_id} has succeeded: its result stays.", remedy="To repeat it, raise study.reruns.")
            raise Conflict(f"{run_id} is still being cancelled.", remedy="Retry it when it has stopped.")
        return self._moved(run_id, [said, *details])

    def forget(self, run_ids: Sequence[str], study: str = "") -> Forgotten:
        """Take final runs out of `study`, and out of the queue where no other study has them: all of them or none.

        A study without runs is gone. `study` left out: the one that has the one run named. A run that is put again
        begins above its last epoch here.

        Raises: NotFound. Conflict: some are queued or running; or several studies have the run.
        """
        said, *details = self._call("forget", study, *run_ids)
        if said == "missing":
            self._refuse_unknown(details[0])
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
        return Forgotten(gone={run_id: int(epoch) for run_id, epoch in _pairs(gone)}, kept=tuple(kept))

    # What a worker says

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
        said, *details = self._call(
            "claim", uuid4().hex, machine, worker, _milliseconds(seconds), node, marker, *passing
        )
        if said == "none":
            return None
        run_id, epoch, deadline, spec, study, checkpoint = details
        lease = Lease(run_id=run_id, epoch=int(epoch), deadline=_seconds(deadline), worker=worker)
        try:
            return Claim(lease=lease, run=_run(spec), study=study, checkpoint=_checkpoint(checkpoint))
        except UNREADABLE as error:
            self.fail(lease, "unreadable", f"what Redis holds of it: {_why(error)}", 0, retryable=False)
            return self.claim(machine, worker, seconds, node, passing, marker)

    def sweep(self) -> list[str]:
        """End every expired lease; their runs are queued again, or failed, or cancelled (Q3)."""
        return self._call("sweep")

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
        answer = self._held(lease, "renew", _milliseconds(seconds), step, job or "", node or "")
        return lease.model_copy(update={"deadline": _seconds(answer[1])})

    def checkpoint(self, lease: Lease, checkpoint: Checkpoint) -> None:
        """Point at a newer checkpoint; an older one than is known changes nothing.

        Raises: LeaseLost
        """
        self._held(lease, "checkpoint", checkpoint.step, checkpoint.epoch, canonical_json(checkpoint))

    def record(self, lease: Lease, points: Sequence[Point]) -> None:
        """Append to the curve. Points already there at these steps or later are replaced. A long curve is thinned out,
        but keeps those with a validation as long as it can.

        Raises: LeaseLost
        """
        texts = [(p.step, json.dumps(list(p.model_dump().values()))) for p in sorted(points, key=lambda p: p.step)]
        self._held(lease, "record", CURVE_POINTS, NEWEST_POINTS, *(part for text in texts for part in text))

    def finish(self, lease: Lease, result: Result, scores: Iterable[Score] = ()) -> None:
        """The run has succeeded, and its model is worth that much (Q5).

        Raises: LeaseLost. Cancelled. Conflict: it finished with another result, or this is another run's.
        """
        if result.run_id != lease.run_id or result.epoch > lease.epoch:  # an earlier one: recorded, but never told us
            raise Conflict(
                f"the result is of {result.run_id} epoch {result.epoch},"
                f" the lease of {lease.run_id} epoch {lease.epoch}."
            )
        self._held(lease, "finish", result.steps, stamped(canonical_json(result)), *_score_texts(scores))

    def deliver(self, lease: Lease, score: Score) -> None:
        """An evaluation has succeeded: this is its score (Q5).

        Raises: LeaseLost. Cancelled. Conflict: it came to another score, or this is of another run or evaluation.
        """
        if not lease.run_id.startswith(f"{score.run_id}{OF}") or score.epoch > lease.epoch:
            raise Conflict(f"the score is of {score.run_id} by {score.evaluation}, the lease of {lease.run_id}.")
        self._held(lease, "finish", 0, stamped(canonical_json(score)), *_score_texts([score]))

    def fail(self, lease: Lease, cause: str, message: str, step: int, retryable: bool) -> State:
        """An attempt failed at `step`: the run is queued again after a back-off, or failed, or cancelled (Q6).

        Raises: LeaseLost
        """
        detail = {"cause": cause, "message": message[:MESSAGE_CHARACTERS], "step": step, "retryable": retryable}
        backoff = _milliseconds(self.backoff_seconds), _milliseconds(self.backoff_limit_seconds)
        answer = self._held(lease, "fail", uuid4().hex, step, int(retryable), cause, json.dumps(detail), *backoff)
        return State(answer[1])

    def release(self, lease: Lease, reason: str, above: int = 0, is_silent: bool = False) -> str:
        """Give a run back unharmed, and say why: for `reason`, unless the lease was recalled for another (Q7).

        `above`: an epoch that its directory holds; the next lease is above that. `is_silent`: only if no agent has
        taken it up; where one has meanwhile, it is lost for the caller.

        Raises: LeaseLost
        """
        return self._held(lease, "release", uuid4().hex, reason, above, int(is_silent))[1]

    def recall(self, lease: Lease, reason: str) -> None:
        """Have it on record why a lease is wanted back. Its holder is told by other means, and will release it.

        Raises: LeaseLost
        """
        self._held(lease, "recall", reason)

    def attend(self, dispatcher: str, seconds: float) -> None:
        """A dispatcher is there, and will have said so again before `seconds` are over; 0: it has gone."""
        self._call("attend", dispatcher, round(seconds * 1000))

    def attending(self, seconds: float) -> set[str]:
        """The dispatchers that are there, of which each may be silent for `seconds`."""
        return set(self._call("attending", _milliseconds(seconds)))

    def pause(self, lease: Lease, reason: str, node: str | None = None) -> None:
        """Give a run back unharmed, and let none of its study start that reads the same corpus (Q11): on `node`, or
        anywhere.

        Raises: LeaseLost
        """
        self._held(lease, "pause", uuid4().hex, reason[:MESSAGE_CHARACTERS], node or "")

    def acknowledge_cancel(self, lease: Lease) -> None:
        """The agent has stopped a run that was cancelled while it ran (Q8).

        Raises: LeaseLost. Conflict: nobody cancelled it.
        """
        self._held(lease, "acknowledge_cancel")

    def note(self, lease: Lease, event: str, detail: str) -> None:
        """Have an event remembered, such as a checkpoint that was damaged.

        Raises: LeaseLost
        """
        self._held(lease, "note", event, detail[:MESSAGE_CHARACTERS])

    # What anybody may ask

    def statuses(self, study: str | None = None) -> list[Status]:
        """Every run, of a study or of all, in the order they were submitted, at one instant (Q9)."""
        return list(_readable(_status, self._call("statuses", "study" if study else "all", study or "")))

    def running(self) -> list[Status]:
        """The runs that hold a lease, next deadline first: a small part of `statuses`, for frequent callers."""
        return list(_readable(_status, self._call("statuses", "running", "")))

    def status(self, run_id: str) -> Status:
        """One run, by its id or a beginning of it that no other run shares.

        Raises: NotFound: names the nearest. Conflict: several begin so. Unreadable
        """
        found = self._call("find", run_id)
        if not found or not run_id:
            self._refuse_unknown(run_id)
        if len(found) > 1:
            some = ", ".join(found[:3]) + (", ..." if len(found) > 3 else "")
            raise Conflict(f"{len(found)} runs begin with {run_id!r}: {some}.", remedy="Write more of the id.")
        (text,) = self._call("statuses", "one", found[0])
        try:
            return _status(text)
        except UNREADABLE as error:
            raise Unreadable(str(_spoilt_run(found[0], error)), run_id=found[0]) from None

    def studies(self) -> dict[str, Study]:
        """Every study as it was submitted last, by name."""
        found = _readable(_study, self._call("kept", "studies", "")[1::2])
        return {study.name: study for study in sorted(found, key=lambda study: study.name)}

    def edition(self, name: str) -> str:
        """Which form of a study is there now, '' for none: what `put` takes as `since`. Read it before the study."""
        found = self._call("kept", "studies", name)
        return hashlib.sha1(found[1].encode()).hexdigest() if found else ""

    def study(self, name: str) -> Study:
        """The study as it was submitted last.

        Raises: NotFound: names the nearest. Unreadable
        """
        found = self._kept("studies", name, _study, _spoilt_study)
        if found is None:
            raise NotFound(f"no study {name!r}{nearest(name, self.studies())}", remedy="See `farm status`.")
        return found

    def bring(self, imported: Imported) -> None:
        """Keep what was imported into a study, over what was there; without any run, nothing."""
        self._call("keep", "imported", imported.study, stamped(canonical_json(imported)) if imported.runs else "")

    def imported(self, study: str) -> Imported:
        """What was imported into a study.

        Raises: Unreadable
        """
        return self._kept("imported", study, _imported, _spoilt_import) or Imported(study=study)

    def all_imported(self) -> dict[str, Imported]:
        """What was imported, by study."""
        return {one.study: one for one in _readable(_imported, self._call("kept", "imported", "")[1::2])}

    def refer(self, references: References) -> None:
        """Keep the reference models of a study, over what was there; without any, nothing."""
        text = stamped(canonical_json(references)) if references.models else ""
        self._call("keep", "references", references.study, text)

    def references(self, study: str) -> References:
        """The reference models of a study.

        Raises: Unreadable
        """
        return self._kept("references", study, _references, _spoilt_references) or References(study=study)

    def _kept(
        self, which: str, study: str, read: Callable[[str], Said], spoilt: Callable[[str, Exception], "Flaw"]
    ) -> Said | None:
        """What is kept of a study under `which`; None where there is nothing. Raises: Unreadable"""
        found = self._call("kept", which, study) if study else []
        try:
            return read(found[1]) if found else None
        except UNREADABLE as error:
            raise Unreadable(str(spoilt(study, error))) from None

    def names(
        self, kind: Literal["studies", "arms", "runs"], start: str, study: str = "", count: int = 200
    ) -> list[str]:
        """At most `count` studies, arms (of one study or of all) or run ids that begin with `start`, for a shell."""
        return sorted(self._call("names", kind, start, study, count))

    def counts(self) -> dict[State, int]:
        """How many runs are in each state, at one instant; with `forgotten_count` they add up to `put_count` (Q9)."""
        counted = self._counted()
        return {state: counted.get(state, 0) for state in State}

    def put_count(self) -> int:
        """How many runs were ever put."""
        counted = self._counted()
        return counted["put"] - counted.get("evaluation put", 0)

    def forgotten_count(self) -> int:
        """How many runs were put and are gone."""
        return self._counted().get("forgotten", 0)

    def evaluation_counts(self) -> dict[str, int]:
        """The same of evaluations: how many are in each state, `forgotten`, and in all, `put`, at one instant."""
        counted = self._counted()
        return {name: counted.get(f"evaluation {name}", 0) for name in (*State, "forgotten", "put")}

    def _counted(self) -> dict[str, int]:
        both, *pairs = self._call("counts")
        return {"put": int(both)} | {name: int(count) for name, count in _pairs(pairs)}

    def queued(self, passing: Collection[str] = ()) -> dict[str, int]:
        """How many runs each machine class may claim now, in the order of their next runs: priority, then first in.

        Those that back off, are of the studies `passing` or are paused on every node (Q11) are not counted.
        """
        return {machine: int(count) for machine, count in _pairs(self._call("queued", *passing))}

    def pauses(self) -> list[Pause]:
        """What is paused (Q11)."""
        return [_pause(place, reason) for place, reason in _pairs(self._call("pauses"))]

    def account(self, usd: Mapping[str, float], seconds: float) -> None:
        """A dispatcher has counted what studies have spent; believed for `seconds`."""
        self._call("account", json.dumps(dict(usd)), _milliseconds(seconds))

    def spent(self) -> dict[str, float]:
        """Dollars by study, of those that have a limit, as a dispatcher counted lately; it knows every price."""
        return json.loads(self._call("spent") or "{}")

    def scores(self, name: str = "", kind: Literal["run", "study", "all"] = "all") -> dict[str, tuple[Score, ...]]:
        """What the models of runs are worth: of one run, of those of a study, or of all, by run id.

        A run that has adopted its result has the scores of the run that trained.
        """
        return {run_id: tuple(_readable(_score, texts)) for run_id, texts in self._call("scores", kind, name)}

    def curve(self, run_id: str) -> list[Point]:
        """The curve of a run, steps ascending, thinned out evenly when it is long."""
        return [
            Point(**dict(zip(Point.model_fields, json.loads(text), strict=True)))
            for text in self._call("curve", run_id)
        ]

    def events(self, run_id: str, count: int = 100) -> list[Event]:
        """The last `count` events of a run, oldest first."""
        return [_event(*entry) for entry in reversed(self._call("events", run_id, count))]

    # Machines

    def register(self, machine: Machine, node: str, seconds: float) -> None:
        """`node` offers a machine class for `seconds`. The class' facts, and what was probed, stay."""
        facts = stamped(canonical_json(machine.model_copy(update={"probes": {}})))
        probes = [part for probe in machine.probes.items() for part in probe]
        self._call("register", machine.name, facts, node, _milliseconds(seconds), *probes)

    def machines(self) -> dict[str, Machine]:
        """Every machine class that a node ever registered, by name."""
        return {machine.name: machine for machine, _ in self._registered()}

    def classes(self, declared: Mapping[str, Machine]) -> dict[str, Machine]:
        """Every class that is known, the later over the earlier: built in, `declared` in the settings, registered.

        A price that no node registered is that of the cluster file, if it has one: before any node has started, too.
        """
        told = layered(BUILT_IN, declared)
        supplied = {name: told[name].priced(one.price) for name, one in self.supply().items() if name in told}
        return layered(told, supplied, self.machines())

    def nodes(self) -> dict[str, list[str]]:
        """The nodes that offer each class now."""
        return {machine.name: nodes for machine, nodes in self._registered()}

    def provide(self, supply: Mapping[str, Supply], seconds: float) -> None:
        """An autoscaler can start these machine classes; forgotten after `seconds`."""
        text = json.dumps({name: one.model_dump() for name, one in supply.items()})
        self._call("provide", text, _milliseconds(seconds))

    def supply(self) -> dict[str, Supply]:
        """The machine classes that an autoscaler can start, as it said lately; none when there is no autoscaler."""
        read = _readable(_supply, [self._call("supply") or "{}"])
        return next(read, {})

    # Nodes

    def publish(self, head: Head) -> None:
        """Have the head described, for whoever joins."""
        self._call("publish", stamped(canonical_json(head)))

    def head(self) -> Head | None:
        """The head as it described itself last; None if no head ever did."""
        text = self._call("head")
        return next(_readable(_head, [text]), None) if text else None

    def enroll(self, name: str, token: str, facts: str, seconds: float) -> None:
        """Join as the node `name` for `seconds`, or go on doing so. `facts`: who this is, for others to read.

        Raises: Conflict: another machine has joined under that name; says which.
        """
        said, *details = self._call("enroll", name, token, _milliseconds(seconds), facts)
        if said == "taken":
            free = max(0, int(details[1])) / 1000
            raise Conflict(
                f"another machine has joined as {name!r}: {details[0]}.",
                remedy=f"Join with --name OTHER; if that one is gone, the name is free in {free:.0f} s.",
            )

    def leave(self, machine: str, name: str, token: str = "") -> None:
        """The node `name` offers `machine` no longer; with its `token`, the name is free, too."""
        self._call("leave", machine, name, token)

    def sight(self, nodes: Sequence[Node], seconds: float) -> None:
        """A dispatcher sees these nodes, and will have looked again before `seconds` are over."""
        self._call("sight", _milliseconds(seconds), *(part for node in nodes for part in (node.id, _facts(node))))

    def roster(self) -> list[Node]:
        """Every node that a dispatcher sees, by name; drained and resting ones say why."""
        found = _readable(_node, self._call("roster"))
        return sorted(found, key=lambda node: (node.name, node.id))

    def drain(self, node_id: str, reason: str) -> str:
        """Stop runs from starting on a node; returns the first reason given."""
        return self._call("drain", node_id, reason)

    def rest(self, node_id: str, reason: str, seconds: float) -> None:
        """Let no run start on a node for a while: what is wrong with it would hurt one after the other."""
        self._call("rest", node_id, reason, _milliseconds(seconds))

    def undrain(self, node_id: str) -> bool:
        """Let runs start on a node again; whether it was drained."""
        return bool(self._call("undrain", node_id))

    # From the run directories

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
        answer = self._call(
            "restore",
            *_spelled(run),
            study,
            state,
            epoch,
            result.steps if result else max(steps),
            round(held_seconds * 1000),
            *at,
            stamped(canonical_json(result)) if result else "",
            *_history(causes, released),
        )
        return bool(answer)

    def keep_scores(self, run_id: str, scores: Iterable[Score]) -> None:
        """Have the scores that the directory of a run holds; nothing changes for a run that has not succeeded."""
        if texts := _score_texts(scores):
            self._call("keep_scores", run_id, *texts)

    def omit(self, run_id: str, epoch: int) -> None:
        """A run of the directories stays out, forgotten or not readable: should it be put, it begins above `epoch`."""
        self._call("omit", run_id, epoch)

    def index(self) -> Index | None:
        """Whose index this Redis is; None for one that is new or was emptied."""
        marker, name = self._call("index")
        return Index(marker, name) if marker and name else None

    def begin_index(self, marker: str) -> str:
        """Somebody begins to read the records of the storage `marker` into this Redis; returns a token of that.

        Raises: Conflict: it is the index of another storage.
        """
        token = uuid4().hex
        said, *_ = self._call("indexing", token, marker)
        if said == "conflict":
            raise Conflict(
                "this Redis is that of a farm with another storage.",
                remedy="Let FARM_STORAGE name that one, or FARM_REDIS_URL a Redis of your own.",
            )
        return token

    def end_index(self, token: str, marker: str) -> Index | None:
        """All those records are in this Redis, which is their index now; None if it was emptied in between."""
        said, *name = self._call("indexed", token, marker, uuid4().hex[:16])
        return Index(marker, name[0]) if said == "ok" else None

    # What cannot be read

    def mend(self) -> list[str]:
        """Put keys of a wrong type aside, and have what is counted and listed agree with the runs that are there again.

        Returns what was put aside.
        """
        return self._say("mend")

    def flaws(self) -> list[Flaw]:
        """What cannot be read and is passed over by everybody, each with what to do."""
        found = [_aside(name, place) for name, place in _pairs(self._call("aside"))]
        kept: tuple[tuple[str, Callable[[str], object], Callable[[str, Exception], Flaw]], ...] = (
            ("studies", _study, _spoilt_study),
            ("imported", _imported, _spoilt_import),
            ("references", _references, _spoilt_references),
        )
        for which, read, spoilt in kept:
            for name, text in _pairs(self._call("kept", which, "")):
                found += [spoilt(name, error) for error in _faults(read, text)]
        for text in self._call("statuses", "all", ""):
            found += [_spoilt_run(json.loads(text)[0], error) for error in _faults(_status, text)]
        for run_id, texts in self._call("scores", "all", ""):
            found += [_spoilt_score(run_id, error) for text in texts for error in _faults(_score, text)]
        for name, facts, probes, _ in self._call("machines"):
            found += [_spoilt_machine(name, error) for error in _faults(lambda pair: _machine(*pair), (facts, probes))]
        for answer in self._call("roster"):
            found += [_spoilt_node(error) for error in _faults(_node, answer)]
        return found

    def _call(self, verb: str, *arguments: Any) -> Any:
        """Call a verb; where a key of a wrong type is in its way, that is put aside first."""
        try:
            return self._say(verb, *arguments)
        except Unreadable as unreadable:
            try:
                self.mend()
            except Refused:  # a submitter's; the farm's own dispatcher may
                raise unreadable from None
            return self._say(verb, *arguments)

    def _say(self, verb: str, *arguments: Any) -> Any:
        script = _script(verb)
        with translated(self.redis):
            try:
                return self.redis.evalsha(script.sha, 1, self.prefix, *arguments)
            except NoScriptError:  # Redis forgets its scripts when it restarts; submitters may not load theirs
                self._install_anew()
                return self.redis.evalsha(script.sha, 1, self.prefix, *arguments)

    def _install_anew(self) -> None:
        try:
            self.install()
        except Refused:
            raise Refused(
                "this farm has not loaded the scripts of this version of farm, and this user may load none.",
                remedy="Have `farm serve` started there, and the head's version here.",
            ) from None

    def _held(self, lease: Lease, verb: str, *arguments: Any) -> list[Any]:
        """Call a verb that needs a live lease."""
        answer = self._call(verb, lease.run_id, lease.epoch, *arguments)
        match answer[0]:
            case "lost":
                raise LeaseLost(f"epoch {lease.epoch} of {lease.run_id} is over: nothing was written.")
            case "cancelled":
                raise Cancelled(f"{lease.run_id} was cancelled.")
            case "conflict" if verb == "finish":
                raise Conflict(f"{lease.run_id} has another result already: it stays.")
            case "conflict":
                raise Conflict(f"nobody cancelled {lease.run_id}.")
        return answer

    def _moved(self, run_id: str, answer: list[Any]) -> State:
        if answer[0] == "missing":
            self._refuse_unknown(run_id)
        return State(answer[1])

    def _refuse_unknown(self, run_id: str) -> NoReturn:
        known = self._call("find", "")
        raise NotFound(f"no run {run_id!r}{nearest(run_id, known)}", remedy="See `farm runs`.")

    def _registered(self) -> Iterator[tuple[Machine, list[str]]]:
        for _, facts, probes, nodes in self._call("machines"):
            for machine in _readable(lambda pair: _machine(*pair), [(facts, probes)]):
                yield machine, sorted(nodes)


class _Script(NamedTuple):
    text: str
    sha: str


@cache
def _script(verb: str) -> _Script:
    text = "".join((_SCRIPTS / f"{name}.lua").read_text(encoding="utf-8") for name in ("transitions", verb))
    return _Script(text, sha1(text.encode(), usedforsecurity=False).hexdigest())


def _facts(node: Node) -> str:
    return stamped(canonical_json(node.model_copy(update={"drained": None, "resting": None})))


def _spelled(run: Run) -> tuple[Any, ...]:
    """A run as put.lua and restore.lua read it.

    Behind its JSON, on a line of its own, come its digest once more and the schema. Lua keeps strings in a hash table
    and looks at 32 characters of a long one; the runs of an arm, which differ in a seed, all fell into one bucket, and
    10,000 of them cost 90 us each.
    """
    digest, policy = run.digest, run.policy
    kind = " evaluation" if isinstance(run, Evaluating) else ""
    spec = f"{run.model_dump_json()}\n{digest} {SCHEMA}{kind}"
    return run.named(digest), digest, run.machine, run.arm, policy.priority, policy.attempts, spec, run.recipe.corpus


def _readable(read: Callable[[Any], Said], said: Iterable[Any]) -> Iterator[Said]:
    """What can be read of what Redis said; `Queue.flaws` names the rest."""
    for one in said:
        with suppress(*UNREADABLE):
            yield read(one)


def _faults(read: Callable[[Any], object], said: Any) -> list[Exception]:
    try:
        read(said)
    except UNREADABLE as error:
        return [error]
    return []


def _why(error: Exception) -> str:
    """What is wrong with it, in a line: of a model, the first field that is."""
    if isinstance(error, ValidationError):
        fault = error.errors()[0]
        return f"{'.'.join(map(str, fault['loc'])) or 'it'}: {fault['msg']}"
    return f"{type(error).__name__}: {first_line(error)}"


def _flaw(what: str, error: Exception, remedy: str) -> Flaw:
    """What a newer farm wrote is not spoilt: that has a remedy of its own."""
    newer = error.remedy if isinstance(error, Unreadable) else None
    return Flaw(what=what, why=error.message if isinstance(error, Unreadable) else _why(error), remedy=newer or remedy)


def _spoilt_study(name: str, error: Exception) -> Flaw:
    return _flaw(f"study {name!r}", error, "Submit its file again.")


def _spoilt_import(name: str, error: Exception) -> Flaw:
    return _flaw(f"what was imported into {name!r}", error, "Import it again, or run: farm reindex")


def _spoilt_references(name: str, error: Exception) -> Flaw:
    return _flaw(f"a reference model of {name!r}", error, "Bring them back from the storage: farm reindex")


def _spoilt_run(run_id: str, error: Exception) -> Flaw:
    return _flaw(f"run {run_id}", error, f"Drop it with: farm forget {run_id}; then submit its study again.")


def _spoilt_score(run_id: str, error: Exception) -> Flaw:
    return _flaw(f"a score of {run_id}", error, "Bring it back from its directory: farm reindex.")


def _spoilt_machine(name: str, error: Exception) -> Flaw:
    return _flaw(f"machine class {name!r}", error, "A node that offers it writes it anew within 10 s.")


def _spoilt_node(error: Exception) -> Flaw:
    return _flaw("a node", error, "A dispatcher writes it anew within 5 s: is one up?")


def _aside(name: str, place: str) -> Flaw:
    remedy = f"Lists are made anew from the runs, lost runs by farm reindex. Then remove it: redis-cli DEL {place}"
    return Flaw(what=f"key {name}", why=f"had a wrong type, and is {place} now", remedy=remedy)


def _supply(text: str) -> dict[str, Supply]:
    return {name: Supply(**one) for name, one in json.loads(text).items()}


def _head(text: str) -> Head:
    return Head.model_validate_json(unstamped(text))


def _node(answer: Sequence[Any]) -> Node:
    text, drained, resting = answer
    node = Node.model_validate_json(unstamped(text))
    return node.model_copy(update={"drained": drained or None, "resting": resting or None})


def _machine(facts: str, probes: Sequence[str]) -> Machine:
    machine = Machine.model_validate_json(unstamped(facts))
    return machine.model_copy(update={"probes": {key: int(size) for key, size in _pairs(probes)}})


def _status(text: str) -> Status:
    """A run as statuses.lua spells it; what is absent is False there."""
    _, spec, study, state, *rest, causes, result = json.loads(text)
    run = _run(spec)
    epoch, attempts, step, submitted, started, ended, deadline, worker, job, node, *rest = rest
    checkpoint, cancelling, later, released, recalled, held = rest
    return Status(
        run=run,
        study=study,
        state=State(state),
        epoch=int(epoch),
        attempts=int(attempts),
        step=int(step),
        submitted=_seconds(submitted),
        started=_seconds(started) if started else None,
        ended=_seconds(ended) if ended else None,
        deadline=_seconds(deadline) if deadline else None,
        worker=worker or None,
        job=job or None,
        node=node or None,
        causes=tuple(_cause(text) for text in causes),
        checkpoint=_checkpoint(checkpoint),
        cancelling=bool(cancelling),
        not_before=_seconds(later) if later else None,
        released=released or None,
        recalled=recalled or None,
        held_seconds=_seconds(held) if held else 0.0,
        result=_result(result, run) if result and not isinstance(run, Evaluating) else None,
    )


def _result(text: str, run: Run) -> Result:
    """The result of `run`: its own, or the one that it has adopted, said of it."""
    found = Result.model_validate_json(unstamped(text))
    trained = found.adopted or found.run_id
    if trained == run.id:
        return found
    return found.model_copy(update={"run_id": run.id, "arm": run.arm, "adopted": trained})


def _score(text: str) -> Score:
    return Score.model_validate_json(unstamped(text))


def _score_texts(scores: Iterable[Score]) -> list[str]:
    """As the scripts read them: the evaluation's id, and the score."""
    return [part for score in scores for part in (score.evaluation, stamped(canonical_json(score)))]


@lru_cache(maxsize=20_000)  # twice the runs of the largest study; reading one costs 60 us
def _run(spec: str) -> Run:
    text, _, rest = spec.partition("\n")
    schema, _, kind = rest.partition(" ")[2].partition(" ")
    check(int(schema or 0))
    return (Evaluating if kind else Run).model_validate_json(text)


@lru_cache(maxsize=100)  # who guards budgets reads them all every few seconds
def _study(text: str) -> Study:
    return Study.model_validate_json(unstamped(text))


@lru_cache(maxsize=100)
def _imported(text: str) -> Imported:
    return Imported.model_validate_json(unstamped(text))


@lru_cache(maxsize=100)
def _references(text: str) -> References:
    return References.model_validate_json(unstamped(text))


def _checkpoint(text: str | None) -> Checkpoint | None:
    return Checkpoint.model_validate_json(text) if text else None


def _pause(place: str, reason: str) -> Pause:
    study, corpus, *node = place.split(" ")
    return Pause(study, corpus, node[0] if node else None, reason)


def _cause(text: str) -> Cause:
    at, epoch, detail = text.split(" ", 2)
    return Cause(epoch=int(epoch), at=_seconds(at), **json.loads(detail))


def _cause_text(cause: Cause) -> str:
    detail = json.dumps(cause.model_dump(exclude={"at", "epoch"}))
    return f"{_milliseconds(cause.at)} {cause.epoch} {detail}"


def _history(causes: Sequence[Cause], released: Collection[int]) -> list[str]:
    """As restore.lua reads it: failures, oldest first, and between them the attempts that were given back."""
    told = [(cause.epoch, _cause_text(cause)) for cause in causes]
    told += [(epoch, f"0 {epoch} released") for epoch in released]
    return [text for _, text in sorted(told, key=lambda one: one[0])]


def _event(stream_id: str, fields: list[str]) -> Event:
    values = dict(_pairs(fields))
    at, epoch = _seconds(stream_id.split("-")[0]), int(values["epoch"])
    return Event(at=at, event=values["event"], epoch=epoch, detail=values["detail"])


def _pairs(flat: Sequence[Any]) -> Iterator[tuple[Any, Any]]:
    return zip(flat[::2], flat[1::2], strict=True)


def _milliseconds(seconds: float) -> int:
    return max(1, round(seconds * 1000))


def _seconds(milliseconds: str) -> float:
    return int(milliseconds) / 1000


def _recipe(text: str) -> Recipe:
    """The recipe of an identity."""
    return Recipe.model_validate_json(canonical_json(json.loads(text)["changes"]))


def _refuse_arms(study: str, stored: dict[str, Recipe], given: dict[str, Recipe]) -> NoReturn:
    """`stored`: arm -> its recipe, of those that have results; `given`: of all that are submitted."""
    arm, *more = stored
    before, now = stored[arm].model_dump(mode="json"), given[arm].model_dump(mode="json")
    changes = "; ".join(_differences(before, now))
    also = f" (and {len(more)} more arms: {', '.join(more[:3])}{', ...' * (len(more) > 3)})" if more else ""
    which = "" if more else f" --arm {arm}"
    raise Conflict(
        f"study {study!r} has results of another {arm!r}{also}: {changes}.",
        remedy=f"Give the study or the arm another name, or drop those results: farm forget {study}{which}",
        study=study,
        arm=arm,
    )


def _differences(before: dict[str, Any], now: dict[str, Any], path: str = "") -> Iterator[str]:
    for key in sorted(before.keys() | now.keys()):
        was, is_now, here = before.get(key), now.get(key), f"{path}{key}"
        if isinstance(was, dict) and isinstance(is_now, dict):
            yield from _differences(was, is_now, f"{here}.")
        elif was != is_now:
            yield f"{here} was {was!r}, is {is_now!r} now"
