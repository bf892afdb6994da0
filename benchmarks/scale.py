"""How large a farm does one Redis carry? `python -m benchmarks.scale [--nodes 1000] [--runs 100000]`.

As many nodes as are asked for hold a lease each, with the runs queued behind them, on a Redis that fsyncs every write
before it answers. Every verb that a node says is said by all of them in turn, by one client. Redis computes on one
core, so what it can carry follows from the processor time that it took for a verb, which does not depend on the client;
by the clock there is also the disk, whose fsyncs clients that write at once share. While Redis answers a call it does
nothing else, so a call that takes long makes everybody wait: what goes over many runs is asked for in pages.
"""

import argparse
import random
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from redis import Redis

from benchmarks.alternate import heading, show
from benchmarks.population import MACHINES, SEEDS, scored, trained
from farm.queue.queue import HEARTBEAT_SECONDS, Queue
from farm.queue.values import Claim, Point
from farm.site.client import connect
from farm.site.server import Server
from farm.study.machine import BUILT_IN
from farm.study.study import Study

PER_STUDY = 1_000
FLUSH_SECONDS = 1.0  # between two batches of curve points, as workers.attempt.loop has it
STEPS_PER_SECOND = 5.0  # of a run of the published battery on eight A100
RUN_HOURS = 4.0
LEASE_SECONDS = 86_400.0
MACHINE = next(iter(MACHINES))
STUDY = """
[study]
name = "{name}"
machines = ["{machine}"]
seeds = {{ init = {seeds}, train = [23] }}
[baseline.train]
learning_rate = {rate}
"""


class Verb(NamedTuple):
    """What was said how often, and the seconds that it took, by the clock and of Redis' processor."""

    name: str
    count: int
    seconds: float
    redis_seconds: float
    calls: int  # of scripts, each of which holds Redis up
    wanted: float  # a second, by all nodes


def main(nodes: int = 1_000, runs: int = 100_000) -> None:
    heading(f"{nodes:,} nodes and {runs:,} runs on one Redis, appendfsync always, one client")
    with tempfile.TemporaryDirectory() as folder:
        server = Server(Path(folder) / "redis")
        try:
            with connect(server.start()) as client:
                verbs, megabytes = _lives(client, nodes, runs)
        finally:
            server.stop()
    show(
        [
            "verb",
            "a second, by the clock",
            "a second of Redis' core",
            "ms a call",
            "the nodes say, a second",
            "of the core",
        ],
        [
            [
                verb.name,
                f"{verb.count / verb.seconds:,.4g}",
                f"{verb.count / verb.redis_seconds:,.4g}",
                f"{verb.redis_seconds / verb.calls * 1e3:,.3g}",
                f"{verb.wanted:,.2f}",
                f"{verb.wanted * verb.redis_seconds / verb.count:.2%}",
            ]
            for verb in verbs
        ],
    )
    print(f"\nRedis holds {megabytes:,.0f} MB: {megabytes * 1e3 / runs:.1f} kB for each run, most of them queued.")


def _lives(client: Redis, nodes: int, runs: int) -> tuple[list[Verb], float]:
    """What each verb takes, in the order in which a run comes by them; and the memory at the end, in MB."""
    queue, chance, machine = Queue(client), random.Random(0), BUILT_IN[MACHINE]
    studies = [_study(number, min(PER_STUDY, runs - first)) for number, first in enumerate(range(0, runs, PER_STUDY))]
    verbs = [_timed(client, "put, a run", 0.0, [lambda study=study: queue.put(study) for study in studies])]
    verbs[0] = verbs[0]._replace(count=runs)
    claims: list[Claim] = []
    ends = nodes / RUN_HOURS / 3600

    def claim() -> None:
        found = queue.claim(MACHINE, "scale", LEASE_SECONDS, "n" * 56)
        assert found is not None, "runs are queued"
        claims.append(found)

    def say(name: str, wanted: float, act: Callable[[Claim], object]) -> None:
        verbs.append(_timed(client, name, wanted, [lambda one=one: act(one) for one in claims]))

    verbs.append(_timed(client, "claim", ends, [claim] * nodes))
    say("renew", nodes / HEARTBEAT_SECONDS, lambda one: queue.renew(one.lease, 100, LEASE_SECONDS))
    batch = round(STEPS_PER_SECOND * FLUSH_SECONDS)
    for turn in range(3):  # the last is told: a curve that has begun
        points = _points(turn * batch, batch)
        say(f"record {batch} points", nodes / FLUSH_SECONDS, lambda one, points=points: queue.record(one.lease, points))
    del verbs[-3:-1]
    results = {one.run.id: trained(one.run, machine, one.lease.epoch, chance) for one in claims}
    scores = {run: scored(result, chance) for run, result in results.items()}
    say("finish", ends, lambda one: queue.finish(one.lease, results[one.run.id], [scores[one.run.id]]))
    verbs.append(_timed(client, "what is queued (a dispatcher)", 1.0, [queue.listing.backlog] * 20))
    verbs.append(_timed(client, "all unfinished runs (a person)", 0.1, [queue.listing.unfinished]))
    verbs.append(_timed(client, "all speeds (farm plan)", 0.1, [queue.listing.speeds]))
    verbs.append(
        _timed(client, "a run by the beginning of its id", 1.0, [lambda: queue.listing.names("runs", MACHINE)] * 20)
    )
    verbs.append(_timed(client, "studies, newest first", 1.0, [queue.listing.studies] * 20))
    return verbs, client.info("memory")["used_memory"] / 1e6


def _timed(client: Redis, name: str, wanted: float, acts: Sequence[Callable[[], object]]) -> Verb:
    before, calls, began = _cpu_seconds(client), _calls(client), time.perf_counter()
    for act in acts:
        act()
    seconds = time.perf_counter() - began
    taken = max(_cpu_seconds(client) - before, 1e-6)
    return Verb(name, len(acts), seconds, taken, max(_calls(client) - calls, 1), wanted)


def _calls(client: Redis) -> int:
    return client.info("commandstats").get("cmdstat_evalsha", {}).get("calls", 0)


def _cpu_seconds(client: Redis) -> float:
    used = client.info("cpu")
    return used["used_cpu_user"] + used["used_cpu_sys"]


def _points(first: int, count: int) -> list[Point]:
    return [
        Point(step=first + i, loss=7.0 - 1 / (first + i), lr=4e-4, grad_norm=0.5123456789, tokens_per_second=300_123.4)
        for i in range(1, count + 1)
    ]


def _study(number: int, runs: int) -> Study:
    rate = round(4e-4 + number * 1e-6, 7)
    return Study.parse(
        STUDY.format(name=f"scale-{number:03}", machine=MACHINE, seeds=list(range(SEEDS, SEEDS + runs)), rate=rate)
    )


if __name__ == "__main__":
    words = argparse.ArgumentParser(prog="python -m benchmarks.scale", description=__doc__.partition("\n")[0])
    words.add_argument("--nodes", type=int, default=1_000)
    words.add_argument("--runs", type=int, default=100_000)
    main(**vars(words.parse_args()))
