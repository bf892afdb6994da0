"""A study file: one baseline, named changes to it, seeds and machines; and the runs that follow from it.

TOML, at most 1 MiB, data only. See examples/ for two complete ones.
"""

import json
import re
import sys
import tomllib
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property
from io import BytesIO
from itertools import product
from math import inf
from pathlib import Path
from typing import Annotated, Any, BinaryIO, Literal, NamedTuple, Self

from pydantic import BeforeValidator, Field, ValidationError, ValidationInfo, field_validator, model_validator

from farm.errors import BadStudy, nearest
from farm.study import meant
from farm.study.design import Design, subsets, sweep
from farm.study.endpoint import S3_URI
from farm.study.faults import Fault, explain, full_stop, without
from farm.study.looks import Looks
from farm.study.machine import BUILT_IN, Machine, find, is_mixed, layered, mixed, parts, without_hearsay
from farm.study.recipe import TEST, Frozen, FurtherEvaluation, Recipe, Seeds, Unset, merged
from farm.study.run import MachineName, Name, Policy, Run

MAX_BYTES = 2**20
MAX_RUNS = 10_000
MAX_FAULTS = 30  # that are told
BASELINE = "baseline"
STANDARD_INPUT = Path("-")
SOURCE = re.compile(rf"builtin:python-reference|hf:\w[\w.-]*/\w[\w.-]*|[/~].*|{S3_URI.pattern}", re.DOTALL)


class Arm(NamedTuple):
    """The baseline, one intervention, or a stack of several."""

    name: str
    changes: tuple[str, ...]
    recipe: Recipe
    seeds: tuple[Seeds, ...]
    machines: tuple[str, ...]


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


