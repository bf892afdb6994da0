"""Ends that were asked for: a drain, a cancel, a hang. The lease is given back in time."""

import os
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path

import pytest
from attempts import an_attempt, an_outcome, closed
from results import result, study_text, tiny_study
from waiting import wait_until
from worlds import planned

from farm.errors import Cancelled, FarmError, Hung, Nonfinite, WorkerDied
from farm.queue.queue import Queue
from farm.queue.values import Claim
from farm.record import ledger
from farm.record.ledger import FILE, Line, Writer
from farm.record.runs import Runs
from farm.record.store import Store
from farm.reindex import reindex
from farm.site.settings import Settings
from farm.study.machine import BUILT_IN
from farm.study.run import Attempt, Run, State
from farm.study.study import Study
from workers.attempt.agent import Agent
from workers.attempt.asks import Asks
from workers.attempt.ending import Broken, Finished
from workers.attempt.group import Also
from workers.attempt.task import PULSE_FILE


def begin(agent: Agent, attempt: Attempt) -> None:
    """As its work does, once it knows what to do."""
    agent.store.runs.begin(agent.queue.listing.status(attempt.run_id).run, attempt, "tiny")
    agent.work.attempt = attempt


def test_q7_a_group_without_all_its_units_gives_the_run_back(queue: Queue, tmp_path: Path) -> None:
    """tests/walk/test_two_nodes.py has the units, on a real Ray."""
    queue.put(tiny_study())
    here = Settings(home=tmp_path, storage=tmp_path)
    released, cancelled = (queue.claim("cpu", "worker", 60) for _ in range(2))
    assert released is not None
    assert cancelled is not None
    also = [Also("rented", "0123456789abcdef", 2.0)]
    agent = Agent(here, queue, released.lease, "job", "node", also=also)
    assert closed(agent, agent.work._without_group()) == 0
    queue.cancel(cancelled.run.id)
    agent = Agent(here, queue, cancelled.lease, "job", "node", also=also)
    agent.asks.stop(Cancelled("as the heart was told"))
    assert closed(agent, agent.work._without_group()) == 0
    status = queue.listing.status(released.run.id)
    assert (status.state, status.attempts) == (State.QUEUED, 0)
    assert status.released == "no free unit of farm:rented on Ray node 01234567 within 60 s"
    assert queue.listing.status(cancelled.run.id).state is State.CANCELLED


def test_q7_an_attempt_that_begins_while_it_is_drained_is_on_record_as_released(queue: Queue, tmp_path: Path) -> None:
    """And one that was drained before leaves no record behind."""

    class SlowRuns(Runs):
        def begin(self, run: Run, attempt: Attempt, study: str | None = None) -> Path:
            folder = super().begin(run, attempt, study)
            began.set()
            time.sleep(0.5)
            return folder

    queue.put(tiny_study())
    for is_late in (True, False):
        claim, began = queue.claim("cpu", "worker", 60), threading.Event()
        assert claim is not None
        agent = Agent(Settings(home=tmp_path, storage=tmp_path / "s"), queue, claim.lease, "job", "node")
        agent.work._store.runs = SlowRuns(agent.work._store)
        plan, machine = planned(claim.run, 1, claim.run.recipe.train.batch), BUILT_IN["cpu"]
        begin = partial(agent.work._begin, claim.run, "tiny", machine, plan, None)
        agent.asks.drain()
        if is_late:
            beginning = threading.Thread(target=begin)
            beginning.start()
            assert began.wait(10)
            assert closed(agent, None) == 0
            beginning.join()
        else:
            assert closed(agent, None) == 0
            with pytest.raises(FarmError, match="closed before it began"):
                begin()
        outcomes = [
            attempt.outcome for attempt in agent.store.runs.attempts(claim.run.id) if attempt.epoch == claim.lease.epoch
        ]
        assert outcomes == ["released"] * is_late


CHILD = """
import sys
from functools import partial
from pathlib import Path

from farm.queue.queue import Queue
from farm.study.run import Lease
from farm.site.settings import Settings
from workers.attempt import agent

home, url, lease, seconds = sys.argv[1:]
agent.STOP_SECONDS = float(seconds)
agent.keep = partial(agent.keep, every_seconds=0.1)
here = Settings(home=Path(home), storage=Path(home) / "storage", redis_url=url)
with agent.open_redis(here) as redis:
    sys.exit(agent.Agent(here, Queue(redis), Lease.model_validate_json(lease), "job", "node").serve())
"""


