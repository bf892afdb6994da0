"""`farm effects`: rows, and what is said where there are none."""

import json

from results import study_text

from farm.study.study import Study

from .conftest import Farm


def test_effects_are_those_of_the_finished_runs(farm: Farm) -> None:
    farm.put()
    farm.finish_all()
    told = json.loads(farm("effects", "tiny", "--json").out)
    (method,) = told["methods"]
    assert (told["schema"], method["method"]) == ("farm.effects/1", "least-squares")
    table = {row["arm"]: row["delta"] for row in json.loads(farm("table", "tiny", "--json").out)["data"]}
    for row in told["data"]:
        assert abs(row["size"] - table[row["effect"]]) < 1e-12
        assert row["ci_low"] < row["size"] < row["ci_high"]
    assert {row["effect"] for row in told["data"]} == {"remove-dropout", "gradient-clipping"}
    assert "noise of one run" in farm("effects", "tiny").err


def test_without_results_it_says_what_it_takes(farm: Farm) -> None:
    assert farm("effects").code == 3
    farm.put()
    answer = farm("effects", "tiny")
    assert (answer.code, answer.rows) == (0, [])
    assert "no effect yet" in answer.err


def test_a_study_that_is_no_factorial_says_which_arms_are_missing(farm: Farm) -> None:
    farm.put()
    farm.finish_all()
    said = farm("effects", "tiny").err
    assert 'no factorial, since design = "one-at-a-time", 1 arm missing: remove-dropout.gradient-clipping' in said
    (method,) = json.loads(farm("effects", "tiny", "--json").out)["methods"]
    assert method["missing"] == ["remove-dropout.gradient-clipping"]


def test_a_factorial_says_which_of_its_arms_have_no_result(farm: Farm) -> None:
    text = study_text(init=(42,)).replace("[study]", '[study]\ndesign = "factorial"')
    farm.queue.put(Study.parse(text))
    while farm.queue.listing.backlog().get("cpu"):
        claim = farm.claim()
        if claim.run.arm == "gradient-clipping":
            farm.fail(claim)
        else:
            farm.finish(claim, 3.6)
    assert "cpu: 1 arm missing: gradient-clipping; without that" in farm("effects", "tiny").err
