"""One error for running out of memory, which allocators report in many ways."""

from collections.abc import Iterator
from contextlib import contextmanager

from farm.errors import OutOfMemory, first_line
from farm.study.planner import Plan

SAID = ("out of memory", "DefaultCPUAllocator", "not enough memory", "bad_alloc", "ALLOC_FAILED", "Cannot allocate")


def is_out_of_memory(error: BaseException) -> bool:
    return isinstance(error, MemoryError) or any(words in str(error) for words in SAID)


@contextmanager
def explain(plan: Plan) -> Iterator[None]:
    """Raises: OutOfMemory: where what is under it ran out of memory, on an accelerator or in the process."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:  # torch.OutOfMemoryError is a RuntimeError
        if not is_out_of_memory(error):
            raise
        raise OutOfMemory(
            f"microbatch {plan.microbatch} ran out of memory on {plan.machine}: {first_line(error)[:300]}",
            remedy="A GPU class that leaves the microbatch to farm gets a smaller one; else set a smaller one.",
        ) from error