def getting_ready(queue: Queue, home: Path) -> Claim:
    """A claim of a run whose corpus is a text that never comes."""
    corpus = home / "corpus"
    corpus.mkdir()
    for split in ("train", "validation"):
        os.mkfifo(corpus / f"{split}.txt")
    queue.put(Study.parse(study_text().replace("builtin:python-reference", str(corpus))))
    claim = queue.claim("cpu", "worker", 60)
    assert claim is not None
    return claim


@pytest.mark.parametrize("phase", ["gets ready", "trains", "trains and cannot be told"])
def test_q7_whatever_an_agent_does_when_it_is_drained_it_releases_in_time(
    phase: str, queue: Queue, redis_url: str, tmp_path: Path
) -> None:
    """Before the first step at once; afterwards before Ray loses its patience, though nothing hears the agent here."""
    claim, store = getting_ready(queue, tmp_path), Store(tmp_path / "storage")
    folder = store.attempt_folder(claim.run.id, 1)
    seconds = "600" if phase == "gets ready" else "0.5"
    command = [sys.executable, "-c", CHILD, str(tmp_path), redis_url, claim.lease.model_dump_json(), seconds]
    with subprocess.Popen(command) as agent:
        try:
            wait_until(lambda: store.runs.attempts(claim.run.id), "the attempt has begun", 60)
            if phase == "trains and cannot be told":
                (folder / "stop").mkdir()
            if phase != "gets ready":
                with Writer(folder / ledger.FILE, epoch=1) as written:
                    written.append(Line(1, 64, 3.0, 1e-3, 1.0, False, False, 0.1))
            agent.terminate()
            assert agent.wait(timeout=20) == 0
        finally:
            agent.kill()
    status = queue.listing.status(claim.run.id)
    assert (status.state, status.attempts) == (State.QUEUED, 0)
    assert [attempt.outcome for attempt in store.runs.attempts(claim.run.id)] == ["released"]
    assert phase != "trains" or (folder / "stop").read_text() == "STOP"


def test_q8_a_run_that_is_cancelled_while_its_agent_gets_ready_ends_at_once(
    queue: Queue, redis_url: str, tmp_path: Path
) -> None:
    claim, store = getting_ready(queue, tmp_path), Store(tmp_path / "storage")
    command = [sys.executable, "-c", CHILD, str(tmp_path), redis_url, claim.lease.model_dump_json(), "600"]
    with subprocess.Popen(command) as agent:
        try:
            wait_until(lambda: store.runs.attempts(claim.run.id), "the attempt has begun", 60)
            queue.cancel(claim.run.id)
            assert agent.wait(timeout=20) == 0
        finally:
            agent.kill()
    assert queue.listing.status(claim.run.id).state is State.CANCELLED
    assert [attempt.outcome for attempt in store.runs.attempts(claim.run.id)] == ["cancelled"]


def test_q7_an_agent_that_was_told_to_stop_before_it_had_begun_gives_the_lease_back(
    queue: Queue, tmp_path: Path
) -> None:
    queue.put(tiny_study())
    claim, asks = queue.claim("cpu", "worker", 60), Asks()
    assert claim is not None
    asks.drain()
    here = Settings(home=tmp_path / "home", storage=tmp_path / "storage")
    assert Agent(here, queue, claim.lease, "job", "node", asks).serve() == 0
    status = queue.listing.status(claim.run.id)
    assert (status.state, status.attempts, status.job) == (State.QUEUED, 0, None)


@pytest.mark.parametrize(("error", "attempts"), [(WorkerDied(), 0), (Nonfinite(), 1)])
def test_q7_what_dies_while_it_is_drained_is_released(
    error: FarmError, attempts: int, queue: Queue, tmp_path: Path
) -> None:
    queue.put(tiny_study())
    claim = queue.claim("cpu", "worker", 60)
    assert claim is not None
    agent = Agent(Settings(home=tmp_path / "home", storage=tmp_path / "storage"), queue, claim.lease, "job", "node")
    agent.asks.drain()
    closed(agent, Broken(error))
    assert queue.listing.status(claim.run.id).attempts == attempts


def test_a_line_that_is_slow_after_training_is_no_hang(queue: Queue, tmp_path: Path) -> None:
    """The last checkpoint's upload may take longer than `hang_seconds`; training may not stand still for so long."""
    queue.put(tiny_study())
    claim = queue.claim("cpu", "worker", 60)
    assert claim is not None
    agent = Agent(Settings(home=tmp_path / "home", storage=tmp_path / "storage"), queue, claim.lease, "job", "node")
    agent.store.runs.begin(claim.run, an_attempt(claim.run, 1), "tiny")
    work = agent.work
    assert work.sign() is None, "it gets ready"
    with Writer(work.folder / FILE, 1) as writer, work._watch():
        assert work.sign() is None, "no step yet"
        writer.append(Line(1, 256, 768.0, 1e-3, None, False, False, 0.1))
        stepped = work.sign()
        (work.folder / PULSE_FILE).touch()
        assert len({None, stepped, work.sign()}) == 3, "the evaluation advances"
    assert work.sign() is None, "what is left is to send it up"


