"""What becomes of a probe: known to all, tied to nobody's node, and never the end of a run."""

import pytest

from farm.queue.queue import Queue
from farm.study.machine import BUILT_IN, Machine
from farm.study.planner import plan
from farm.study.recipe import Recipe
from workers.attempt.probing import key, lower, probe_microbatch

GPU = Machine(name="1xtest", accelerator="Test", memory=2**34, usd_per_hour=1.0)
RECIPE = Recipe()


def never() -> bool:
    raise AssertionError("nothing is to be tried")


@pytest.mark.parametrize(
    ("machine", "changes"),
    [
        (BUILT_IN["cpu"], {}),
        (GPU.model_copy(update={"microbatch": 4}), {}),
        (GPU.model_copy(update={"probes": {key(RECIPE): 6}}), {}),
        (GPU, {"reduction": "canonical", "canonical_microbatch": 2}),
        (GPU.model_copy(update={"memory": 2**37}), {}),  # holds the whole batch
    ],
)
def test_what_needs_no_probe_is_not_probed(
    queue: Queue, machine: Machine, changes: dict, capsys: pytest.CaptureFixture[str]
) -> None:
    assert probe_microbatch(queue, machine, RECIPE.with_patch({"train": changes}), never) is machine
    assert capsys.readouterr().out == "", "it did not fail either"


def test_a_probe_that_cannot_be_made_leaves_the_machine_as_it_is(
    queue: Queue, capsys: pytest.CaptureFixture[str]
) -> None:
    many = GPU.model_copy(update={"accelerators": 512})
    assert probe_microbatch(queue, many, RECIPE, lambda: False) is many
    assert "was not measured: class 1xtest takes 512 of the" in capsys.readouterr().out
    assert queue.roster.machines() == {}


def test_a_microbatch_that_ran_out_of_memory_is_not_planned_again(queue: Queue) -> None:
    fp32 = RECIPE.with_patch({"train": {"precision": "fp32"}})
    lower(queue, GPU.model_copy(update={"probes": {key(RECIPE): 12, key(fp32): 5}}), RECIPE, 12)
    assert queue.roster.machines()["1xtest"].probes[key(RECIPE)] == 11
    assert plan(RECIPE, GPU.model_copy(update={"probes": queue.roster.machines()["1xtest"].probes})).microbatch == 8
    lower(queue, GPU, RECIPE, 1)
    lower(queue, GPU.model_copy(update={"microbatch": 4}), RECIPE, 4)
    assert queue.roster.machines()["1xtest"].probes[key(RECIPE)] == 11, "one sequence, or what a person declared, stays"
