"""The scripts: their keys, who may call them, and that they can be loaded beforehand."""

import re
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from claims import checkpoint_at, crash, picture, points, started, study_of
from redis import Redis
from results import result, tiny_study

from farm.errors import Refused
from farm.queue import scripts as scripts_
from farm.queue.live import Scope
from farm.queue.queue import Queue
from farm.site.client import connect
from farm.study.machine import Machine
from farm.study.run import Lease, State


def test_every_key_begins_with_the_prefix(redis: Redis) -> None:
    queue = Queue(redis, prefix="farm:other:")
    study_of(queue)
    claim = started(queue)
    queue.record(claim.lease, points(1))
    queue.roster.register(Machine(name="cpu", probes={"a": 1}), "node", 60)
    crash(queue, 1)
    queue.finish(claim.lease, result(claim.run, 3.0))
    assert redis.keys()
    assert all(key.startswith("farm:other:") for key in redis.scan_iter())
    assert Queue(redis, prefix="farm:").listing.statuses() == []


def test_a_submitter_by_acl_can_only_read(queue: Queue, redis: Redis, redis_url: str) -> None:
    """Whoever may not look at `workers`, whatever else its user may write; tests/cli/test_submitter.py has the rest."""
    study_of(queue)
    started(queue)
    queue.scripts.install()
    roles = "run causes result curve events sequence order counts queue delayed classes studies study arms"
    roles += " leases machines probes nodes supply head seen sightings drained paused spent rentals"
    roles += " digests superseded forgotten aside changes moves"
    patterns = [f"~farm:{role}*" for role in roles.split()] + ["~farm:"]
    writes = "+hset +hdel +hincrby +incr +zadd +zrem +sadd +xadd"
    redis.execute_command("ACL", "SETUSER", "alice", "on", ">pw", *patterns, "-@all", "+@read", "+@connection",
                          "+time", "+evalsha", *writes.split())  # fmt: skip
    place = urlsplit(redis_url)
    try:
        with connect(f"redis://alice:pw@{place.hostname}:{place.port}/0") as client:
            alice = Queue(client)
            assert len(alice.preview(tiny_study(init=(42, 22))).new) == 3
            assert len(alice.listing.statuses()) == 3
            assert (alice.roster.supply(), alice.roster.machines(), alice.roster.head(), alice.roster.nodes()) == (
                {},
                {},
                None,
                [],
            )
            assert (alice.listing.pauses(), alice.studies.dollars_spent()) == ([], {})
            (running,) = alice.listing.running()
            every = Scope("study", running.study)
            assert (alice.live.training(every, 9).total, len(alice.live.front(every, 9).first)) == (1, 2)
            assert (sum(alice.live.tally(running.study).values()), alice.live.trace(running.run.id, 9)) == (3, [])
            lease = Lease(run_id=running.run.id, epoch=1, deadline=0.0, worker="alice")
            before = picture(queue, redis)
            for verb in (
                lambda: alice.put(tiny_study(init=(5,))),
                lambda: alice.cancel(running.run.id),
                lambda: alice.claim("cpu", "alice", 60),
                lambda: alice.sweep(),
                lambda: alice.renew(lease, 1),
                lambda: alice.checkpoint(lease, checkpoint_at(1)),
                lambda: alice.record(lease, points(1)),
                lambda: alice.finish(lease, result(running.run, 3.0)),
                lambda: alice.fail(lease, "x", "y", 1, False),
                lambda: alice.release(lease, "x"),
                lambda: alice.recall(lease, "x"),
                lambda: alice.pause(lease, "x"),
                lambda: alice.studies.account({"tiny": 0.0}, 60),
                lambda: alice.acknowledge_cancel(lease),
                lambda: alice.note(lease, "x", "y"),
                lambda: alice.retry(queue.listing.statuses()[1].run.id),
                lambda: alice.forget([queue.listing.statuses()[1].run.id], "tiny"),
                lambda: alice.index.omit("x", 1),
                lambda: alice.index.restore(tiny_study(init=(5,)).runs()[0], "tiny", State.SUCCEEDED),
                lambda: alice.roster.register(Machine(name="cpu"), "node", 60),
                lambda: alice.roster.provide({}, 60),
                lambda: alice.roster.leave("cpu", "node"),
                lambda: alice.roster.enroll("node", "token", "alice", 60),
                lambda: alice.roster.sight([], 60),
                lambda: alice.roster.drain("node-1", "by alice"),
                lambda: alice.roster.undrain("node-1"),
            ):
                with pytest.raises(Refused, match="does not let this user"):
                    verb()
            assert picture(queue, redis) == before
    finally:
        redis.execute_command("ACL", "DELUSER", "alice")


def test_all_scripts_can_be_installed_beforehand(queue: Queue, redis: Redis) -> None:
    redis.script_flush()
    queue.scripts.install()
    assert queue.listing.statuses() == []
    assert redis.info("commandstats").get("cmdstat_script|load", {"calls": 1})["calls"] >= 1


def test_every_script_that_writes_refuses_submitters_before_it_does_anything() -> None:
    folder = Path(scripts_.__file__).parent / "lua"
    scripts = {path.stem: path.read_text(encoding="utf-8") for path in folder.glob("*.lua")}
    shared = "".join((folder / "shared" / f"{name}.lua").read_text(encoding="utf-8") for name in scripts_.SHARED)
    assert len(re.findall(r"function (?:holds|sweep)\(.*\)\n  refuse_submitters\(\)", shared)) == 2
    writing = {name: text for name, text in scripts.items() if "writes" in text.partition("\n\n")[0]}
    assert len(writing) > 30
    assert [name for name, text in writing.items() if not re.search(r"\b(refuse_submitters|holds|sweep)\(", text)] == []
    hands = re.compile(r"'(HSET|SET|DEL|HDEL|SADD|SREM|ZADD|ZREM|RPUSH|XADD|INCR|RENAME)'|\b(set|move|erase|tell)\(")
    assert [name for name in scripts.keys() - writing.keys() if hands.search(scripts[name])] == []
