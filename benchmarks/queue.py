"""Is the queue as fast as those that people use for short tasks? Puts and claims per second, and the latency of a claim
with 10,000 queued, against RQ and Dramatiq on the same Redis, which fsyncs every write before it answers.

One client, no other work. What each side stores is what it always stores: we a whole run (1 kB of recipe), they the
name of a function and a small argument. A claim is all that a worker of that side does before it may begin: RQ dequeues
and prepares an execution, so that the job can be found again if the worker dies; Dramatiq fetches one message.
"""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median, quantiles
from typing import NamedTuple, Protocol

import dramatiq
import rq
from dramatiq.brokers.redis import RedisBroker
from redis import Redis

from benchmarks.alternate import ROUNDS, heading, ratio, show
from farm.queue.queue import Queue
from farm.site.client import connect
from farm.site.server import Server
from farm.study.study import Study

QUEUED, SINGLE, CLAIMS = 10_000, 300, 500
STUDY = """
[study]
name = "{name}"
machines = ["cpu"]
seeds = {{ init = {seeds}, train = [23] }}
"""


class Turn(NamedTuple):
    """What a side did: the last is the 99th percentile of one claim, in seconds."""

    puts: float  # a second, one by one
    batch: float  # a second, as many as one call takes
    claims: float  # a second
    slowest: float


class Side(Protocol):
    """`prepare` makes what is put; that is not measured."""

    def prepare(self) -> None: ...
    def put(self, i: int) -> None: ...
    def put_all(self) -> None: ...
    def claim(self) -> object: ...


class Farm:
    def __init__(self, client: Redis, url: str):
        self.queue = Queue(client)
        self.single = [_study(f"single-{i}", range(i, i + 1)) for i in range(SINGLE)]
        self.all = _study("all", range(SINGLE, QUEUED))

    def prepare(self) -> None:
        self.queue.scripts.install()

    def put(self, i: int) -> None:
        self.queue.put(self.single[i])

    def put_all(self) -> None:
        self.queue.put(self.all)

    def claim(self) -> object:
        return self.queue.claim("cpu", "bench", 3600)


class Rq:
    def __init__(self, client: Redis, url: str):
        self.redis = Redis.from_url(url)

    def prepare(self) -> None:
        self.queue = rq.Queue(connection=self.redis)
        self.worker = rq.Worker([self.queue], connection=self.redis)
        self.many = [rq.Queue.prepare_data(print, (i,)) for i in range(SINGLE, QUEUED)]

    def put(self, i: int) -> None:
        self.queue.enqueue(print, i)

    def put_all(self) -> None:
        self.queue.enqueue_many(self.many)

    def claim(self) -> object:
        taken = rq.Queue.dequeue_any([self.queue], None, self.redis)
        return taken and self.worker.prepare_execution(taken[0])


class Dramatiq:
    def __init__(self, client: Redis, url: str):
        self.broker = RedisBroker(url=url, middleware=[])
        self.broker.declare_queue("default")

    def prepare(self) -> None:
        self.messages = [
            dramatiq.Message(queue_name="default", actor_name="print", args=(i,), kwargs={}, options={})
            for i in range(QUEUED)
        ]

    def put(self, i: int) -> None:
        self.broker.enqueue(self.messages[i])

    def put_all(self) -> None:  # it has no call that takes several
        for message in self.messages[SINGLE:]:
            self.broker.enqueue(message)

    def claim(self) -> object:
        return next(self.broker.consume("default", prefetch=1))


def main() -> None:
    heading(f"The queue, {QUEUED:,} queued, appendfsync always (goal: as fast as the faster of the others)")
    with tempfile.TemporaryDirectory() as folder:
        server = Server(Path(folder) / "redis")
        try:
            url = server.start()
            with connect(url) as client:
                kinds: dict[str, Callable[[Redis, str], Side]] = {"farm": Farm, "RQ": Rq, "Dramatiq": Dramatiq}
                sides = {name: kind(client, url) for name, kind in kinds.items()}
                turns = [{name: _turn(client, side) for name, side in sides.items()} for _ in range(ROUNDS)]
        finally:
            server.stop()
    rows = []
    for name in sides:
        row = [name]
        for what in Turn._fields:
            ours, theirs = ([getattr(turn[side], what) for turn in turns] for side in ("farm", name))
            number = f"{median(theirs):,.0f}" if what != "slowest" else f"{median(theirs) * 1000:.2f} ms"
            row.append(f"{number}, {ratio(ours, theirs)}")
        rows.append(row)
    show(["side", "puts/s", "puts/s, in one call", "claims/s", "a claim, 99th percentile"], rows)
    print("\nAfter the comma: farm / this, median and range over rounds.")


def _turn(client: Redis, side: Side) -> Turn:
    client.flushall()
    side.prepare()
    puts = SINGLE / _seconds(lambda: [side.put(i) for i in range(SINGLE)])
    batch = (QUEUED - SINGLE) / _seconds(side.put_all)
    claims = [_claimed(side) for _ in range(CLAIMS)]
    return Turn(puts, batch, CLAIMS / sum(claims), quantiles(claims, n=100)[98])


def _claimed(side: Side) -> float:
    began = time.perf_counter()
    taken = side.claim()
    seconds = time.perf_counter() - began
    assert taken is not None, "something is queued"
    return seconds


def _seconds(act: Callable[[], object]) -> float:
    began = time.perf_counter()
    act()
    return time.perf_counter() - began


def _study(name: str, seeds: range) -> Study:
    return Study.parse(STUDY.format(name=name, seeds=list(seeds)))
