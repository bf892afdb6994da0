"""`farm plan`: what a study would take, with and without Redis."""

import json

import pytest
from results import result, study_text, tiny_study

from farm.forecast import forecast
from farm.machine import BUILT_IN, Machine
from farm.stats import detectable_effect
from farm.study import parse

from .conftest import Farm


def test_a_plan_says_runs_split_and_what_can_be_resolved(farm: Farm) -> None:
    answer = farm("plan", farm.file(machines=("cpu", "cpu-x2")), "--json")
    told = json.loads(answer.out)
    assert told["schema"] == "farm.plan/1"
    assert told["total"] == {"runs": 18, "hours": None, "usd": None}
    by_key = {(row["arm"], row["machine"]): row for row in told["data"]}
    pair = by_key["remove-dropout", "cpu-x2"]
    assert (pair["world"], pair["world"] * pair["microbatch"] * pair["accumulation"]) == (2, 8)
    assert pair["resolves_sd"] == pytest.approx(detectable_effect(3, 3))
    assert pair["resolves_nats"] is None
    assert by_key["baseline", "cpu"]["resolves_sd"] is None


def test_what_is_unknown_is_a_dash_with_its_reason(farm: Farm) -> None:
    answer = farm("plan", farm.file(init=(42,)))
    assert "9 runs" not in answer.err
    assert "3 runs, hours unknown, $ unknown" in answer.err
    assert "hours of cpu: unknown until a run finished there" in answer.err
    assert "add seeds" in answer.err


def test_measured_speed_and_noise_replace_what_was_unknown(farm: Farm) -> None:
    farm.put()
    farm.finish_all()
    rows = json.loads(farm("plan", farm.file(), "--json").out)["data"]
    assert {row["basis"] for row in rows} == {"measured"}
    assert rows[0]["hours"] == pytest.approx(3 * 2560 / 1000 / 3600)
    losses = [3.69 + seed / 1000 for seed in (42, 22, 67)]
    spread = (sum((x - sum(losses) / 3) ** 2 for x in losses) / 2) ** 0.5
    assert rows[1]["resolves_nats"] == pytest.approx(detectable_effect(3, 3) * spread)


def test_plan_works_without_redis_and_says_so(farm: Farm) -> None:
    farm.environment["FARM_REDIS_URL"] = "redis://127.0.0.1:1/0"
    answer = farm("plan", farm.file())
    assert answer.code == 0
    assert len(answer.rows) == 3
    assert "planning without what nodes registered" in answer.err


def test_hours_and_dollars_come_from_a_declaration_when_nothing_was_measured() -> None:
    found = forecast(parse('[study]\nname = "published"\nmachines = ["8xa100m40"]'), BUILT_IN)
    assert found.hours == pytest.approx(3.18, abs=0.01), "the published battery's own wall clock"
    assert found.usd == pytest.approx(37.65, abs=0.1)
    assert found.estimates[0].basis == "declared"


def test_another_recipe_s_speed_is_scaled_by_the_weights_it_multiplies() -> None:
    study = tiny_study(init=(42,))
    deeper = study_text(init=(42,)).replace("layers = 1", "layers = 2")
    other = parse(deeper).runs()[0]
    found = forecast(study, BUILT_IN, [result(other, 3.0)])
    ratio = other.recipe.model.multiplied / study.runs()[0].recipe.model.multiplied
    assert found.estimates[0].basis == "scaled"
    assert found.estimates[0].hours == pytest.approx(2560 / (1000 * ratio) / 3600)


def test_repetitions_cost_hours_but_resolve_nothing_more() -> None:
    once = tiny_study()
    head = once.study.model_copy(update={"reruns": 1})
    twice = once.model_copy(update={"study": head})
    results = [result(once.runs()[0], 3.0)]
    first, second = forecast(once, BUILT_IN, results), forecast(twice, BUILT_IN, results)
    assert second.runs == 2 * first.runs
    assert second.hours == pytest.approx(2 * (first.hours or 0))
    assert second.estimates[1].resolves_sd == first.estimates[1].resolves_sd


def test_a_dash_is_standard_input(farm: Farm) -> None:
    (farm.folder / "-").write_text("not a study")
    assert farm("plan", "-", "--json", reads=study_text()).out == farm("plan", farm.file(), "--json").out
    assert len(farm("submit", "-", reads=study_text()).rows) == 9
    assert farm.queue.studies().keys() == {"tiny"}


@pytest.mark.parametrize(
    ("reads", "words"),
    [
        ("", "standard input: study: is missing"),
        ("[study", "standard input: not TOML"),
        ("x" * 2**21, "standard input is over"),
    ],
)
def test_what_is_wrong_with_standard_input_is_told_of_it(farm: Farm, reads: str, words: str) -> None:
    for command in ("plan", "submit"):
        answer = farm(command, "-", reads=reads)
        assert (answer.code, words in answer.err) == (2, True)


def test_faults_are_lines_and_those_of_machines_are_among_them(farm: Farm) -> None:
    farm.queue.register(Machine(name="home", accelerator="cpu"), "node-1", 60)
    text = study_text(machines=("cpu", "home", "cup")).replace('"fp32"', '"fp16"').replace("train = [23]", "train = 23")
    for words in (["plan", "-"], ["submit", "-"], ["plan", "-", "--json"]):
        answer = farm(*words, reads=text.replace("dropout = 0.0", "dropout = 10"))
        first, *more = answer.err.splitlines()
        assert (answer.code, answer.out) == (2, "")
        assert first.startswith("error: standard input: study.seeds: must be { init")
        assert [line.split(": ", 3)[2] for line in more] == [
            "interventions.remove-dropout.model.dropout",
            "arm baseline",
            "arm baseline",
            "machines",
        ]
        assert "train.precision = 'fp16', but machine 'cpu' is a CPU" in more[1]
        assert 'Write train.precision = "fp32"' in more[1]
        assert "machine 'home' is a CPU" in more[2], "a class that a node registered"
        assert "unknown machine class 'cup'; did you mean 'cpu'?" in more[3]


def test_an_arm_on_a_machine_that_cannot_train_it_does_not_hide_the_next(farm: Farm) -> None:
    text = study_text(machines=("cpu", "cpu-x2")).replace('"fp32"', '"tf32"').replace("batch = 8", "batch = 9")
    answer = farm("submit", "-", reads=text)
    assert answer.code == 2
    assert [line.split("'")[3] for line in answer.err.splitlines()] == ["cpu", "cpu-x2"]
    assert not farm.queue.studies()