class Study(Frozen):
    """The unit of submit, progress, cancel, retry and table."""

    study: StudyTable
    baseline: Change = Change()
    interventions: dict[Name, Change] = {}
    sweeps: dict[Name, Sweep] = {}
    stacks: dict[Name, Annotated[Stack, BeforeValidator(_stack)]] = {}
    evaluations: dict[Name, FurtherEvaluation] = {}
    more_seeds: dict[Name, Pairs] = {}
    machines: dict[Name, Machine] = {}
    policy: Policy = Policy()
    looks: Annotated[Looks | None, Unset] = None  # farm resolve writes them

    @property
    def name(self) -> str:
        return self.study.name

    @model_validator(mode="before")
    @classmethod
    def _name_the_machines(cls, data: Any) -> Any:
        """[machines.x] gives its own name; what it leaves out it takes from the built-in class of that name."""
        if not isinstance(data, dict) or not isinstance(data.get("machines"), dict):
            return data
        return data | {"machines": {key: declared(key, value, "the study") for key, value in data["machines"].items()}}

    @field_validator("looks", mode="before")
    @classmethod
    def _are_the_farm_s_own(cls, value: Any, info: ValidationInfo) -> Any:
        """A file's tables are Python's; what the farm has written comes as JSON."""
        if info.mode == "python" and isinstance(value, dict):
            raise ValueError("farm resolve writes this; leave it out")
        return Looks.model_validate_json(json.dumps(value)) if isinstance(value, dict) else value

    @model_validator(mode="after")
    def _is_whole(self, info: ValidationInfo) -> Self:
        """Its arms make sense. What does not is added to the `Findings` that the caller gave, or raised."""
        found = info.context if isinstance(info.context, Findings) else Findings()
        found.examine(self)
        if found.lines and found is not info.context:
            raise ValueError("; ".join(found.lines))
        return self

    def limited(self, usd: float | None, hours: float | None) -> Self:
        """The study with other limits, where they are given.

        Raises: BadStudy: one is no positive number.
        """
        for option, value in (("--max-usd", usd), ("--max-hours", hours)):
            if value is not None and not 0 < value < inf:
                raise BadStudy(f"{option} = {value:g} is not a limit.", remedy=f"Write a positive number: {option} 50.")
        update = {name: value for name, value in (("usd_limit", usd), ("hours_limit", hours)) if value is not None}
        return self.model_copy(update={"policy": self.policy.model_copy(update=update)}) if update else self

    def arms(self) -> list[Arm]:
        """Baseline first, then what the design asks for (see farm.study.design), the sweeps, and the named stacks.

        A value of a sweep that is the baseline's already makes no arm: the baseline is there.
        """
        baseline = Recipe().patched(self.baseline.patch)
        arms = [self.arm(BASELINE, (), baseline, self.baseline)]
        for name, changes, override in self.subsets():
            recipe = baseline.patched(self.patch(changes))
            if recipe.digest != baseline.digest or name not in self.swept:
                arms.append(self.arm(name, changes, recipe, override))
        return arms

    @cached_property
    def swept(self) -> dict[str, tuple[str, Change]]:
        """What the sweeps expand to, by arm: the sweep's name, and the intervention. Raises: ValueError"""
        found: dict[str, tuple[str, Change]] = {}
        for name, swept in self.sweeps.items():
            for arm, patch in sweep(name, swept.patch, grid=swept.grid).items():
                found[arm] = (name, Change.model_validate(patch | {"machines": swept.machines, "seeds": swept.seeds}))
        return found

    def change(self, name: str) -> Change:
        """An intervention, written as such or as part of a sweep. Raises: KeyError: neither."""
        return self.interventions[name] if name in self.interventions else self.swept[name][1]

    def place(self, change: str) -> str:
        """Where in the file an intervention is written."""
        return f"interventions.{change}" if change in self.interventions else f"sweeps.{self.swept[change][0]}"

    def subsets(self) -> Iterator[tuple[str, tuple[str, ...], Change | Stack]]:
        """Every arm but the baseline: its name, its interventions, and where it departs from [study].

        Raises: ValueError: too many of them, or their names become too long.
        """
        head, names = self.study, tuple(self.interventions)
        chosen = subsets(head.design, names, has_stacks=bool(self.stacks), resolution=head.resolution)
        for name, subset in chosen.items():
            yield name, subset, self.interventions[name] if len(subset) == 1 else Change()
        for name, (_, change) in self.swept.items():
            yield name, (name,), change
        for name, stack in self.stacks.items():
            yield name, stack.of, stack

    def arm(self, name: str, changes: tuple[str, ...], recipe: Recipe, override: Change | Stack) -> Arm:
        """An arm with the seeds and machines of `override`, or else of [study]."""
        seeds, machines = override.seeds or self.study.seeds, override.machines or self.study.machines
        seeds = tuple(dict.fromkeys((*seeds, *self.more_seeds.get(name, ()))))
        return Arm(name, changes, recipe, seeds, self.named_machines if self.study.twins else machines)

    @property
    def named_machines(self) -> tuple[str, ...]:
        """Every machine class that [study] or an arm names, in that order: where twins train."""
        arms: list[Change | Stack] = [self.baseline, *self.interventions.values(), *self.sweeps.values()]
        arms += self.stacks.values()
        named = [*self.study.machines, *(name for arm in arms for name in arm.machines or ())]
        return tuple(dict.fromkeys(named))

    def twinned(self) -> "Study":
        """This study with `twins = true`.

        Raises: BadStudy: it names one machine class only.
        """
        if len(self.named_machines) < 2:
            raise BadStudy(
                f"twins take two machine classes or more, and {self.name} names {self.named_machines[0]} only.",
                remedy="Name more in study.machines.",
            )
        return self.model_copy(update={"study": self.study.model_copy(update={"twins": True})})

    def patch(self, changes: Iterable[str]) -> dict[str, Any]:
        """Several interventions as one patch."""
        patch: dict[str, Any] = {}
        for change in changes:
            patch = merged(patch, self.change(change).patch)
        return patch

    def runs(self) -> list[Run]:
        """Every run, the first seeds of all arms before the second seeds of any, so that a table exists early."""
        members = [
            (
                repeat,
                index,
                order,
                Run(
                    arm=arm.name,
                    recipe=arm.recipe,
                    seeds=seeds,
                    machine=machine,
                    rerun=repeat,
                    policy=self.policy,
                ),
            )
            for order, arm in enumerate(self.arms())
            for index, seeds in enumerate(arm.seeds)
            for machine in arm.machines
            for repeat in range(self.study.first_rerun, self.study.first_rerun + self.study.reruns + 1)
        ]
        return [run for *_, run in sorted(members, key=lambda m: m[:3])]

    def machine(self, name: str, known: dict[str, Machine]) -> Machine:
        """The class `name`: what the study declares, else what is `known`, else built in; and what its nodes found out.

        A mixed group is made of its classes.

        Raises: BadStudy: nobody knows it.
        """
        if is_mixed(name):
            return mixed(tuple(self.machine(part, known) for part in parts(name)))
        found = find(name, layered(BUILT_IN, known, self.machines))
        measured = known[name].probes if name in known else {}
        return found.model_copy(update={"probes": measured | found.probes})


