"""What an accelerator reaches at its best, and the share of it that a training reached."""

import pytest
import torch

from farm.record.result import Peaks, utilisation
from farm.study.machine import BUILT_IN
from farm.study.planner import plan
from farm.study.recipe import Recipe
from model.peaks import measure, measured

CPU = torch.device("cpu")


def test_peaks_are_measured_and_on_a_cpu_none_are_told() -> None:
    found = measure(CPU, torch.float32, 128, 2**20)
    assert 1e5 < found.flops_per_second < 1e13, "wide, for a machine that is busy"
    assert 1e5 < found.bytes_per_second < 1e13
    assert measured("fp32", CPU) is None


def test_a_share_is_of_all_accelerators_together() -> None:
    machine, peaks = BUILT_IN["8xa100m40"], Peaks(flops_per_second=280e12, bytes_per_second=1.4e12)
    found = utilisation(peaks, Recipe(), plan(Recipe(), machine), 8 * 150_000)
    assert found.flops == pytest.approx(150_000 * 855e6 / 280e12, rel=1e-3)
    kilobytes = 737 + 603 + 121 + 371  # activations there and back, logits, weights, AdamW
    assert found.bandwidth == pytest.approx(150_000 * kilobytes * 1e3 / 1.4e12, rel=0.01)
    alone = utilisation(peaks, Recipe(), plan(Recipe(), BUILT_IN["1xrtx3090"]), 150_000)
    assert alone.flops == found.flops
    assert alone.bandwidth < found.bandwidth, "larger microbatches read the weights less often"
