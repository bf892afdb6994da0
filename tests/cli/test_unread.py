"""Runs and scores in Redis that cannot be read: whoever concludes from runs, waits for them or acts on them says so."""

import json

import pytest
from results import result, score, study_text

from farm.queue.node import Node
from farm.study.study import Study

from .conftest import Farm

NEWER = '{"schema":9,"run_id":"x"}'
WHY = "a newer farm wrote it (schema 9; this one reads up to 1). Update farm on this machine."


def spoil(farm: Farm, count: int) -> list[str]:
    """The ids of the first finished runs, whose results a newer farm has written over."""
    ids = [status.id for status in farm.queue.listing.statuses() if status.result][:count]
    for run_id in ids:
        farm.queue.redis.set(f"{farm.queue.prefix}result:{run_id}", NEWER)
    return ids


@pytest.fixture
def trained(farm: Farm) -> Farm:
    farm.put()
    farm.finish_all()
    return farm


COMMANDS = [
    ("table", "tiny"),
    ("table",),
    ("table", "tiny", "--at", "hours=1"),
    ("table", "tiny", "--target", "3"),
    ("noise", "tiny"),
    ("effects", "tiny"),
    ("report", "tiny"),
    ("watch", "tiny"),
    ("runs", "tiny"),
    ("cancel", "tiny"),
    ("retry", "tiny"),
    ("eval", "tiny"),
]
OF_JSON = [words for words in COMMANDS if words[0] not in ("cancel", "retry", "eval")]


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_what_cannot_be_read_is_counted_with_its_remedy_and_ends_with_1(trained: Farm, words: tuple[str, ...]) -> None:
    first, _ = spoil(trained, 2)
    answer = trained(*words)
    assert answer.code == 1
    assert f"cannot be read and are left out; farm doctor names each. The first is run {first}: {WHY}" in answer.err
    assert "2 of 9 runs" in answer.err


@pytest.mark.parametrize("words", OF_JSON, ids=" ".join)
def test_json_lists_it(trained: Farm, words: tuple[str, ...]) -> None:
    assert json.loads(trained(*words, "--json").out)["unreadable"] == []
    (spoilt,) = spoil(trained, 1)
    answer = trained(*words, "--json")
    assert (answer.code, json.loads(answer.out)["unreadable"]) == (1, [f"run {spoilt}: {WHY}"])


def test_a_table_for_people_carries_it_and_where_nothing_can_be_read_nothing_else_is_claimed(trained: Farm) -> None:
    spoil(trained, 1)
    assert "- 1 of 9 runs of tiny cannot be read and is left out: run cpu-" in trained("table", "--format", "md").out
    spoil(trained, 9)
    for command in ("table", "watch", "runs", "noise", "cancel", "retry"):
        answer = trained(command, "tiny")
        assert (answer.code, "9 of 9 runs" in answer.err) == (1, True), command
        assert "yet" not in answer.err, command
        assert "nothing to" not in answer.err, command


def test_no_money_is_spent_by_a_verdict_from_a_part_of_the_runs(trained: Farm) -> None:
    spoil(trained, 1)
    before = trained.queue.listing.put_count()
    answer = trained("resolve", "tiny", "--runs", "6", "--no-wait")
    assert (answer.code, "error: 1 of 9 runs of tiny cannot be read" in answer.err) == (1, True)
    assert "Nothing was queued" in answer.err
    assert trained.queue.listing.put_count() == before


def test_a_plan_warns_that_it_lacks_the_noise_of_a_baseline(trained: Farm) -> None:
    spoil(trained, 1)
    answer = trained("plan", trained.file())
    assert (answer.code, "warning: 1 of 3 runs cannot be read and is left out" in answer.err) == (0, True)


def test_a_study_is_forgotten_with_what_of_it_cannot_be_read(trained: Farm) -> None:
    spoil(trained, 2)
    answer = trained("forget", "tiny", "-y")
    assert [row["was"] for row in answer.rows].count("unreadable") == 2
    assert "tiny has no runs any more" in answer.err
    assert trained.queue.listing.statuses() == []


def test_a_study_that_cannot_be_read_is_not_said_to_be_none(trained: Farm) -> None:
    trained.queue.redis.hset(f"{trained.queue.prefix}studies", "tiny", NEWER)
    for words in (
        ("table", "tiny"),
        ("table",),
        ("noise", "tiny"),
        ("eval", "tiny"),
        ("resolve", "tiny", "--runs", "1"),
    ):
        answer = trained(*words)
        assert (answer.code, f"study 'tiny': {WHY}" in answer.err) == (1, True), words
    assert trained("watch", "tiny").code == 0, "its runs are there, and all have succeeded"


def test_a_score_that_cannot_be_read_is_named_as_one(farm: Farm) -> None:
    farm.queue.put(Study.parse(study_text(init=(42,)) + "[evaluations.wiki]\noffset = 8\n"))
    claim = farm.claim()
    found = result(claim.run, 3.0)
    farm.queue.finish(claim.lease, found, [score(found, [3.0, 3.0]), score(found, [4.0, 4.0], "wiki")])
    farm.queue.redis.hset(f"{farm.queue.prefix}scores:{found.run_id}", score(found, [4.0], "wiki").evaluation, NEWER)
    for words in (("table", "tiny"), ("noise", "tiny")):
        answer = farm(*words)
        assert answer.code == 1, words
        assert f"1 score of tiny cannot be read and is left out: a score of {found.run_id}: {WHY}" in answer.err


@pytest.mark.parametrize("words", [("machines",), ("drain", "attic")], ids=" ".join)
def test_a_run_that_trains_and_cannot_be_read_may_be_on_the_node_that_looks_empty(
    farm: Farm, words: tuple[str, ...]
) -> None:
    farm.put()
    farm.queue.roster.sight([Node(id="node-1", name="attic", host="attic", address="10.0.0.6", units={"cpu": 1})], 60)
    spoilt = farm.claim().run.id
    farm.queue.redis.hset(f"{farm.queue.prefix}run:{spoilt}", "attempts", "many")
    answer = farm(*words, "--json")
    assert (answer.code, len(json.loads(answer.out)["unreadable"])) == (1, 1)
    assert f"1 of 1 run cannot be read and is left out: run {spoilt}: " in answer.err
    assert "It may train on" in answer.err
    assert "is empty" not in answer.err


def test_a_study_that_cannot_be_read_is_not_submitted_over(trained: Farm) -> None:
    """It may hold seed pairs and looks that its file has not."""
    trained.queue.redis.hset(f"{trained.queue.prefix}studies", "tiny", "{")
    answer = trained("submit", trained.file())
    assert (answer.code, "error: study 'tiny': " in answer.err) == (1, True)
    assert "farm reindex; or drop it and submit its file again: farm forget tiny" in answer.err
    assert trained.queue.redis.hget(f"{trained.queue.prefix}studies", "tiny") == "{"
    assert trained("forget", "tiny", "-y").code == 0
    assert trained("submit", trained.file()).code == 0
