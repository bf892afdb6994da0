"""Q10: acknowledged writes survive kill -9 of Redis."""

import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from claims import checkpoint_at, started, study_of
from results import result, tiny_study
from waiting import wait_until

from farm.errors import Unreachable
from farm.queue.queue import Queue
from farm.site.client import connect
from farm.site.server import Server


def test_q10_acknowledged_writes_survive_kill_9_of_redis(tmp_path: Path) -> None:
    server = Server(tmp_path)
    with connect(server.start()) as client:
        queue = Queue(client)
        study_of(queue)
        done, held = started(queue), started(queue)
        said = result(done.run, 3.0)
        queue.finish(done.lease, said)
        for step in range(1, 50):
            queue.renew(held.lease, step)
            queue.checkpoint(held.lease, checkpoint_at(step))
        before = queue.listing.statuses()
        kill(server)
        with pytest.raises(Unreachable):
            queue.renew(held.lease, 50)
        server.start()
        try:
            assert queue.listing.statuses() == before, "and the old client is good for the new server"
            queue.renew(held.lease, 51)
            queue.finish(done.lease, said)
        finally:
            server.stop()


def test_q10_what_was_acknowledged_in_the_middle_of_a_storm_is_there(tmp_path: Path) -> None:
    server = Server(tmp_path)
    acknowledged: list[str] = []

    def submit(url: str) -> None:
        with connect(url) as client:
            for seed in range(100_000):
                try:
                    acknowledged.extend(Queue(client).put(tiny_study(init=(seed,))).new)
                except Unreachable:
                    return

    with ThreadPoolExecutor(1) as pool:
        storm = pool.submit(submit, server.start())
        wait_until(lambda: len(acknowledged) > 60, "some puts are acknowledged")
        kill(server)
        storm.result(timeout=30)
    with connect(server.start()) as client:
        try:
            statuses = Queue(client).listing.statuses()
            assert set(acknowledged) <= {status.run.id for status in statuses}
            assert sum(Queue(client).listing.counts().values()) == len(statuses) == Queue(client).listing.put_count()
            assert len(statuses) % 3 == 0, "each put is all or none"
        finally:
            server.stop()


def test_q10_while_redis_is_down_no_lease_expires(tmp_path: Path) -> None:
    server = Server(tmp_path)
    with connect(server.start()) as client:
        queue = Queue(client)
        study_of(queue)
        claim = started(queue)
        lease = queue.renew(claim.lease, 1, seconds=1.5)
        kill(server)
        wait_until(lambda: time.time() > lease.deadline + 0.1, "the deadline passes")
        server.start()
        try:
            assert queue.sweep() == []
            queue.renew(claim.lease, 2, seconds=1.5)
            wait_until(lambda: queue.sweep() == [claim.run.id], "nobody renews any more")
        finally:
            server.stop()


def kill(server: Server) -> None:
    """kill -9 the server, which these tests started, and bury it."""
    assert server.pid is not None
    os.kill(server.pid, signal.SIGKILL)
    os.waitpid(server.pid, 0)
