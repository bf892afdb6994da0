"""A person with the credential of docs/machines/security.md: to plan, submit, look and cancel, and nothing else."""

import shlex
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from redis.exceptions import NoPermissionError
from redis_servers import KEPT, OLD_SERVER, redis_servers
from results import study_text, tiny_study
from waiting import wait_until

from farm.errors import BadStudy, Changed, Conflict, NotFound, Unreachable
from farm.imports import rows
from farm.queue import clerk
from farm.queue.node import Node
from farm.queue.queue import Queue
from farm.queue.unscored import find_unscored
from farm.queue.values import Supply
from farm.record.imported import Imported
from farm.record.reference import Reference, References
from farm.site.client import connect
from farm.study.machine import BUILT_IN
from farm.study.recipe import TEST
from farm.study.run import Attempt, State
from farm.study.schema import stamp
from farm.study.study import Study

from .conftest import ROOT, Farm

NODE = Node(id="node-1", name="attic", host="host-1", address="10.0.0.6", units={"cpu": 1})


def documented() -> list[str]:
    """The words that an administrator pastes."""
    text = (ROOT / "docs" / "machines" / "security.md").read_text(encoding="utf-8")
    return shlex.split(text[text.index("ACL SETUSER alice") :].partition("```")[0].replace("\\\n", " "))


class Clerk:
    """What a farm that is up has for submitters."""

    def __init__(self, queue: Queue):
        self.queue, self.stop = queue, threading.Event()
        self.thread = threading.Thread(target=clerk.listen, args=(queue, self.stop))
        self.thread.start()
        wait_until(lambda: queue.redis.pubsub_numsub(queue.asking.channel)[0][1], "it listens")

    def leave(self) -> None:
        self.stop.set()
        self.thread.join()


@pytest.fixture(params=["the newest server", "Redis 6.2"])
def alice(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Farm]:
    """A farm with a node, a result and a running run, and its commands as the submitter types them."""
    monkeypatch.chdir(tmp_path)
    with redis_servers(tmp_path) as serve:
        url = serve(*KEPT, binary=OLD_SERVER if request.param == "Redis 6.2" else None)
        with connect(url) as redis:
            farm = Farm(tmp_path, redis, url)
            farm.queue.scripts.install()
            farm.queue.roster.register(BUILT_IN["cpu"], "node-1", 60)
            farm.queue.roster.sight([NODE], 60)
            farm.queue.roster.provide({"8xa100m40": Supply(most=1)}, 60)
            farm.put(name="before")
            farm.finish(farm.claim(), 3.25)
            farm.claim()
            redis.execute_command(*documented())
            farm.environment["FARM_REDIS_URL"] = url.replace("//", "//alice:ALICES-PASSWORD@")
            there = Clerk(farm.queue)
            try:
                yield farm
            finally:
                there.leave()


def test_all_that_a_submitter_does_works(alice: Farm) -> None:
    file = alice.file(init=(1,))
    for words in (
        ["plan", file],
        ["submit", file, "--dry-run"],
        ["submit", file],
        ["runs"],
        ["runs", "before"],
        ["show", alice.queue.listing.running()[0].run.id],
        ["status"],
        ["machines"],
        ["table", "before"],
        ["cancel", "tiny"],
        ["watch", "tiny"],
        ["cancel", "before"],
    ):
        answer = alice(*words)
        assert answer.code == (words[0] == "watch"), (words, answer.err)
        assert "does not let" not in answer.err, words
    states = [row["state"] for row in alice("runs", "tiny").rows]
    assert states == ["cancelled"] * 3
    (before,) = (row for row in alice("machines").rows if row["machine"] == "cpu")
    assert before["nodes"] == "1"
    assert alice.queue.listing.running()[0].cancelling


@pytest.mark.parametrize("words", [["retry", "before"], ["drain", "attic"], ["reindex"]])
def test_nothing_else_does(alice: Farm, words: list[str]) -> None:
    alice.fail(alice.claim())
    run = tiny_study(init=(7,)).runs()[0]
    alice.store.runs.begin(run, Attempt(run_id=run.id, epoch=1, worker="w", started=1.0), "tiny")
    before = alice.queue.listing.statuses()
    answer = alice(*words)
    assert (answer.code, "does not let this user do that" in answer.err) == (4, True), answer.err
    assert alice.queue.listing.statuses() == before


def test_imported_losses_can_be_seen_and_not_imported(alice: Farm) -> None:
    alice.store.mark()
    path = alice.folder / "elsewhere.csv"
    path.write_text("arm,machine,init_seed,train_seed,test_loss\nbaseline,cpu,1,2,3.5\n")
    answer = alice("import", str(path))
    assert (answer.code, "does not let this user do that" in answer.err) == (4, True), answer.err
    assert alice.store.studies.imported("elsewhere").runs == (), "nothing is on record either"
    alice.queue.studies.bring(Imported(study="elsewhere", runs=rows.read(path).runs))
    for words in (["table", "elsewhere"], ["runs", "elsewhere"], ["show", "imported-cpu"], ["noise", "elsewhere"]):
        assert alice(*words).code == 0, words


def test_a_reference_model_can_be_seen_and_not_recorded(alice: Farm) -> None:
    """She is refused before the folder is opened: it need not hold a model."""
    alice.store.mark()
    folder = alice.folder / "theirs"
    folder.mkdir()
    answer = alice("eval", "before", "--reference", str(folder))
    assert (answer.code, "does not let this user do that" in answer.err) == (4, True), answer.err
    assert alice.store.studies.references("before").models == (), "nothing is on record either"
    shape = alice.queue.studies.one("before").arms()[0].recipe.model
    kept = Reference(name="theirs", weights="a" * 64, shape=shape)
    alice.queue.studies.refer(References(study="before", models=(kept,)))
    answer = alice("table", "before")
    assert (answer.code, "reference theirs is not shown: never scored by" in answer.err) == (0, True), answer.err


