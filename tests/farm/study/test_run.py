"""A run's identity: content-addressed, readable, and safe as a path and a key."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from farm.study.recipe import Recipe, Seeds
from farm.study.run import Policy, Run, State, seeds_in

GOLDEN = "8xa100m40-remove-dropout-s42.23-b5e4f936"
names = st.from_regex(r"[a-z0-9][a-z0-9._-]{0,63}", fullmatch=True)


def a_run(**changes) -> Run:
    recipe = Recipe().with_patch({"model": {"dropout": 0.0}})
    return Run(**{"arm": "remove-dropout", "recipe": recipe, "seeds": Seeds(), "machine": "8xa100m40"} | changes)


def test_the_id_of_a_published_run_is_what_it_was() -> None:
    """Golden: a change here means that no run is ever recognised again."""
    assert a_run().id == GOLDEN


@given(names, st.integers(0, 2**63 - 1), st.integers(0, 2**63 - 1), st.integers(0, 9999))
def test_an_id_tells_the_seeds_and_the_rerun(arm: str, init: int, train: int, rerun: int) -> None:
    seeds = Seeds(init=init, train=train)
    assert seeds_in(a_run(arm=arm, seeds=seeds, rerun=rerun).id) == (str(seeds), rerun)


def test_the_seeds_are_those_at_the_end_of_an_id() -> None:
    assert seeds_in(a_run(arm="x-s1.2-r3-b5e4f936").id) == ("42.23", 0)
    with pytest.raises(ValueError, match="not the id of a run"):
        seeds_in(f"{GOLDEN}~wiki-7b1c9f00")


@pytest.mark.parametrize(
    "changes", [{"seeds": Seeds(init=1)}, {"machine": "cpu"}, {"rerun": 1}, {"recipe": Recipe()}], ids=str
)
def test_what_makes_it_another_run_changes_the_digest(changes: dict) -> None:
    assert a_run(**changes).digest != a_run().digest


def test_how_the_farm_treats_a_run_is_not_part_of_it() -> None:
    assert a_run(policy=Policy(priority=7, attempts=9)).id == a_run().id


def test_the_name_of_the_arm_is_in_the_id_but_not_in_the_digest() -> None:
    assert a_run(arm="other").digest == a_run().digest
    assert a_run(arm="other").id == a_run().id.replace("remove-dropout", "other")


def test_a_repetition_says_so() -> None:
    assert "-s42.23-r3-" in a_run(rerun=3).id


@given(names, names, st.integers(0, 2**63 - 1), st.integers(0, 9999))
def test_an_id_is_always_safe_as_one_part_of_a_path(arm: str, machine: str, seed: int, rerun: int) -> None:
    run_id = a_run(arm=arm, machine=machine, seeds=Seeds(init=seed, train=seed), rerun=rerun).id
    assert re.fullmatch(r"[a-z0-9][a-z0-9._-]{0,250}", run_id)


@pytest.mark.parametrize("name", ["", "..", "../x", "a/b", "A", "-a", ".a", "a\n", "a b", "é", "a" * 65])
def test_unsafe_names_are_refused(name: str) -> None:
    with pytest.raises(ValidationError, match="must be 1 to 64 of a-z"):
        a_run(arm=name)
    with pytest.raises(ValidationError, match="must be 1 to 64 of a-z"):
        a_run(machine=name)


def test_the_last_three_states_are_final() -> None:
    assert [state for state in State if state.is_final] == [State.SUCCEEDED, State.FAILED, State.CANCELLED]


def test_a_run_survives_json() -> None:
    assert Run.model_validate_json(a_run(rerun=2).model_dump_json()) == a_run(rerun=2)


def test_a_mixed_group_is_spelled_out_in_the_id() -> None:
    run = a_run(machine="1xa100+1xrtx3090")
    assert run.id.startswith("1xa100_and_1xrtx3090-remove-dropout-s42.23-")
    assert re.fullmatch(r"[a-z0-9][a-z0-9._-]{0,250}", run.id)
    assert run.digest != a_run(machine="1xa100_and_1xrtx3090").digest


@given(
    st.lists(st.from_regex(r"[a-z0-9][a-z0-9._-]{0,14}", fullmatch=True), min_size=2, max_size=4, unique=True), names
)
def test_the_id_of_a_mixed_group_is_always_safe_as_one_part_of_a_path(classes: list[str], arm: str) -> None:
    seeds = Seeds(init=2**63 - 1, train=2**63 - 1)
    run_id = a_run(machine="+".join(classes), arm=arm, seeds=seeds, rerun=9999).id
    assert re.fullmatch(r"[a-z0-9][a-z0-9._-]{0,250}", run_id)


@pytest.mark.parametrize("name", ["a+", "+a", "a+a", "a+B", "a++b", "a+b+c+d+e", "a+" + "b" * 63])
def test_names_of_no_mixed_group_are_refused(name: str) -> None:
    with pytest.raises(ValidationError, match="must be 2 to 4 different machine classes"):
        a_run(machine=name)


def test_no_arm_is_called_like_a_mixed_group() -> None:
    with pytest.raises(ValidationError, match="must be 1 to 64 of a-z"):
        a_run(arm="a+b")
