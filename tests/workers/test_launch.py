"""Why training ended, from what Ray tells of its workers."""

import traceback

import pytest
import torch
from ray.train.v2._internal.exceptions import UserExceptionWithTraceback
from ray.train.v2.api.exceptions import WorkerGroupError
from torch._inductor import config

from farm.errors import NoCompiler
from workers.launch import _cause


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
