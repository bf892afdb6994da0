"""Q2: who gets which run."""

from concurrent.futures import ThreadPoolExecutor

from claims import claimed, study_of
from redis import Redis
from results import tiny_study

from farm.queue.queue import Queue
from farm.study.run import State


def test_q2_runs_are_claimed_first_in_first_out(queue: Queue) -> None:
    study = study_of(queue)
    assert [claimed(queue).run for _ in range(3)] == study.runs()
    assert queue.claim("cpu", "worker", 60) is None


def test_q2_a_higher_priority_goes_first(queue: Queue) -> None:
    ids = []
    for priority in (0, 5, -1000, 1000):
        name = f"at{priority}"
        study = study_of(queue, study={"name": name, "seeds": [[priority + 1000, 1]]}, policy={"priority": priority})
        ids.append((priority, [run.id for run in study.runs()]))
    expected = [run_id for _, group in sorted(ids, reverse=True) for run_id in group]
    assert [claimed(queue).run.id for _ in expected] == expected


def test_q2_a_run_goes_only_to_the_machine_class_it_names(queue: Queue) -> None:
    queue.put(tiny_study(machines=("cpu", "1xrtx3090"), init=(42,)))
    assert queue.listing.backlog() == {"1xrtx3090": 3, "cpu": 3}
    assert queue.claim("cpu-x2", "worker", 60) is None
    assert {claimed(queue).run.machine for _ in range(3)} == {"cpu"}
    assert queue.claim("cpu", "worker", 60) is None
    assert queue.listing.backlog() == {"1xrtx3090": 3}


def test_q2_many_claimers_at_once_never_share_a_run(queue: Queue) -> None:
    study = tiny_study(init=tuple(range(20)))
    queue.put(study)
    with ThreadPoolExecutor(8) as pool:
        claims = list(pool.map(lambda worker: queue.claim("cpu", f"worker-{worker}", 60), range(70)))
    ids = [claim.run.id for claim in claims if claim]
    assert sorted(ids) == sorted(run.id for run in study.runs())


def test_q2_a_claim_brings_all_that_its_worker_needs(queue: Queue, redis: Redis) -> None:
    study = study_of(queue)
    claim = claimed(queue, seconds=60)
    now = redis.time()[0]
    assert claim.run == study.runs()[0]
    assert claim.study == "tiny"
    assert claim.checkpoint is None
    assert claim.lease.epoch == 1
    assert now + 58 < claim.lease.deadline < now + 62
    assert (queue.listing.status(claim.run.id).state, queue.listing.status(claim.run.id).worker) == (
        State.RUNNING,
        "worker",
    )


def test_q2_the_runs_of_a_study_that_is_passed_over_keep_their_places(queue: Queue) -> None:
    first, second = study_of(queue), tiny_study(name="second", init=(7,))
    queue.put(second)
    assert queue.listing.backlog(passing=["tiny"]) == {"cpu": 3}
    assert queue.listing.backlog(passing=["tiny", "second"]) == {}
    assert queue.claim("cpu", "worker", 60, passing=["tiny", "second"]) is None
    passed = queue.claim("cpu", "worker", 60, passing=["tiny"])
    assert passed is not None
    assert passed.run == second.runs()[0]
    assert claimed(queue).run == first.runs()[0]
