"""A study file, and what it means."""

from contextlib import suppress
from typing import Annotated, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, TypeAdapter
from results import tiny_study
from studies import CLIPPED, HEAD, THREE, arms, faults, head

from farm.errors import BadStudy
from farm.study.faults import inner_model, is_optional
from farm.study.looks import Looks
from farm.study.machine import BUILT_IN, Machine, Mixed
from farm.study.recipe import Data, Recipe, Seeds, canonical_json
from farm.study.study import Study


def test_evaluations_change_no_run_and_are_as_the_arms_own_test_where_they_say_nothing() -> None:
    plain = Study.parse(HEAD + THREE)
    more = Study.parse(
        head(score='"wiki"') + THREE + "[evaluations.wiki]\nsource = '/wiki'\nsplit = 'test'\noffset = 0"
    )
    assert [run.id for run in more.runs()] == [run.id for run in plain.runs()]
    assert (plain.study.score, more.study.score) == ("test_loss", "wiki")
    own = more.arms()[0].recipe.with_test(more.evaluations["wiki"])
    assert own.evaluation == Recipe().evaluation.model_copy(update={"source": "/wiki", "split": "test", "offset": 0})
    assert Study.model_validate_json(canonical_json(more)) == more


def test_the_study_of_the_design_means_what_the_design_says() -> None:
    study = Study.parse("""
[study]
name = "interventions"
machines = ["8xa100m40", "1xrtx3090"]
seeds = { init = [42, 22, 67], train = [23] }
[baseline.model]
dropout = 0.1
[baseline.train]
batch = 96
tokens = 3_260_190_720
learning_rate = 4e-4
[interventions.remove-dropout]
model.dropout = 0.0
[interventions.gradient-clipping]
train.clip_grad_norm = 3.5
[interventions.schedule-learning-rate]
train.learning_rate = 1.4e-3
train.schedule = { kind = "warmup-cosine", warmup = 0.05, floor = 0.1 }
[stacks]
stacked-1 = ["gradient-clipping", "remove-dropout", "schedule-learning-rate"]
""")
    baseline, dropout, *_, stack = study.arms()
    assert baseline.recipe == Recipe()
    assert dropout.recipe.changes() == {"model": {"dropout": 0.0}}
    assert stack.name == "stacked-1"
    assert stack.recipe.changes() == {
        "model": {"dropout": 0.0},
        "train": {
            "learning_rate": 1.4e-3,
            "schedule": {"kind": "warmup-cosine", "warmup": 0.05, "floor": 0.1},
            "clip_grad_norm": 3.5,
        },
    }
    assert len(study.runs()) == 5 * 3 * 2
    assert len({run.id for run in study.runs()}) == 30


def test_the_first_seeds_of_all_arms_come_before_the_second_of_any() -> None:
    runs = Study.parse(head(seeds="{ init = [1, 2], train = [3] }", reruns="1") + THREE).runs()
    assert [(run.rerun, run.seeds.init, run.arm) for run in runs] == [
        (rerun, seed, arm) for rerun in (0, 1) for seed in (1, 2) for arm in ("baseline", "a", "b", "c")
    ]


@pytest.mark.parametrize(
    ("seeds", "pairs"),
    [
        ("{ init = [1, 2], train = [3, 4] }", ["1.3", "1.4", "2.3", "2.4"]),
        ("{ train = [7] }", ["42.7"]),
        ("[[1, 2], [3, 4]]", ["1.2", "3.4"]),
    ],
)
def test_seeds_are_crossed_or_paired(seeds: str, pairs: list[str]) -> None:
    assert [str(pair) for pair in Study.parse(head(seeds=seeds)).study.seeds] == pairs


def test_an_arm_may_depart_from_the_seeds_and_machines_of_the_study() -> None:
    study = Study.parse(
        HEAD
        + "[baseline]\nseeds = [[1, 1], [2, 2], [3, 3]]\n"
        + '[interventions.a]\nmachines = ["1xrtx3090"]\nmodel.dropout = 0.0\n'
    )
    assert [(run.arm, run.machine, str(run.seeds)) for run in study.runs()] == [
        ("baseline", "cpu", "1.1"),
        ("a", "1xrtx3090", "42.23"),
        ("baseline", "cpu", "2.2"),
        ("baseline", "cpu", "3.3"),
    ]


def test_a_sweep_is_an_arm_for_each_value_but_the_baselines() -> None:
    text = HEAD + "[sweeps.lr]\ntrain.learning_rate = [2e-4, 4e-4, 8e-4]\nmodel.dropout = 0.1\nseeds = [[1, 2]]\n"
    found = Study.parse(text).arms()
    assert [(arm.name, arm.recipe.train.learning_rate) for arm in found] == [
        ("baseline", 4e-4),
        ("lr-0.0002", 2e-4),
        ("lr-0.0008", 8e-4),
    ]
    assert [arm.seeds for arm in found[1:]] == [(Seeds(init=1, train=2),)] * 2


