"""The heartbeat, over a real queue: what keeps a lease and what gives it up."""

import threading

import pytest
from results import tiny_study
from waiting import wait_until

from farm.errors import Cancelled, Hung, LeaseLost
from farm.queue.queue import Queue
from farm.site.client import connect
from farm.site.server import Server
from farm.study.run import State
from workers.attempt.heartbeat import keep

FOREVER = 3600.0


@pytest.fixture
def claim(queue):
    queue.put(tiny_study(init=(42,)))
    claim = queue.claim("cpu", "test", 1.0)
    queue.renew(claim.lease, 0, seconds=1.0)
    return claim


def test_a_lease_is_kept_for_as_long_as_work_advances(queue, claim):
    steps = iter(range(10**9))
    with keep(queue, claim.lease, lambda: next(steps), lambda: 1, FOREVER, pytest.fail, every_seconds=0.05):
        wait_until(lambda: queue.listing.status(claim.run.id).step >= 3, "three renewals")
        deadline = queue.listing.status(claim.run.id).deadline
        wait_until(lambda: queue.listing.status(claim.run.id).deadline > deadline, "the deadline moves on")
    assert queue.sweep() == []


def test_work_that_stands_still_is_given_up_and_no_longer_renewed(queue, claim):
    ends, threads = [], threading.active_count()
    with keep(queue, claim.lease, lambda: 7, lambda: "still", 0.2, ends.append, every_seconds=0.05):
        wait_until(lambda: ends, "the hang is noticed")
        wait_until(lambda: threading.active_count() == threads, "the heart has stopped")
    assert [type(end) for end in ends] == [Hung]
    assert "at step 7" in str(ends[0])


def test_getting_ready_is_no_hang(queue, claim):
    """A corpus may take hours to fetch: before the first step nothing stands still."""
    ends = []
    with keep(queue, claim.lease, lambda: 0, lambda: None, 0.1, ends.append, every_seconds=0.05):
        first = queue.listing.status(claim.run.id).deadline
        wait_until(
            lambda: queue.listing.status(claim.run.id).deadline > first + 0.3, "renewed for longer than a hang takes"
        )
    assert ends == []


def test_what_advances_without_a_step_is_no_hang(queue, claim):
    signs, ends = iter(range(10**9)), []
    with keep(queue, claim.lease, lambda: 7, lambda: next(signs), 0.1, ends.append, every_seconds=0.05):
        first = queue.listing.status(claim.run.id).deadline
        wait_until(
            lambda: queue.listing.status(claim.run.id).deadline > first + 0.3, "renewed for longer than a hang takes"
        )
    assert ends == []
    assert queue.listing.status(claim.run.id).step == 7


def test_a_storage_that_cannot_be_looked_at_is_waited_for_as_long_as_a_hang(queue, claim):
    ends, looks = [], []

    def stale() -> int:
        looks.append(1)
        raise OSError(116, "Stale file handle")

    with keep(queue, claim.lease, stale, lambda: 1, 0.5, ends.append, every_seconds=0.05):
        first = queue.listing.status(claim.run.id).deadline
        wait_until(lambda: queue.listing.status(claim.run.id).deadline > first, "a renewal")
        wait_until(lambda: ends, "the hang is noticed")
    assert len(looks) > 3
    assert [type(end) for end in ends] == [Hung]


def test_q4_a_lease_that_was_lost_is_said_once(queue, claim):
    ends = []
    queue.release(claim.lease, "somebody else took it")
    with keep(queue, claim.lease, lambda: 1, lambda: 1, FOREVER, ends.append, every_seconds=0.05):
        wait_until(lambda: ends, "the loss is noticed")
    assert [type(end) for end in ends] == [LeaseLost]


def test_q8_a_cancel_is_heard(queue, claim):
    ends = []
    assert queue.cancel(claim.run.id) is State.RUNNING
    with keep(queue, claim.lease, lambda: 1, lambda: 1, FOREVER, ends.append, every_seconds=0.05):
        wait_until(lambda: ends, "the cancel is noticed")
    assert [type(end) for end in ends] == [Cancelled]


def test_a_redis_that_is_full_or_refuses_is_waited_for(tmp_path):
    """Each for a while under a beating heart."""
    server = Server(tmp_path)
    with connect(server.start()) as redis, connect(server.url) as admin:
        queue = Queue(redis)
        queue.put(tiny_study(init=(42,)))
        claim = queue.claim("cpu", "test", 30.0)
        password = redis.get_connection_kwargs()["password"]
        beats, ends = [], []
        with keep(
            queue,
            claim.lease,
            lambda: beats.append(1) or len(beats),
            lambda: 1,
            FOREVER,
            ends.append,
            every_seconds=0.05,
        ):
            for key, broken, whole in (("maxmemory", "1", "0"), ("requirepass", "rotated", password)):
                admin.config_set(key, broken)
                redis.connection_pool.disconnect()  # a new connection says the password again
                before = len(beats)
                wait_until(lambda before=before: len(beats) > before + 3, f"renewals in spite of {key}")
                admin.config_set(key, whole)
                renewed = queue.listing.status(claim.run.id).step
                wait_until(
                    lambda it=renewed: queue.listing.status(claim.run.id).step > it, f"a renewal after {key}", 30
                )
        assert ends == []
        queue.release(claim.lease, "done")
    server.stop()


def test_a_redis_that_is_away_is_waited_for(tmp_path):
    """Killed and started again under a beating heart: the lease is still ours."""
    server = Server(tmp_path)
    with connect(server.start()) as redis:
        queue = Queue(redis)
        queue.put(tiny_study(init=(42,)))
        claim = queue.claim("cpu", "test", 30.0)
        steps = iter(range(1, 10**9))
        ends = []
        with keep(queue, claim.lease, lambda: next(steps), lambda: 1, FOREVER, ends.append, every_seconds=0.05):
            wait_until(lambda: queue.listing.status(claim.run.id).step > 0, "a renewal")
            server.stop()
            before = next(steps)
            server.start()
            wait_until(
                lambda: queue.listing.status(claim.run.id).step > before, "a renewal after the restart", seconds=30
            )
        assert ends == []
        queue.release(claim.lease, "done")
    server.stop()
