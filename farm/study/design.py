"""Designs of experiments: which interventions are trained together, and what a sweep expands to."""

import re
from collections.abc import Iterator, Mapping
from itertools import combinations, product
from typing import Any, Literal

from farm.study import fractions

Design = Literal["one-at-a-time", "stack", "leave-one-out", "factorial", "fraction"]
Subset = tuple[str, ...]
MAX_CROSSED = fractions.MOST  # interventions: 2**12 arms
MAX_NAME = 64  # characters, of an arm
MAX_SWEPT = 1000  # arms of one sweep


def subsets(
    design: Design, names: Subset, *, has_stacks: bool, resolution: int | None = None, arms: int | None = None
) -> dict[str, Subset]:
    """The sets of interventions that a design trains, by the names of their arms; the empty one is left out.

    one-at-a-time: each alone. stack: none where stacks are named, else the ladder that adds one after the other.
    leave-one-out: all of them, and all but each. factorial: every set. fraction: see `fraction`.

    Raises: ValueError: too many interventions to cross, no fraction of so many arms, or names that become too long.
    """
    k = len(names)
    match design:
        case "one-at-a-time":
            return {name: (name,) for name in names}
        case "stack":
            ladder = [names[: i + 1] for i in range(0 if has_stacks else k)]
            return {_check(f"plus-{rung[-1]}" if len(rung) > 1 else rung[0]): rung for rung in ladder}
        case "leave-one-out":
            left = {f"without-{name}": names[:i] + names[i + 1 :] for i, name in enumerate(names) if k > 1}
            found = {"all": names} | left if names else {}
            return {subset[0] if len(subset) == 1 else _check(name): subset for name, subset in found.items()}
        case "factorial" | "fraction":
            if k > MAX_CROSSED:
                raise ValueError(
                    f"study.design: {design} over {k} interventions is {2**k:,} arms; name at most {MAX_CROSSED}"
                )
            every = [subset for size in range(k + 1) for subset in combinations(names, size)]
            chosen = every if design == "factorial" else fraction(names, resolution, arms)
            return _name([subset for subset in chosen if subset], names)


def fraction(names: Subset, resolution: int | None = None, arms: int | None = None) -> list[Subset]:
    """A regular two-level fraction 2^(k-p) of the factorial over k `names` that holds the baseline, the empty set.

    The smallest of a `resolution` R: there no effect of r interventions is aliased with one of fewer than R - r. Or the
    one of so many `arms`, whose resolution is as high as theirs can be. With neither given the half fraction, whose
    resolution is k: the sets of even size (Box, Hunter & Hunter 2005, section 6.2).

    Raises: ValueError: there is none of so many arms.
    """
    k = len(names)
    chosen = _choose(k, resolution, arms)
    if chosen is None or chosen == fractions.half(k):
        sizes = range(0, k + 1, 2 if chosen else 1)
        return [subset for size in sizes for subset in combinations(names, size)]
    levels = chosen.levels(k)
    # A column times -1 gives another fraction of the same family: the one in which row 0 changes nothing.
    sets = [tuple(names[i] for i in range(k) if row[i] != levels[0][i]) for row in levels]
    return sorted(sets, key=lambda subset: (len(subset), [names.index(name) for name in subset]))


def _choose(k: int, resolution: int | None, arms: int | None) -> fractions.Fraction | None:
    """None: it takes all combinations, as that of a single intervention does."""
    there = fractions.sizes(k) if k > 1 else ()
    if arms is None:
        return next((one for one in there if one.resolution >= (resolution or k)), None)
    if found := next((one for one in there if one.arms == arms), None):
        return found
    if not there:
        raise ValueError(f"study.arms: a fraction takes two interventions or more, and the study has {k}")
    own, more = ", ".join(str(one.arms) for one in there), f'; design = "factorial" has all {2**k:,}'
    raise ValueError(
        f"study.arms: {k} interventions have fractions of {own} arms, not of {arms:,}{more if arms >= 2**k else ''}"
    )


def sweep(name: str, patch: Mapping[str, Any], *, grid: bool) -> dict[str, dict[str, Any]]:
    """The arms of a sweep: each list in `patch` is a field's values; several lists are crossed by `grid`.

    {"train": {"learning_rate": [2e-4, 4e-4]}} named "lr" gives arms lr-0.0002 and lr-0.0004. Values that are not lists
    are set in all of them.

    Raises: ValueError: there is no list, an empty one or one that names a value twice; several without `grid`.
    """
    told = list(leaves(patch))
    swept = {path: value for path, value in told if isinstance(value, list)}
    here = f"sweeps.{name}"
    if not swept:
        raise ValueError(f"{here}: no field has a list of values; write train.learning_rate = [2e-4, 4e-4]")
    if len(swept) > 1 and not grid:
        paths = " and ".join(".".join(path) for path in swept)
        raise ValueError(f"{here}: {paths} have a list each; write grid = true to cross them, or make them two sweeps")
    for path, values in swept.items():
        if not values or any(value in values[:i] for i, value in enumerate(values)):
            what = "names a value twice" if values else "is empty"
            raise ValueError(f"{here}.{'.'.join(path)}: the list {what}")
    combined = list(product(*swept.values()))
    if len(combined) > MAX_SWEPT:
        raise ValueError(f"{here}: {len(combined):,} arms; a sweep has at most {MAX_SWEPT:,}")
    arms = {}
    for combination in combined:
        chosen = dict(zip(swept, combination, strict=True))
        tree: dict[str, Any] = {}
        for path, value in told:
            _put(tree, path, chosen.get(path, value))
        arms[_check(f"{name}-" + "-".join(map(_word, combination)), f"sweeps.{name}")] = tree
    return arms


def _name(chosen: list[Subset], names: Subset) -> dict[str, Subset]:
    """`one.another`; where some are too long for that, mix-101, a digit for each of `names`."""
    if all(len(".".join(subset)) <= MAX_NAME for subset in chosen):
        return {".".join(subset): subset for subset in chosen}
    return {
        subset[0] if len(subset) == 1 else "mix-" + "".join("01"[name in subset] for name in names): subset
        for subset in chosen
    }


def _check(name: str, place: str = "study.design") -> str:
    if len(name) > MAX_NAME:
        raise ValueError(
            f"{place}: the arm {name!r} has {len(name)} characters, {MAX_NAME} are allowed; shorten the names"
        )
    return name


def leaves(tree: Mapping[str, Any], above: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """The values of nested tables, each behind its keys."""
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from leaves(value, (*above, key))
        else:
            yield (*above, key), value


def _put(tree: dict[str, Any], path: tuple[str, ...], value: Any) -> None:
    for key in path[:-1]:
        tree = tree.setdefault(key, {})
    tree[path[-1]] = value


def _word(value: Any) -> str:
    """A value as part of a name: 0.0002, true, warmup-cosine; of a table or a list, its values in a row."""
    if isinstance(value, Mapping):
        return "-".join(map(_word, value.values()))
    if isinstance(value, list):
        return "-".join(map(_word, value))
    text = f"{value:.15g}" if isinstance(value, float) else str(value).lower()
    return re.sub(r"[^a-z0-9.-]", "-", text)