class Findings:
    """What is wrong with a study whose tables have the right form, and the arms that stand all the same.

    `doubtful` are arms of which something was left out before, so that only single values can be judged: interventions
    by name, "baseline", and "" for all of them. `partial` are arms that are known but for some values.
    """

    def __init__(self, doubtful: Iterable[str] = ()):
        self.doubtful = set(doubtful)
        self.lines: list[str] = []
        self.arms: list[Arm] = []
        self.partial: list[Arm] = []
        self.sources: dict[str, str] = {}  # corpora, and where each was named first
        self.changes: dict[str, Change] = {}  # interventions, and what the sweeps expand to as far as they make sense

    def examine(self, study: Study) -> None:
        """Add what is wrong with the recipes of `study`, with its stacks and with its names."""
        baseline, faults = _laid_over(Recipe(), study.baseline.patch)
        self.lines += [fault.below(BASELINE) for fault in faults]
        if BASELINE not in self.doubtful:
            known = self.partial if faults else self.arms
            known += [study.arm(BASELINE, (), baseline, study.baseline)] if _knows_its_precision(faults) else []
        if faults:
            self.doubtful.add(BASELINE)
        self._note_sources(BASELINE, baseline)
        self.changes = self._swept(study) | study.interventions
        for name, change in self.changes.items():
            recipe, faults = _laid_over(baseline, change.patch)
            self._note_sources(name, recipe)
            wrong = [fault for fault in faults if len(fault.place) > 1]
            self.lines += [fault.below(study.place(name)) for fault in wrong]
            self.doubtful |= {name} if wrong else set()
        if BASELINE in study.interventions:
            self.lines.append("interventions.baseline: the baseline is not an intervention")
        if study.study.resolution and study.study.design != "fraction":
            self.lines.append(
                f"study.resolution: is that of a fraction, and study.design is {study.study.design!r}; leave it out"
            )
        if study.study.twins and len(study.named_machines) < 2:
            only = study.named_machines[0]
            self.lines.append(f"study.twins: takes two machine classes or more, and the study names {only} only")
        self._examine_arms(study, baseline)
        self._examine_evaluations(study)

    def _examine_evaluations(self, study: Study) -> None:
        """Each scores what no other does, and goes together with every arm; what the table ranks by is one of them."""
        if TEST in study.evaluations:
            self._say(f"evaluations.{TEST}: is the test that every arm has; write [baseline.evaluation]")
        if study.study.score not in (known := {TEST, *study.evaluations}):
            self._say(f"study.score: no evaluation {study.study.score!r}{_nearest(study.study.score, known)}")
        baseline = next((arm.recipe for arm in self.arms if arm.name == BASELINE), None)
        seen = {baseline.evaluation_id(TEST): TEST} if baseline else {}
        for name, further in study.evaluations.items():
            if further.source is not None:
                self.sources.setdefault(further.source, f"evaluations.{name}.source")
            short = [arm for arm in self.arms if (further.context or 0) > arm.recipe.model.context]
            if short:
                self._say(
                    f"evaluations.{name}.context: {further.context} is longer than"
                    f" model.context = {short[0].recipe.model.context} of arm {short[0].name}"
                )
            elif baseline and name != TEST:
                other = seen.setdefault(baseline.tested_by(further).evaluation_id(TEST), name)
                if other != name:
                    self._say(f"evaluations.{name}: scores what {other} does; leave one out")

    def _swept(self, study: Study) -> dict[str, Change]:
        try:
            swept = study.swept
        except ValueError as error:
            self.lines.append(str(error))
            return {}
        for name in swept.keys() & study.interventions.keys():
            self.lines.append(f"sweeps.{swept[name][0]}: another arm is called {name} already")
        return {name: change for name, (_, change) in swept.items()}

    def _examine_arms(self, study: Study, baseline: Recipe) -> None:
        seen = {BASELINE}
        try:
            subsets = list(study.subsets())
        except ValueError as error:
            self._say(str(error))
            subsets = [(name, (name,), change) for name, change in study.interventions.items()]
        for name, changes, override in subsets:
            if name in seen or (name in study.stacks and name in study.interventions):
                if name in study.stacks:
                    self._say(f"stacks.{name}: another arm has that name already")
                continue
            seen.add(name)
            if self._can_be_laid_together(study, name, changes):
                self._examine_recipe(study, baseline, name, changes, override)
        for name in study.more_seeds.keys() - seen if "" not in self.doubtful else ():
            self._say(f"more_seeds.{name}: no arm is called so{_nearest(name, seen)}")

    def _can_be_laid_together(self, study: Study, name: str, changes: tuple[str, ...]) -> bool:
        """Whether all of an arm's interventions are there, each in order, and do not fight over a field."""
        strangers = [change for change in changes if change not in self.changes]
        for stranger in strangers:
            self._say(f"stacks.{name}: no intervention {stranger!r}{_nearest(stranger, self.changes)}")
        if strangers or self.doubtful & {"", *changes}:
            return False
        fights = list(_fights({change: self.changes[change].patch for change in changes}))
        for fight in fights:
            if not any(line.endswith(fight) for line in self.lines):  # an arm that holds both interventions, too
                self._say(f"arm {name}: {fight}")
        return not fights

    def _examine_recipe(
        self, study: Study, baseline: Recipe, name: str, changes: tuple[str, ...], override: Change | Stack
    ) -> None:
        if BASELINE in self.doubtful:
            return
        recipe, faults = _laid_over(baseline, study.patch(changes))
        where = study.place(changes[0]) if len(changes) == 1 else f"stacks.{name}"
        for fault in faults:
            if not any(said.endswith(fault.line) for said in self.lines):
                self._say(fault.below(where))
        is_same = recipe.digest == baseline.digest
        if not faults and is_same and name in study.interventions.keys() | study.stacks.keys():
            self._say(
                f"{where}: changes nothing, every value is the baseline's already"
                if recipe == baseline
                else f"{where}: changes only how training is watched, which changes no loss; write it in [baseline]"
            )
        elif not faults and not is_same:
            self.arms.append(study.arm(name, changes, recipe, override))

    def _note_sources(self, arm: str, recipe: Recipe) -> None:
        for key, source in (("data.source", recipe.data.source), ("evaluation.source", recipe.evaluation.source)):
            if source is not None:
                self.sources.setdefault(source, f"arm {arm}: {key}")

    def _say(self, line: str) -> None:
        if line not in self.lines:
            self.lines.append(line)


