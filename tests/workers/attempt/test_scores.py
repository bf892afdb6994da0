"""What a finished run is worth goes on record before its result, and reaches the queue with it."""

from pathlib import Path

import pytest
from results import result, tiny_study

from farm.queue.queue import Queue
from farm.record.result import Exam, Measurement, Outcome, Result
from farm.record.runs import Runs
from farm.record.scores import Scores
from farm.record.store import Store
from farm.site.settings import Settings
from farm.study.recipe import FurtherEvaluation
from workers.attempt.asks import Asks
from workers.attempt.outcome import record
from workers.attempt.post import Post
from workers.attempt.scores import scores_of
from workers.attempt.training import Training

RUN = tiny_study(init=(42,)).runs()[0]
RESULT = result(RUN, 3.0)
WIKI = RUN.recipe.with_test(FurtherEvaluation(offset=8, precision="bf16"))


def outcome(of: Result = RESULT) -> Outcome:
    test = Exam(name="test_loss", recipe=RUN.recipe, items="e" * 64)
    wiki = Exam(name="wiki", recipe=WIKI, items="9" * 64)
    return Outcome(
        finished=True,
        step=10,
        fingerprints=of.fingerprints,
        scores=(
            Measurement(exam=test, value=3.0, tokens=64, values=(2.5, 3.5)),
            Measurement(exam=wiki, value=4.0, tokens=64, values=(3.0, 5.0)),
        ),
    )


def training(queue: Queue, store: Store) -> Training:
    """The work of an agent that has claimed the run."""
    queue.put(tiny_study(init=(42,)))
    claim = queue.claim("cpu", "worker", 60)
    assert claim is not None
    here = Settings(home=store.root / "home", storage=store.root)
    return Training(Post(here, queue, store, claim.lease, "job", "node", (), Asks()))


def test_a_score_says_by_which_evaluation_of_which_weights_and_by_what_it_was_made() -> None:
    (test, values), (wiki, _) = scores_of(RESULT, outcome())
    assert (test.value, test.count, values) == (3.0, 2, (2.5, 3.5))
    assert test.standard_error == pytest.approx(0.5)
    assert (test.evaluation, test.definition) == (RESULT.evaluation, RUN.recipe.tested)
    assert (wiki.evaluation, wiki.definition) == (WIKI.evaluation_id("wiki"), WIKI.tested)
    assert (wiki.precision, wiki.items) == ("bf16", "9" * 64)
    for score in (test, wiki):
        assert (score.weights, score.code) == (RESULT.fingerprints.final, RESULT.provenance.code)
        assert (score.hardware, score.when, score.epoch) == (RESULT.hardware, RESULT.ended, RESULT.epoch)


def test_scores_are_on_record_before_the_result_and_reach_the_queue_with_it(queue: Queue, tmp_path: Path) -> None:
    order: list[str] = []

    class NotingScores(Scores):
        def keep(self, score, values) -> None:
            order.append(score.name)
            super().keep(score, values)

    class NotingRuns(Runs):
        def record(self, result: Result) -> None:
            order.append("result")
            super().record(result)

    store = Store(tmp_path)
    store.runs = NotingRuns(store)
    store.scores = NotingScores(store, store.runs)
    work = training(queue, store)
    work.deliver(record(store, RESULT, outcome()))
    assert order == ["test_loss", "wiki", "result"]
    assert [score.name for score in store.scores.of(RUN.id)[0]] == ["test_loss", "wiki"]
    assert queue.evaluations.scores()[RUN.id] == tuple(store.scores.of(RUN.id)[0])


def test_the_result_of_who_was_first_keeps_its_scores(queue: Queue, tmp_path: Path) -> None:
    """An attempt that had lost its lease recorded other weights, and all their scores."""
    store = Store(tmp_path)
    work = training(queue, store)
    first = RESULT.model_copy(
        update={"fingerprints": RESULT.fingerprints.model_copy(update={"final": "0" * 64}), "ended": 1.0}
    )
    record(store, first, outcome(first))
    taken = record(store, RESULT, outcome())
    assert taken == first
    work.deliver(taken)
    assert {score.weights for score in queue.evaluations.scores()[RUN.id]} == {"0" * 64}
