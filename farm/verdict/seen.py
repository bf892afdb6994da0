"""Results as one evaluation sees them: what is ranked need not be the test loss."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from pydantic import Field

from farm.errors import NotFound, nearest
from farm.record.result import Result
from farm.record.score import NATS, Direction, Score
from farm.study.differences import differences
from farm.study.recipe import TEST, FurtherEvaluation, Recipe

ANOTHER_VERSION = "another version of the evaluation's code made it"


class Seen(Result):
    """A result through the eyes of an evaluation: `test_loss` and `evaluation` are those of its score."""

    score: Score | None = Field(description="None: the test loss of a result without scores")
    scores: tuple[Score, ...] = Field(description="all that its run has, each by the newest of its name")
    own_test_loss: float = Field(description="what `test_loss` is in the result itself")
    outdated: dict[str, str] = Field(description="evaluation -> in what it is another than the study has now")

    @property
    def stale(self) -> str | None:
        """How its evaluation differs from the one that the study has now."""
        return self.outdated.get(self.evaluation)

    @property
    def definition(self) -> dict[str, Any]:
        return self.score.definition if self.score else self.recipe.tested

    @property
    def items(self) -> str:
        return self.score.items if self.score else self.fingerprints.tokens.tested

    @property
    def unit(self) -> str:
        return self.score.unit if self.score else NATS

    @property
    def direction(self) -> Direction:
        return self.score.direction if self.score else "lower"


class Sight(NamedTuple):
    """The results that an evaluation scored, and those that it never did."""

    results: list[Seen]
    unscored: list[Result]


def see(
    results: Iterable[Result],
    scores: Mapping[str, Sequence[Score]] | None = None,
    name: str = TEST,
    evaluations: Mapping[str, FurtherEvaluation] | None = None,
) -> Sight:
    """`results` by the evaluation `name`; `scores` by run id. `evaluations` are the study's of today: a score by
    another is out of date.
    """
    sight, today = Sight([], []), evaluations or {}
    for result in results:
        own = _newest((scores or {}).get(result.run_id, ()), result.recipe, today)
        score = own.get(name)
        if score is None and name != TEST:
            sight.unscored.append(result)
        else:
            sight.results.append(_see(result, score, own, today))
    return sight


def _see(result: Result, score: Score | None, own: Mapping[str, Score], today: Mapping[str, FurtherEvaluation]) -> Seen:
    made = {one.evaluation: (one.name, one.definition) for one in own.values()}
    made |= {} if TEST in own else {result.evaluation: (TEST, result.recipe.tested)}
    outdated = {id_: stale(name, id_, how, result.recipe, today) for id_, (name, how) in made.items()}
    update: dict[str, Any] = {"test_loss": score.value, "evaluation": score.evaluation} if score else {}
    return Seen(
        **dict(result) | update,
        score=score,
        scores=tuple(own.values()),
        own_test_loss=own[TEST].value if TEST in own else result.test_loss,
        outdated={id_: why for id_, why in outdated.items() if why},
    )


def stale(
    name: str,
    evaluation: str,
    definition: Mapping[str, Any],
    recipe: Recipe,
    evaluations: Mapping[str, FurtherEvaluation],
) -> str | None:
    """How an evaluation differs from today's of the same name; None if it does not, or if that is unknown."""
    now = _today(name, recipe, evaluations)
    if now is None or now.evaluation_id(name) == evaluation:
        return None
    told = (f"{key} was {was}, is {is_now} now" for key, was, is_now in differences(definition, now.tested))
    return ", ".join(told) or ANOTHER_VERSION


def names(scores: Mapping[str, Sequence[Score]], evaluations: Mapping[str, FurtherEvaluation]) -> list[str]:
    """The evaluations that a study can be ranked by: its test first, then those that it names, then what scored it."""
    made = sorted({one.name for found in scores.values() for one in found})
    return list(dict.fromkeys([TEST, *evaluations, *made]))


def find_name(name: str, among: Iterable[str]) -> str:
    """`name`, if it is one of them. Raises: NotFound: names the nearest."""
    among = list(among)
    if name not in among:
        raise NotFound(f"no evaluation {name!r}{nearest(name, among, listed=True)}", remedy="Add it to [evaluations].")
    return name


def _today(name: str, recipe: Recipe, evaluations: Mapping[str, FurtherEvaluation]) -> Recipe | None:
    if name == TEST:
        return recipe
    return recipe.with_test(evaluations[name]) if name in evaluations else None


def _newest(scores: Sequence[Score], recipe: Recipe, evaluations: Mapping[str, FurtherEvaluation]) -> dict[str, Score]:
    """Of each name the score by the evaluation of today, or else the newest."""

    def order(score: Score) -> tuple[bool, float]:
        return stale(score.name, score.evaluation, score.definition, recipe, evaluations) is None, score.when

    return {score.name: score for score in sorted(scores, key=order)}
