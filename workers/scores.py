"""What a finished run's model is worth, made of what the training processes handed back and what its result says."""

from farm.recipe import TEST
from farm.result import Outcome, Result, Scored
from farm.score import Score, blocks, packed, sha256, standard_error


def scores_of(result: Result, outcome: Outcome) -> list[tuple[Score, tuple[float, ...]]]:
    """The scores of the run, each with the values of its items; none where it has another result than this outcome."""
    if outcome.fingerprints is None or outcome.fingerprints.final != result.fingerprints.final:
        return []
    return [(_score(result, scored), scored.values) for scored in outcome.scores]


def _score(result: Result, scored: Scored) -> Score:
    exam = scored.exam
    assert exam.name != TEST or scored.value == result.test_loss, "the test loss is the first score"
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
        values=sha256(packed(scored.values)),
        code=result.provenance.code,
        hardware=result.hardware,
        precision=exam.recipe.evaluation.precision,
        when=result.ended,
        epoch=result.epoch,
    )
