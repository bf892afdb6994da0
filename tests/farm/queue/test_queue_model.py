"""The queue against a dict: random verbs in random order, on a real Redis, with every promise checked after each.

Longer than other files and in one class, since the rules of a state machine share its bundles and its dict.
"""

import itertools
from collections import Counter
from dataclasses import dataclass, field

import pytest
from claims import listed
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, rule
from redis import Redis
from results import result
from waiting import wait_until

from farm.errors import Cancelled, Conflict, LeaseLost
from farm.queue.queue import Queue
from farm.queue.values import Claim, Put
from farm.record.result import Result
from farm.study.recipe import Recipe
from farm.study.run import Checkpoint, Run, State
from farm.study.study import Study

LONG, MOMENT = 3600.0, 0.001  # seconds of a lease: never over, over at once
POISON = 3
NODES = ["attic", "cellar"]


def a_study(
    name: str, machines: list[str], seeds: list[int], priority: int, attempts: int, dropout: float = 0.1, **arms: float
) -> Study:
    """`dropout` is the baseline's; `arms` are called as they are and differ from it in theirs."""
    return Study.build(
        {
            "study": {"name": name, "machines": machines, "seeds": {"init": seeds, "train": [1]}},
            "baseline": {
                "model": {"context": 8, "width": 8, "layers": 1, "heads": 1, "dropout": dropout},
                "train": {"tokens": 8000, "precision": "fp32"},
            },
            "interventions": {arm: {"model": {"dropout": its}} for arm, its in arms.items()},
            "policy": {"priority": priority, "attempts": attempts},
        }
    )


# They overlap: a run of several keeps the policy of the study that came first. Some give an arm another recipe than
# before, and some another name.
STUDIES = [
    a_study("usual", ["cpu"], [1, 2], 0, 2),
    a_study("urgent", ["cpu"], [2, 3], 5, 5),
    a_study("wide", ["cpu", "cpu-x1"], [1, 4], 0, 3),
    a_study("usual", ["cpu"], [1, 3], 0, 2, dropout=0.2),
    a_study("renamed", ["cpu"], [1, 2], 0, 3, dropout=0.2, plain=0.1),
    a_study("renamed", ["cpu"], [2], 0, 3, dropout=0.3, plain=0.1),
]


@dataclass
class Expected:
    """A run as the model knows it."""

    study: str
    run: Run
    place: tuple[int, int]
    state: State = State.QUEUED
    epoch: int = 0
    attempts: int = 0
    causes: list[int] = field(default_factory=list)
    crash_step: int = -1
    crashes: int = 0
    renewed: bool = False
    step: int = 0
    cancelling: bool = False
    checkpoint: int | None = None
    result: Result | None = None
    superseded: bool = False

    @property
    def limit(self) -> int:
        return self.run.policy.attempts

    def holds(self, claim: Claim) -> bool:
        return self.state == State.RUNNING and self.epoch == claim.lease.epoch

    def reaches(self, step: int) -> None:
        if step > self.crash_step:
            self.crash_step, self.crashes = -1, 0

    def fails(self, step: int, retryable: bool, is_crash: bool = True) -> None:
        self.causes.append(step)
        self.attempts += 1
        self.reaches(step)
        if not is_crash:
            pass
        elif step > self.crash_step:
            self.crash_step, self.crashes = step, 1
        elif step == self.crash_step:
            self.crashes += 1
        if self.cancelling:
            self.leaves(State.CANCELLED)
        elif not retryable or self.attempts >= self.limit or (is_crash and self._is_poison(step)):
            self.leaves(State.FAILED)
        else:
            self.leaves(State.QUEUED)

    def _is_poison(self, step: int) -> bool:
        return step == self.crash_step and self.crashes >= POISON

    def goes_back(self) -> None:
        """Released, by its agent or by who claimed it."""
        if self.renewed:
            self.crash_step, self.crashes = -1, 0
        self.leaves(State.CANCELLED if self.cancelling else State.QUEUED)

    def leaves(self, state: State) -> None:
        self.state, self.renewed = state, False
        if state.is_final:
            self.cancelling = False

    def begins_anew(self) -> None:
        self.state, self.attempts, self.crash_step, self.crashes = State.QUEUED, 0, -1, 0

    def expires(self) -> None:
        if self.renewed:
            self.fails(self.step, True, is_crash=False)
        else:
            self.leaves(State.CANCELLED if self.cancelling else State.QUEUED)


