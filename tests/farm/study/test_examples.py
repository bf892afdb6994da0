"""The study files that come with the farm: they load, they plan, and their runs keep their names."""

import re
from pathlib import Path

from farm.study.machine import BUILT_IN
from farm.study.planner import hours, plan
from farm.study.recipe import Recipe
from farm.study.study import Study

ROOT = Path(__file__).parents[3]
EXAMPLES = ROOT / "examples"
BATTERY, DEMO, DROPOUT, LARGE = (
    Study.load(EXAMPLES / f"{name}.toml") for name in ("interventions", "demo", "dropout", "dropout-163m")
)


def plans(of: Study) -> dict[str, set[str]]:
    """The ways in which each machine class would train the study's runs."""
    found: dict[str, set[str]] = {}
    for run in of.runs():
        found.setdefault(run.machine, set()).add(str(plan(run.recipe, BUILT_IN[run.machine])))
    return found


def test_the_battery_is_the_published_one():
    changes = {arm.name: arm.recipe.changes() for arm in BATTERY.arms()}
    schedule = {"learning_rate": 0.0014, "schedule": {"kind": "warmup-cosine", "warmup": 0.05, "floor": 0.1}}
    singles = {
        "baseline": {},
        "gradient-clipping": {"train": {"clip_grad_norm": 3.5}},
        "remove-dropout": {"model": {"dropout": 0.0}},
        "qkv-bias": {"model": {"qkv_bias": True}},
        "schedule-learning-rate": {"train": schedule},
        "weight-decay": {"train": {"weight_decay": 0.01}},
        "weight-tying": {"model": {"tie_weights": True}},
        "full-float32": {"train": {"precision": "fp32"}},
    }
    first = {"model": {"dropout": 0.0}, "train": schedule | {"clip_grad_norm": 3.5}}
    second = {"model": {"dropout": 0.0}, "train": first["train"] | {"weight_decay": 0.01}}
    third = {"model": {"dropout": 0.0, "qkv_bias": True}, "train": second["train"]}
    assert changes == singles | {"stacked-1": first, "stacked-2": second, "stacked-3": third}


def test_the_battery_trains_every_arm_on_both_machines_from_three_seeds():
    runs = BATTERY.runs()
    assert len(runs) == len({run.id for run in runs}) == 11 * 2 * 3
    assert runs[0].id == "8xa100m40-baseline-s42.23-43232e83"
    assert runs[0].recipe == Recipe()
    assert {str(run.seeds) for run in runs} == {"42.23", "22.23", "67.23"}
    assert plans(BATTERY) == {"8xa100m40": {"8 x 12 x 1"}, "1xrtx3090": {"1 x 32 x 3", "1 x 24 x 4"}}
    times = {name: hours(Recipe(), BUILT_IN[name]) for name in ("8xa100m40", "1xrtx3090")}
    assert {name: round(time or 0, 1) for name, time in times.items()} == {"8xa100m40": 3.2, "1xrtx3090": 40.6}


def test_the_demo_is_ten_small_runs_on_cores_with_a_twin_of_the_baseline():
    assert [run.id.rsplit("-", 1)[0] for run in DEMO.runs()] == [
        f"{machine}-{arm}-s{seed}.23"
        for seed in (42, 22)
        for machine, arm in [
            ("cpu-x1", "baseline"),
            ("cpu-x2", "baseline"),
            ("cpu-x1", "remove-dropout"),
            ("cpu-x1", "schedule-learning-rate"),
            ("cpu-x1", "weight-tying"),
        ]
    ]
    assert plans(DEMO) == {"cpu-x1": {"1 x 4 x 4"}, "cpu-x2": {"2 x 4 x 2"}}
    assert all(run.recipe.data.source == "builtin:python-reference" for run in DEMO.runs())
    assert {run.recipe.steps for run in DEMO.runs()} == {220}


def test_the_tutorials_ask_one_question_of_a_small_model_and_of_the_default():
    small, large = ({arm.name: arm.recipe.changes() for arm in of.arms()} for of in (DROPOUT, LARGE))
    assert large == {"baseline": {}, "no-dropout": {"model": {"dropout": 0.0}}}
    dropout = {"baseline": 0.1, "no-dropout": 0.0, "more-dropout": 0.2}
    assert {arm.name: arm.recipe.model.dropout for arm in DROPOUT.arms()} == dropout
    assert len({str(small[name] | {"model": {}}) for name in small}) == 1, "nothing else differs"
    assert plans(DROPOUT) == {"cpu-x1": {"1 x 16 x 1"}}
    assert plans(LARGE) == {"8xa100m40": {"8 x 12 x 1"}}
    assert {run.recipe.steps for run in DROPOUT.runs()} == {400}
    assert len(DROPOUT.runs()) == len(LARGE.runs()) == 6


def test_the_runs_that_the_tutorial_shows_are_those_of_its_study():
    """An id covers the recipe, so a page whose study was changed shows runs that nobody can repeat."""
    page = (ROOT / "docs" / "tutorials" / "dropout.md").read_text(encoding="utf-8")
    shown = set(re.findall(r"cpu-x1-[a-z-]+-s42\.23-[0-9a-f]{8}", page))
    assert shown == {run.id for run in DROPOUT.runs() if run.seeds.init == 42}
