"""Which arms a design asks for."""

import re
from collections.abc import Sequence
from itertools import combinations
from math import prod

import pytest
from studies import THREE, arms, faults, head

from farm.study.study import Study


@pytest.mark.parametrize(
    ("design", "expected"),
    [
        ("one-at-a-time", ["a", "b", "c"]),
        ("stack", ["a", "plus-b", "plus-c"]),
        ("leave-one-out", ["all", "without-a", "without-b", "without-c"]),
        ("factorial", ["a", "b", "c", "a.b", "a.c", "b.c", "a.b.c"]),
        ("fraction", ["a.b", "a.c", "b.c"]),
    ],
)
def test_a_design_names_its_arms(design: str, expected: list[str]) -> None:
    assert arms(head(design=f'"{design}"') + THREE) == ["baseline", *expected]


def test_named_stacks_replace_the_ladder_of_the_stack_design() -> None:
    assert arms(head(design='"stack"') + THREE + '[stacks]\nmine = ["a", "c"]\n') == ["baseline", "mine"]


def test_each_arm_of_a_factorial_design_holds_exactly_its_interventions() -> None:
    for arm in Study.parse(head(design='"factorial"') + THREE).arms():
        assert (arm.recipe.model.dropout == 0.0) == ("a" in arm.changes)
        assert (arm.recipe.train.clip_grad_norm == 3.5) == ("b" in arm.changes)
        assert (arm.recipe.train.learning_rate == 1e-3) == ("c" in arm.changes)


SEVEN = "".join(
    f"[interventions.{name}]\n{patch}\n"
    for name, patch in {
        "a": "model.dropout = 0.0",
        "b": "train.clip_grad_norm = 3.5",
        "c": "train.learning_rate = 1e-3",
        "d": "train.eps = 1e-9",
        "e": "train.weight_decay = 0.0",
        "f": "model.qkv_bias = true",
        "g": "model.tie_weights = true",
    }.items()
)


@pytest.mark.parametrize(
    ("k", "asked", "count", "resolution"),
    [
        (1, "resolution = 3", 2, None),
        (2, "resolution = 3", 4, None),
        (2, "arms = 2", 2, 2),
        (3, "resolution = 3", 4, 3),
        (3, "resolution = 5", 8, None),
        (5, "resolution = 5", 16, 5),
        (5, "resolution = 4", 16, 5),
        (5, "resolution = 3", 8, 3),
        (6, "resolution = 5", 32, 6),
        (6, "arms = 16", 16, 4),
        (7, "resolution = 4", 16, 4),
        (7, "resolution = 5", 64, 7),
        (7, "arms = 8", 8, 3),
        (7, "arms = 16", 16, 4),
        (7, "arms = 32", 32, 4),
        (7, "arms = 64", 64, 7),
    ],
)
def test_a_fraction_has_its_size_and_resolution_and_holds_the_baseline(
    k: int, asked: str, count: int, resolution: int | None
) -> None:
    text = (
        head(design='"fraction"')
        + f"{asked}\n[interventions."
        + "[interventions.".join(SEVEN.split("[interventions.")[1 : k + 1])
    )
    arms = Study.parse(text).arms()
    assert (arms[0].changes, len(arms), len({arm.recipe for arm in arms})) == ((), count, count)
    assert resolution_of([arm.changes for arm in arms], tuple("abcdefg"[:k])) == resolution


def resolution_of(sets: Sequence[tuple[str, ...]], names: tuple[str, ...]) -> int | None:
    """From its definition: of how many columns the shortest product is constant (Box & Hunter 1961); None: of none."""
    signs = [[1 if name in of else -1 for name in names] for of in sets]
    for size in range(1, len(names) + 1):
        for columns in combinations(range(len(names)), size):
            if len({prod(row[column] for column in columns) for row in signs}) == 1:
                return size
    return None


def test_a_fraction_of_other_sizes_is_refused_with_those_that_there_are() -> None:
    def told(arms: object, more: str = THREE) -> list[str]:
        return faults(head(design='"fraction"', arms=str(arms)) + more)

    assert told(20, SEVEN) == ["study.arms: 7 interventions have fractions of 8, 16, 32, 64 arms, not of 20."]
    assert told(8) == [
        'study.arms: 3 interventions have fractions of 4 arms, not of 8; design = "factorial" has all 8.'
    ]
    one = "[interventions.a]\nmodel.dropout = 0.0\n"
    assert told(2, one) == ["study.arms: a fraction takes two interventions or more, and the study has 1."]
    assert told(1) == ["study.arms: must be more than 1, not 1."]
    assert told("4\nresolution = 3") == [
        "study.arms: study.resolution says already how large the fraction is; leave one of them out."
    ]


def test_the_size_of_a_fraction_is_that_of_a_fraction() -> None:
    assert faults(head(design='"stack"', arms="4") + THREE) == [
        "study.arms: is that of a fraction, and study.design is 'stack'; leave it out."
    ]


def test_a_resolution_is_that_of_a_fraction() -> None:
    assert faults(head(design='"factorial"', resolution="4") + THREE) == [
        "study.resolution: is that of a fraction, and study.design is 'factorial'; leave it out."
    ]


def test_arms_of_many_long_names_are_named_by_a_digit_for_each() -> None:
    long = re.sub(r"interventions\.(\w)", r"interventions.\1-with-a-long-name", SEVEN)
    found = arms(head(design='"fraction"', resolution="4") + long)
    assert len(found) == len(set(found)) == 16
    assert "mix-1110100" in found or all(re.fullmatch("baseline|mix-[01]{7}", name) for name in found)