class QueueModel(RuleBasedStateMachine):
    """`redis` and `examples` are set by the test."""

    redis: Redis
    examples: itertools.count

    claims = Bundle("claims")

    @initialize()
    def begin(self) -> None:
        self.queue = Queue(
            self.redis, f"farm:model{next(self.examples)}:", backoff_seconds=MOMENT, backoff_limit_seconds=MOMENT
        )
        self.runs: dict[str, Expected] = {}
        self.members: dict[str, list[str]] = {}
        self.recipes: dict[str, dict[str, Recipe]] = {}
        self.epochs: dict[str, int] = {}  # of those that were forgotten
        self.ever = self.forgotten = 0
        self.paused: set[tuple[str, str, str | None]] = set()  # study, corpus, node

    @rule(study=st.sampled_from(STUDIES))
    def put(self, study: Study) -> None:
        ids, there = [run.id for run in study.runs()], self.members.get(study.name, [])
        before = self.recipes.get(study.name, {})
        changed = {arm.name for arm in study.arms() if before.get(arm.name, arm.recipe) != arm.recipe}
        old = [run_id for run_id in there if self.runs[run_id].run.arm in changed and run_id not in ids]
        if any(self.runs[run_id].state == State.SUCCEEDED for run_id in old):
            with pytest.raises(Conflict):
                self.queue.put(study)
            return
        put = self.queue.put(study)
        assert set(put.replaced) == set(old)
        for run_id in old:
            self._supersede(run_id, study.name)
        known = {run_id: self.runs[run_id].state for run_id in ids if run_id in self.runs and not self._returns(run_id)}
        assert put.known == known
        for run in study.runs():
            self._put(run, put, study.name)
        members = self.members.setdefault(study.name, [])
        members += [run_id for run_id in ids if run_id not in members]
        self.recipes.setdefault(study.name, {}).update((arm.name, arm.recipe) for arm in study.arms())

    def _put(self, run: Run, put: Put, study: str) -> None:
        if run.id in self.runs:
            there = self.runs[run.id]
            assert (run.id in put.new) == self._returns(run.id)
            if self._returns(run.id):
                there.begins_anew()
            if there.superseded or there.study not in {*self.members, study}:
                there.study = study
            there.superseded = False
            self._resume(there)
            return
        self.ever += 1
        fresh = Expected(study, run, (-run.policy.priority, self.ever), epoch=self.epochs.pop(run.id, 0))
        others = [other.result for other in self.runs.values() if other.run.digest == run.digest and other.result]
        if others:
            trained = others[0].adopted or others[0].run_id
            fresh.result = others[0].model_copy(update={"run_id": run.id, "arm": run.arm, "adopted": trained})
            fresh.result = fresh.result if trained != run.id else fresh.result.model_copy(update={"adopted": None})
            fresh.state, fresh.step = State.SUCCEEDED, fresh.result.steps
        assert (run.id in put.new, run.id in put.adopted) == (not others, bool(others))
        self.runs[run.id] = fresh
        self._resume(fresh)

    def _returns(self, run_id: str) -> bool:
        """Whether a put queues it again, as if it were new."""
        return self.runs[run_id].superseded and self.runs[run_id].state.is_final

    def _elsewhere(self, run_id: str, study: str) -> bool:
        return any(run_id in ids for name, ids in self.members.items() if name != study)

    def _supersede(self, run_id: str, study: str) -> None:
        self.members[study].remove(run_id)
        if not self._elsewhere(run_id, study):
            self.runs[run_id].superseded = True
            self._cancel(self.runs[run_id])
        else:
            self._passes_on(run_id, study)

    def _passes_on(self, run_id: str, study: str) -> None:
        """A run that another study has names that one, where it named `study`."""
        run = self.runs[run_id]
        if run.study == study:
            run.study = self.queue.listing.status(run_id).study
            assert run.study != study
            assert run_id in self.members[run.study]

    def _erase(self, run_id: str) -> None:
        self.epochs[run_id] = self.runs.pop(run_id).epoch
        self.forgotten += 1

    def _forget_superseded(self) -> None:
        """As each sweep does."""
        for run_id in [run_id for run_id in self.runs if self._returns(run_id)]:
            self._erase(run_id)

    @rule(data=st.data())
    def forget(self, data: st.DataObject) -> None:
        if self.members:
            study = data.draw(st.sampled_from(sorted(self.members)))
            arm = data.draw(st.sampled_from([None, "baseline", "plain"]))
            ids = [run_id for run_id in self.members[study] if arm in (None, self.runs[run_id].run.arm)]
            shared = [run_id for run_id in ids if self._elsewhere(run_id, study)]
            if not all(run_id in shared or self.runs[run_id].state.is_final for run_id in ids):
                with pytest.raises(Conflict):
                    self.queue.forget(ids, study)
                return
            said = self.queue.forget(ids, study)
            assert (set(said.kept), set(said.gone)) == (set(shared), set(ids) - set(shared))
            self.members[study] = [run_id for run_id in self.members[study] if run_id not in ids]
            for run_id in said.gone:
                self._erase(run_id)
            for run_id in said.kept:
                self._passes_on(run_id, study)
            left = {self.runs[run_id].run.arm for run_id in self.members[study]}
            self.recipes[study] = {arm: recipe for arm, recipe in self.recipes[study].items() if arm in left}
            if not left:
                del self.members[study]
                self.paused = {place for place in self.paused if place[0] != study}

    @rule(
        target=claims,
        machine=st.sampled_from(["cpu", "cpu-x1"]),
        seconds=st.sampled_from([LONG, LONG, MOMENT]),
        node=st.sampled_from(NODES),
    )
    def claim(self, machine: str, seconds: float, node: str) -> Claim | None:
        wait_until(self._nobody_backs_off, "the back-off of 1 ms is over")
        waiting = {
            key: run
            for key, run in self.runs.items()
            if run.state == State.QUEUED and run.run.machine == machine and not self._is_paused(run, node)
        }
        claim = self.queue.claim(machine, "worker", seconds, node)
        self._forget_superseded()
        if not waiting:
            assert claim is None
            return None
        assert claim is not None
        expected = min(waiting, key=lambda run_id: waiting[run_id].place)
        run = self.runs[expected]
        run.state, run.epoch, run.renewed = State.RUNNING, run.epoch + 1, False
        assert (claim.run.id, claim.lease.epoch) == (expected, run.epoch)
        assert (claim.checkpoint.step if claim.checkpoint else None) == run.checkpoint
        if seconds == MOMENT:
            self._sweep(expected)
        return claim

    def _nobody_backs_off(self) -> bool:
        waiting = [r for r in self.runs.values() if r.state == State.QUEUED and not self._is_paused(r)]
        return sum(self.queue.listing.backlog().values()) == len(waiting)

    def _is_paused(self, run: Expected, node: str | None = None) -> bool:
        return bool(self.paused & {(run.study, run.run.recipe.corpus, None), (run.study, run.run.recipe.corpus, node)})

    def _resume(self, run: Expected) -> None:
        self.paused = {place for place in self.paused if place[:2] != (run.study, run.run.recipe.corpus)}

    def _sweep(self, run_id: str) -> None:
        wait_until(lambda: self.queue.sweep() == [run_id], "the one lease that is over is swept")
        self.runs[run_id].expires()
        self._forget_superseded()

    @rule(claim=claims, step=st.integers(0, 3))
    def renew(self, claim: Claim | None, step: int) -> None:
        if self._is_live(claim, lambda: self.queue.renew(claim.lease, step, seconds=LONG), Cancelled):
            self.runs[claim.run.id].renewed, self.runs[claim.run.id].step = True, step
            self.runs[claim.run.id].reaches(step)

    @rule(claim=claims, step=st.integers(0, 3))
    def die(self, claim: Claim | None, step: int) -> None:
        """The worker renews once more and is not heard of again."""
        if self._is_live(claim, lambda: self.queue.renew(claim.lease, step, seconds=MOMENT), Cancelled):
            self.runs[claim.run.id].renewed, self.runs[claim.run.id].step = True, step
            self.runs[claim.run.id].reaches(step)
            self._sweep(claim.run.id)

    @rule(claim=claims, step=st.integers(0, 9))
    def checkpoint(self, claim: Claim | None, step: int) -> None:
        pointer = Checkpoint(step=step, epoch=claim.lease.epoch if claim else 1, path="x", sha256="y")
        if self._is_live(claim, lambda: self.queue.checkpoint(claim.lease, pointer)):
            run = self.runs[claim.run.id]
            run.reaches(step)
            if run.checkpoint is None or step > run.checkpoint:
                run.checkpoint, run.step = step, max(step, run.step)

    @rule(claim=claims, loss=st.sampled_from([1.0, 2.0]))
    def finish(self, claim: Claim | None, loss: float) -> None:
        if claim is None:
            return
        run, said = self.runs.get(claim.run.id), result(claim.run, loss, epoch=claim.lease.epoch)
        if run is not None and run.result is not None and run.result.adopted:
            with pytest.raises((Conflict, LeaseLost)):
                self.queue.finish(claim.lease, said)
        elif run is not None and run.result is not None and run.epoch == claim.lease.epoch:
            if said == run.result:
                self.queue.finish(claim.lease, said)
            else:
                with pytest.raises(Conflict):
                    self.queue.finish(claim.lease, said)
        elif self._is_live(claim, lambda: self.queue.finish(claim.lease, said), Cancelled):
            assert run is not None
            run.leaves(State.SUCCEEDED)
            run.result, run.step = said, said.steps

    @rule(
        claim=claims,
        cause=st.sampled_from(["worker-died", "worker-died", "machine-died"]),
        step=st.integers(0, 3),
        retryable=st.sampled_from([True, True, False]),
    )
    def fail(self, claim: Claim | None, cause: str, step: int, retryable: bool) -> None:
        if self._is_live(claim, lambda: self.queue.fail(claim.lease, cause, "message", step, retryable)):
            self.runs[claim.run.id].fails(step, retryable, is_crash=cause == "worker-died")
            self.runs[claim.run.id].step = step

    @rule(claim=claims)
    def release(self, claim: Claim | None) -> None:
        if self._is_live(claim, lambda: self.queue.release(claim.lease, "reason")):
            run = self.runs[claim.run.id]
            run.goes_back()

    @rule(claim=claims, beyond=st.integers(-2, 3))
    def make_way(self, claim: Claim | None, beyond: int) -> None:
        """Its directory holds an epoch that Redis knew nothing of."""
        held = max(0, claim.lease.epoch + beyond) if claim else 0
        if self._is_live(claim, lambda: self.queue.release(claim.lease, "reason", above=held)):
            run = self.runs[claim.run.id]
            run.goes_back()
            run.epoch = max(run.epoch, held)

    @rule(claim=claims)
    def release_silent(self, claim: Claim | None) -> None:
        """By a dispatcher that has heard of no agent: one that an agent took up meanwhile is not its to give back."""
        run = self.runs.get(claim.run.id) if claim else None
        if run is not None and run.holds(claim) and run.renewed:
            with pytest.raises(LeaseLost):
                self.queue.release(claim.lease, "reason", is_silent=True)
        elif self._is_live(claim, lambda: self.queue.release(claim.lease, "reason", is_silent=True)):
            self.runs[claim.run.id].goes_back()

    @rule(data=st.data(), beyond=st.integers(-1, 2))
    def omit(self, data: st.DataObject, beyond: int) -> None:
        """A reindex comes across a run whose directory holds another epoch, and cannot be read."""
        if self.runs:
            run_id = data.draw(st.sampled_from(sorted(self.runs)))
            run, held = self.runs[run_id], max(0, self.runs[run_id].epoch + beyond)
            self.queue.index.omit(run_id, held)
            if held > run.epoch:
                if run.state == State.RUNNING:
                    run.leaves(State.CANCELLED if run.cancelling else State.QUEUED)
                run.epoch = held

    @rule(claim=claims)
    def recall(self, claim: Claim | None) -> None:
        self._is_live(claim, lambda: self.queue.recall(claim.lease, "reason"))

    @rule(claim=claims, node=st.sampled_from([None, *NODES]))
    def pause(self, claim: Claim | None, node: str | None) -> None:
        if self._is_live(claim, lambda: self.queue.pause(claim.lease, "reason", node)):
            run = self.runs[claim.run.id]
            run.leaves(State.CANCELLED if run.cancelling else State.QUEUED)
            self.paused.add((run.study, run.run.recipe.corpus, node))

    @rule(claim=consumes(claims))
    def acknowledge_cancel(self, claim: Claim | None) -> None:
        if claim is None:
            return
        run = self.runs.get(claim.run.id)
        if run is None:
            self._is_live(claim, lambda: self.queue.acknowledge_cancel(claim.lease))
        elif run.state == State.CANCELLED and run.epoch == claim.lease.epoch:
            self.queue.acknowledge_cancel(claim.lease)
        elif run.holds(claim) and not run.cancelling:
            with pytest.raises(Conflict):
                self.queue.acknowledge_cancel(claim.lease)
        elif self._is_live(claim, lambda: self.queue.acknowledge_cancel(claim.lease)):
            run.leaves(State.CANCELLED)

    def _is_live(self, claim: Claim | None, verb, when_cancelling: type[Exception] | None = None) -> bool:
        """Call a worker's verb, which must be refused if the lease is dead; whether it did anything."""
        if claim is None:
            return False
        run = self.runs.get(claim.run.id)
        refusal = LeaseLost if run is None or not run.holds(claim) else when_cancelling if run.cancelling else None
        if refusal is None:
            verb()
            return True
        with pytest.raises(refusal):
            verb()
        return False

    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        if self.runs:
            run_id = data.draw(st.sampled_from(sorted(self.runs)))
            self._cancel(self.runs[run_id])
            assert self.queue.cancel(run_id) == self.runs[run_id].state

    def _cancel(self, run: Expected) -> None:
        if run.state == State.QUEUED:
            run.leaves(State.CANCELLED)
        elif run.state == State.RUNNING:
            run.cancelling = True

    @rule(data=st.data())
    def retry(self, data: st.DataObject) -> None:
        if self.runs:
            run_id = data.draw(st.sampled_from(sorted(self.runs)))
            run = self.runs[run_id]
            if run.state == State.SUCCEEDED or run.cancelling or run.superseded:
                with pytest.raises(Conflict):
                    self.queue.retry(run_id)
                return
            self._resume(run)
            if run.state.is_final:
                run.begins_anew()
            assert self.queue.retry(run_id) == run.state

    @rule()
    def sweep(self) -> None:
        assert self.queue.sweep() == []
        self._forget_superseded()

    @invariant()
    def the_queue_says_what_the_model_says(self) -> None:
        statuses = self.queue.listing.statuses()
        assert [status.run.id for status in statuses] == list(self.runs)
        assert self.queue.listing.overview() == (listed(self.queue), {})
        for status in statuses:
            run = self.runs[status.run.id]
            assert (status.state, status.epoch, status.attempts) == (run.state, run.epoch, run.attempts)
            assert (status.step, status.cancelling, status.result) == (run.step, run.cancelling, run.result)
            assert [cause.step for cause in status.causes] == run.causes
            assert (status.checkpoint.step if status.checkpoint else None) == run.checkpoint
            assert (status.deadline is not None) == (run.state == State.RUNNING)
            assert (status.ended is not None) == run.state.is_final
        for name, ids in self.members.items():
            assert [status.run.id for status in self.queue.listing.statuses(name)] == ids

    @invariant()
    def nothing_is_lost(self) -> None:
        counted = Counter(run.state for run in self.runs.values())
        assert self.queue.listing.counts() == {state: counted[state] for state in State}
        assert (self.queue.listing.put_count(), self.queue.listing.forgotten_count()) == (self.ever, self.forgotten)
        assert self.ever == len(self.runs) + self.forgotten
        assert len(self.queue.listing.running()) == counted[State.RUNNING]
        assert {(pause.study, pause.corpus, pause.node) for pause in self.queue.listing.pauses()} == self.paused

    def teardown(self) -> None:
        if keys := self.redis.keys(f"{self.queue.prefix}*"):
            self.redis.delete(*keys)


@pytest.mark.parametrize("examples", [25, pytest.param(250, marks=pytest.mark.long)])
def test_the_queue_behaves_as_its_model(redis: Redis, examples: int) -> None:
    """The long one is no other promise: it looks for it in ten times as many walks."""
    machine = type("QueueModelHere", (QueueModel,), {"redis": redis, "examples": itertools.count()})
    case = machine.TestCase
    case.settings = settings(
        max_examples=examples, stateful_step_count=50, deadline=None, suppress_health_check=list(HealthCheck)
    )
    case("runTest").runTest()
