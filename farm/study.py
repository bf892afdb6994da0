"""A study file: one baseline, named changes to it, seeds and machines; and the runs that follow from it.

TOML, at most 1 MiB, data only. See examples/ for two complete ones.
"""

import re
import tomllib
from collections.abc import Iterable, Iterator
from itertools import combinations, product
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, Self

from pydantic import BaseModel, BeforeValidator, Field, ValidationError, model_validator

from farm.bucket import URI
from farm.errors import BadStudy, nearest
from farm.machine import BUILT_IN, Machine, find, is_mixed, mixed, parts
from farm.recipe import Frozen, Recipe, Seeds, merged
from farm.run import MachineName, Name, Policy, Run

MAX_BYTES = 2**20
MAX_RUNS = 10_000
BASELINE = "baseline"
SOURCE = re.compile(rf"builtin:python-reference|hf:\w[\w.-]*/\w[\w.-]*|[/~].*|{URI.pattern}", re.DOTALL)


class Arm(NamedTuple):
    """The baseline, one intervention, or a stack of several."""

    name: str
    changes: tuple[str, ...]
    recipe: Recipe
    seeds: tuple[Seeds, ...]
    machines: tuple[str, ...]


def _pairs(value: Any) -> Any:
    """`{init = [...], train = [...]}` crossed, or a list of [init, train] pairs, as a tuple of Seeds."""
    if isinstance(value, dict):
        if value.keys() - {"init", "train"} or not all(isinstance(v, list) for v in value.values()):
            raise ValueError("must be { init = [...], train = [...] } or a list of [init, train] pairs")
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


class Head(Frozen):
    """The [study] table."""

    name: Name
    question: str = ""
    design: Literal["one-at-a-time", "stack", "leave-one-out", "factorial", "fraction"] = "one-at-a-time"
    machines: Machines
    seeds: Pairs = (Seeds(),)
    reruns: int = Field(0, ge=0, le=4999, description="repetitions of every run with the same seeds")
    first_rerun: int = Field(0, ge=0, le=4999, description="where they are counted from; above 0 to train all anew")


class Change(Frozen):
    """The baseline or an intervention: a recipe's tables where they differ, and where it departs from [study]."""

    model: dict[str, Any] = {}
    train: dict[str, Any] = {}
    data: dict[str, Any] = {}
    evaluation: dict[str, Any] = {}
    machines: Machines | None = None
    seeds: Pairs | None = None

    @property
    def patch(self) -> dict[str, Any]:
        return {key: value for key in Recipe.model_fields if (value := getattr(self, key))}


def _stack(value: Any) -> Any:
    return {"of": value} if isinstance(value, list) else value


class Stack(Frozen):
    """Several interventions at once: a list of names, or a table with `of` and where it departs from [study]."""

    of: Annotated[tuple[Name, ...], BeforeValidator(_names), Field(min_length=1)]
    machines: Machines | None = None
    seeds: Pairs | None = None


