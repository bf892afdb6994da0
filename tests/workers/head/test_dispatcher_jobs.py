"""What becomes of jobs that a dispatcher has submitted: stopped for a limit, or given back when it is gone."""

import json
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest
from dispatching import LAPTOP, VERSION, answering, of, put
from results import study_text, tiny_study
from waiting import wait_until

from farm.errors import LeaseLost
from farm.queue.queue import Queue
from farm.study.run import Lease
from farm.study.study import Study
from workers.head.dispatcher import COUNT_SECONDS, Dispatcher, RayNode
from workers.head.jobs import Jobs, job_id
from workers.head.presence import present


class Dashboard(BaseHTTPRequestHandler):
    """Takes the word to start or stop a job, as Ray's does."""

    stopped: list[str] = []
    is_away = False
    jobs: set[str] = set()

    def do_GET(self) -> None:
        job = self.path.removeprefix("/api/jobs/")
        if self.is_away or (job != self.path and job not in self.jobs):
            self.send_response(503 if self.is_away else 404)
            self.end_headers()
            self.wfile.write(f"Job {job} does not exist".encode())
            return
        if job != self.path:
            self._answer({"type": "SUBMISSION", "status": "PENDING", "submission_id": job, "entrypoint": "agent"})
            return
        self._answer(VERSION)

    def do_POST(self) -> None:
        if self.is_away:
            self.send_error(503)
            return
        if not self.path.endswith("/stop"):
            self._answer({"job_id": None, "submission_id": "as asked"})
            return
        self.stopped.append(self.path.removeprefix("/api/jobs/").removesuffix("/stop"))
        self._answer({"stopped": True})

    def _answer(self, said: dict) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps(said).encode())


@pytest.fixture
def dashboard(tmp_path: Path) -> Iterator[tuple[Jobs, type[Dashboard]]]:
    handler = type("Here", (Dashboard,), {"stopped": [], "jobs": set()})
    with answering(handler, tmp_path) as jobs:
        yield jobs, handler


def limited(usd: float, action: str = "stop", name: str = "tiny") -> Study:
    """Three runs of a class that costs a dollar a second."""
    policy = f'[policy]\nusd_limit = {usd}\nlimit_action = "{action}"\n'
    return Study.parse(study_text(name, init=(42,)) + policy + "[machines.cpu]\nusd_per_hour = 3600.0\n")


def begun(queue: Queue, seconds_ago: float) -> Lease:
    """A run that trains, and has done so for a while."""
    claim = queue.claim("cpu", "worker", 60)
    assert claim is not None
    lease = queue.renew(claim.lease, 1, job=job_id(claim.run.id, claim.lease.epoch), node="n")
    queue.redis.hincrby(f"farm:run:{claim.run.id}", "started", -round(seconds_ago * 1000))
    return lease


def of_limits(queue: Queue, jobs: Jobs) -> Dispatcher:
    """A dispatcher that has no node, so that it starts nothing."""
    return Dispatcher(queue, jobs, look=list)


def test_what_runs_of_a_study_that_has_spent_its_limit_is_asked_to_stop_once(queue: Queue, dashboard):
    jobs, seen = dashboard
    queue.put(limited(20.0))
    queue.put(limited(1000.0, name="rich").model_copy(update={"interventions": {}}))
    leases = [begun(queue, 15.0) for _ in range(2)]
    dispatcher = of_limits(queue, jobs)
    seen.is_away = True
    dispatcher.turn()
    seen.is_away = False
    for _ in range(2):
        dispatcher.counts_at = 0.0
        dispatcher.turn()
    assert sorted(seen.stopped) == sorted(job_id(lease.run_id, lease.epoch) for lease in leases)
    assert queue.release(leases[0], "drained").startswith("over budget: $3")
    assert queue.studies.dollars_spent()["tiny"] == pytest.approx(30, abs=5)
    assert queue.listing.status(leases[0].run_id).attempts == 0


def test_node_hours_of_all_attempts_stop_a_study_too(queue: Queue, dashboard):
    jobs, seen = dashboard
    queue.put(tiny_study(init=(42,)).with_limits(None, 0.01))  # 36 s
    lease = begun(queue, 20.0)
    queue.redis.hset(f"farm:run:{lease.run_id}", "held", 10_000)  # an attempt before
    dispatcher = of_limits(queue, jobs)
    dispatcher.turn()
    assert (dispatcher.over_budget, seen.stopped) == (frozenset(), [])
    assert dispatcher.counts_at - dispatcher.counted_at == pytest.approx(6, abs=2), "it looks when the limit is reached"
    queue.redis.hincrby(f"farm:run:{lease.run_id}", "started", -10_000)
    dispatcher.counts_at = 0.0
    dispatcher.turn()
    assert seen.stopped == [job_id(lease.run_id, 1)]
    assert queue.release(lease, "drained").startswith("over budget: 0.01")
    assert "node hours used of 0.01" in (queue.listing.status(lease.run_id).released or "")


def test_a_limit_that_holds_back_new_runs_only_lets_those_that_train_go_on(queue: Queue, dashboard):
    jobs, seen = dashboard
    queue.put(limited(20.0, "no-new"))
    lease = begun(queue, 30.0)
    dispatcher = of_limits(queue, jobs)
    dispatcher.turn()
    assert dispatcher.over_budget == {"tiny"}
    assert seen.stopped == []
    assert queue.release(lease, "drained") == "drained"


