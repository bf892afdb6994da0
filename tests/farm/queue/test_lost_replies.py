"""A lost reply is harmless, to whatever verb."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

import pytest
from claims import checkpoint_at, points, started, state, study_of
from redis import Redis
from results import result, tiny_study

from farm.queue.queue import Queue
from farm.site.client import connect
from farm.study.run import State


class Proxy:
    """Passes bytes between clients and Redis, but drops the connection instead of the next reply to a script."""

    def __init__(self, upstream: tuple[str, int]):
        self.upstream = upstream
        self.armed = self.script_sent = False
        self.cuts = 0
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self._talk, args=(client,), daemon=True).start()

    def _talk(self, client: socket.socket) -> None:
        with client, socket.create_connection(self.upstream) as server:
            upward = threading.Thread(target=self._send_up, args=(client, server), daemon=True)
            upward.start()
            while reply := server.recv(2**16):
                if self.armed and self.script_sent and not reply.startswith(b"-"):
                    self.armed = False
                    self.cuts += 1
                    break
                client.sendall(reply)
            client.shutdown(socket.SHUT_RDWR)
            upward.join()

    def _send_up(self, client: socket.socket, server: socket.socket) -> None:
        while request := client.recv(2**16):
            self.script_sent = self.script_sent or b"EVALSHA" in request
            server.sendall(request)
        server.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def lossy(redis_url: str, redis: Redis) -> Iterator[tuple[Queue, Proxy]]:
    """A queue that is reached through a Proxy."""
    place = urlsplit(redis_url)
    assert place.port
    proxy = Proxy(("127.0.0.1", place.port))
    with proxy.listener, connect(redis_url.replace(f":{place.port}/", f":{proxy.port}/")) as client:
        yield Queue(client, backoff_seconds=60), proxy


@contextmanager
def reply_lost(proxy: Proxy) -> Iterator[None]:
    cuts, proxy.script_sent, proxy.armed = proxy.cuts, False, True
    yield
    assert proxy.cuts == cuts + 1, "the reply was cut, and the call repeated"


def test_a_lost_reply_to_put_queues_once(lossy: tuple[Queue, Proxy]) -> None:
    queue, proxy = lossy
    with reply_lost(proxy):
        queue.put(tiny_study())
    assert queue.listing.put_count() == queue.listing.backlog()["cpu"] == 9


def test_a_lost_reply_to_claim_is_answered_with_the_same_lease(lossy: tuple[Queue, Proxy]) -> None:
    queue, proxy = lossy
    study = study_of(queue)
    with reply_lost(proxy):
        claim = queue.claim("cpu", "worker", 60)
    assert claim is not None
    assert (claim.run, claim.lease.epoch) == (study.runs()[0], 1)
    assert queue.listing.counts()[State.RUNNING] == 1


def test_lost_replies_to_a_worker_are_harmless(lossy: tuple[Queue, Proxy]) -> None:
    queue, proxy = lossy
    study_of(queue)
    claim = started(queue)
    with reply_lost(proxy):
        queue.renew(claim.lease, 5)
    with reply_lost(proxy):
        queue.record(claim.lease, points(1, 2, 3))
    with reply_lost(proxy):
        queue.checkpoint(claim.lease, checkpoint_at(3))
    with reply_lost(proxy):
        assert queue.release(claim.lease, "drained") == "drained"
    again = started(queue)
    with reply_lost(proxy):
        queue.pause(again.lease, "gone", "a node")
    status = queue.listing.status(claim.run.id)
    assert (status.state, status.attempts, status.checkpoint) == (State.QUEUED, 0, checkpoint_at(3))
    assert queue.listing.curve(claim.run.id) == points(1, 2, 3)
    again = started(queue)
    with reply_lost(proxy):
        queue.finish(again.lease, result(again.run, 3.0, epoch=3))
    assert state(queue, again) == State.SUCCEEDED


def test_a_lost_reply_to_fail_counts_one_attempt(lossy: tuple[Queue, Proxy]) -> None:
    queue, proxy = lossy
    study_of(queue)
    claim = started(queue)
    with reply_lost(proxy):
        assert queue.fail(claim.lease, "worker-died", "killed", 1, True) == State.QUEUED
    status = queue.listing.status(claim.run.id)
    assert (status.attempts, len(status.causes)) == (1, 1)


def test_lost_replies_to_cancel_and_retry_are_harmless(lossy: tuple[Queue, Proxy]) -> None:
    queue, proxy = lossy
    study_of(queue)
    claim = started(queue)
    with reply_lost(proxy):
        assert queue.cancel(claim.run.id) == State.RUNNING
    with reply_lost(proxy):
        queue.acknowledge_cancel(claim.lease)
    with reply_lost(proxy):
        assert queue.retry(claim.run.id) == State.QUEUED
    assert queue.listing.counts()[State.QUEUED] == 3