class Study(Frozen):
    """The unit of submit, progress, cancel, retry and table."""

    study: Head
    baseline: Change = Change()
    interventions: dict[Name, Change] = {}
    stacks: dict[Name, Annotated[Stack, BeforeValidator(_stack)]] = {}
    machines: dict[Name, Machine] = {}
    policy: Policy = Policy()

    @property
    def name(self) -> str:
        return self.study.name

    @model_validator(mode="before")
    @classmethod
    def _name_the_machines(cls, data: Any) -> Any:
        """[machines.x] gives its own name; what it leaves out it takes from the built-in class of that name."""
        if not isinstance(data, dict) or not isinstance(data.get("machines"), dict):
            return data
        return data | {"machines": {key: declared(key, value) for key, value in data["machines"].items()}}

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        self.arms()
        return self

    def arms(self) -> list[Arm]:
        """Baseline first, then what the design asks for, then the named stacks.

        one-at-a-time: each intervention alone. stack: the named stacks alone or, when none is named, the ladder that
        adds one intervention after the other. leave-one-out: all of them, and all but each. factorial: every subset.
        fraction: the subsets of even size, a half fraction of resolution k for k interventions (Box, Hunter & Hunter
        2005, section 6.2).
        """
        return list(self._arms())

    def _arms(self) -> Iterator[Arm]:
        recipe = self._patched(Recipe(), self.baseline.patch, "baseline")
        yield self._arm(BASELINE, (), recipe, self.baseline)
        seen = {BASELINE}
        for name, changes, override in self._named():
            if name in seen or (name in self.stacks and name in self.interventions):
                raise ValueError(f"stacks.{name}: another arm has that name already")
            seen.add(name)
            yield self._arm(name, changes, self._combined(recipe, name, changes), override)

    def _named(self) -> Iterator[tuple[str, tuple[str, ...], Change | Stack]]:
        names = tuple(self.interventions)
        if BASELINE in names:
            raise ValueError("interventions.baseline: the baseline is not an intervention")
        for subset in _design(self.study.design, names, bool(self.stacks)):
            if len(subset) == 1:
                yield subset[0], subset, self.interventions[subset[0]]
            else:
                yield _subset_name(self.study.design, subset, names), subset, Change()
        for name, stack in self.stacks.items():
            yield name, stack.of, stack

    def _arm(self, name: str, changes: tuple[str, ...], recipe: Recipe, override: Change | Stack) -> Arm:
        seeds, machines = override.seeds or self.study.seeds, override.machines or self.study.machines
        return Arm(name, changes, recipe, seeds, machines)

    def _combined(self, baseline: Recipe, name: str, changes: tuple[str, ...]) -> Recipe:
        """The baseline with several interventions laid over it, which must not fight over a field."""
        patch: dict[str, Any] = {}
        owner: dict[str, tuple[str, Any]] = {}
        for change in changes:
            if change not in self.interventions:
                raise ValueError(f"stacks.{name}: no intervention {change!r}{_nearest(change, self.interventions)}")
            for path, value in _leaves(self.interventions[change].patch):
                other, set_to = owner.setdefault(path, (change, value))
                if set_to != value:
                    raise ValueError(
                        f"arm {name}: {other!r} sets {path} = {set_to!r} and {change!r} sets it to {value!r};"
                        " leave one out"
                    )
            patch = merged(patch, self.interventions[change].patch)
        where = f"interventions.{changes[0]}" if len(changes) == 1 else f"stacks.{name}"
        recipe = self._patched(baseline, patch, where)
        if recipe == baseline:
            raise ValueError(f"{where}: changes nothing, every value is the baseline's already")
        return recipe

    def _patched(self, recipe: Recipe, patch: dict[str, Any], where: str) -> Recipe:
        try:
            return recipe.patched(patch)
        except ValidationError as error:
            raise ValueError("; ".join(f"{where}.{line}" for line in explain(error, Recipe))) from None

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
        found = find(name, BUILT_IN | known | self.machines)
        seen = known.get(name, found)
        has = found.instruction_set or seen.instruction_set
        return found.model_copy(update={"probes": seen.probes | found.probes, "instruction_set": has})


def load(path: Path) -> Study:
    """Read a study file.

    Raises: BadStudy: it is not there, not a file, not TOML, too large, or says something that makes no sense.
    """
    return parse(_read(path), str(path))


def parse(text: str, source: str = "study") -> Study:
    """Read a study from the text of a file. `source` names it in errors.

    Raises: BadStudy
    """
    try:
        data = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # a number of 5,000 digits is a plain ValueError
        raise BadStudy(f"{source}: not TOML: {error}.", remedy="See examples/demo.toml.") from None
    return build(data, source)


def build(data: dict[str, Any], source: str = "study") -> Study:
    """A study from its tables.

    Raises: BadStudy: names the field, its value and the nearest right name.
    """
    try:
        study = Study.model_validate(data)
    except RecursionError:
        raise BadStudy(f"{source}: tables within tables without end.", remedy="See examples/demo.toml.") from None
    except ValidationError as error:
        lines = explain(error, Study)
        more = f" (and {len(lines) - 1} more: {'; '.join(lines[1:4])})" if len(lines) > 1 else ""
        said = f"{source}: {lines[0]}{more}"
        said = said if said.endswith("?") else f"{said}."
        remedy = None if data else "See examples/demo.toml."
        raise BadStudy(said, remedy=remedy, field=lines[0].split(":")[0]) from None
    count = len(study.runs())
    if count > MAX_RUNS:
        raise BadStudy(f"{source}: {count:,} runs; a study has at most {MAX_RUNS:,}.", remedy="Split it.")
    for arm in study.arms():
        if not SOURCE.fullmatch(arm.recipe.data.source):  # what can be said before a node looks there
            raise BadStudy(
                f"{source}: arm {arm.name}: data.source = {_shown(arm.recipe.data.source)} is no corpus.",
                remedy="Use 'builtin:python-reference', 'hf:OWNER/NAME', 's3://BUCKET/PREFIX', or a full path that"
                " every node sees.",
            )
    return study


def _read(path: Path) -> str:
    if path.is_dir():
        raise BadStudy(f"{path} is a folder, not a study file.", remedy=f"Name a .toml file, e.g. {path}/study.toml.")
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise BadStudy(f"{path}: {error.strerror}.", remedy="Name a study file; examples/ has two.") from None
    if len(content) > MAX_BYTES:
        raise BadStudy(
            f"{path} is larger than {MAX_BYTES:,} bytes, which no study file is.", remedy="Is it the right file?"
        )
    try:
        return content.decode("utf-8-sig")  # Windows' editors put a mark first
    except UnicodeDecodeError as error:
        raise BadStudy(
            f"{path} is not text: byte {error.start} is not UTF-8.", remedy="Is it the right file?"
        ) from None