def test_a_grid_crosses_its_lists_and_its_arms_may_be_stacked() -> None:
    text = (
        HEAD
        + THREE
        + (
            "[sweeps.g]\ngrid = true\ntrain.learning_rate = [2e-4, 8e-4]\n"
            "train.schedule = [{ kind = 'constant' }, { kind = 'warmup-cosine', warmup = 0.05, floor = 0.1 }]\n"
            "[stacks]\nboth = ['g-0.0008-constant', 'a']\n"
        )
    )
    found = {arm.name: arm for arm in Study.parse(text).arms()}
    assert [name for name in found if name.startswith("g-")] == [
        "g-0.0002-constant",
        "g-0.0002-warmup-cosine-0.05-0.1",
        "g-0.0008-constant",
        "g-0.0008-warmup-cosine-0.05-0.1",
    ]
    both = found["both"].recipe
    assert (both.train.learning_rate, both.model.dropout) == (8e-4, 0.0)


@pytest.mark.parametrize(
    ("sweep", "said"),
    [
        (
            "train.learning_rate = 2e-4",
            "sweeps.s: no field has a list of values; write train.learning_rate = [2e-4, 4e-4].",
        ),
        ("train.learning_rate = []", "sweeps.s.train.learning_rate: the list is empty."),
        ("train.learning_rate = [1e-3, 1e-3]", "sweeps.s.train.learning_rate: the list names a value twice."),
        (
            "train.learning_rate = [1e-3]\nmodel.dropout = [0.0]",
            "sweeps.s: model.dropout and train.learning_rate have a list each;"
            " write grid = true to cross them, or make them two sweeps.",
        ),
        (
            "model.dropout = [0.3, 2.0]",
            "sweeps.s.model.dropout: must be less than 1, not 2.0; for 2 % write dropout = 0.02.",
        ),
        ("grid = true\nmodel.dropot = [0.3]", "sweeps.s.model.dropot: unknown key; did you mean 'dropout'?"),
    ],
)
def test_a_sweep_that_makes_no_sense_says_where(sweep: str, said: str) -> None:
    (fault,) = faults(f"{HEAD}[sweeps.s]\n{sweep}\n")
    assert fault == said


def test_a_sweeps_arm_has_a_name_of_its_own() -> None:
    text = HEAD + "[interventions.'s-0.3']\nmodel.dropout = 0.2\n[sweeps.s]\nmodel.dropout = [0.3]\n"
    assert faults(text) == ["sweeps.s: another arm is called s-0.3 already."]


def test_two_interventions_that_agree_on_a_field_may_be_stacked() -> None:
    text = HEAD + THREE + "[interventions.d]\nmodel.dropout = 0.0\ntrain.eps = 1e-9\n" + '[stacks]\ns1 = ["a", "d"]\n'
    assert "s1" in arms(text)


def test_a_machine_may_be_declared_or_refined() -> None:
    study = Study.parse(HEAD + '[machines.8xa100m40]\nusd_per_hour = 9.0\n[machines.mine]\nmemory = "8GiB"\n')
    refined = study.machine("8xa100m40", {})
    assert (refined.accelerators, refined.usd_per_hour) == (8, 9.0)
    assert study.machine("mine", {}).memory == 2**33
    assert study.machine("seen", {"seen": Machine(name="seen")}).name == "seen"
    assert study.machine("cpu", {}) == BUILT_IN["cpu"]
    probed = {"8xa100m40": BUILT_IN["8xa100m40"].model_copy(update={"probes": {"m:fp16": 6}})}
    assert (study.machine("8xa100m40", probed).usd_per_hour, refined.probes) == (9.0, {})
    assert study.machine("8xa100m40", probed).probes == {"m:fp16": 6}, "what was measured there stays known"
    with pytest.raises(
        BadStudy,
        match=r"unknown machine class '8xa100'; did you mean '8xa100m80'\? Known: .*1xrtx3090.*\[machines\.8xa100\]",
    ):
        study.machine("8xa100", {})


def test_a_study_survives_json() -> None:
    text = head(seeds="[[1, 2], [3, 4]]", design='"stack"') + THREE + '[stacks]\nmine = ["a", "c"]\n'
    study = Study.parse(text + '[machines.mine]\nmemory = "8GiB"\n[policy]\npriority = 3\n')
    copy = Study.model_validate_json(canonical_json(study))
    assert copy == study
    assert copy.runs() == study.runs()


def test_seeds_are_two_numbers() -> None:
    assert str(Seeds(init=1, train=2)) == "1.2"


