"""A person with the credential of docs/cluster.md: to plan, submit, look and cancel, and nothing else."""

import shlex
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest
from redis import Redis
from results import tiny_study

from farm.machine import BUILT_IN
from farm.node import Node
from farm.queue import Supply
from farm.run import Attempt

from .conftest import ROOT, Farm

NODE = Node(id="node-1", name="attic", host="host-1", address="10.0.0.6", units={"cpu": 1})


def documented(redis: Redis) -> list[str]:
    """The words that an administrator pastes, with `%R~` in the third line where the server knows it."""
    text = (ROOT / "docs" / "cluster.md").read_text()
    lines = text[text.index("ACL SETUSER alice") :].partition("```")[0].split("\\\n")
    if int(redis.info("server")["redis_version"].split(".")[0]) >= 7:
        lines[2] = lines[2].replace("~", "%R~")
    return shlex.split(" ".join(lines))


@pytest.fixture
def alice(farm: Farm, redis: Redis, redis_url: str) -> Iterator[Farm]:
    """A farm with a node, a result and a running run, and its commands as the submitter types them."""
    farm.queue.install()
    farm.queue.register(BUILT_IN["cpu"], "node-1", 60)
    farm.queue.sight([NODE], 60)
    farm.queue.provide({"8xa100m40": Supply(most=1)}, 60)
    farm.put(name="before")
    farm.finish(farm.claim(), 3.25)
    farm.claim()
    redis.execute_command(*documented(redis))
    place = urlsplit(redis_url)
    farm.environment["FARM_REDIS_URL"] = f"redis://alice:ALICES-PASSWORD@{place.hostname}:{place.port}/0"
    try:
        yield farm
    finally:
        redis.execute_command("ACL", "DELUSER", "alice")


def test_all_that_a_submitter_does_works(alice: Farm) -> None:
    study = alice.file(init=(1,))
    for words in (
        ["plan", study],
        ["submit", study, "--dry-run"],
        ["submit", study],
        ["runs"],
        ["runs", "before"],
        ["show", alice.queue.running()[0].run.id],
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
    assert alice.queue.running()[0].cancelling


@pytest.mark.parametrize("words", [["retry", "before"], ["drain", "attic"], ["reindex"]])
def test_nothing_else_does(alice: Farm, words: list[str]) -> None:
    alice.fail(alice.claim())
    run = tiny_study(init=(7,)).runs()[0]
    alice.store.begin(run, Attempt(run_id=run.id, epoch=1, worker="w", started=1.0), "tiny")
    before = alice.queue.statuses()
    answer = alice(*words)
    assert (answer.code, "does not let this user do that" in answer.err) == (4, True), answer.err
    assert alice.queue.statuses() == before


def test_scripts_that_redis_forgot_are_all_back_when_the_farm_goes_on(alice: Farm, redis: Redis) -> None:
    redis.script_flush()
    answer = alice("runs")
    assert (answer.code, "has not loaded the scripts of this version" in answer.err) == (4, True)
    assert alice.queue.claim("cpu", "worker", 60)
    assert alice("runs").code == 0
