"""A value that cannot be read is set aside and named; everything else goes on."""

import json
from collections.abc import Callable

import pytest
from redis import Redis
from results import result, tiny_study

from farm.errors import LeaseLost, Unreadable
from farm.queue.node import Head, Node
from farm.queue.queue import Queue
from farm.queue.unreadable import find_flaws
from farm.queue.values import Claim, Point, Supply
from farm.record.result import Provenance
from farm.record.store import Store
from farm.reindex import reindex
from farm.study.machine import BUILT_IN
from farm.study.run import Attempt, State
from farm.study.schema import SCHEMA, stamp, unstamp

GARBAGE = b"\xff\x00{not json"
NODE = Node(id="node-1", name="attic", host="host-1", address="10.0.0.6", units={"cpu": 1})
HEAD = Head(
    host="here",
    ray="a:1",
    software=Provenance(farm="0", code="c", python="3", torch="2"),
    sources="/",
    storage="/s",
    marker="m",
)


class Scene:
    """A farm with one finished run, one that trains, one that backs off, and queued ones."""

    def __init__(self, queue: Queue, redis: Redis):
        self.queue, self.redis = Queue(redis, queue.prefix, backoff_seconds=60), redis
        queue = self.queue
        queue.roster.register(BUILT_IN["cpu"], "node-1", 60)
        queue.roster.sight([NODE], 60)
        queue.roster.provide({"8xa100m40": Supply(most=1)}, 60)
        queue.roster.publish(HEAD)
        queue.put(tiny_study())
        queue.put(tiny_study("sound", init=(1,)))
        done, self.running, late = (self.claim() for _ in range(3))
        queue.finish(done.lease, result(done.run, 3.0))
        queue.record(self.running.lease, [Point(step=1, loss=1.0, lr=1.0, tokens_per_second=1.0)])
        queue.fail(late.lease, "x", "y", 1, retryable=True)
        self.done, self.late, self.next = done.run.id, late.run.id, tiny_study().runs()[3].id

    def claim(self) -> Claim:
        claim = self.queue.claim("cpu", "worker", 60)
        assert claim is not None
        self.queue.renew(claim.lease, 1)
        return claim

    def key(self, role: str, name: str | None = None) -> str:
        return self.queue.prefix + role + (f":{name}" if name else "")

    def goes_on(self) -> None:
        """All that a dispatcher, an agent and a person who looks do."""
        queue = self.queue
        queue.sweep()
        (
            queue.listing.statuses(),
            queue.listing.statuses("tiny"),
            queue.listing.running(),
            queue.studies.all(),
            queue.listing.counts(),
            find_flaws(queue.scripts),
        )
        (
            queue.roster.machines(),
            queue.roster.offers(),
            queue.roster.nodes(),
            queue.roster.supply(),
            queue.roster.head(),
            queue.listing.backlog(),
        )
        queue.put(tiny_study("later", init=(99,)))
        queue.roster.register(BUILT_IN["cpu"], "node-1", 60)
        queue.roster.sight([NODE], 60)
        trained = set()
        while claim := queue.claim("cpu", "worker", 60):
            trained.add(claim.run.id)
            queue.finish(claim.lease, result(claim.run, 3.0, epoch=claim.lease.epoch))
        sound = [*tiny_study("sound", init=(1,)).runs(), *tiny_study("later", init=(99,)).runs()]
        assert {run.id for run in sound} <= trained
        queue.put(tiny_study())
        assert queue.listing.put_count() == sum(queue.listing.counts().values()) + queue.listing.forgotten_count()


@pytest.fixture
def scene(queue: Queue, redis: Redis) -> Scene:
    return Scene(queue, redis)


SPOILT: dict[str, tuple[Callable[[Scene], object], str]] = {
    "machine": (lambda s: s.redis.hset(s.key("machines"), "cpu-x1", GARBAGE), "machine class 'cpu-x1'"),
    "study": (lambda s: s.redis.hset(s.key("studies"), "tiny", GARBAGE), "study 'tiny'"),
    "future": (
        lambda s: s.redis.hset(s.key("studies"), "tiny", json.dumps({"schema": 9, "study": {"name": "tiny"}})),
        "study 'tiny': a newer farm wrote it (schema 9; this one reads up to 1). Update farm",
    ),
    "field": (
        lambda s: s.redis.hset(s.key("studies"), "tiny", '{"study":{"name":"tiny","machines":["cpu"],"colour":"red"}}'),
        "study 'tiny': study.colour: Extra inputs are not permitted",
    ),
    "sighting": (lambda s: s.redis.hset(s.key("sightings"), "node-1", GARBAGE), "a node"),
    "queued": (lambda s: s.redis.hset(s.key("run", s.next), "spec", GARBAGE), "run {0.next}"),
    "leased": (lambda s: s.redis.hset(s.key("run", s.running.run.id), "spec", GARBAGE), "run {0.running.run.id}"),
    "epoch": (lambda s: s.redis.hset(s.key("run", s.next), "epoch", "x"), "run {0.next}"),
    "score": (lambda s: s.redis.hset(s.key("run", s.late), "score", "x"), ""),
    "state": (lambda s: s.redis.hset(s.key("run", s.next), "state", "spoilt"), "run {0.next}"),
    "length": (lambda s: s.redis.hset(s.key("run", s.running.run.id), "length", "x"), ""),
    "result": (lambda s: s.redis.set(s.key("result", s.done), GARBAGE), "run {0.done}"),
    "cause": (lambda s: s.redis.rpush(s.key("causes", s.late), GARBAGE), "run {0.late}"),
    "head": (lambda s: s.redis.set(s.key("head"), GARBAGE), ""),
    "supply": (lambda s: s.redis.set(s.key("supply"), GARBAGE), ""),
    "queue": (lambda s: s.redis.zadd(s.key("queue", "cpu"), {"nobody": -9e15}), ""),
    "lease": (lambda s: s.redis.zadd(s.key("leases"), {"nobody": 1}), ""),
    "delayed": (lambda s: s.redis.zadd(s.key("delayed", "cpu"), {"nobody": 1}), ""),
    "order": (lambda s: s.redis.zadd(s.key("order"), {"nobody": 1}), ""),
    "superseded": (lambda s: s.redis.zadd(s.key("superseded"), {"nobody": 1}), ""),
}


