"""What gauges tell of a step. tests/walk/test_monitoring.py scrapes them with a real Prometheus."""

import pytest

from farm.queue.values import Point
from farm.record.result import Peaks
from farm.study.machine import BUILT_IN
from farm.study.planner import plan
from farm.study.recipe import Recipe
from workers.attempt.gauges import STEP, values

POINT = Point(step=3, loss=9.4, lr=1e-3, tokens_per_second=1_200_000)


def test_on_gpus_the_share_of_the_measured_peak_is_told_and_on_a_cpu_none() -> None:
    split = plan(Recipe(), BUILT_IN["8xa100m40"])
    peaks = Peaks(flops_per_second=280e12, bytes_per_second=1.4e12)
    told = values(POINT, Recipe(), split, peaks)
    assert told["flops_share"] == pytest.approx(0.458, abs=1e-3)
    assert told["bandwidth_share"] == pytest.approx(0.196, abs=1e-3)
    unknown = values(POINT, Recipe(), split, None)
    assert (unknown["flops_share"], unknown["bandwidth_share"], unknown["loss"]) == (None, None, 9.4)
    assert {*told, "validation_loss"} == set(STEP)
