"""More seed pairs for an arm of a study: which ones, and the study with them."""

from collections.abc import Collection, Iterator, Mapping
from itertools import chain, islice, repeat

from pydantic import ValidationError

from farm.errors import BadStudy, NotFound, first_line, nearest
from farm.study import toml
from farm.study.arms import BASELINE, Arm
from farm.study.recipe import Seeds, canonical_json
from farm.study.study import MAX_RUNS, Study

LARGEST = 2**63 - 1  # that a seed can be
More = dict[str, tuple[Seeds, ...]]  # arm -> seed pairs to add


def arm_of(study: Study, name: str) -> Arm:
    """Raises: NotFound: names the nearest arm."""
    arms = {arm.name: arm for arm in study.arms()}
    if name not in arms:
        raise NotFound(f"{study.name} has no arm {name!r}{nearest(name, arms)}", remedy=f"It has: {', '.join(arms)}.")
    return arms[name]


def up_to(study: Study, name: str, count: int, *, alone: bool = False) -> More:
    """The pairs that arm `name` lacks of `count`, and those of the arm's that the baseline lacks: comparisons are
    paired.

    The baseline's own pairs come first, in its order, since they cost one run; then new pairs, for arm and baseline.
    `alone`: nothing for the baseline.

    Raises: NotFound: no arm is called so.
    """
    return extend(study, name, count - len(arm_of(study, name).seeds), alone=alone)


def extend(study: Study, name: str, count: int, avoid: Collection[Seeds] = (), *, alone: bool = False) -> More:
    """`count` further seed pairs for an arm, none of them of `avoid`; and for the baseline what it lacks of them all.

    The same study always gets the same pairs, whichever arm is asked for first.

    Raises: NotFound: no arm is called so.
    """
    arm, baseline = arm_of(study, name), arm_of(study, BASELINE)
    known = [seeds for seeds in baseline.seeds if seeds not in arm.seeds and seeds not in avoid][: max(0, count)]
    chosen = [*known, *fresh(study, count - len(known))]
    found = {name: tuple(chosen)} if chosen else {}
    lacking = [seeds for seeds in (*arm.seeds, *chosen) if seeds not in baseline.seeds and seeds not in avoid]
    if lacking and name != BASELINE and not alone:
        found[BASELINE] = tuple(lacking)
    return found


def fresh(study: Study, count: int) -> list[Seeds]:
    """Pairs that no arm of the study has: the next whole numbers. What the baseline holds fixed stays so."""
    arms = study.arms()
    used, own = [seeds for arm in arms for seeds in arm.seeds], arms[0].seeds
    one_train = len({seeds.train for seeds in own}) == 1
    one_init = len({seeds.init for seeds in own}) == 1 and not one_train
    inits = repeat(own[0].init) if one_init else _free_numbers({seeds.init for seeds in used})
    trains = repeat(own[0].train) if one_train else _free_numbers({seeds.train for seeds in used})
    return [Seeds(init=init, train=train) for init, train in islice(zip(inits, trains, strict=False), max(0, count))]


def _free_numbers(used: set[int]) -> Iterator[int]:
    """The numbers after the largest; after the largest that a seed can be, the smallest that are free."""
    after = range(max(used) + 1, LARGEST + 1)
    return (seed for seed in chain(after, range(max(used))) if seed not in used)


def widen(study: Study, more: Mapping[str, tuple[Seeds, ...]]) -> Study:
    """The study with more seed pairs for some arms.

    Raises: BadStudy: it has too many runs.
    """
    every = {name: study.more_seeds.get(name, ()) for name in study.more_seeds.keys() | more.keys()}
    merged = {name: tuple(dict.fromkeys((*own, *more.get(name, ())))) for name, own in every.items()}
    made = study.model_copy(update={"more_seeds": dict(sorted(merged.items()))})
    if (count := len(made.runs())) > MAX_RUNS:
        raise BadStudy(f"{study.name} would have {count:,} runs; a study has at most {MAX_RUNS:,}.", remedy="Split it.")
    try:
        return Study.model_validate_json(canonical_json(made))
    except ValidationError as error:
        raise BadStudy(f"{study.name} cannot have these seeds: {first_line(error)}.", remedy="Ask for fewer.") from None


def carry_over(study: Study, before: Study | None) -> Study:
    """`study` as its file has it, with what farm seeds and farm resolve have added to the form submitted `before`."""
    if before is None or not (before.more_seeds or before.looks):
        return study
    arms = {arm.name for arm in study.arms()}
    kept = {name: seeds for name, seeds in before.more_seeds.items() if name in arms}
    return widen(study.model_copy(update={"looks": before.looks}), kept)


def as_toml(more: Mapping[str, tuple[Seeds, ...]]) -> list[str]:
    """The lines that say the same in a study file."""
    rows = {name: ", ".join(f"[{seeds.init}, {seeds.train}]" for seeds in pairs) for name, pairs in more.items()}
    return ["[more_seeds]", *(f"{toml.key(name)} = [{pairs}]" for name, pairs in rows.items())]
