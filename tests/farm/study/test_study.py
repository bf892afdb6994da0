"""A study file: what it means, and what a person is told when it means nothing."""

import pickle
import random
import re
from collections.abc import Sequence
from contextlib import suppress
from itertools import combinations
from math import prod
from pathlib import Path
from typing import Annotated, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, TypeAdapter
from results import tiny_study

from farm.errors import BadStudy
from farm.study.faults import inner_model, is_optional
from farm.study.looks import Looks
from farm.study.machine import BUILT_IN, Machine, Mixed
from farm.study.recipe import Data, Recipe, Seeds, canonical_json
from farm.study.study import Study

HEAD = '[study]\nname = "s"\nmachines = ["cpu"]\n'
THREE = """
[interventions.a]
model.dropout = 0.0
[interventions.b]
train.clip_grad_norm = 3.5
[interventions.c]
train.learning_rate = 1e-3
"""


def head(**values: str) -> str:
    """A [study] table with some values of its own."""
    lines = {"name": '"s"', "machines": '["cpu"]'} | values
    return "[study]\n" + "".join(f"{key} = {value}\n" for key, value in lines.items())


def arms(text: str) -> list[str]:
    return [arm.name for arm in Study.parse(text).arms()]


def test_evaluations_change_no_run_and_are_as_the_arms_own_test_where_they_say_nothing() -> None:
    plain = Study.parse(HEAD + THREE)
    more = Study.parse(
        head(score='"wiki"') + THREE + "[evaluations.wiki]\nsource = '/wiki'\nsplit = 'test'\noffset = 0"
    )
    assert [run.id for run in more.runs()] == [run.id for run in plain.runs()]
    assert (plain.study.score, more.study.score) == ("test_loss", "wiki")
    own = more.arms()[0].recipe.tested_by(more.evaluations["wiki"])
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


# What is refused, and what a person is told. The path of the field, the value, and the nearest right name.

