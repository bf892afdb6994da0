"""The agent before it trains: a Redis that is away, a storage it cannot use, a checkpoint it must not, no torch."""

import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from attempts import SOFTWARE, an_attempt, an_outcome, attempt_of
from results import tiny_study
from waiting import wait_until
from worlds import planned

from farm.errors import Nonfinite, OutOfMemory, WorkerDied
from farm.queue.queue import Queue
from farm.queue.values import Claim, Point
from farm.record import energy
from farm.record.ledger import FILE, Line, Writer
from farm.record.result import Outcome, Tokens
from farm.record.store import Store
from farm.site.server import Server
from farm.site.settings import Settings
from farm.study.machine import BUILT_IN, Machine
from farm.study.run import Attempt, Checkpoint
from workers.attempt import training
from workers.attempt.agent import Agent, open_redis
from workers.attempt.ending import Asked, Broken, ending
from workers.attempt.outcome import result_of
from workers.attempt.resuming import as_before, past
from workers.attempt.task import Task

AWAY_SECONDS = 5.0  # longer than a client tries by itself, which is 2 to 3 s


def test_an_agent_waits_for_a_redis_that_is_away(tmp_path: Path) -> None:
    server = Server(tmp_path)
    here = Settings(home=tmp_path, redis_url=server.start(), storage=tmp_path)
    server.stop()
    back = threading.Timer(AWAY_SECONDS, server.start)
    back.start()
    try:
        with open_redis(here) as redis:
            assert redis.ping()
    finally:
        back.join()
        server.stop()


def test_a_plan_that_ran_out_of_memory_is_not_kept_and_what_trained_since_is(queue: Queue, tmp_path: Path) -> None:
    here = Settings(home=tmp_path / "home", storage=tmp_path / "storage")
    queue.put(tiny_study())
    claim = queue.claim("cpu", "worker", 60)
    assert claim is not None
    run, batch = claim.run, claim.run.recipe.train.batch
    fresh = planned(run, 1, batch // 2)

    def found(agent: Agent, claim: Claim) -> int:
        source = Checkpoint(step=3, epoch=claim.lease.epoch, path="", sha256="")
        post = agent.work._post
        status = queue.listing.status(run.id)
        return as_before(status, source, fresh, past(post, run), BUILT_IN["cpu"]).microbatch

    agent = Agent(here, queue, claim.lease, "job", "node")
    attempt_of(agent, claim, (3,))
    assert found(agent, claim) == batch
    queue.fail(claim.lease, OutOfMemory().cause, "2 GiB", 3, retryable=True)
    assert found(agent, claim) == batch // 2
    again = wait_until(lambda: queue.claim("cpu", "worker", 60), "it is queued again")
    agent = Agent(here, queue, again.lease, "job", "node")
    attempt_of(agent, again, (5,), begun=(1, 3))
    assert found(agent, again) == batch


def test_a_microbatch_that_runs_out_of_memory_in_training_lowers_the_class(
    queue: Queue, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = Settings(home=tmp_path / "home", storage=tmp_path / "storage")
    queue.put(tiny_study())
    claim = queue.claim("cpu", "worker", 60)
    assert claim is not None
    agent, plan = Agent(here, queue, claim.lease, "job", "node"), planned(claim.run, 1, 4)
    task = Task(
        run=claim.run,
        study="tiny",
        plan=plan,
        lease=claim.lease,
        folder=str(tmp_path),
        place="",
        cache=str(tmp_path),
        tokens=Tokens(head="b", trained="b", tested="b"),
        threads=1,
        is_mirrored=False,
    )

    def fit(*_: object) -> Outcome:
        raise OutOfMemory

    monkeypatch.setattr(training, "fit", fit)
    gpu = Machine(name="1xtest", accelerator="Test", memory=2**34, usd_per_hour=1.0)
    with pytest.raises(OutOfMemory):
        training._fit(agent.work._post, task, gpu)
    assert list(queue.roster.machines()["1xtest"].probes.values()) == [3]


def test_a_result_counts_the_steps_of_a_killed_attempt_and_names_the_software_that_began(tmp_path: Path) -> None:
    store, run = Store(tmp_path), tiny_study().runs()[0]
    for epoch, steps in ((1, 3), (2, run.recipe.steps)):  # nobody said how the first ended
        attempt = an_attempt(run, epoch)
        with Writer(store.runs.begin(run, attempt, "tiny") / FILE, epoch) as writer:
            for step in range(1, steps + 1):
                writer.append(Line(step, 256, 768.0, 1e-3, None, False, False, 100.0))
        used = energy.Used(seconds=300.0, joules=1.8e6 * epoch, meter="rapl").model_dump_json()
        (store.attempt_folder(run.id, epoch) / energy.file(0)).write_text(used + "\n", encoding="utf-8")
    plan = planned(run, 1, run.recipe.train.batch)
    found = result_of(store, run, plan, BUILT_IN["cpu"], attempt, an_outcome(run))
    assert found.seconds == pytest.approx(300.0 + found.ended - attempt.started)
    assert (found.kwh, found.energy_meter) == (pytest.approx(1.5), "rapl")
    assert found.provenance == SOFTWARE


def test_a_failure_is_on_record_with_its_step_and_whether_it_may_be_tried_again(queue: Queue, tmp_path: Path) -> None:
    here = Settings(home=tmp_path / "home", storage=tmp_path / "storage")
    queue.put(tiny_study())
    claim = queue.claim("cpu", "worker", 60)
    assert claim is not None
    agent = Agent(here, queue, claim.lease, "job", "node")
    began = Attempt(run_id=claim.run.id, epoch=1, worker="worker", started=time.time())
    agent.store.runs.begin(claim.run, began, "tiny")
    with Writer(agent.work.folder / FILE, 1) as writer:
        writer.append(Line(1, 256, 768.0, 1e-3, None, False, False, 0.1))
    agent.work.attempt = began
    for error, retryable in ((Nonfinite(), False), (WorkerDied(), True)):
        agent.closing._record(ending(Asked(), Broken(error)), agent.work)
        (attempt,) = agent.store.runs.attempts(claim.run.id)
        assert (attempt.step, attempt.retryable) == (1, retryable)


def test_an_agent_imports_no_torch() -> None:
    """Each of a run's processes would import it anew: 1.5 s of a core and 200 MB, in the way of the one that trains."""
    code = "import sys, workers.attempt.agent; assert 'ray.train' in sys.modules; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_curve_is_completed_from_the_ledger_when_it_begins_and_ends(queue: Queue, tmp_path: Path) -> None:
    queue.put(tiny_study())
    claim = queue.claim("cpu", "worker", 60)
    assert claim is not None
    agent = Agent(Settings(home=tmp_path, storage=tmp_path / "storage"), queue, claim.lease, "job", "node")
    attempt_of(agent, claim, (1500,))
    queue.record(claim.lease, [Point(step=1, loss=3.0, lr=1e-3, grad_norm=1.0, tokens_per_second=1.0)])
    agent.work.complete(Checkpoint(step=700, epoch=1, path="", sha256=""))
    assert [point.step for point in queue.listing.curve(claim.run.id)] == list(range(1, 701)), (
        "no gap where one was killed"
    )
    agent.work.complete()
    assert [point.step for point in queue.listing.curve(claim.run.id)] == list(range(1, 1501))