def test_a_mixed_group_is_made_of_its_classes() -> None:
    study = tiny_study(machines=("cpu", "cpu-x1+cpu-x2"))
    assert [run.machine for run in study.runs()][:2] == ["cpu", "cpu-x1+cpu-x2"]
    group = study.machine("cpu-x1+cpu-x2", {"cpu-x2": BUILT_IN["cpu-x2"].model_copy(update={"usd_per_hour": 2.0})})
    assert isinstance(group, Mixed)
    assert (group.accelerators, group.usd_per_hour, group.is_cpu) == (3, 2.0, True)
    assert [part.name for part in group.parts] == ["cpu-x1", "cpu-x2"]
    unpriced = study.machine("cpu-x1+attic", {"attic": Machine(name="attic")})
    assert (unpriced.usd_per_hour, unpriced.prices) == (None, BUILT_IN["cpu-x1"].prices)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("cpu+attic", "unknown machine class 'attic'"),
        ("cpu+1xrtx3090", "'cpu.1xrtx3090' mixes CPUs with GPUs"),
    ],
)
def test_a_mixed_group_of_what_nobody_knows_or_cannot_mix_is_refused(name: str, words: str) -> None:
    with pytest.raises(BadStudy, match=words):
        tiny_study(machines=(name,)).machine(name, {})


def test_nobody_declares_a_mixed_group_as_a_class() -> None:
    with pytest.raises(BadStudy, match="must be 1 to 64 of a-z"):
        Study.build(tiny_study().model_dump(mode="json", exclude_unset=True) | {"machines": {"a+b": {}}})


# Optional fields, which a patch may unset.


def test_a_patch_unsets_an_optional_field() -> None:
    text = CLIPPED + "[interventions.a]\ntrain.clip_grad_norm = 'none'\n[interventions.b]\nmodel.dropout = 0.0\n"
    study = Study.parse(text + "[stacks]\nab = ['a', 'b']\n")
    assert [arm.recipe.train.clip_grad_norm for arm in study.arms()] == [1.0, None, 1.0, None]
    assert Study.model_validate_json(canonical_json(study)) == study


def test_every_optional_field_of_a_study_has_the_word_that_unsets_it() -> None:
    """And it is no value of any: a tag called none is named by its commit."""
    unset = []
    for model in (models(Study) - models(Looks)) | models(
        Recipe
    ):  # an intervention holds the tables of a recipe as they were written
        for name, field in model.model_fields.items():
            if is_optional(field):
                adapter = TypeAdapter(Annotated[field.annotation, field])
                assert adapter.validate_python("none") is None, f"{model.__name__}.{name}"
                unset.append(f"{model.__name__}.{name}")
    assert {"Train.clip_grad_norm", "Data.revision", "Machine.threads", "Policy.usd_limit"} <= set(unset)
    assert Data(revision="none") == Data()


def models(model: type[BaseModel]) -> set[type[BaseModel]]:
    """A model and all that its fields hold."""
    inner = {found for field in model.model_fields.values() if (found := inner_model(field.annotation))}
    return {model}.union(*map(models, inner))


def test_twins_train_every_arm_on_every_class_that_the_study_names() -> None:
    text = head(machines='["cpu-x1"]') + '[interventions.a]\nmodel.dropout = 0.0\nmachines = ["cpu-x2"]\n'
    study = Study.parse(text)
    assert {arm.name: arm.machines for arm in study.arms()} == {"baseline": ("cpu-x1",), "a": ("cpu-x2",)}
    for twins in (study.with_twins(), Study.parse(text.replace("[study]", "[study]\ntwins = true"))):
        assert {arm.machines for arm in twins.arms()} == {("cpu-x1", "cpu-x2")}
        assert {run.id for run in study.runs()} < {run.id for run in twins.runs()}, "the same runs, and their twins"
        assert Study.model_validate_json(canonical_json(twins)).arms() == twins.arms()
    with pytest.raises(BadStudy, match="takes two machine classes or more, and the study names cpu only"):
        Study.parse(head(twins="true"))
    with pytest.raises(BadStudy, match="take two machine classes or more"):
        Study.parse(head()).with_twins()


@pytest.mark.parametrize("margin", ["-0.005", "0.0", "nan", "inf", '"small"'])
def test_a_margin_that_is_no_size_is_refused_by_name(margin: str) -> None:
    with pytest.raises(BadStudy, match=r"study\.margin"):
        Study.parse(head(margin=margin))


@pytest.mark.parametrize("limit", ["-5.0", "0.0", "nan", "inf"])
def test_a_budget_that_is_no_sum_is_refused_by_name(limit: str) -> None:
    with pytest.raises(BadStudy, match=r"policy\.usd_limit"):
        Study.parse(head() + f"[policy]\nusd_limit = {limit}\n")


json_like = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
keys = st.sampled_from(["study", "baseline", "interventions", "stacks", "machines", "policy", "name", "seeds", "model"])


@given(st.dictionaries(keys, json_like | st.dictionaries(keys, json_like, max_size=3), max_size=4))
def test_no_table_whatever_makes_it_crash(tables: dict[str, Any]) -> None:
    with suppress(BadStudy):
        Study.build(tables)


@pytest.mark.parametrize("table", ["[notify]", "[policy.notify]", "[study.notify]"])
def test_a_study_notifies_nobody(table: str) -> None:
    (line,) = faults(head() + f'{table}\nurls = ["slack://secret"]\n')
    assert line.endswith("; a study notifies nobody: write [notify] urls = [...] in the farm.toml of the head.")
    assert "secret" not in line
