"""How fast a class is expected to be: other precisions by a ratio that is named, and what differs is said."""

import pytest
from results import result, tiny_study

from farm.record.result import Result
from farm.study.machine import BUILT_IN, Machine
from farm.study.recipe import Precision, Recipe
from farm.study.run import Run
from farm.study.speed import Speed, by_peaks, from_precision
from farm.verdict.forecast import speed_of

H100 = Machine(name="8xh100m80", accelerator="H100-SXM5-80GB", accelerators=8, memory=2**36, tokens_per_second=900_000)


def at(precision: Precision, **tables: dict) -> Recipe:
    """The tiny recipe at a precision, with changes."""
    base = tiny_study().runs()[0].recipe.with_patch({"train": {"precision": precision}})
    return base.with_patch(tables)


def seen(recipe: Recipe, tokens_per_second: float, machine: str = "8xa100m40") -> Result:
    run: Run = tiny_study(machines=(machine,)).runs()[0].model_copy(update={"recipe": recipe})
    return result(run, 3.0, tokens_per_second=tokens_per_second)


def expected(recipe: Recipe, results: list[Result], machine: Machine = BUILT_IN["8xa100m40"]) -> Speed:
    found = speed_of(recipe, machine, results)
    assert found is not None
    return found


def test_a_precision_s_own_runs_come_before_a_ratio() -> None:
    wider = at("fp32", train={"batch": 16})
    speed = expected(at("fp32"), [seen(at("fp16"), 1000.0), seen(wider, 100.0)])
    assert speed == Speed(100.0, "scaled", "scaled from runs with other settings: batch")


def test_another_precision_s_runs_count_by_the_ratio_and_the_plan_says_whose_that_is() -> None:
    speed = expected(at("fp32"), [seen(at("fp16"), 1000.0)])
    assert speed.tokens_per_second == pytest.approx(1000.0 / 2.4)
    assert (speed.basis, speed.note) == (
        "scaled",
        "fp32 takes 2.4 times as long as fp16, as in the published battery on A100s",
    )
    back = expected(at("fp16"), [seen(at("fp32"), 100.0)])
    assert back.tokens_per_second == pytest.approx(240.0)


def test_where_no_ratio_is_known_it_is_assumed_and_said_and_promises_no_more_than_was_seen() -> None:
    other = H100.model_copy(update={"accelerator": "GPU of tomorrow"})
    slow = from_precision("fp16", at("tf32"), other, Speed(1000.0, "measured"))
    assert (slow.tokens_per_second, slow.basis) == (pytest.approx(1000.0 / 1.3), "assumed")
    assert "the ratio for this hardware is unknown" in (slow.note or "")
    for machine in (other, H100):
        fast = from_precision("fp32", at("fp16"), machine, Speed(1000.0, "measured"))
        assert (fast.tokens_per_second, fast.basis) == (1000.0, "assumed")


BASELINE_FP32 = Recipe().with_patch({"train": {"precision": "fp32"}})


@pytest.mark.parametrize(
    ("accelerator", "tokens_per_second", "times"),
    [
        ("A100-SXM4-40GB", 284_800 / 8, 2.46),  # 2.4 was seen
        ("NVIDIA GeForce RTX 3090", 19_921, 1.24),  # 1.58 was seen: what it leaves out is the traffic
        ("NVIDIA H100 80GB HBM3", 112_500, 2.34),
        ("NVIDIA A10", 20_000, 1.41),
        ("NVIDIA L40S", 50_000, 1.35),
    ],
)
def test_the_peaks_of_the_datasheets_tell_what_fp32_costs(
    accelerator: str, tokens_per_second: float, times: float
) -> None:
    machine = H100.model_copy(update={"accelerator": accelerator, "accelerators": 1})
    assert by_peaks("fp16", BASELINE_FP32, machine, tokens_per_second) == pytest.approx(times, abs=0.01)
    told = from_precision("fp16", BASELINE_FP32, machine, Speed(tokens_per_second, "declared"))
    assert told.tokens_per_second < tokens_per_second / 1.2, "an fp32 arm is never planned at fp16's speed"
    assert told.note


def test_a_gpu_or_variant_that_no_datasheet_here_names_has_no_peaks() -> None:
    variants = ("NVIDIA H100 PCIe", "NVIDIA H100 NVL", "NVIDIA GeForce RTX 3090 Ti", "NVIDIA GeForce RTX 4090 D")
    for accelerator in ("A1000", "L4000", "A100 + H100", "cpu", *variants):
        machine = H100.model_copy(update={"accelerator": accelerator})
        assert by_peaks("fp16", BASELINE_FP32, machine, 1e5) is None


def test_a_cpu_s_bf16_is_assumed_to_be_emulated() -> None:
    cpu = BUILT_IN["cpu"]
    speed = expected(at("bf16"), [seen(at("fp32"), 1300.0, "cpu")], cpu)
    assert (speed.tokens_per_second, speed.basis) == (pytest.approx(100.0), "assumed")
    assert "only emulates it" in (speed.note or "")
    assert expected(at("fp32"), [seen(at("bf16"), 100.0, "cpu")], cpu).tokens_per_second == 100.0


def test_a_declared_speed_is_of_the_baseline_in_fp16_on_gpus_and_fp32_on_cpus() -> None:
    assert expected(Recipe(), [], H100) == Speed(900_000, "declared")
    full = expected(Recipe().with_patch({"train": {"precision": "fp32"}}), [], H100)
    assert (full.tokens_per_second, full.basis) == (pytest.approx(900_000 / 2.337, rel=1e-3), "assumed"), "by its peaks"
    cpu = Machine(name="cpu", tokens_per_second=500)
    assert expected(Recipe().with_patch({"train": {"precision": "fp32"}}), [], cpu) == Speed(500, "declared")


def test_runs_that_are_most_alike_speak_for_the_speed() -> None:
    """Dropout costs a CPU a quarter of its speed: a run without it says little of one with it."""
    without = at("fp32", model={"dropout": 0.0})
    other = at("fp32", model={"dropout": 0.2}, train={"learning_rate": 1e-3})
    results = [seen(without, 1300.0, "cpu"), seen(other, 1000.0, "cpu")]
    assert expected(at("fp32"), results, BUILT_IN["cpu"]) == Speed(1000.0, "scaled")
    alone = expected(at("fp32"), results[:1], BUILT_IN["cpu"])
    assert (alone.basis, alone.note) == ("scaled", "scaled from runs with other settings: dropout")


def test_attention_s_share_grows_with_the_context() -> None:
    """At 8 times the context a token of the baseline takes nearly twice the arithmetic with no more weights."""
    baseline, long = Recipe(), Recipe().with_patch({"model": {"context": 8192}})
    assert long.model.multiplied == baseline.model.multiplied
    assert long.model.flops_per_token / baseline.model.flops_per_token == pytest.approx(1.93, abs=0.01)
    assert baseline.model.flops_per_token == pytest.approx(855e6, rel=0.001)
    speed = expected(long, [], BUILT_IN["8xa100m40"])
    assert speed.tokens_per_second == pytest.approx(284_800 / 1.93, rel=0.01)
