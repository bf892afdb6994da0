"""The recipe: the published baseline to the last field, and an identity that only what matters can change."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from farm.study.machine import probe_key
from farm.study.recipe import (
    MEANING,
    Data,
    Evaluation,
    Model,
    Recipe,
    Schedule,
    Seeds,
    Train,
    canonical_json,
    digest,
    identity,
    merge,
)
from farm.study.run import Run

BASELINE = "76dba789325e465390d2100b9c93fae4895083dcb6341f4c3a6a3f47cc4c098c"


def test_the_baseline_keeps_its_digest() -> None:
    """Golden: a change here makes every run ever done another run."""
    assert Recipe().digest == BASELINE


# Golden, too: what a recipe means that leaves a field out. A new field may be added here; whoever changes a value, or
# what it means, raises recipe.MEANING.
DEFAULTS: dict[str, dict[str, Any]] = {
    "model": {
        "vocab": 50257,
        "vocab_multiple": 1,
        "context": 1024,
        "width": 768,
        "layers": 12,
        "heads": 12,
        "dropout": 0.1,
        "qkv_bias": False,
        "tie_weights": False,
        "init": "keyed",
        "initializer": "torch",
    },
    "train": {
        "batch": 96,
        "tokens": 3_260_190_720,
        "learning_rate": 4e-4,
        "schedule": {"kind": "constant", "warmup": 0.0, "floor": 0.0},
        "weight_decay": 0.1,
        "decay": "all",
        "betas": [0.9, 0.999],
        "eps": 1e-8,
        "clip_grad_norm": None,
        "precision": "fp16",
        "reduction": "fast",
        "canonical_microbatch": None,
        "compile": "auto",  # False before there was `auto`, which is that on a CPU; no GPU had trained a run by then
        "kernels": "auto",
    },
    "data": {
        "source": "hf:gpjt/fineweb-gpt2-tokens",
        "revision": None,
        "split": "train",
        "tokenizer": "gpt2",
        "text_field": "text",
        "order": "sequential",
        "repeat": False,
    },
    "evaluation": {
        "source": None,
        "revision": None,
        "split": "validation",
        "offset": 50_000_000,
        "sequences": 19_200,
        "context": None,
        "precision": "fp32",
        "every": 0.05,
        "validation_sequences": None,
    },
}


def test_what_is_left_out_means_what_it_meant() -> None:
    assert (MEANING, Recipe().model_dump(mode="json")) == (1, DEFAULTS)


class LaterModel(Model):
    """The model of a later version of farm: a field more, whose default is as before."""

    rotary: bool = False


class LaterEvaluation(Evaluation):
    stride: int | None = None


class LaterRecipe(Recipe):
    model: LaterModel = LaterModel()
    evaluation: LaterEvaluation = LaterEvaluation()
    legs: tuple[str, ...] = ()


@pytest.mark.parametrize(
    "patch", [{}, {"model": {"dropout": 0.0}}, {"train": {"schedule": {"kind": "warmup-cosine"}, "batch": 8}}]
)
def test_a_field_that_a_later_version_adds_changes_no_id(patch: dict[str, Any]) -> None:
    now, later = Recipe().with_patch(patch), LaterRecipe.model_validate(merge(LaterRecipe().model_dump(), patch))
    assert later.digest == now.digest
    assert later.evaluation_version == now.evaluation_version
    runs = [Run(arm="a", recipe=recipe, seeds=Seeds(), machine="cpu") for recipe in (now, later)]
    assert runs[0].id == runs[1].id
    assert probe_key(now.model, "fp32") == probe_key(later.model, "fp32")
    changed = later.model_copy(update={"model": LaterModel(rotary=True)})
    assert changed.digest != now.digest, "a later field that is set is another recipe"


def test_another_meaning_of_a_default_is_another_id(monkeypatch: pytest.MonkeyPatch) -> None:
    before = Recipe(train=Train(batch=8)), Recipe(train=Train(batch=16))
    monkeypatch.setattr("farm.study.recipe.MEANING", MEANING + 1)
    after = Recipe(train=Train(batch=32)), Recipe(train=Train(batch=64))
    digests = {recipe.digest for recipe in (*before, *after)}
    assert len(digests) == 4
    assert identity(before[0])["meaning"] == MEANING + 1


def test_minus_zero_is_zero() -> None:
    one, other = Recipe(train=Train(weight_decay=0.0)), Recipe(train=Train(weight_decay=-0.0))
    assert one == other
    assert canonical_json(identity(one)) == canonical_json(identity(other))


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
    changed = Recipe().with_patch({table: {key: values[path]}})
    assert changed.digest != Recipe().digest
    assert changed.changes() == {table: {key: values[path]}}


def test_spelling_a_default_out_changes_nothing() -> None:
    assert Recipe().with_patch({"model": {"dropout": 0.1}, "train": {"schedule": {}}}).digest == Recipe().digest


def test_an_integer_and_the_same_float_are_one_recipe() -> None:
    assert (
        Recipe().with_patch({"model": {"dropout": 0}}).digest == Recipe().with_patch({"model": {"dropout": 0.0}}).digest
    )


def test_a_recipe_survives_json() -> None:
    recipe = Recipe().with_patch(
        {"train": {"betas": [0.9, 0.95], "schedule": {"kind": "warmup-cosine", "warmup": 0.1}}}
    )
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
        (Evaluation, {"every": 1.5}, "must be a share below 1 or a whole number of steps"),
        (Evaluation, {"every": -1}, "greater than or equal to 0"),
        (Evaluation, {"validation_sequences": 0}, "greater than or equal to 1"),
        (Evaluation, {"revision": "v1"}, "evaluation.revision belongs to evaluation.source, which is not set"),
        (Recipe, {"evaluation": Evaluation(context=2048)}, "evaluation.context = 2048 is longer than model.context"),
    ],
)
def test_what_makes_no_sense_is_refused(kind: type, values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        kind(**values)


def test_a_recipe_cannot_change_after_birth() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Recipe().train.batch = 1  # type: ignore[misc]


EVALUATED = [
    {"evaluation": {"source": "/data/common"}},
    {"evaluation": {"source": "hf:a/b", "revision": "v1"}},
    {"evaluation": {"split": "test"}},
    {"evaluation": {"offset": 0}},
    {"evaluation": {"sequences": 64}},
    {"evaluation": {"context": 512}},
    {"evaluation": {"precision": "bf16"}},
    {"data": {"source": "/data/other"}},
    {"data": {"revision": "v2"}},
    {"data": {"text_field": "body"}},
    {"model": {"context": 256}},
]


def test_the_evaluation_is_versioned_by_all_that_is_scored() -> None:
    versions = [Recipe().with_patch(patch).evaluation_version for patch in [{}, *EVALUATED]]
    assert len(set(versions)) == len(versions)
    assert all(version.startswith("test_loss@") for version in versions)


@pytest.mark.parametrize(
    "patch",
    [
        {"model": {"dropout": 0.0, "layers": 2}},
        {"train": {"batch": 8}},
        {"data": {"split": "other", "order": "shuffled"}},
        {"evaluation": {"context": 1024}},  # spelled out
        {"evaluation": {"source": "hf:gpjt/fineweb-gpt2-tokens"}},
    ],
)
def test_what_is_trained_leaves_the_evaluation_alone(patch: dict[str, Any]) -> None:
    assert Recipe().with_patch(patch).evaluation_version == Recipe().evaluation_version


def test_arms_of_other_corpora_and_contexts_can_share_a_test() -> None:
    common = {"evaluation": {"source": "/data/common", "context": 256}}
    arms = [
        {"data": {"source": "/data/a"}},
        {"data": {"source": "/data/b", "revision": None}},
        {"model": {"context": 512}},
    ]
    assert len({Recipe().with_patch(merge(common, arm)).evaluation_version for arm in arms}) == 1


def test_a_digest_does_not_depend_on_the_order_of_keys() -> None:
    assert digest({"a": 1, "b": {"c": 2, "d": 3}}) == digest({"b": {"d": 3, "c": 2}, "a": 1})
    with pytest.raises(ValueError, match="not JSON compliant"):
        digest({"a": float("nan")})


tables = st.recursive(st.integers(), lambda inner: st.dictionaries(st.sampled_from("abc"), inner), max_leaves=8)


@given(st.dictionaries(st.sampled_from("abc"), tables), st.dictionaries(st.sampled_from("abc"), tables))
def test_laying_a_patch_over_twice_is_laying_it_once(below: dict, above: dict) -> None:
    once = merge(below, above)
    assert merge(once, above) == once
    assert merge(below, {}) == below


def test_a_share_of_the_steps_is_a_share_of_what_was_written() -> None:
    """All products of whole percents and up to 1,000 steps that are whole; as floats 141 of them round up by one."""
    whole = [(percent, steps) for percent in range(1, 101) for steps in range(1, 1001) if percent * steps % 100 == 0]
    rising = [Schedule(warmup=float(f"{percent}e-2")).rising(steps) for percent, steps in whole]
    assert len(whole) == 5200
    assert rising == [percent * steps // 100 for percent, steps in whole]


@pytest.mark.parametrize(
    ("warmup", "steps", "rising"),
    [
        (0.07, 100, 7),
        (0.071, 100, 8),
        (0.0, 9, 0),
        (1.0, 9, 9),
        (1e-5, 100_000, 1),
        (1 / 3, 3, 1),
        (0.29, 10**12, 29 * 10**10),
    ],
)
def test_what_is_left_of_a_step_counts_as_one(warmup: float, steps: int, rising: int) -> None:
    assert Schedule(warmup=warmup).rising(steps) == rising


@pytest.mark.parametrize("watched", [{"every": 0}, {"every": 100}, {"validation_sequences": 64}])
def test_how_training_is_watched_is_no_part_of_the_identity(watched: dict[str, Any]) -> None:
    """It changes no bit, so studies that differ in it alone share their runs (decision 12)."""
    recipe = Recipe().with_patch({"evaluation": watched})
    assert recipe.digest == Recipe().digest
    assert recipe.evaluation_version == Recipe().evaluation_version
    assert recipe.changes() == {"evaluation": watched}, "the record says how it was watched"
    dropped = recipe.with_patch({"model": {"dropout": 0.0}})
    assert dropped.digest == Recipe(model=Model(dropout=0.0)).digest


@pytest.mark.parametrize(
    ("every", "steps", "validated"),
    [
        (0.05, 220, list(range(11, 221, 11))),
        (0.05, 4, [1, 2, 3, 4]),
        (0.3, 10, [3, 6, 9, 10]),
        (0.07, 100, [*range(7, 99, 7), 100]),
        (4, 10, [4, 8, 10]),
        (1, 3, [1, 2, 3]),
        (1000, 10, [10]),
        (0, 10, []),
    ],
)
def test_training_is_validated_at_even_distances_and_after_the_last_step(
    every: float, steps: int, validated: list[int]
) -> None:
    recipe = Recipe().with_patch({"train": {"tokens": steps * 98_304}, "evaluation": {"every": every}})
    assert [step for step in range(1, steps + 1) if recipe.validates(step)] == validated


def test_the_baseline_is_validated_20_times() -> None:
    recipe = Recipe()
    assert sum(recipe.validates(step) for step in range(1, recipe.steps + 1)) == 20


@pytest.mark.parametrize(
    ("patch", "sequences"),
    [
        ({}, 960),  # a twentieth of the test's 19,200
        ({"train": {"tokens": 98_304_000}}, 240),  # 1 for 400 of the 96,000 that are trained on
        ({"train": {"tokens": 1}}, 8),
        ({"model": {"context": 256}, "train": {"tokens": 98_304_000}}, 960),
        ({"evaluation": {"validation_sequences": 5}}, 5),
        ({"evaluation": {"every": 1}}, 960),  # however often: curves stay comparable
    ],
)
def test_a_validation_is_small_beside_the_training(patch: dict[str, Any], sequences: int) -> None:
    assert Recipe().with_patch(patch).validation_sequences == sequences