@pytest.mark.parametrize("what", SPOILT)
def test_a_value_that_cannot_be_read_is_passed_over_and_named(scene: Scene, what: str) -> None:
    spoil, named = SPOILT[what]
    spoil(scene)
    told = [str(flaw) for flaw in find_flaws(scene.queue.scripts)]
    assert len(told) == bool(named), told
    assert not named or told[0].startswith(named.format(scene))
    if what != "state":  # of a run in no state nothing can be counted, until a mend
        scene.goes_on()


ROLES = ("machines", "studies", "sightings", "head", "supply", "queue:cpu", "leases", "order", "counts", "sequence",
         "classes", "seen", "drained", "study:tiny", "arms:tiny", "delayed:cpu", "digests", "superseded",
         "nodes:cpu", "forgotten")  # fmt: skip


@pytest.mark.parametrize("role", ROLES)
def test_a_key_of_a_wrong_type_is_put_aside_and_what_it_listed_is_listed_again(scene: Scene, role: str) -> None:
    before = {status.id: status.state for status in scene.queue.listing.statuses()}
    members = [status.id for status in scene.queue.listing.statuses("tiny")]
    scene.redis.delete(scene.key(role))
    scene.redis.rpush(scene.key(role), "spoilt")
    scene.goes_on()
    assert {f"key {role}"} <= {flaw.what for flaw in find_flaws(scene.queue.scripts)}
    assert scene.redis.lrange(scene.key("aside", role), 0, -1) == ["spoilt"], "nothing is destroyed"
    after = {status.id: status.state for status in scene.queue.listing.statuses()}
    assert before.keys() <= after.keys()
    assert list(after)[: len(before)] == list(before), "in the order in which they were put"
    assert after[scene.running.run.id] == State.RUNNING
    assert [status.id for status in scene.queue.listing.statuses("tiny")] == members
    scene.queue.renew(scene.running.lease, 2)


@pytest.mark.parametrize("role", ["run", "causes", "result", "scores", "curve", "events"])
def test_a_run_with_a_key_of_a_wrong_type_takes_no_other_with_it(scene: Scene, role: str) -> None:
    for run_id in (scene.next, scene.done):
        scene.redis.delete(scene.key(role, run_id))
        scene.redis.sadd(scene.key(role, run_id), "spoilt")
        (
            scene.queue.listing.curve(run_id),
            scene.queue.listing.events(run_id),
            scene.queue.evaluations.scores(run_id, "run"),
        )
    scene.goes_on()


def test_a_run_that_cannot_be_read_says_so_and_can_be_forgotten(scene: Scene) -> None:
    scene.redis.hset(scene.key("run", scene.next), "spec", GARBAGE)
    with pytest.raises(Unreadable, match=f"farm forget {scene.next}"):
        scene.queue.listing.status(scene.next)
    while claim := scene.queue.claim("cpu", "worker", 60):
        assert claim.run.id != scene.next
    assert scene.queue.forget([scene.next]).gone
    assert scene.next in scene.queue.put(tiny_study()).again


def test_a_redis_that_was_emptied_under_a_running_farm_goes_on_empty(scene: Scene, store: Store) -> None:
    """Who trained hears that its lease is gone; the records bring all back, above the epochs that were."""
    store.studies.keep(tiny_study())
    run, lease = scene.running.run, scene.running.lease
    store.runs.begin(run, Attempt(run_id=run.id, epoch=lease.epoch, worker="w", started=1.0), "tiny")
    scene.redis.flushdb()
    with pytest.raises(LeaseLost):
        scene.queue.renew(lease, 2)
    assert (scene.queue.sweep(), scene.queue.listing.backlog(), scene.queue.claim("cpu", "w", 60)) == ([], {}, None)
    assert reindex(store, scene.queue).brought == 9
    assert scene.queue.listing.status(run.id).epoch == lease.epoch
    scene.queue.put(tiny_study("sound", init=(1,)))
    scene.goes_on()


@pytest.fixture
def store(tmp_path) -> Store:
    return Store(tmp_path / "storage")


def test_what_is_stamped_is_read_and_what_is_newer_is_said_to_be() -> None:
    assert json.loads(stamp('{"a":1}')) == {"schema": SCHEMA, "a": 1}
    assert unstamp(stamp('{"a":1}')) == '{"a":1}'
    assert unstamp('{"a":1}') == '{"a":1}'
    with pytest.raises(Unreadable, match="a newer farm wrote it"):
        unstamp(json.dumps({"schema": SCHEMA + 1, "a": 1}, indent=2))
