"""Conditions for training and scoring a model: kernels, precision, determinism, the allocator. The same for both."""

import ctypes
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
import torch.distributed as dist

from farm.record.result import Computed
from farm.study import compiler
from farm.study.processor import instruction_set
from farm.study.recipe import Compile, Kernels, Recipe
from model import flex, kernels
from model.gpt import GPT
from model.group import Group
from model.precision import matmuls

# By default the backward pass of LayerNorm is one kernel with the sums over rows. With dropout in it, it took 26 of the
# 227 ms of the baseline's step; without dropout it makes a step 1 % faster (microbatch 96, H200, torch 2.11).
WITH_DROPOUT = {"triton.mix_order_reduction": False}
NAMES: dict[Computed, str] = {
    "farm": "farm's kernels",
    "gelu": "torch's kernels with farm's GELU",
    "torch": "torch's kernels",
}
M_TRIM_THRESHOLD, M_MMAP_MAX, M_ARENA_MAX = -1, -4, -8  # malloc.h


@contextmanager
def conditions(recipe: Recipe, device: torch.device, by: Computed) -> Iterator[None]:
    """Kernels, precision of matrix products, random state: as training needs them, then as they were."""
    if device.type == "cpu":
        _keep_freed_memory()
    on_cuda = device.type == "cuda"
    with (
        torch.random.fork_rng([device] if on_cuda else []),
        matmuls(recipe.train.precision),
        kernels.use(by),
        _deterministic() if on_cuda else nullcontext(),
    ):
        yield


@contextmanager
def _deterministic() -> Iterator[None]:
    """CUDA kernels that give the same bits every time. Those of the CPU always do, for one number of threads."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # without it, cuBLAS refuses
    mode: Any = torch.utils.deterministic
    enabled, fill = torch.are_deterministic_algorithms_enabled(), mode.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True)
    mode.fill_uninitialized_memory = False  # it would write NaN into every new tensor, to find what was never written
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(enabled)
        mode.fill_uninitialized_memory = fill


def _keep_freed_memory() -> None:
    """Have glibc's malloc keep large blocks that torch frees, for as long as this process lives.

    By default it returns them to the system, and touching new ones costs half of a bf16 step with GPT-2's vocabulary.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt:
        for setting, value in ((M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, 2**31 - 1), (M_ARENA_MAX, 1)):
            mallopt(setting, value)


def agree(asked: Kernels, group: Group) -> Computed:
    """The kernels that every rank computes by: others than torch's only where each rank by itself would choose them."""
    on_cpu = group.device.type == "cpu"
    mine = kernels.resolve(asked, instruction_set()) if on_cpu else kernels.resolve_on_cuda(asked)
    chosen: tuple[Computed, ...] = ("farm", "gelu")
    return next((kind for kind in chosen if _all(mine == kind, group)), "torch")


def compiles(asked: Compile, group: Group) -> bool:
    """Whether torch.compile is used, on every rank alike: for `auto`, on GPUs where each rank by itself could."""
    if asked != "auto":
        return asked
    return group.device.type == "cuda" and _all(kernels.can_compile_for_cuda(), group)


def _all(mine: bool, group: Group) -> bool:
    """Whether it is so on every rank."""
    are_all = torch.tensor(mine, dtype=torch.int32, device=group.device)
    if group.world > 1:
        dist.all_reduce(are_all, op=dist.ReduceOp.MIN)
    return bool(are_all)


def other_kernels(used: Sequence[Computed], asked: Kernels, step: int, device: torch.device) -> str:
    """The remark on a run that goes on from `step` with other kernels than before."""
    before, now = used[-2:]
    on_cpu = device.type == "cpu"
    has = (instruction_set() or "unknown instructions") if on_cpu else torch.cuda.get_device_name(device)
    return f"{NAMES[now]} compute from step {step} on, {NAMES[before]} until then: kernels = {asked!r} with {has}."


def other_compilation(now: bool, step: int) -> str:
    """The remark on a run that goes on from `step` with torch.compile and had none before, or the other way round."""
    before, after = ("without", "with") if now else ("with", "without")
    return f"blocks compute {after} torch.compile from step {step} on, {before} it until then: compile = 'auto'."


def compile_blocks(gpt: GPT, device: torch.device) -> None:
    """Have torch compile the network, for the kernels in use. Raises: NoCompiler"""
    on_cuda = device.type == "cuda"
    compiler.find_compiler(compiler.ON_CUDA if on_cuda else compiler.ON_CPU)
    options = inductor_options(gpt) if on_cuda else {}
    past = flex.past(gpt.shape, device) if on_cuda and kernels.in_use(device) == "farm" else None
    block: Any
    for block in gpt.blocks:  # all alike, so that one compilation serves every layer
        block.attention.past = past
        block.compile(options=options or None)


def inductor_options(gpt: GPT) -> dict[str, Any]:
    """How torch compiles the blocks for a GPU where its own choice is slower."""
    from torch._inductor import list_options  # seconds of imports, which only those who compile should wait for

    options = WITH_DROPOUT if gpt.dropout.p else {}
    return {name: value for name, value in options.items() if name in list_options()}  # torch adds and drops some
