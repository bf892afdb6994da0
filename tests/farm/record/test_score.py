"""Scores stand beside the result: each there in full or not at all, of its weights alone, and in Redis, too."""

import json
from pathlib import Path
from statistics import fmean, stdev

import pytest
from pydantic import ValidationError
from redis import Redis
from results import result, score, study_text, tiny_study

from farm.errors import CheckpointInvalid, Conflict, LeaseLost
from farm.queue.queue import Queue
from farm.queue.unreadable import find_flaws
from farm.record.score import MOST_BLOCKS, block_sizes, blocks, standard_error
from farm.record.store import Store
from farm.reindex import reindex
from farm.study.recipe import FurtherEvaluation, Recipe
from farm.study.run import Attempt
from farm.study.study import Study

RUN, OTHER, *_ = tiny_study(init=(42,)).runs()
RESULT = result(RUN, 3.0)
VALUES = [2.0, 3.0, 4.0]
SCORE = score(RESULT, VALUES)
WIKI = score(RESULT, [1.0, 5.0], "wiki")


@pytest.fixture(params=["folder", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    if request.param == "folder":
        return Store(tmp_path / "storage")
    return Store(request.getfixturevalue("s3_uri"), tmp_path / "work")


def content(store: Store, name: str) -> bytes:
    found = store.records.get(f"runs/{RUN.id}/scores/{name}")
    assert found is not None
    return found


# What a score says


def test_its_error_is_that_of_the_mean_of_its_items() -> None:
    values = [float(i % 7) for i in range(1000)]
    assert standard_error(values) == pytest.approx(stdev(values) / 1000**0.5)
    assert standard_error([1.0]) is None


@pytest.mark.parametrize("count", [1, 2, MOST_BLOCKS - 1, MOST_BLOCKS, MOST_BLOCKS + 1, 1000, 19_200])
def test_blocks_are_few_nearly_equal_and_hold_every_item_once(count: int) -> None:
    values = [float(i) for i in range(count)]
    found, sizes = blocks(values), block_sizes(count)
    assert len(found) == len(sizes) == min(count, MOST_BLOCKS)
    assert sum(sizes) == count
    assert max(sizes) - min(sizes) <= 1
    assert sum(size * value for size, value in zip(sizes, found, strict=True)) == pytest.approx(sum(values))
    assert found[0] == fmean(values[: sizes[0]])


def test_a_score_without_a_number_or_with_other_blocks_than_items_is_none() -> None:
    with pytest.raises(ValidationError, match="finite number"):
        score(RESULT, VALUES, value=float("nan"))
    with pytest.raises(ValidationError, match="2 blocks of 3 items; must be 3"):
        score(RESULT, VALUES, blocks=(1.0, 2.0))


# What an evaluation's id covers


@pytest.mark.parametrize(
    "change",
    [{"split": "test"}, {"offset": 1}, {"sequences": 7}, {"context": 16}, {"precision": "bf16"}, {"source": "/other"}],
)
def test_an_evaluations_id_covers_slice_and_precision(change: dict) -> None:
    before = RUN.recipe
    after = before.with_test(FurtherEvaluation(**change))
    assert after.evaluation_id("wiki") != before.evaluation_id("wiki")
    assert after.tested != before.tested
    assert after.trained == before.trained


@pytest.mark.parametrize("constant", ["CODE", "CHECKPOINT"])
def test_an_evaluations_id_covers_code_and_checkpoint_rule(constant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = Recipe()
    before = recipe.evaluation_version
    monkeypatch.setattr(f"farm.study.recipe.{constant}", "another")
    assert recipe.model_copy().evaluation_version != before


def test_a_further_evaluation_is_as_the_test_where_it_says_nothing_but_for_anothers_revision() -> None:
    recipe = Recipe().with_patch(
        {"evaluation": {"source": "hf:a/b", "revision": "v1", "offset": 5, "precision": "bf16"}}
    )
    assert recipe.with_test(FurtherEvaluation(sequences=7)).tested == recipe.tested | {"sequences": 7}
    other = recipe.with_test(FurtherEvaluation(source="hf:c/d")).tested
    assert other == recipe.tested | {"source": "hf:c/d", "revision": None}


# The record


def test_a_score_is_written_once_with_the_values_of_its_items(store: Store) -> None:
    for one, values in ((SCORE, VALUES), (WIKI, [1.0, 5.0])):
        store.scores.keep(one, values)
        store.scores.keep(one, values)
    store.runs.record(RESULT)
    store.scores.keep(SCORE, VALUES)
    with pytest.raises(Conflict, match="already holds another score, which was kept"):
        store.scores.keep(score(RESULT, [2.0, 3.0, 5.0]), [2.0, 3.0, 5.0])
    assert store.scores.of(RUN.id) == ([SCORE, WIKI], [])
    assert store.scores.values(SCORE).tolist() == VALUES
    assert json.loads(content(store, f"{SCORE.file}.json"))["schema"] == 1
    assert store.scores.of(OTHER.id) == ([], [])


def test_a_score_counts_once_there_is_a_result_of_its_weights(store: Store) -> None:
    """Whoever lost the lease may have scored other weights first; that is written over, and never told."""
    lost = result(RUN, 2.5).model_copy(update={"fingerprints": RESULT.fingerprints.model_copy(update={"final": "0"})})
    store.scores.keep(score(lost, [9.0, 9.0]), [9.0, 9.0])
    assert store.scores.of(RUN.id) == ([], [])
    store.runs.record(RESULT)
    assert store.scores.of(RUN.id) == ([], [])
    store.scores.keep(SCORE, VALUES)
    assert store.scores.of(RUN.id) == ([SCORE], [])
    assert store.scores.values(SCORE).tolist() == VALUES
    store.runs.withdraw(RUN.id, 1)
    assert store.scores.of(RUN.id) == ([], [])


def test_half_a_score_is_none_and_is_written_anew(store: Store) -> None:
    store.runs.record(RESULT)
    store.scores.keep(SCORE, VALUES)
    place = f"runs/{RUN.id}/scores/{SCORE.file}.json"
    store.records.put(place, content(store, f"{SCORE.file}.json")[:100])
    assert store.scores.of(RUN.id) == ([], [])
    store.scores.keep(SCORE, VALUES)
    assert store.scores.of(RUN.id) == ([SCORE], [])
    store.records.put(place, b'{"schema": 9, "run_id": "x"}')
    store.records.put(f"runs/{RUN.id}/scores/wiki.json", b'{"colour": "red"}')
    found, unread = store.scores.of(RUN.id)
    assert not found
    assert "a newer farm wrote it" in unread[0]
    assert "wiki.json is damaged" in unread[1]


def test_values_that_are_not_those_that_were_scored_are_told(store: Store) -> None:
    store.runs.record(RESULT)
    store.scores.keep(SCORE, VALUES)
    place = f"runs/{RUN.id}/scores/{SCORE.file}.{SCORE.values[:8]}.safetensors"
    store.records.put(place, (store.records.get(place) or b"")[:-1] + b"\0")
    with pytest.raises(CheckpointInvalid, match="its sha256 is not that in the score"):
        store.scores.values(SCORE)
    store.records.remove(place)
    with pytest.raises(CheckpointInvalid, match="gone"):
        store.scores.values(SCORE)


# The index


def finished(queue: Queue, *scores) -> None:
    queue.put(tiny_study(init=(42,)))
    claim = queue.claim("cpu", "worker", 60)
    assert claim is not None
    assert claim.run == RUN
    queue.finish(claim.lease, RESULT, scores)


def test_q5_scores_come_with_the_result_and_under_its_lease(queue: Queue) -> None:
    finished(queue, SCORE, WIKI)
    assert queue.evaluations.scores() == queue.evaluations.scores("tiny", "study") == {RUN.id: (SCORE, WIKI)}
    assert queue.evaluations.scores(RUN.id, "run") == {RUN.id: (SCORE, WIKI)}
    assert queue.evaluations.scores(OTHER.id, "run") == {}
    claim = queue.claim("cpu", "worker", 60)
    assert claim is not None
    late = claim.lease.model_copy(update={"epoch": 9})
    with pytest.raises(LeaseLost):
        queue.finish(late, result(claim.run, 3.0), [score(result(claim.run, 3.0), VALUES)])
    assert queue.evaluations.scores().keys() == {RUN.id}


def test_who_adopts_a_result_has_its_scores_and_keeps_them_when_the_other_is_forgotten(queue: Queue) -> None:
    finished(queue, SCORE)
    renamed = Study.parse(study_text("next", init=(42,)).replace("remove-dropout", "no-drop"))
    claim = queue.claim("cpu", "worker", 60)
    assert claim is not None
    trained = result(claim.run, 2.0)
    queue.finish(claim.lease, trained, [own := score(trained, VALUES)])
    queue.put(renamed)
    heir = next(run.id for run in renamed.runs() if run.digest == claim.run.digest)
    assert queue.evaluations.scores("next", "study")[heir] == (own,)
    queue.forget([claim.run.id], "tiny")
    assert queue.evaluations.scores("next", "study")[heir] == (own,)
    assert claim.run.id not in queue.evaluations.scores()


def test_a_score_that_cannot_be_read_is_passed_over_and_named(queue: Queue, redis: Redis) -> None:
    finished(queue, SCORE, WIKI)
    redis.hset(f"{queue.prefix}scores:{RUN.id}", WIKI.evaluation, '{"schema":9,"value":3}')
    assert queue.evaluations.scores() == {RUN.id: (SCORE,)}
    assert [str(flaw) for flaw in find_flaws(queue.scripts)] == [
        f"a score of {RUN.id}: a newer farm wrote it (schema 9; this one reads up to 1). Update farm on this machine."
    ]
    redis.delete(f"{queue.prefix}scores:{RUN.id}")
    redis.set(f"{queue.prefix}scores:{RUN.id}", "spoilt")
    assert queue.evaluations.scores() == {}
    assert find_flaws(queue.scripts)[0].what == f"key scores:{RUN.id}"


def test_scores_come_back_from_the_records(store: Store, queue: Queue, redis: Redis) -> None:
    store.studies.keep(tiny_study(init=(42,)))
    store.runs.begin(RUN, Attempt(run_id=RUN.id, epoch=1, worker="w", started=1000.0), "tiny")
    store.scores.keep(SCORE, VALUES)
    store.runs.record(RESULT)
    reindex(store, queue)
    assert queue.evaluations.scores() == {RUN.id: (SCORE,)}
    redis.delete(f"{queue.prefix}scores:{RUN.id}")
    store.scores.keep(WIKI, [1.0, 5.0])
    store.records.put(f"runs/{RUN.id}/scores/x-00000000.json", b'{"colour": "red"}')
    done = reindex(store, queue)
    assert queue.evaluations.scores() == {RUN.id: (SCORE, WIKI)}, "of a run that the queue knew, too"
    assert "x-00000000.json is damaged" in done.unread[0]


def test_the_heir_of_a_forgotten_run_has_its_scores_on_record(store: Store) -> None:
    store.scores.keep(SCORE, VALUES)
    store.runs.record(RESULT)
    heir = RUN.model_copy(update={"arm": "heir"})
    store.adopt(RESULT.model_copy(update={"run_id": heir.id, "arm": "heir", "adopted": RUN.id}), heir, "next")
    (found,), unread = store.scores.of(heir.id)
    assert (found, unread) == (SCORE.model_copy(update={"run_id": heir.id}), [])
    assert store.scores.values(found).tolist() == VALUES
