"""`farm noise`: rungs, the effect of the hardware, and what is said where there is nothing."""

import json

from .conftest import Farm


def test_noise_is_that_of_the_finished_runs(farm: Farm) -> None:
    farm.put()
    farm.finish_all()
    told = json.loads(farm("noise", "tiny", "--json").out)
    assert told["schema"] == "farm.noise/1"
    rungs = {row["rung"]: row for row in told["data"]}
    assert list(rungs) == ["rerun", "hardware", "train seed", "init seed", "both seeds"]
    (sd,) = {row["test_loss_sd"] for row in json.loads(farm("table", "tiny", "--json").out)["data"]}
    assert rungs["init seed"]["ci_low"] < rungs["init seed"]["sd"] < rungs["init seed"]["ci_high"]
    assert abs(rungs["init seed"]["sd"] - sd) < 1e-9, "every arm has the same SD over seeds here"
    assert (rungs["rerun"]["sd"], rungs["rerun"]["why"][:7]) == (None, "no data")


def test_without_results_it_says_so(farm: Farm) -> None:
    assert farm("noise").code == 3
    farm.put()
    answer = farm("noise", "tiny")
    assert (answer.code, answer.rows) == (0, [])
    assert "no run has finished yet" in answer.err