def test_a_limit_that_is_lowered_below_what_was_spent_stops_what_runs_and_a_raised_one_lets_it_go_on(
    queue: Queue, dashboard
):
    jobs, seen = dashboard
    queue.put(limited(1000.0))
    lease = begun(queue, 30.0)
    dispatcher = of_limits(queue, jobs)
    dispatcher.turn()
    assert seen.stopped == []
    queue.put(limited(20.0))
    dispatcher.counts_at = 0.0
    dispatcher.turn()
    assert seen.stopped == [job_id(lease.run_id, 1)]
    queue.release(lease, "drained")
    assert queue.listing.backlog(dispatcher.over_budget) == {}
    queue.put(limited(1000.0))
    dispatcher.counts_at = 0.0
    dispatcher.turn()
    assert queue.listing.backlog(dispatcher.over_budget) == {"cpu": 3}


def test_the_next_look_is_when_what_trains_reaches_the_limit(queue: Queue, dashboard):
    jobs, _ = dashboard
    queue.put(limited(20.0))
    begun(queue, 14.0)
    dispatcher = of_limits(queue, jobs)
    dispatcher.turn()
    assert dispatcher.counts_at - dispatcher.counted_at == pytest.approx(6.0, abs=1.0)
    another = queue.claim("cpu", "worker", 60)
    assert another is not None
    dispatcher._expect(another)
    assert dispatcher.counts_at - dispatcher.counted_at == pytest.approx(3.0, abs=0.5), "at twice the rate"
    queue.put(limited(5000.0))
    dispatcher.counts_at = 0.0
    dispatcher.turn()
    assert dispatcher.counts_at - dispatcher.counted_at == COUNT_SECONDS


def test_a_lease_that_ends_meanwhile_is_not_recalled(queue: Queue, dashboard):
    jobs, seen = dashboard
    queue.put(limited(20.0))
    lease = begun(queue, 30.0)
    dispatcher = of_limits(queue, jobs)
    dispatcher._count_spending()
    (status,) = queue.listing.running()
    queue.release(lease, "drained")
    assert not dispatcher._recall(status, "its job")
    assert "its job" not in seen.stopped
    with pytest.raises(LeaseLost):
        queue.recall(lease, "late")


def silent(queue: Queue, worker: str) -> Lease:
    """A lease that no agent has taken up."""
    queue.put(Study.parse(study_text("tiny", init=(42,))))
    claim = queue.claim("cpu", worker, 120)
    assert claim is not None
    return claim.lease


def test_what_a_dead_dispatcher_claimed_and_did_not_submit_is_given_back_at_once(queue: Queue, dashboard):
    with present(queue) as worker:
        wait_until(lambda: worker in queue.roster.attending(1), "it is there")
        lease = silent(queue, worker)
        of_limits(queue, dashboard[0]).bury()
        assert queue.listing.status(lease.run_id).state == "running", "it may be about to submit it"
    of_limits(queue, dashboard[0]).bury()
    status = queue.listing.status(lease.run_id)
    assert (status.state, status.attempts, status.causes) == ("queued", 0, ())
    assert status.released == f"{worker} claimed it, but Ray has no job for it"


def test_what_was_submitted_just_before_a_dispatcher_died_is_left_to_its_job(queue: Queue, dashboard):
    jobs, handler = dashboard
    lease = silent(queue, "dead")
    handler.jobs.add(job_id(lease.run_id, lease.epoch))
    Dispatcher(queue, jobs, look=lambda: [RayNode("n", 1, {"cpu": 1})]).bury()
    assert queue.listing.status(lease.run_id).state == "running"


def test_a_ray_that_cannot_be_asked_knows_nothing_of_a_lease(queue: Queue, dashboard):
    jobs, handler = dashboard
    lease = silent(queue, "dead")
    handler.is_away = True
    of_limits(queue, jobs).bury()
    assert queue.listing.status(lease.run_id).state == "running"


def test_what_a_dispatcher_submitted_to_a_ray_that_was_lost_is_given_back(queue: Queue, dashboard):
    dispatcher = of_limits(queue, dashboard[0])
    queue.roster.attend(dispatcher.name, 60)
    lease = silent(queue, dispatcher.name)
    dispatcher.bury()
    assert queue.listing.status(lease.run_id).state == "queued"


def test_a_lease_that_an_agent_takes_up_meanwhile_stays_its(queue: Queue):
    lease = silent(queue, "dead")
    queue.renew(lease, 0, job="job")
    with pytest.raises(LeaseLost):
        queue.release(lease, "nobody holds it", is_silent=True)
    queue.renew(lease, 1)


def test_a_ray_that_takes_no_job_costs_one_epoch_and_is_asked_ever_more_seldom(queue: Queue, dashboard) -> None:
    jobs, there = dashboard
    put(queue, "waits", "cpu-x1")
    dispatcher = of(queue, LAPTOP)
    dispatcher.jobs, there.is_away = jobs, True
    rests = []
    for _ in range(20):
        dispatcher.resting_until = 0.0
        dispatcher.turn()
        rests.append(round(dispatcher.resting_until - time.monotonic()))
    assert rests[:6] == [5, 10, 20, 40, 80, 120]
    assert set(rests[5:]) == {120}
    (status,) = queue.listing.statuses("waits")
    assert (status.epoch, status.attempts) == (1, 0)
    there.is_away, dispatcher.resting_until = False, 0.0
    assert dispatcher.turn() == [job_id(status.id, 2)]
    assert dispatcher.refused == 0
