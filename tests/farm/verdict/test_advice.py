"""What a plan and a submit warn of."""

import pytest

from farm.study.machine import BUILT_IN, Machine
from farm.study.study import Study
from farm.verdict.advice import advice


def study(machines: str = '["cpu-x1"]', precision: str = "bf16") -> Study:
    return Study.parse(
        f'[study]\nname = "half"\nmachines = {machines}\n[baseline.train]\nprecision = "fp32"\n'
        f'[interventions.half]\ntrain.precision = "{precision}"\n'
    )


def known(has: str | None) -> dict[str, Machine]:
    return BUILT_IN | {"cpu-x1": BUILT_IN["cpu-x1"].model_copy(update={"instruction_set": has})}


@pytest.mark.parametrize("has", ["x86-64", "AVX2", "AVX-512", "ARM"])
def test_bf16_on_a_processor_without_it_is_warned_of_with_what_was_measured(has):
    (said,) = advice(study(), known(has))
    assert said.startswith(f"cpu-x1 only emulates bf16 (its processor has {has}, ")
    assert "trains half far slower than in fp32" in said
    assert "times as long" in said


@pytest.mark.parametrize("has", ["AVX512-BF16", "AMX", "ARM-BF16", None])
def test_nothing_is_said_where_bf16_is_native_or_nothing_is_known(has):
    assert list(advice(study(), known(has))) == []


def test_nothing_is_said_of_other_precisions_and_other_machines():
    assert list(advice(study(precision="tf32"), known("AVX2"))) == []
    assert list(advice(study('["8xa100m40"]'), known("AVX2"))) == []


def test_a_mixed_group_is_as_slow_as_its_part():
    (said,) = advice(study('["cpu-x1+cpu"]'), known("AVX2"))
    assert said.startswith("cpu-x1+cpu only emulates bf16")


def test_a_class_that_a_study_declares_has_the_instructions_that_its_nodes_found():
    declared = '[study]\nname = "half"\nmachines = ["cpu-x1"]\n[machines.cpu-x1]\nthreads = 1\n'
    asked = Study.parse(f'{declared}[baseline.train]\nprecision = "bf16"\n')
    assert len(list(advice(asked, known("AVX2")))) == 1