def _design(design: str, names: tuple[str, ...], has_stacks: bool) -> list[tuple[str, ...]]:
    """The subsets of interventions that a design trains, besides the empty one and the named stacks."""
    k = len(names)
    if design in ("factorial", "fraction") and k > 12:
        raise ValueError(f"study.design: {design} over {k} interventions is {2**k:,} arms; name at most 12")
    match design:
        case "one-at-a-time":
            return [(name,) for name in names]
        case "stack":
            return [] if has_stacks else [names[: i + 1] for i in range(k)]
        case "leave-one-out":
            return [names] + [names[:i] + names[i + 1 :] for i in range(k) if k > 1] if names else []
        case "factorial":
            return [subset for size in range(1, k + 1) for subset in combinations(names, size)]
        case _:
            return [subset for size in range(2, k + 1, 2) for subset in combinations(names, size)]


def _subset_name(design: str, subset: tuple[str, ...], names: tuple[str, ...]) -> str:
    if design == "stack":
        name = f"plus-{subset[-1]}"
    elif design == "leave-one-out":
        left_out = [name for name in names if name not in subset]
        name = f"without-{left_out[0]}" if left_out else "all"
    else:
        name = ".".join(subset)
    if len(name) > 64:
        raise ValueError(
            f"study.design: the arm {name!r} has {len(name)} characters, 64 are allowed; shorten the names"
        )
    return name


def _leaves(patch: dict[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in patch.items():
        here = f"{path}.{key}" if path else key
        if isinstance(value, dict):
            yield from _leaves(value, here)
        else:
            yield here, value


def declared(name: str, table: Any) -> Any:
    """A [machines.NAME] table with its name, over the built-in class of that name if there is one."""
    if not isinstance(table, dict):
        return table
    below = BUILT_IN[name].model_dump(exclude={"name"}) if name in BUILT_IN else {}
    return below | table | {"name": name}


def explain(error: ValidationError, model: type[BaseModel]) -> list[str]:
    """Each fault of a failed validation as `path: what is wrong, the value, the nearest right name`."""
    return [_explain(fault, model) for fault in error.errors()]


def _explain(fault: Any, model: type[BaseModel]) -> str:
    path = [str(part) for part in fault["loc"] if part != "[key]"]
    kind, given = fault["type"], fault["input"]
    if kind == "extra_forbidden":
        return f"{'.'.join(path)}: unknown key{_nearest(path[-1], _keys_at(model, path[:-1]))}"
    if kind == "missing" and path[-1].isdecimal():
        return f"{'.'.join(path[:-1])}: has too few values"
    if kind == "missing":
        return f"{'.'.join(path)}: is missing"
    text = _in_plain_words(fault)
    if not path:
        return text
    return f"{'.'.join(path)}: {text}" + (f", not {_shown(given)}" if _is_plain(given) else "")


# What pydantic calls them, and what a person who writes TOML does.
_PLAIN_WORDS = {
    "int_type": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "finite_number": "must be a finite number",
    "string_type": "must be text",
    "bool_type": "must be true or false",
    "tuple_type": "must be a list",
    "dict_type": "must be a table",
    "model_type": "must be a table",
    "model_attributes_type": "must be a table",
    "too_short": "must name at least {min_length}",
    "too_long": "must name at most {max_length}",
    "greater_than": "must be more than {gt:g}",
    "greater_than_equal": "must be at least {ge:,g}",
    "less_than": "must be less than {lt:g}",
    "less_than_equal": "must be at most {le:,}",
    "literal_error": "must be {expected}",
}


def _in_plain_words(fault: Any) -> str:
    if words := _PLAIN_WORDS.get(fault["type"]):
        return words.format(**fault.get("ctx", {}))
    text = fault["msg"].removeprefix("Value error, ")
    return text[0].lower() + text[1:] if fault["loc"] else text


def _is_plain(value: Any) -> bool:
    return isinstance(value, str | int | float)


def _shown(value: Any) -> str:
    """A value as TOML spells it, cut to a length that fits a line."""
    text = str(value).lower() if isinstance(value, bool) else repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _keys_at(model: type[BaseModel], path: list[str]) -> list[str]:
    """The keys that a table at `path` may have."""
    for part in path:
        fields = model.model_fields
        inner = _inner_model(fields[part].annotation) if part in fields else model
        model = inner or model
    return [*model.model_fields]


def _nearest(word: str, known: Iterable[str]) -> str:
    """Without its full stop: more faults may follow."""
    return nearest(word, known, listed=True).removesuffix(".")


def _inner_model(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    candidates = [found for part in getattr(annotation, "__args__", ()) if (found := _inner_model(part))]
    return candidates[-1] if candidates else None