BY_HAND = """
HSET farm:machines cpu x | HSET farm:run:RUN state succeeded | HDEL farm:studies before | HINCRBY farm:counts queued 9
ZADD farm:queue:cpu -9 RUN | ZADD farm:leases 0 RUN | ZREM farm:leases RUN | DEL farm:leases
SET farm:said:x y | SET farm:result:RUN y | XADD farm:events:RUN * event x | SADD farm:classes x | INCR farm:sequence
RPUSH farm:causes:RUN x | PFADD farm:said:x x | SETEX farm:head 1 x | RENAME farm:leases farm:queue:cpu
EXPIRE farm:leases 1 | SORT farm:leases STORE farm:queue:cpu | COPY farm:leases farm:queue:cpu | MOVE farm:leases 1
EVAL return 0 | SCRIPT LOAD x | SCRIPT FLUSH | FLUSHALL | FLUSHDB | CONFIG GET requirepass | ACL LIST
KEYS * | SHUTDOWN NOSAVE | CLIENT KILL TYPE normal | PUBLISH other x | SUBSCRIBE farm:asked | PSUBSCRIBE * | MONITOR
GET farm:claim:x | HGETALL farm:joined:x | GET other | EXISTS farm:workers
"""


def test_by_hand_nothing_can_be_written(alice: Farm) -> None:
    run_id = alice.queue.listing.running()[0].id
    redis = alice.queue.redis
    before = {key: redis.dump(key) for key in redis.scan_iter()}
    with connect(alice.environment["FARM_REDIS_URL"]) as hers:
        for words in BY_HAND.replace("RUN", run_id).replace("\n", "|").split("|"):
            if words.strip():
                command = words.split() + ["0"] * words.strip().startswith("EVAL ")
                with pytest.raises(NoPermissionError):
                    hers.execute_command(*command)
    assert {key: redis.dump(key) for key in redis.scan_iter()} == before


def test_what_a_clerk_refuses_is_said_as_if_it_had_been_refused_here(alice: Farm) -> None:
    with connect(alice.environment["FARM_REDIS_URL"]) as hers:
        queue = Queue(hers)
        with pytest.raises(NotFound, match="no run 'x'"):
            queue.cancel("x")
        other = study_text("before").replace("batch = 8", "batch = 4")
        with pytest.raises(Conflict, match="has results of another"):
            queue.put(Study.parse(other))
        with pytest.raises(Changed, match="before was changed by another command meanwhile: nothing was queued"):
            queue.asking.ask(
                None,  # type: ignore[arg-type]
                "put",
                stamp(tiny_study("before", init=(9,)).model_dump_json()),
                since="0" * 40,
            )
        with pytest.raises(BadStudy, match="the farm cannot read that study"):
            queue.asking.ask(None, "put", "{}")  # type: ignore[arg-type]
        for nonsense in ("", "{", "[]", '{"verb":"forget"}', '{"token":"../x","verb":"cancel","name":"x"}', "\xff"):
            assert hers.publish(queue.asking.channel, nonsense) == 1
        first, *rest = [run.id for run in tiny_study(init=(5,)).runs()]
        assert sorted(queue.put(tiny_study(init=(5,)), leaving={first}).new) == sorted(rest)
        assert queue.cancel(rest[0]) is State.CANCELLED
        (job,) = [
            job
            for job, _ in find_unscored(
                queue.studies.one("before"), queue.listing.statuses("before"), {}, [TEST]
            ).jobs.values()
        ]
        assert queue.evaluations.put("before", [job]) == {job.id: None}
        with pytest.raises(NotFound, match="has not succeeded: it has no model to score"):
            queue.evaluations.put("before", [job.model_copy(update={"of": rest[0]})])
        assert [status.state for status in queue.evaluations.statuses()] == [State.QUEUED]


def test_two_clerks_do_once_what_was_asked_once(alice: Farm) -> None:
    second = Clerk(alice.queue)
    try:
        with connect(alice.environment["FARM_REDIS_URL"]) as hers:
            for seed in range(100, 110):
                assert len(Queue(hers).put(tiny_study(f"s{seed}", init=(seed,))).new) == 3
    finally:
        second.leave()


def test_where_no_farm_is_up_a_submitter_is_told_so(alice: Farm, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("farm.queue.asking.CLERK_SECONDS", 0.1)
    alice.queue.redis.client_kill_filter(_type="pubsub")
    alice.queue.redis.execute_command("ACL", "SETUSER", "alice", "resetchannels", "&farm:asked")
    alone = Queue(alice.queue.redis, prefix="elsewhere:")
    with pytest.raises(Unreachable, match="no farm that accepts submitters' requests is up"):
        alone.asking.ask(None, "cancel", "x")  # type: ignore[arg-type]


def test_a_clerk_is_back_after_its_connection_was_lost(alice: Farm) -> None:
    alice.queue.redis.client_kill_filter(_type="pubsub")
    with connect(alice.environment["FARM_REDIS_URL"]) as hers:
        assert len(Queue(hers).put(tiny_study("later", init=(9,))).new) == 3


def test_scripts_that_redis_forgot_are_all_back_when_the_farm_goes_on(alice: Farm) -> None:
    alice.queue.redis.script_flush()
    answer = alice("runs")
    assert (answer.code, "has not loaded this version's scripts" in answer.err) == (4, True)
    assert alice.queue.claim("cpu", "worker", 60)
    assert alice("runs").code == 0