def _fights(patches: dict[str, dict[str, Any]]) -> Iterator[str]:
    """Where several patches set one field to different values."""
    owner: dict[str, tuple[str, Any]] = {}
    for change, patch in patches.items():
        for path, value in _leaves(patch):
            other, set_to = owner.setdefault(path, (change, value))
            if set_to != value:
                yield f"{other!r} sets {path} = {set_to!r} and {change!r} sets it to {value!r}; leave one out"


def _laid_over(recipe: Recipe, patch: dict[str, Any]) -> tuple[Recipe, list[Fault]]:
    """`recipe` under what of `patch` is in order, and what is not."""
    faults: list[Fault] = []
    while True:
        try:
            return recipe.patched(patch), faults
        except ValidationError as error:
            spoilt = {fault.place[:1] for fault in faults} | ({()} if faults else set())
            found = explain(error, Recipe)  # what is left of spoilt tables need not agree with itself
            faults += [fault for fault in found if len(fault.place) > 1 or fault.place not in spoilt]
            left = without(patch, [fault.place for fault in found])
            if left == patch:  # tables that do not go together, each in order
                return recipe, faults
            patch = left


def _knows_its_precision(faults: list[Fault]) -> bool:
    """Whether what is wrong with a recipe leaves no doubt in which precision it was meant to train."""
    return all(fault.is_of_a_value and fault.place[-1] != "precision" for fault in faults)


