"""How processes meet and wait: over NCCL without its sums in the switch, never on a CPU in a GPU's place."""

import os
import time
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from worlds import canonical, in_world, planned, tiny

from farm.errors import NoAccelerator
from model.group import check, in_turn, initialise, join

NOWHERE = Path("/nowhere")


def test_a_class_with_gpus_does_not_train_on_a_cpu() -> None:
    check(on_cuda=False)
    with pytest.raises(NoAccelerator, match=r"torch 2\.\d+\.\d+\S* sees no GPU on .*, but its machine class has GPUs"):
        initialise(on_cuda=True)
    assert not dist.is_initialized()


def algorithms() -> str:
    return os.environ["NCCL_ALGO"]


def test_sums_through_nvlinks_switches_are_ruled_out_before_nccl_starts() -> None:
    assert in_world(2, algorithms) == ["^NVLS"] * 2


def waited(seconds: float) -> float:
    """How long it took until all ranks had fetched; rank 0 takes `seconds`."""
    began = time.monotonic()
    group = join(planned(tiny(NOWHERE), 2))
    in_turn(lambda: time.sleep(seconds if group.leads else 0.0), group)
    return time.monotonic() - began


def test_ranks_wait_for_the_first_to_fetch() -> None:
    assert min(in_world(2, waited, 0.5)) >= 0.5


def autocast_during_warm_up() -> list[bool]:
    """Whether 16 bits are on whenever the model runs, from the making of its reducer on."""
    from model import reduce
    from model.init import initialise

    run = tiny(NOWHERE, train={"precision": "bf16"})
    plan = planned(run, 2)
    gpt, seen = initialise(run.recipe.model, 1), []
    gpt.register_forward_pre_hook(lambda *_: seen.append(torch.is_autocast_enabled("cpu")))
    reduce.reducer(run.recipe, plan, join(plan), gpt)
    return seen


def test_ddp_is_warmed_up_at_the_precision_of_training() -> None:
    assert in_world(2, autocast_during_warm_up) == [[True]] * 2


def lists_swapped() -> list[int]:
    """How many tensors travel in each list of one canonical exchange."""
    from model import reduce

    reduce.PIECE, sizes, swap = 100, [], dist.batch_isend_irecv
    dist.batch_isend_irecv = lambda swaps: sizes.append(len(swaps)) or swap(swaps)
    tensors = [torch.arange(number, dtype=torch.float32) for number in (250, 30, 400)]
    run = canonical(NOWHERE)
    reduce._exchange(tensors, join(planned(run, 4)))
    assert all(torch.equal(tensor, 4 * torch.arange(len(tensor))) for tensor in tensors)
    return sizes


def test_a_canonical_exchange_sends_one_list_a_level() -> None:
    """Two levels on four ranks, there and back. NCCL makes one launch of a list."""
    assert in_world(4, lists_swapped) == [[16] * 4] * 4
