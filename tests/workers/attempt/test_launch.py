"""Why training ended, from what Ray tells of its workers."""

import traceback

import pytest
import torch
from ray.exceptions import ActorDiedError, ActorUnavailableError, NodeDiedError, RaySystemError
from ray.train.v2._internal.exceptions import UserExceptionWithTraceback
from ray.train.v2.api.exceptions import ControllerError, WorkerGroupError
from torch._inductor import config

from farm.errors import NoCompiler
from workers.attempt.launch import _cause


def _preempted() -> ActorDiedError:
    died = ActorDiedError()
    died._preempted = True
    return died


def test_the_cause_of_a_compiler_that_fails_is_its_error_and_not_torchs_hint() -> None:
    with config.patch({"cpp.cxx": (None, "/nowhere/g++")}), pytest.raises(RuntimeError) as caught:
        torch.compile(lambda x: x.sin() + 1)(torch.ones(8))
    said = "".join(traceback.format_exception(caught.value))
    assert "Set TORCHDYNAMO_VERBOSE=1" in said.splitlines()[-2] + said.splitlines()[-1], "as Ray passes it on"
    failed = UserExceptionWithTraceback(caught.value, said)
    cause = str(_cause(WorkerGroupError(said, {1: failed})))
    assert cause.startswith("A training process ended: torch._inductor.exc.InductorError: InvalidCxxCompiler: No work")
    assert cause.endswith("(None, '/nowhere/g++') The log has its traceback.")


def test_an_error_of_farms_stays_itself() -> None:
    missing = NoCompiler("none here")
    assert _cause(WorkerGroupError("", {0: missing})) is missing


@pytest.mark.parametrize(
    "error",
    [
        ControllerError(RuntimeError("no controller")),
        RaySystemError(OSError("the raylet is gone")),
        WorkerGroupError("", {0: NodeDiedError("a node died"), 1: ActorUnavailableError("no answer", None)}),
        WorkerGroupError("", {0: _preempted()}),
    ],
)
def test_what_ray_loses_with_a_node_is_no_crash_of_the_training(error: Exception) -> None:
    assert _cause(error).cause == "machine-died"


def test_a_worker_that_was_killed_on_a_node_that_lives_has_crashed() -> None:
    """Out of memory, for one; that its peers lost their node as well would not explain it."""
    assert _cause(WorkerGroupError("", {0: ActorDiedError(), 1: NodeDiedError("a node died")})).cause == "worker-died"
