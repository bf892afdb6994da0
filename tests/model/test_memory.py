"""Whatever an allocator says, running out of memory has one name."""

from pathlib import Path

import pytest
import torch
from worlds import attempt, corpus, planned, tiny

from farm.errors import OutOfMemory
from model import memory
from model.train import Trainer


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nmore"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: can't allocate memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    ],
)
def test_training_that_runs_out_of_memory_says_so(error, tmp_path, monkeypatch):
    def compute(*_: object) -> None:
        raise error

    monkeypatch.setattr(Trainer, "compute", compute)
    run = tiny(corpus(tmp_path))
    with pytest.raises(OutOfMemory, match=r"^microbatch \d+ ran out of memory on ") as caught:
        attempt(run, planned(run, 1), tmp_path / "run")
    assert (caught.value.cause, caught.value.retryable) == ("out-of-memory", True)


def test_another_error_stays_what_it_is():
    with pytest.raises(RuntimeError, match="shapes"), memory.explain(planned(tiny(Path("/nowhere")), 1)):
        raise RuntimeError("shapes do not match")