class Draft(NamedTuple):
    """A study file as far as it makes sense: the study (without what is wrong) and the faults.

    `arms` are those that stand, `partial` those of which some values are wrong, but not the precision.
    """

    source: str
    study: Study | None
    arms: tuple[Arm, ...]
    partial: tuple[Arm, ...]
    faults: tuple[str, ...]

    def whole(self) -> Study:
        """The study. Raises: BadStudy: something is wrong with it."""
        if self.study is None or self.faults:
            raise self.refused()
        return self.study

    def refused(self, more: Iterable[str] = ()) -> BadStudy:
        """The error that says all that is wrong, one line each; `more` are faults that others found."""
        lines = [f"{self.source}: {full_stop(fault)}" for fault in dict.fromkeys([*self.faults, *more])]
        if len(lines) > MAX_FAULTS:
            lines[MAX_FAULTS:] = [f"{self.source}: {len(lines) - MAX_FAULTS:,} more faults."]
        return BadStudy(lines[0], also=tuple(lines[1:]), field=self.faults[0].split(":")[0])


def load(path: Path) -> Study:
    """Read a study file, or standard input where `path` is "-".

    Raises: BadStudy: it is not there, not a file, not TOML, too large, or says something that makes no sense.
    """
    return draft(path).whole()


def draft(path: Path) -> Draft:
    """The same, for who has more to say of what makes no sense.

    Raises: BadStudy: there are no tables to speak of.
    """
    return _drafted(_tables(_read(path), _name_of(path)), _name_of(path))


def _name_of(path: Path) -> str:
    return "standard input" if path == STANDARD_INPUT else str(path)


def parse(text: str, source: str = "study") -> Study:
    """Read a study from the text of a file. `source` names it in errors.

    Raises: BadStudy
    """
    return build(_tables(text, source), source)


def build(data: dict[str, Any], source: str = "study") -> Study:
    """A study from its tables.

    Raises: BadStudy: a line for each fault, which names the field, its value and the right form.
    """
    return _drafted(data, source).whole()