@pytest.mark.parametrize("is_hung", [True, False])
def test_what_stands_still_is_not_waited_for_to_be_sent_up(is_hung: bool, queue: Queue, tmp_path: Path) -> None:
    """The heart has stopped, and the lease is about to run out."""
    queue.put(tiny_study())
    claim = queue.claim("cpu", "worker", 60)
    assert claim is not None
    agent = Agent(Settings(home=tmp_path / "home", storage=tmp_path / "storage"), queue, claim.lease, "job", "node")
    begin(agent, an_attempt(claim.run, 1))
    settled: list[float] = []
    agent.work.settle = lambda seconds, is_urgent: settled.append(seconds)
    if is_hung:
        agent.asks.stop(Hung())
    assert closed(agent, None if is_hung else Broken(WorkerDied())) == 1
    assert bool(settled) is not is_hung
    assert [attempt.outcome for attempt in agent.store.runs.attempts(claim.run.id)] == ["failed"]


def test_a_hang_is_on_record_too(queue: Queue, tmp_path: Path) -> None:
    """Or a reindex would train anew what has failed for good."""
    queue.put(tiny_study())
    claim = queue.claim("cpu", "worker", 60)
    assert claim is not None
    agent = Agent(Settings(home=tmp_path / "home", storage=tmp_path / "storage"), queue, claim.lease, "job", "node")
    begin(agent, an_attempt(claim.run, 1))
    agent.asks.stop(Hung())
    assert closed(agent, None) == 1
    (attempt,) = agent.store.runs.attempts(claim.run.id)
    assert (attempt.outcome, attempt.cause, attempt.retryable) == ("failed", "hung", True)
    assert [cause.cause for cause in queue.listing.status(claim.run.id).causes] == ["hung"]


def test_q8_a_run_that_was_cancelled_after_its_last_step_gains_no_result(queue: Queue, tmp_path: Path) -> None:
    """Neither now, nor from its directory by a retry or a reindex."""
    here = Settings(home=tmp_path / "home", storage=tmp_path / "storage")
    queue.put(tiny_study())
    claim = queue.claim("cpu", "worker", 60)
    assert claim is not None
    run, agent = claim.run, Agent(here, queue, claim.lease, "job", "node")
    began = an_attempt(run, 1)
    begin(agent, began)
    with Writer(agent.work.folder / FILE, 1) as writer:
        for step in range(1, run.recipe.steps + 1):
            writer.append(Line(step, 256, 768.0, 1e-3, None, False, False, 0.1))
    queue.cancel(run.id)
    split = planned(run, 1, run.recipe.train.batch)
    closed(agent, Finished(agent.work._record(run, split, BUILT_IN["cpu"], began, an_outcome(run))))
    assert queue.listing.status(run.id).state is State.CANCELLED
    assert (agent.store.root / "runs" / run.id / "result.json").exists()
    assert agent.store.runs.result(run.id) is None
    assert [attempt.outcome for attempt in agent.store.runs.attempts(run.id)] == ["cancelled"]
    rebuilt = Queue(queue.redis, "farm:rebuilt:")
    reindex(agent.store, rebuilt)
    assert rebuilt.listing.status(run.id).state is State.CANCELLED


def test_q8_a_result_of_before_is_not_told_of_a_run_that_is_being_cancelled(queue: Queue, tmp_path: Path) -> None:
    """And Q5: without the cancel it is told, whoever recorded it."""
    here = Settings(home=tmp_path / "home", storage=tmp_path / "storage")
    queue.put(tiny_study())
    states = []
    for is_cancelled in (True, False):
        claim = queue.claim("cpu", "worker", 60)
        assert claim is not None
        agent = Agent(here, queue, claim.lease, "job", "node")
        agent.store.runs.begin(claim.run, Attempt(run_id=claim.run.id, epoch=1, worker="w", started=1.0), "tiny")
        agent.store.runs.record(result(claim.run, 3.0))
        if is_cancelled:
            queue.cancel(claim.run.id)
        assert closed(agent, agent.work.do(queue.listing.status(claim.run.id))) == 0
        states.append((queue.listing.status(claim.run.id).state, agent.store.runs.result(claim.run.id) is None))
    assert states == [(State.CANCELLED, True), (State.SUCCEEDED, False)]
