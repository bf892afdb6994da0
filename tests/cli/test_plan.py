"""`farm plan`: what a study would take, with and without Redis."""

import json
from pathlib import Path

import pytest
from results import result, study_text, tiny_study

from farm.forecast import forecast
from farm.machine import BUILT_IN
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


def test_a_plan_and_a_submit_warn_of_bf16_where_a_node_only_emulates_it(farm: Farm) -> None:
    file = farm.file()
    Path(file).write_text(study_text().replace('precision = "fp32"', 'precision = "bf16"'))
    assert "emulates" not in farm("plan", file).err, "nothing is known of a class that no node has described"
    farm.queue.register(BUILT_IN["cpu"].model_copy(update={"instruction_set": "AVX2"}), "node-1", 60)
    for command in ("plan", "submit"):
        said = farm(command, file).err
        assert "warning: cpu only emulates bf16 (its processor has AVX2" in said
        assert "times as long on an AMD Zen 3" in said
