"""Scores of a model, from the findings of the worker processes and the facts of this node."""

from typing import NamedTuple

from farm.record.result import Hardware, Measurement, Outcome, Result
from farm.record.score import Score, blocks, pack, sha256, standard_error
from farm.study.recipe import TEST


def scores_of(result: Result, outcome: Outcome) -> list[tuple[Score, tuple[float, ...]]]:
    """The scores of the run, each with the values of its items; none where it has another result than this outcome."""
    if outcome.fingerprints is None or outcome.fingerprints.final != result.fingerprints.final:
        return []
    by = Scorer(result.hardware, result.provenance.code, result.ended, result.epoch)
    for scored in outcome.scores:
        assert scored.exam.name != TEST or scored.value == result.test_loss, "the test loss is one of the scores"
    return [(score_of(result, scored, by), scored.values) for scored in outcome.scores]


class Scorer(NamedTuple):
    """Who computed a score, when, and under which lease."""

    hardware: Hardware
    code: str
    when: float
    epoch: int


def score_of(result: Result, scored: Measurement, by: Scorer) -> Score:
    """The score that `by` found for the model of `result`."""
    exam = scored.exam
    return Score(
        run_id=result.run_id,
        name=exam.name,
        evaluation=exam.recipe.evaluation_id(exam.name),
        definition=exam.recipe.tested,
        value=scored.value,
        count=len(scored.values),
        standard_error=standard_error(scored.values),
        blocks=blocks(scored.values),
        items=exam.items,
        weights=result.fingerprints.final,
        values=sha256(pack(scored.values)),
        code=by.code,
        hardware=by.hardware,
        precision=exam.recipe.evaluation.precision,
        when=by.when,
        epoch=by.epoch,
    )
