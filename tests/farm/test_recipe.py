"""The recipe: the published baseline to the last field, and an identity that only what matters can change."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from farm.recipe import Data, Evaluation, Model, Recipe, Seeds, Train, canonical_json, digest, merged

BASELINE = "b0a21cfa6312561a638315a61af5f4fd51a96727d2335bdb60139af42b7edbee"


def test_the_baseline_keeps_its_digest() -> None:
    """Golden: a change here makes every run ever done another run."""
    assert Recipe().digest == BASELINE


def test_the_baseline_is_the_published_one() -> None:
    recipe = Recipe()
    assert recipe.model.parameters == 163_009_536
    assert recipe.tokens_per_step == 98_304
    assert recipe.steps == 33_165
    assert recipe.steps * recipe.tokens_per_step - recipe.train.tokens < recipe.tokens_per_step
    assert recipe.changes() == {}


@pytest.mark.parametrize(
    ("changes", "parameters"),
    [
        ({"qkv_bias": True}, 163_009_536 + 12 * 3 * 768),
        ({"tie_weights": True}, 163_009_536 - 50257 * 768),
        ({"vocab_multiple": 128}, 163_009_536 + 2 * 47 * 768),
        ({"layers": 1, "width": 8, "heads": 2, "vocab": 16, "context": 4}, 2 * 16 * 8 + 4 * 8 + 32 + 264 + 552 + 16),
    ],
)
def test_parameters_are_counted_once_each(changes: dict[str, Any], parameters: int) -> None:
    assert Model(**changes).parameters == parameters


def test_steps_round_up_to_whole_batches() -> None:
    for tokens, steps in ((1, 1), (98_304, 1), (98_305, 2)):
        assert Recipe(train=Train(tokens=tokens)).steps == steps


@pytest.mark.parametrize("path", ["model.dropout", "train.eps", "data.split", "evaluation.offset"])
def test_every_table_is_part_of_the_identity(path: str) -> None:
    values = {"model.dropout": 0.2, "train.eps": 1e-9, "data.split": "other", "evaluation.offset": 1}
    table, key = path.split(".")
    changed = Recipe().patched({table: {key: values[path]}})
    assert changed.digest != Recipe().digest
    assert changed.changes() == {table: {key: values[path]}}


def test_spelling_a_default_out_changes_nothing() -> None:
    assert Recipe().patched({"model": {"dropout": 0.1}, "train": {"schedule": {}}}).digest == Recipe().digest


def test_an_integer_and_the_same_float_are_one_recipe() -> None:
    assert Recipe().patched({"model": {"dropout": 0}}).digest == Recipe().patched({"model": {"dropout": 0.0}}).digest


def test_a_recipe_survives_json() -> None:
    recipe = Recipe().patched({"train": {"betas": [0.9, 0.95], "schedule": {"kind": "warmup-cosine", "warmup": 0.1}}})
    assert Recipe.model_validate_json(canonical_json(recipe)) == recipe


@pytest.mark.parametrize(
    ("kind", "values", "message"),
    [
        (Model, {"heads": 5}, "heads = 5 does not divide width = 768"),
        (Model, {"dropout": 1.0}, "less than 1"),
        (Model, {"layers": "12"}, "valid integer"),
        (Model, {"layers": True}, "valid integer"),
        (Model, {"vocab": 65537}, "less than or equal to 65536"),
        (Train, {"learning_rate": float("nan")}, "finite"),
        (Train, {"learning_rate": -4e-4}, "greater than 0"),
        (Train, {"learning_rate": 0}, "greater than 0"),
        (Train, {"batch": 0}, "greater than or equal to 1"),
        (Train, {"betas": (0.9, 1.0)}, r"must lie in \[0, 1\)"),
        (Train, {"reduction": "canonical"}, "needs canonical_microbatch"),
        (Train, {"canonical_microbatch": 7}, "canonical_microbatch = 7 does not divide batch = 96"),
        (Data, {"source": " "}, "must be a path or a name"),
        (Data, {"source": "a\0b"}, "must be a path or a name"),
        (Seeds, {"init": -1}, "greater than or equal to 0"),
        (Seeds, {"train": 2**63}, "less than"),
        (Recipe, {"modle": {}}, "Extra inputs"),
    ],
)
def test_what_makes_no_sense_is_refused(kind: type, values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        kind(**values)


def test_a_recipe_cannot_change_after_birth() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Recipe().train.batch = 1  # type: ignore[misc]


def test_the_evaluation_is_versioned_by_its_content() -> None:
    assert Evaluation().version != Evaluation(offset=0).version
    assert Evaluation().version.startswith("test_loss@")


def test_a_digest_does_not_depend_on_the_order_of_keys() -> None:
    assert digest({"a": 1, "b": {"c": 2, "d": 3}}) == digest({"b": {"d": 3, "c": 2}, "a": 1})
    with pytest.raises(ValueError, match="not JSON compliant"):
        digest({"a": float("nan")})


tables = st.recursive(st.integers(), lambda inner: st.dictionaries(st.sampled_from("abc"), inner), max_leaves=8)


@given(st.dictionaries(st.sampled_from("abc"), tables), st.dictionaries(st.sampled_from("abc"), tables))
def test_laying_a_patch_over_twice_is_laying_it_once(below: dict, above: dict) -> None:
    once = merged(below, above)
    assert merged(once, above) == once
    assert merged(below, {}) == below