REFUSED = {
    "an unknown table": (
        HEAD + "[interventionz.a]\nmodel.dropout = 0.0",
        "interventionz: unknown key; did you mean [interventions.a]?",
    ),
    "an unknown key of the study": (head(sed="[]"), "study.sed: unknown key; did you mean 'seeds'?"),
    "an unknown key of the model": (
        HEAD + "[baseline.model]\ndropuot = 0.1",
        "baseline.model.dropuot: unknown key; did you mean 'dropout'?",
    ),
    "an unknown key of an intervention": (
        HEAD + "[interventions.a]\nmodel.dropuot = 0.1",
        "interventions.a.model.dropuot: unknown key; did you mean 'dropout'?",
    ),
    "an unknown key of a schedule": (
        HEAD + "[interventions.a]\ntrain.schedule = { warmpu = 0.1 }",
        "interventions.a.train.schedule.warmpu: unknown key; did you mean 'warmup'?",
    ),
    "an unknown key of a machine": (
        HEAD + "[machines.x]\nacelerator = 'A100'",
        "machines.x.acelerator: unknown key; did you mean 'accelerator'?",
    ),
    "an unknown key of the policy": (
        HEAD + "[policy]\nattempt = 5",
        "policy.attempt: unknown key; did you mean 'attempts'?",
    ),
    "text for a number": (
        HEAD + "[baseline.train]\nbatch = '96'",
        "baseline.train.batch: must be a whole number, not '96'; write batch = 96.",
    ),
    "a fraction for a whole number": (
        HEAD + "[baseline.train]\nbatch = 96.5",
        "baseline.train.batch: must be a whole number, not 96.5.",
    ),
    "true for a number": (
        HEAD + "[baseline.train]\nbatch = true",
        "baseline.train.batch: must be a whole number, not true.",
    ),
    "a date for a number": (
        HEAD + "[baseline.train]\nbatch = 2024-01-01",
        "baseline.train.batch: must be a whole number.",
    ),
    "text for a table": (HEAD + "[baseline]\ntrain = 'fast'", "baseline.train: must be a table, not 'fast'."),
    "a list for a table": ("baseline = [1]\n" + HEAD, "baseline: must be a table."),
    "a number for a machine": (HEAD + "[machines]\nx = 3", "machines.x: must be a table, not 3."),
    "text for a list": (
        head(machines="'cpu'"),
        "study.machines: must be a list, not 'cpu'; write machines = [\"cpu\"].",
    ),
    "NaN": (
        HEAD + "[baseline.train]\nlearning_rate = nan",
        "baseline.train.learning_rate: must be a finite number, not nan.",
    ),
    "infinity": (
        HEAD + "[baseline.train]\nlearning_rate = inf",
        "baseline.train.learning_rate: must be a finite number, not inf.",
    ),
    "a negative rate": (
        HEAD + "[baseline.train]\nlearning_rate = -4e-4",
        "baseline.train.learning_rate: must be more than 0, not -0.0004.",
    ),
    "batch 0": (HEAD + "[baseline.train]\nbatch = 0", "baseline.train.batch: must be at least 1, not 0."),
    "a batch beyond reason": (
        HEAD + "[baseline.train]\nbatch = 9999999999999999999999",
        "baseline.train.batch: must be at most 1,048,576, not 9999999999999999999999.",
    ),
    "a dropout of 1": (
        HEAD + "[baseline.model]\ndropout = 1.0",
        "baseline.model.dropout: must be less than 1, not 1.0.",
    ),
    "a precision that is none": (
        HEAD + "[baseline.train]\nprecision = 'fp8'",
        "baseline.train.precision: must be 'fp32', 'tf32', 'fp16' or 'bf16', not 'fp8'.",
    ),
    "heads that do not divide": (
        HEAD + "[interventions.a]\nmodel.heads = 5",
        "interventions.a.model: heads = 5 does not divide width = 768.",
    ),
    "one beta": (
        HEAD + "[baseline.train]\nbetas = [0.9]",
        "baseline.train.betas: has too few values; write betas = [0.9, 0.95].",
    ),
    "a name that leads elsewhere": (
        head(name="'../x'"),
        "study.name: must be 1 to 64 of a-z, 0-9, '.', '_' and '-', the first a letter or a digit, not '../x';"
        ' write name = "x".',
    ),
    "an arm's name with a blank": (
        HEAD + "[interventions.'a b']\nmodel.dropout = 0.0",
        "interventions.a b: must be 1 to 64 of a-z, 0-9, '.', '_' and '-', the first a letter or a digit, not 'a b';"
        ' write "a-b".',
    ),
    "no name": ("[study]\nmachines = ['cpu']", 'study.name: is missing; write name = "my-study" under [study].'),
    "no machines": (
        "[study]\nname = 's'",
        'study.machines: is missing; write machines = ["cpu"], or other classes that `farm machines` lists.',
    ),
    "an empty list of machines": (head(machines="[]"), "study.machines: must name at least 1."),
    "a machine twice": (head(machines="['cpu', 'cpu']"), "study.machines: names one twice."),
    "nothing at all": ("", "study: is missing; a study begins with [study] and its name, as in examples/demo.toml."),
    "seeds twice": (head(seeds="[[1, 2], [1, 2]]"), "study.seeds: names a pair twice: 1.2, 1.2."),
    "a negative seed": (
        head(seeds="[[-1, 2]]"),
        "study.seeds: [-1, 2] is not a pair of whole numbers from 0 to 2**63 - 1.",
    ),
    "one seed alone": (head(seeds="[[1]]"), "study.seeds: [1] is not an [init, train] pair."),
    "no seeds": (head(seeds="{ init = [], train = [1] }"), "study.seeds: must name at least one (init, train) pair."),
    "a seed that is no list": (
        head(seeds="{ init = 1 }"),
        "study.seeds: must be { init = [...], train = [...] } or a list of [init, train] pairs;"
        " write seeds = { init = [1] }.",
    ),
    "a change of nothing": (
        HEAD + "[interventions.a]\nmodel.dropout = 0.1",
        "interventions.a: changes nothing, every value is the baseline's already.",
    ),
    "a change of how it is watched": (
        HEAD + "[interventions.a]\nevaluation.every = 100",
        "interventions.a: changes only how training is watched, which changes no loss; write it in [baseline].",
    ),
    "an intervention called baseline": (
        HEAD + "[interventions.baseline]\nmodel.dropout = 0.0",
        "interventions.baseline: the baseline is not an intervention.",
    ),
    "a fight over a field": (
        HEAD
        + "[interventions.a]\nmodel.dropout = 0.0\n[interventions.b]\nmodel.dropout = 0.2\n[stacks]\nx = ['a', 'b']",
        "arm x: 'a' sets model.dropout = 0.0 and 'b' sets it to 0.2; leave one out.",
    ),
    "a fight over a nested field": (
        head(design="'stack'")
        + "[interventions.a]\ntrain.schedule = { warmup = 0.1 }\n[interventions.b]\ntrain.schedule = { warmup = 0.2 }",
        "arm plus-b: 'a' sets train.schedule.warmup = 0.1 and 'b' sets it to 0.2; leave one out.",
    ),
    "a score that no evaluation makes": (
        head(score="'wikki'") + "[evaluations.wiki]\nsource = '/wiki'",
        "study.score: no evaluation 'wikki'; did you mean 'wiki'?",
    ),
    "an evaluation with the name of the test": (
        HEAD + "[evaluations.test_loss]\noffset = 0",
        "evaluations.test_loss: is the test that every arm has; write [baseline.evaluation].",
    ),
    "an evaluation that is the test again": (
        HEAD + "[evaluations.wiki]\nsequences = 19_200",
        "evaluations.wiki: scores what test_loss does; leave one out.",
    ),
    "an evaluation twice": (
        HEAD + "[evaluations.wiki]\noffset = 0\n[evaluations.web]\noffset = 0",
        "evaluations.web: scores what wiki does; leave one out.",
    ),
    "an evaluation longer than an arm looks back": (
        HEAD + "[interventions.a]\nmodel.context = 512\n[evaluations.wiki]\ncontext = 1024",
        "evaluations.wiki.context: 1024 is longer than model.context = 512 of arm a.",
    ),
    "an evaluation of no corpus": (
        HEAD + "[evaluations.wiki]\nsource = 'builtin:wiki'",
        "evaluations.wiki.source = 'builtin:wiki' is not a valid corpus source."
        " Use 'builtin:python-reference', 'hf:OWNER/NAME', 's3://BUCKET/PREFIX', or a full path that every node sees.",
    ),
    "a revision without its source": (
        HEAD + "[evaluations.wiki]\nrevision = 'v1'",
        "evaluations.wiki: revision belongs to source, which is not set; set both.",
    ),
    "an evaluation's unsafe name": (
        HEAD + "[evaluations.'../wiki']\noffset = 0",
        "evaluations.../wiki: must be 1 to 64 of a-z, 0-9, '.', '_' and '-', the first a letter or a digit,"
        " not '../wiki'; write \"wiki\".",
    ),
    "an evaluation's negative offset": (
        head(score="'wiki'") + "[evaluations.wiki]\noffset = -1",
        "evaluations.wiki.offset: must be at least 0, not -1.",
    ),
    "an evaluation's misspelt key": (
        HEAD + "[evaluations.wiki]\nsequence = 5",
        "evaluations.wiki.sequence: unknown key; did you mean 'sequences'?",
    ),
    "evaluations as others call them": (
        HEAD + "[benchmarks.wiki]\nsource = '/wiki'",
        "benchmarks: unknown key; did you mean [evaluations]?",
    ),
    "a stack of strangers": (
        HEAD + THREE + "[stacks]\nx = ['aa']",
        "stacks.x: no intervention 'aa'; did you mean 'a'?",
    ),
    "a stack with the name of an arm": (
        HEAD + THREE + "[stacks]\na = ['b', 'c']",
        "stacks.a: another arm has that name already.",
    ),
    "a size in words": (
        HEAD + "[machines.x]\nmemory = '40 gigs'",
        'machines.x.memory: must be bytes, or a size such as "40GiB", not \'40 gigs\'; write memory = "40GiB".',
    ),
    "a design that is none": (
        head(design="'grid'"),
        "study.design: must be 'one-at-a-time', 'stack', 'leave-one-out', 'factorial' or 'fraction', not 'grid';"
        ' write design = "factorial".',
    ),
    "too large a factorial": (
        head(design="'factorial'") + "".join(f"[interventions.a{i}]\ntrain.eps = {i + 1}e-7\n" for i in range(13)),
        "study.design: factorial over 13 interventions is 8,192 arms; name at most 12.",
    ),
    "too many runs": (
        head(seeds=f"{{ init = {list(range(101))}, train = {list(range(100))} }}"),
        "10,100 runs; a study has at most 10,000; split it.",
    ),
    "more tokens than there are": (
        HEAD + "[baseline.train]\ntokens = 1" + "0" * 400,
        f"baseline.train.tokens: must be at most 1,000,000,000,000,000, not 1{'0' * 56}...",
    ),
    "a table without end": (
        HEAD + f"[interventions.x]\nmodel.{'.'.join('a' * 5000)} = 1",
        "interventions.x.model.a: unknown key; known: context, dropout, heads, init, initializer, layers, qkv_bias,"
        " tie_weights, vocab, vocab_multiple, width.",
    ),
    "what is not TOML": ("name =", "not TOML: Invalid value (at end of document). See examples/demo.toml."),
    "a corpus that no node has": (
        HEAD + "[baseline.data]\nsource = 'tokens/here'",
        "arm baseline: data.source = 'tokens/here' is not a valid corpus source; write source = \"hf:tokens/here\""
        " for a dataset of Hugging Face."
        " Use 'builtin:python-reference', 'hf:OWNER/NAME', 's3://BUCKET/PREFIX', or a full path that every node sees.",
    ),
    "a built-in corpus that is none": (
        HEAD + "[interventions.x]\ndata.source = 'builtin:shakespeare'",
        "arm x: data.source = 'builtin:shakespeare' is not a valid corpus source."
        " Use 'builtin:python-reference', 'hf:OWNER/NAME', 's3://BUCKET/PREFIX', or a full path that every node sees.",
    ),
    "a table twice": (
        HEAD + HEAD,
        "not TOML: Cannot declare ('study',) twice (at line 4, column 7): [study]; it is in the file already: "
        "leave one out. See examples/demo.toml.",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_a_bad_study_is_refused_in_words(what: str) -> None:
    text, words = REFUSED[what]
    with pytest.raises(BadStudy) as caught:
        Study.parse(text, "study.toml")
    assert str(caught.value) == f"study.toml: {words}"
    assert caught.value.exit_code == 2


ALL_AT_ONCE = """
[study]
name = "My Study"
machines = ["cpu"]
seeds = 3
[baseline.model]
dropout = 10
[baseline.train]
lr = 1e-3
[baseline.data]
source = "./tokens.bin"
[interventions.heads]
model.heads = 5
[interventions.nothing]
train.clip_grad_norm = nan
[interventions.also-nothing]
train.clip_grad_norm = nan
[interventions.precise]
train.precision = "fp8"
train.eps = 0
[stacks]
both = ["nothing", "also-nothing"]
unknown = ["heads", "preciser"]
[policy]
attempts = 0
"""


def faults(text: str) -> list[str]:
    """The lines of the error, without the file's name."""
    with pytest.raises(BadStudy) as caught:
        Study.parse(text, "s.toml")
    assert all(line.startswith("s.toml: ") and "\n" not in line for line in caught.value.lines)
    return [line.removeprefix("s.toml: ") for line in caught.value.lines]


def test_all_faults_are_told_at_once_and_one_does_not_hide_or_make_another() -> None:
    told = faults(ALL_AT_ONCE)
    assert [line.split(":")[0] for line in told] == [
        "study.name",
        "study.seeds",
        "policy.attempts",
        "baseline.model.dropout",
        "baseline.train.lr",
        "interventions.nothing.train.clip_grad_norm",
        "interventions.also-nothing.train.clip_grad_norm",
        "interventions.precise.train.eps",
        "interventions.precise.train.precision",
        "stacks.unknown",
        "arm baseline",
    ]
    mended = ALL_AT_ONCE.replace("My Study", "s").replace("seeds = 3", "").replace("dropout = 10", "dropout = 0.1")
    mended = mended.replace("lr =", "learning_rate =").replace("attempts = 0", "").replace("nan", "1.0", 1)
    mended = mended.replace("nan", "2.0").replace("fp8", "fp32").replace("eps = 0", "eps = 1e-9")
    assert [line.split(":")[0] for line in faults(mended)] == [
        "interventions.heads.model",
        "arm both",
        "stacks.unknown",
        "arm baseline",
    ], "what could not be judged before: how values go together"


def test_an_error_of_many_faults_is_one_line_where_one_is_asked_for() -> None:
    with pytest.raises(BadStudy) as caught:
        Study.parse(ALL_AT_ONCE, "s.toml")
    assert str(caught.value).startswith("s.toml: study.name: must be 1 to 64")
    assert str(caught.value).endswith("(and 10 more)")
    assert pickle.loads(pickle.dumps(caught.value)).lines == caught.value.lines


def test_no_more_faults_are_told_than_a_person_reads() -> None:
    told = faults(HEAD + "".join(f"[interventions.a{i}]\nmodel.heads = {i + 1}.5\n" for i in range(100)))
    assert told[29:] == ["interventions.a29.model.heads: must be a whole number, not 30.5.", "70 more faults."]


def test_tables_that_do_not_go_together_are_told_of_the_arm() -> None:
    too_long = "evaluation.context = 2048 is longer than model.context = 1024."
    assert faults(HEAD + "[baseline.evaluation]\ncontext = 2048\n") == [f"baseline: {too_long}"]
    assert faults(HEAD + "[interventions.a]\nevaluation.context = 2048\n") == [f"interventions.a: {too_long}"]
    both = "[interventions.a]\nevaluation.context = 1024\n[interventions.b]\nmodel.context = 64\n"
    assert faults(head(design="'leave-one-out'") + both) == [
        "stacks.all: evaluation.context = 1024 is longer than model.context = 64."
    ]


def test_a_corpus_that_none_can_have_is_told_of_training_and_of_the_test() -> None:
    text = HEAD + "[baseline.data]\nsource = 'x'\n[interventions.a]\nevaluation.source = 'y'\n"
    assert [line.split(" is not")[0] for line in faults(text)] == [
        "arm baseline: data.source = 'x'",
        "arm a: evaluation.source = 'y'",
    ]


def test_two_arms_with_one_fault_tell_it_once() -> None:
    shared = "[interventions.h]\nmodel.heads = 5\n[interventions.d]\nmodel.dropout = 0.0\n"
    fight = "[interventions.e]\nmodel.dropout = 0.2\n"
    assert faults(head(design="'factorial'") + shared) == [
        "interventions.h.model: heads = 5 does not divide width = 768."
    ]
    assert len(faults(head(design="'factorial'") + fight + shared)) == 2


@given(st.sets(st.sampled_from(range(11)), min_size=1))
def test_each_fault_is_told_whatever_else_is_wrong(chosen: set[int]) -> None:
    """Of faults that do not hide each other, every subset is told in full."""
    pieces = [
        ("study", "seeds = 3", "study.seeds"),
        ("study", "sed = 1", "study.sed"),
        ("baseline.model", "dropout = 10", "baseline.model.dropout"),
        ("baseline.train", "batch_size = 4", "baseline.train.batch_size"),
        ("baseline.train.schedule", "warmup = 5", "baseline.train.schedule.warmup"),
        ("interventions.a.train", "lr = 1", "interventions.a.train.lr"),
        ("interventions.a.model", "heads = 2.5", "interventions.a.model.heads"),
        ("interventions.b", "dropout = 1", "interventions.b.dropout"),
        ("machines.m", "memory = '3'", "machines.m.memory"),
        ("policy", "attempts = 0", "policy.attempts"),
        ("arms", "x = 1", "arms"),
    ]
    tables: dict[str, list[str]] = {"study": ["name = 's'", "machines = ['cpu']"]}
    for index in sorted(chosen):
        table, entry, _ = pieces[index]
        tables.setdefault(table, []).append(entry)
    text = "".join(f"[{table}]\n" + "\n".join(entries) + "\n" for table, entries in tables.items())
    assert {line.split(":")[0] for line in faults(text)} == {pieces[index][2] for index in chosen}


def test_a_number_without_end_is_refused() -> None:
    with pytest.raises(BadStudy, match="not TOML"):
        Study.parse("a = " + "9" * 5000)


def test_the_mark_of_a_windows_editor_is_no_fault(tmp_path: Path) -> None:
    (tmp_path / "study.toml").write_text(f"\ufeff{HEAD}")
    assert Study.load(tmp_path / "study.toml").name == "s"


def test_brackets_without_end_are_refused() -> None:
    with pytest.raises(BadStudy, match="not TOML"):
        Study.parse("a = " + "[" * 100_000)


def test_a_missing_file_a_folder_and_garbage_are_told_apart(tmp_path: Path) -> None:
    (tmp_path / "garbage").write_bytes(random.Random(1).randbytes(10_000_000))
    (tmp_path / "binary").write_bytes(b"name = '\xff'")
    (tmp_path / "fine.toml").write_text(HEAD)
    for name, words in {
        "nowhere.toml": "No such file or directory. Name a study file",
        "": "is a folder, not a study file",
        "garbage": "is over 1,048,576 bytes, too large for a study",
        "binary": "is not text: byte 8 is not UTF-8",
    }.items():
        with pytest.raises(BadStudy, match=words) as caught:
            Study.load(tmp_path / name)
        assert str(tmp_path) in str(caught.value)
    assert Study.load(tmp_path / "fine.toml").name == "s"


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

CLIPPED = HEAD + "[baseline.train]\nclip_grad_norm = 1.0\n"


def test_a_patch_unsets_an_optional_field() -> None:
    text = CLIPPED + "[interventions.a]\ntrain.clip_grad_norm = 'none'\n[interventions.b]\nmodel.dropout = 0.0\n"
    study = Study.parse(text + "[stacks]\nab = ['a', 'b']\n")
    assert [arm.recipe.train.clip_grad_norm for arm in study.arms()] == [1.0, None, 1.0, None]
    assert Study.model_validate_json(canonical_json(study)) == study


def test_a_stack_does_not_both_set_and_unset_a_field() -> None:
    text = CLIPPED + "[interventions.a]\ntrain.clip_grad_norm = 'none'\n[interventions.b]\ntrain.clip_grad_norm = 2.0\n"
    assert faults(text + "[stacks]\nab = ['a', 'b']\n") == [
        "arm ab: 'a' sets train.clip_grad_norm = 'none' and 'b' sets it to 2.0; leave one out."
    ]


def test_nan_is_refused_as_nan_also_in_a_stack() -> None:
    text = CLIPPED + "[interventions.a]\ntrain.clip_grad_norm = nan\n[interventions.b]\ntrain.clip_grad_norm = nan\n"
    assert faults(head(design="'stack'") + text.removeprefix(HEAD) + "[stacks]\nab = ['a', 'b']\n") == [
        f"interventions.{name}.train.clip_grad_norm: must be a finite number, not nan." for name in "ab"
    ]


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
    for twins in (study.twinned(), Study.parse(text.replace("[study]", "[study]\ntwins = true"))):
        assert {arm.machines for arm in twins.arms()} == {("cpu-x1", "cpu-x2")}
        assert {run.id for run in study.runs()} < {run.id for run in twins.runs()}, "the same runs, and their twins"
        assert Study.model_validate_json(canonical_json(twins)).arms() == twins.arms()
    with pytest.raises(BadStudy, match="takes two machine classes or more, and the study names cpu only"):
        Study.parse(head(twins="true"))
    with pytest.raises(BadStudy, match="take two machine classes or more"):
        Study.parse(head()).twinned()


@pytest.mark.parametrize("margin", ["-0.005", "0.0", "nan", "inf", '"small"'])
def test_a_margin_that_is_no_size_is_refused_by_name(margin: str) -> None:
    with pytest.raises(BadStudy, match=r"study\.margin"):
        Study.parse(head(margin=margin))


@pytest.mark.parametrize("limit", ["-5.0", "0.0", "nan", "inf"])
def test_a_budget_that_is_no_sum_is_refused_by_name(limit: str) -> None:
    with pytest.raises(BadStudy, match=r"policy\.usd_limit"):
        Study.parse(head() + f"[policy]\nusd_limit = {limit}\n")
