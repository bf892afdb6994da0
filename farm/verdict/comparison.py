"""Two runs side by side: whether they began alike and saw the same tokens, what differs, where their losses part, and
what their models are worth by each evaluation that has scored both.

A run that has not finished is compared with what it has: its ledger, its newest attempt, its newest checkpoint.
"""

from collections.abc import Iterator, Sequence
from math import isfinite
from typing import Any, NamedTuple

from pydantic import BaseModel, Field

from farm.errors import Nonfinite
from farm.record.ledger import Line, train_loss
from farm.record.result import Result, Tokens
from farm.record.score import Direction
from farm.study.differences import differences
from farm.study.recipe import TEST, Frozen
from farm.study.run import Attempt, Run, State
from farm.verdict.cohort import apart
from farm.verdict.seen import Seen

DRIFT = 1e-5  # relative: more than float32 rounding does to the loss of one step, less than any change of a recipe


class Side(NamedTuple):
    """One of the two runs, as far as it is known."""

    run: Run
    state: State
    lines: Sequence[Line] = ()
    result: Result | None = None
    attempt: Attempt | None = None  # the newest: plan, hardware and software of a run without a result
    initial: str | None = None  # sha256 of the first weights, from a checkpoint of a run without a result
    tokens: Tokens | None = None  # likewise
    score: str = TEST  # the evaluation that its study ranks by
    seen: Sequence[Seen] = ()  # its result by each evaluation that has scored it


class Difference(Frozen):
    """Something that the two do not share. `what` is a path such as `train.batch`, `seeds.init`, `software.torch`."""

    what: str
    first: Any
    second: Any


class Losses(Frozen):
    """One loss of both, in nats per token; None where it is not a finite number or not known."""

    step: int | None = Field(None, description="None for a loss that is of no single step")
    first: float | None
    second: float | None
    difference: float | None = Field(description="second - first")


class ScorePair(Frozen):
    """Both models by one evaluation beside the test; the second less the first, in its unit."""

    evaluation: str = Field(description="as the study calls it")
    unit: str
    direction: Direction = Field(description="which is better")
    first: float
    second: float
    difference: float | None = Field(description="None: they may not be compared, see `apart`")
    apart: str | None = None


class Comparison(Frozen):
    """Two runs side by side. A bool is None where it is not known of both."""

    first: str
    second: str
    first_state: State
    second_state: State
    first_steps: int = Field(description="in its ledger")
    second_steps: int
    same_initial_weights: bool | None
    same_trained: bool | None = Field(description="the same tokens to train on")
    same_tested: bool | None = Field(description="the same tokens to test on")
    same_order: bool = Field(description="cut into the same sequences, which come in the same order")
    same_final_weights: bool | None
    differences: tuple[Difference, ...]
    parted: Losses | None = Field(description="the first step whose losses are not the same bits")
    drifted: Losses | None = Field(description=f"the first step whose losses differ by more than {DRIFT:g} of them")
    last: Losses | None = Field(description="the newest step that both did")
    train_loss: Losses | None = Field(description="of their results, else over the steps that both did")
    test_loss: Losses | None = Field(description="None unless both finished and may be compared")
    apart: str | None = Field(description="why the test losses of two finished runs may not be compared")
    ranked_by: tuple[str, ...] = Field(description="the evaluation that their studies rank by; two where these differ")
    scores: tuple[ScorePair, ...] = Field(description="the other evaluations that have scored both, those first")
    unscored: dict[str, tuple[str, ...]] = Field(
        description="evaluation of `ranked_by` -> which of two finished runs have no score by it"
    )

    @property
    def other_bits(self) -> str | None:
        """The kernels of both, if they alone give other bits to runs whose losses part; None if they are the same."""
        told = ("computed.kernels", "hardware.instruction_set")
        found = [f"{one.what}: {one.first} and {one.second}" for one in self.differences if one.what in told]
        return ", ".join(found) if self.parted and found else None

    @property
    def common_steps(self) -> int:
        return min(self.first_steps, self.second_steps)


def compare(first: Side, second: Side) -> Comparison:
    """Put two runs side by side, step by step."""
    both = list(zip(first.lines, second.lines, strict=False))
    return Comparison(
        first=first.run.id,
        second=second.run.id,
        first_state=first.state,
        second_state=second.state,
        first_steps=len(first.lines),
        second_steps=len(second.lines),
        same_initial_weights=_same(_fingerprint(first, "initial"), _fingerprint(second, "initial")),
        same_trained=_same(_tokens(first, "trained"), _tokens(second, "trained")),
        same_tested=_same(_tokens(first, "tested"), _tokens(second, "tested")),
        same_order=_order(first.run) == _order(second.run),
        same_final_weights=_same(_fingerprint(first, "final"), _fingerprint(second, "final")),
        differences=tuple(_differences(_facts(first), _facts(second))),
        parted=next((_losses(*lines) for lines in both if not _same_bits(*map(_loss, lines))), None),
        drifted=next((_losses(*lines) for lines in both if _is_drift(*map(_loss, lines))), None),
        last=_losses(*both[-1]) if both else None,
        train_loss=_train_losses(first, second),
        test_loss=_test_losses(first, second),
        apart=apart(first.result, second.result) if first.result and second.result else None,
        ranked_by=tuple(dict.fromkeys([first.score, second.score])),
        scores=tuple(_scores(first, second)),
        unscored=_missing_scores(first, second),
    )


