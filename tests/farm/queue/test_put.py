"""Q1: a study is put, and kept."""

import time

import pytest
from claims import claimed, cpu_seconds, picture, study_of
from redis import Redis
from results import result, tiny_study

from farm.errors import Conflict, NotFound
from farm.queue.queue import Queue
from farm.study.run import State


def test_q1_a_study_submitted_twice_is_queued_once_and_says_so(queue: Queue) -> None:
    study = tiny_study()
    first, second = queue.put(study), queue.put(study)
    assert first.new == tuple(run.id for run in study.runs())
    assert first.known == {}
    assert second.new == ()
    assert second.known == dict.fromkeys(first.new, State.QUEUED)
    assert queue.listing.put_count() == queue.listing.backlog()["cpu"] == 9


def test_q1_only_the_new_runs_of_a_longer_study_are_queued(queue: Queue) -> None:
    queue.put(tiny_study(init=(42,)))
    claim = claimed(queue)
    queue.finish(claim.lease, result(claim.run, 3.0))
    put = queue.put(tiny_study(init=(42, 22)))
    assert len(put.new) == 3
    assert sorted(put.known.values()) == [State.QUEUED, State.QUEUED, State.SUCCEEDED]


def test_q1_a_run_of_two_studies_is_trained_once_and_listed_in_both(queue: Queue) -> None:
    queue.put(tiny_study("one", init=(42,)))
    put = queue.put(tiny_study("two", init=(42, 22)))
    assert len(put.known) == 3
    assert [len(queue.listing.statuses(name)) for name in ("one", "two")] == [3, 6]
    assert {status.study for status in queue.listing.statuses("two")} == {"one", "two"}
    assert len(queue.listing.statuses()) == 6


def test_q1_another_recipe_under_the_same_arm_is_a_conflict_that_says_what_differs(queue: Queue, redis: Redis) -> None:
    study_of(queue)
    claim = claimed(queue)
    queue.finish(claim.lease, result(claim.run, 3.0))
    before = picture(queue, redis)
    with pytest.raises(
        Conflict, match=r"another 'baseline': train\.learning_rate was 0\.0004, is now 0\.001\..*forget tiny"
    ):
        study_of(queue, baseline={"train": {"batch": 8, "tokens": 2560, "precision": "fp32", "learning_rate": 1e-3}})
    assert picture(queue, redis) == before, "all or none"


def test_q1_a_thousand_runs_are_put_quickly(queue: Queue, redis: Redis) -> None:
    study = tiny_study(init=tuple(range(334)))
    ours, theirs = time.process_time(), cpu_seconds(redis)
    queue.put(study)
    assert time.process_time() - ours < 2
    assert cpu_seconds(redis) - theirs < 1
    assert queue.listing.put_count() == 1002


def test_studies_are_kept_as_they_were_submitted_last(queue: Queue) -> None:
    queue.put(tiny_study(init=(42,)))
    longer = tiny_study(init=(42, 22))
    queue.put(longer)
    assert queue.studies.one("tiny") == longer
    assert queue.studies.all() == {"tiny": longer}
    with pytest.raises(NotFound, match=r"no study 'tinny'; did you mean 'tiny'\? See"):
        queue.studies.one("tinny")