def _tables(text: str, source: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # a number of 5,000 digits is a plain ValueError
        raise BadStudy(
            f"{source}: not TOML: {error}{_quoted(text, error)}.", remedy="See examples/demo.toml."
        ) from None


def _quoted(text: str, error: Exception) -> str:
    """The line that tomllib stopped at, and what to write there."""
    found, lines = re.search(r"at line (\d+), column", str(error)), text.splitlines()
    if not found or int(found[1]) > len(lines):
        return ""
    wrong = lines[int(found[1]) - 1].strip()
    is_twice = "overwrite" in str(error) or "twice" in str(error)
    right = "it is in the file already: leave one out" if is_twice else meant.syntax(wrong)
    return f": {wrong[:60]}" + (f"; {right}" if right else "")


def _drafted(data: dict[str, Any], source: str) -> Draft:
    """All that is wrong with a study, as far as each part of it can be judged."""
    found = Findings()
    try:
        study: Study | None = Study.model_validate(data, context=found)
        faults = found.lines
    except RecursionError:
        raise BadStudy(f"{source}: tables nested too deeply.", remedy="See examples/demo.toml.") from None
    except ValidationError as error:
        wrong = explain(error, Study)
        found, study = _what_is_left(data, wrong)
        faults = [*(fault.line for fault in wrong), *found.lines]
    if study and not faults:
        count = sum(len(arm.seeds) * len(arm.machines) for arm in found.arms) * (study.study.reruns + 1)
        faults += [f"{count:,} runs; a study has at most {MAX_RUNS:,}; split it"] if count > MAX_RUNS else []
    faults = [*faults, *_unusable(found.sources)]
    return Draft(source, study, tuple(found.arms), tuple(found.partial), tuple(faults))


def _what_is_left(data: dict[str, Any], wrong: list[Fault]) -> tuple[Findings, Study | None]:
    """What else is wrong with a study, apart from the faults of form in `wrong`."""
    places = [fault.place for fault in wrong]
    doubtful = {str(place[1]) for place in places if place[0] == "interventions" and len(place) > 1}
    doubtful |= {BASELINE} if any(place[0] == "baseline" for place in places) else set()
    doubtful |= {""} if any(place in (("study", "design"), ("study",)) for place in places) else set()
    # Of an evaluation with a fault nothing is judged: what is left of it may be what another scores.
    found, rest = (
        Findings(doubtful),
        without(data, [place[:2] if place[0] == "evaluations" else place for place in places]),
    )
    if any(len(place) == 1 for place in places):  # an intervention may be in a table of another name
        rest.pop("stacks", None)
    rest["study"] = {"name": "unnamed", "machines": ["cpu"]} | rest.get("study", {})
    if any(place[0] == "evaluations" for place in places):  # the one that is meant may be among them
        rest["study"].pop("score", None)
    try:
        study = Study.model_validate(rest, context=found)
    except (ValidationError, RecursionError):  # it does not come apart here
        return Findings(), None
    if any(place[:2] in (("study",), ("study", "machines")) or place[0] == "machines" for place in places):
        found.arms = [arm._replace(machines=()) for arm in found.arms]  # on which it trains is open
        found.partial = [arm._replace(machines=()) for arm in found.partial]
    return found, study


def _unusable(sources: dict[str, str]) -> list[str]:
    """The corpora that no node can have: what can be said before one looks."""
    return [
        f"{where} = {source!r} is not a valid corpus source{meant.source(source)}. Use"
        " 'builtin:python-reference', 'hf:OWNER/NAME', 's3://BUCKET/PREFIX', or a full path that every node sees"
        for source, where in sources.items()
        if not SOURCE.fullmatch(source)
    ]


def _read(path: Path) -> str:
    if path.is_dir():
        raise BadStudy(f"{path} is a folder, not a study file.", remedy=f"Name a .toml file, e.g. {path}/study.toml.")
    try:
        with _opened(path) as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise BadStudy(f"{path}: {error.strerror}.", remedy="Name a study file; examples/ has two.") from None
    if len(content) > MAX_BYTES:
        raise BadStudy(
            f"{_name_of(path)} is over {MAX_BYTES:,} bytes, too large for a study.", remedy="Is it the right file?"
        )
    try:
        return content.decode("utf-8-sig")  # Windows' editors put a mark first
    except UnicodeDecodeError as error:
        raise BadStudy(
            f"{_name_of(path)} is not text: byte {error.start} is not UTF-8.", remedy="Is it the right file?"
        ) from None


def _opened(path: Path) -> AbstractContextManager[BinaryIO]:
    if path != STANDARD_INPUT:
        return path.open("rb")
    return nullcontext(sys.stdin.buffer if sys.stdin else BytesIO())  # None: closed by the caller


def _leaves(patch: dict[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in patch.items():
        here = f"{path}.{key}" if path else key
        if isinstance(value, dict):
            yield from _leaves(value, here)
        else:
            yield here, value


def declared(name: str, table: Any, source: str) -> Any:
    """A [machines.NAME] table with its name, over the built-in class of that name if there is one.

    Its price is by `source` unless it says otherwise; where it has none it stays open, for whoever knows one.
    """
    if not isinstance(table, dict):
        return table
    below = without_hearsay(BUILT_IN[name]).model_dump(exclude={"name"}) if name in BUILT_IN else {}
    own = table | {"name": name}
    if own.get("usd_per_hour") is not None and own.get("price_source") is None:
        own["price_source"] = source
    return below | own


def _nearest(word: str, known: Iterable[str]) -> str:
    """Without its full stop: more faults may follow."""
    return nearest(word, known, listed=True).removesuffix(".")
