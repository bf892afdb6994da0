"""The form of a study file: the [study] table, a baseline or intervention, a sweep, a stack, and seed pairs."""

from itertools import product
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, ValidationError

from farm.study.design import Design
from farm.study.recipe import TEST, Frozen, Recipe, Seeds, Unset
from farm.study.run import MachineName, Name

PAIRS = "must be { init = [...], train = [...] } or a list of [init, train] pairs"


def _pairs(value: Any) -> Any:
    """`{init = [...], train = [...]}` crossed, or a list of [init, train] pairs, as a tuple of Seeds."""
    if isinstance(value, int | str) or (isinstance(value, list) and any(isinstance(pair, int) for pair in value)):
        raise ValueError(PAIRS)
    if isinstance(value, dict):
        if value.keys() - {"init", "train"} or not all(isinstance(v, list) for v in value.values()):
            raise ValueError(PAIRS)
        value = list(product(value.get("init", [Seeds().init]), value.get("train", [Seeds().train])))
    if not isinstance(value, list | tuple) or not value:
        raise ValueError("must name at least one (init, train) pair")
    pairs = tuple(p if isinstance(p, Seeds) else _pair(p) for p in value)
    if len(set(pairs)) < len(pairs):
        raise ValueError(f"names a pair twice: {', '.join(map(str, pairs))}")
    return pairs


def _pair(value: Any) -> Seeds:
    if isinstance(value, dict) and value.keys() == {"init", "train"}:  # as a study writes itself to JSON
        value = [value["init"], value["train"]]
    if not isinstance(value, list | tuple) or len(value) != 2:
        raise ValueError(f"{value!r} is not an [init, train] pair")
    try:
        return Seeds(init=value[0], train=value[1])
    except ValidationError as error:
        raise ValueError(f"{list(value)!r} is not a pair of whole numbers from 0 to 2**63 - 1") from error


def _names(value: Any) -> Any:
    if isinstance(value, list):
        if len(set(map(str, value))) < len(value):
            raise ValueError("names one twice")
        return tuple(value)
    return value


Pairs = Annotated[tuple[Seeds, ...], BeforeValidator(_pairs), Field(min_length=1)]
Machines = Annotated[tuple[MachineName, ...], BeforeValidator(_names), Field(min_length=1)]
OwnMachines = Annotated[Machines | None, Unset]
OwnSeeds = Annotated[Pairs | None, Unset]


class StudyTable(Frozen):
    """The [study] table."""

    name: Name = Field(description="the name that commands use")
    question: str = Field("", description="what the study is to find out, for its readers")
    design: Design = Field("one-at-a-time", description="which interventions are trained together")
    resolution: Annotated[Literal[3, 4, 5] | None, Unset] = Field(
        None,
        description="resolution of a fraction: 5 keeps interactions of two apart, 4 keeps them from single effects",
    )
    arms: Annotated[int | None, Unset] = Field(
        None, gt=1, description="of a fraction, instead of its resolution: how many arms it has, the baseline included"
    )
    machines: Machines = Field(description="the classes that train every arm; A+B is one group of two machines")
    seeds: Pairs = Field((Seeds(),), description="(init, train) pairs, every one for every arm")
    score: Name = Field(TEST, description="the evaluation that arms are ranked by: a name of [evaluations]")
    margin: Annotated[float | None, Unset] = Field(
        None,
        gt=0,
        description="the smallest difference in the score that matters, in its unit; with it, arms can be `same`",
    )
    twins: bool = Field(
        False, description="train every arm on every machine class that the study names, to see what the machine does"
    )
    reruns: int = Field(0, ge=0, le=4999, description="repetitions of every run with the same seeds")
    first_rerun: int = Field(
        0, ge=0, le=4999, description="number of the first repetition; above 0, everything is trained again"
    )


class Change(Frozen):
    """The baseline or an intervention: a recipe's tables where they differ, and where it departs from [study]."""

    model: dict[str, Any] = {}
    train: dict[str, Any] = {}
    data: dict[str, Any] = {}
    evaluation: dict[str, Any] = {}
    machines: OwnMachines = Field(None, description="classes that train it; unset, those of [study]")
    seeds: OwnSeeds = Field(None, description="pairs that it is trained with; unset, those of [study]")

    @property
    def patch(self) -> dict[str, Any]:
        return {key: value for key in Recipe.model_fields if (value := getattr(self, key))}


class Sweep(Change):
    """An intervention for each value in a list, or, as a grid, for each combination of the values in several."""

    grid: bool = Field(False, description="cross the lists of several fields")


def _stack(value: Any) -> Any:
    if isinstance(value, str):
        raise ValueError("must be a list of interventions")
    return {"of": value} if isinstance(value, list) else value


class Stack(Frozen):
    """Several interventions at once: a list of names, or a table with `of` and where it departs from [study]."""

    of: Annotated[tuple[Name, ...], BeforeValidator(_names), Field(min_length=1)] = Field(
        description="the interventions that are laid over the baseline, in this order"
    )
    machines: OwnMachines = Field(None, description="classes that train it; unset, those of [study]")
    seeds: OwnSeeds = Field(None, description="pairs that it is trained with; unset, those of [study]")


WrittenStack = Annotated[Stack, BeforeValidator(_stack)]