def _loss(line: Line) -> float:
    return line.loss_sum / line.tokens


def _losses(first: Line, second: Line) -> Losses:
    return _of(_loss(first), _loss(second), step=first.step)


def _of(first: float | None, second: float | None, step: int | None = None) -> Losses:
    one, other = _finite(first), _finite(second)
    difference = None if one is None or other is None else other - one
    return Losses(step=step, first=one, second=other, difference=difference)


def _finite(value: float | None) -> float | None:
    return value if value is not None and isfinite(value) else None


def _same_bits(a: float, b: float) -> bool:
    return a == b or not (isfinite(a) or isfinite(b))


def _is_drift(a: float, b: float) -> bool:
    if not (isfinite(a) and isfinite(b)):
        return isfinite(a) or isfinite(b)
    return abs(a - b) > DRIFT * max(abs(a), abs(b))


def _same(first: str | None, second: str | None) -> bool | None:
    return None if first is None or second is None else first == second


def _fingerprint(side: Side, which: str) -> str | None:
    return getattr(side.result.fingerprints, which) if side.result else getattr(side, which, None)


def _tokens(side: Side, which: str) -> str | None:
    tokens = side.result.fingerprints.tokens if side.result else side.tokens
    return getattr(tokens, which) if tokens else None


def _order(run: Run) -> tuple[Any, ...]:
    """Everything that decides which tokens the n-th sequence of a run holds, apart from the tokens themselves."""
    data = run.recipe.data
    return run.recipe.model.context, data.order, run.seeds.train if data.order == "shuffled" else None


def _train_losses(first: Side, second: Side) -> Losses | None:
    if first.result and second.result:
        return _of(first.result.train_loss, second.result.train_loss)
    common = min(len(first.lines), len(second.lines))
    if not common:
        return None
    return _of(_tail_loss(first.lines[:common]), _tail_loss(second.lines[:common]))


def _tail_loss(lines: Sequence[Line]) -> float | None:
    try:
        return train_loss(list(lines))
    except Nonfinite:
        return None


def _test_losses(first: Side, second: Side) -> Losses | None:
    one, other = first.result, second.result
    if one is None or other is None or apart(one, other):
        return None
    return _of(one.test_loss, other.test_loss)


def _scores(first: Side, second: Side) -> Iterator[ScorePair]:
    """Of the models of two finished runs, what their studies rank by first; the test loss has a place of its own."""
    one, other = (_by_name(side) for side in (first, second))
    for name in dict.fromkeys([first.score, second.score, *one]):
        if name == TEST or name not in one or name not in other:
            continue
        left, right = one[name], other[name]
        why = apart(left, right)
        yield ScorePair(
            evaluation=name,
            unit=left.unit,
            direction=left.direction,
            first=left.test_loss,
            second=right.test_loss,
            difference=None if why else right.test_loss - left.test_loss,
            apart=why,
        )


def _missing_scores(first: Side, second: Side) -> dict[str, tuple[str, ...]]:
    sides = [side for side in (first, second) if side.result]
    wanted = {name for name in (first.score, second.score) if name != TEST}
    lacking = {name: tuple(side.run.id for side in sides if name not in _by_name(side)) for name in sorted(wanted)}
    return {name: runs for name, runs in lacking.items() if runs}


def _by_name(side: Side) -> dict[str, Seen]:
    return {one.score.name: one for one in side.seen if one.score}


def _facts(side: Side) -> dict[str, Any]:
    """Everything that may differ between two runs, as nested tables. What is not known of a run is left out."""
    run, attempt, result = side.run, side.attempt, side.result
    known: dict[str, Any] = {"arm": run.arm} | run.recipe.model_dump(mode="json")
    known |= {"seeds": run.seeds.model_dump(), "rerun": run.rerun, "machine": run.machine}
    for name, of_result, of_attempt in (
        ("plan", result and result.plan, attempt and attempt.plan),
        ("hardware", result and result.hardware, attempt and attempt.hardware),
        ("software", result and result.provenance, attempt and attempt.provenance),
    ):
        table = of_result.model_dump(mode="json") if isinstance(of_result, BaseModel) else of_attempt
        known |= {name: table} if table else {}
    return known | ({"computed": {"kernels": " and ".join(result.kernels)}} if result else {})


def _differences(first: dict[str, Any], second: dict[str, Any]) -> Iterator[Difference]:
    """The values that differ. A table that only one side knows says nothing of the other."""
    for path, one, other in differences(first, second):
        if not (isinstance(one, dict) or isinstance(other, dict)):
            yield Difference(what=path, first=one, second=other)
