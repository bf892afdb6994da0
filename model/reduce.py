"""Gradients over microbatches and ranks. Two ways, one interface: `turn` around each microbatch, then `finish`.

Fast is torch's DistributedDataParallel: gradients accumulate on each rank, and one round of all-reduce, in buckets,
runs under the last backward pass. Canonical adds microbatches in one binary tree over all of them, so 1, 2, 4 or 8
workers give the same bits.

Both leave in `parameter.grad`, on every rank, the sum over all microbatches of the step.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import NamedTuple, Protocol

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import GradBucket
from torch.futures import Future
from torch.nn import Parameter
from torch.nn.parallel import DistributedDataParallel

from farm.errors import DoesNotFit
from farm.planner import Plan
from farm.recipe import Recipe
from model.gpt import GPT

BUCKET_MIB = 25.0  # DistributedDataParallel's default


class Group(NamedTuple):
    """This process among those that train the run."""

    rank: int
    world: int
    device: torch.device

    @property
    def leads(self) -> bool:
        return self.rank == 0


class Reducer(Protocol):
    forward: Callable[..., Tensor]  # the model: tokens and targets -> sum of losses

    def turn(self, turn: int) -> AbstractContextManager[None]:
        """Around forward and backward of this rank's microbatch number `turn`."""

    def finish(self) -> None:
        """Every parameter.grad shall hold the sum over microbatches and ranks."""


def join(plan: Plan) -> Group:
    """The group of this process: torch.distributed's if it was initialised, else this process alone."""
    rank, world = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    if world != plan.world:
        raise DoesNotFit(f"the plan is for {plan.world} workers, but the process group has {world}.")
    return Group(rank, world, _device())


def reducer(recipe: Recipe, plan: Plan, group: Group, gpt: GPT) -> Reducer:
    """The reducer that the recipe names."""
    if recipe.train.reduction == "canonical":
        return Canonical(gpt, group)
    return Fast(gpt, plan, group)


class Fast:
    """DistributedDataParallel, made to resume to the bit.

    DDP regroups its buckets once, after the first backward pass, by the order in which gradients became ready; with 4
    workers or more that changes the order of addition. A warm-up pass brings it there before the first step, in a run
    that begins and in one that resumes alike. no_sync is around forward and backward of all but the last microbatch:
    around the backward alone, DDP would have prepared to reduce all the same.
    """

    def __init__(self, gpt: GPT, plan: Plan, group: Group):
        self._last = plan.accumulation - 1
        self._ddp = None if group.world == 1 else _distributed(gpt)
        self.forward: Callable[..., Tensor] = self._ddp or gpt
        if self._ddp:
            blank_BT = torch.zeros(plan.microbatch, gpt.shape.context, dtype=torch.int64, device=group.device)
            self._ddp(blank_BT, blank_BT).backward()
            gpt.zero_grad(set_to_none=True)

    def turn(self, turn: int) -> AbstractContextManager[None]:
        return self._ddp.no_sync() if self._ddp and turn < self._last else nullcontext()

    def finish(self) -> None:
        """DDP has finished when backward returns."""


def _distributed(gpt: GPT) -> DistributedDataParallel:
    """`gpt` in DDP with the sum over ranks in place of DDP's mean: the loss is divided by all targets already."""
    ddp = DistributedDataParallel(
        gpt,
        bucket_cap_mb=BUCKET_MIB,
        gradient_as_bucket_view=True,
    )
    ddp.register_comm_hook(None, _summed)
    return ddp


def _summed(_: object, bucket: GradBucket) -> Future[Tensor]:
    work = dist.all_reduce(bucket.buffer(), async_op=True)
    assert work is not None
    return work.get_future().then(lambda done: done.value()[0])


class Canonical:
    """Microbatches 0, 1, 2, ... summed as ((0 + 1) + (2 + 3)) + ..., wherever each of them was computed.

    A rank holds a whole subtree, so it keeps one buffer a level, as a binary counter keeps digits. Ranks then exchange
    sums with the neighbour at distance 1, 2, 4, ...: x + y and y + x are the same bits.
    """

    def __init__(self, gpt: GPT, group: Group):
        self.forward: Callable[..., Tensor] = gpt
        self._parameters, self._group = list(gpt.parameters()), group
        self._subtrees: list[list[Tensor]] = []

    @contextmanager
    def turn(self, turn: int) -> Iterator[None]:
        yield
        subtree = _taken(self._parameters)
        while turn & 1:  # as many carries as `turn` ends in ones
            torch._foreach_add_(subtree, self._subtrees.pop())
            turn >>= 1
        self._subtrees.append(subtree)

    def finish(self) -> None:
        total = self._subtrees.pop()
        while self._subtrees:  # only a lone worker may have a number of microbatches that is no power of two
            torch._foreach_add_(total, self._subtrees.pop())
        if self._group.world > 1:
            total = _exchanged(total, self._group)
        for parameter, gradient in zip(self._parameters, total, strict=True):
            parameter.grad = gradient


def told(note: bytes, group: Group) -> bytes:
    """The note of rank 0, on every rank; all of one length."""
    if group.world == 1:
        return note
    tensor = torch.frombuffer(bytearray(note), dtype=torch.uint8).to(group.device)
    dist.broadcast(tensor, src=0)
    return bytes(tensor.cpu().numpy())


def _taken(parameters: Sequence[Parameter]) -> list[Tensor]:
    gradients = [p.grad for p in parameters]
    for parameter in parameters:
        parameter.grad = None
    return gradients  # type: ignore[return-value]


def _exchanged(tensors: list[Tensor], group: Group) -> list[Tensor]:
    """The sum over ranks by recursive doubling."""
    mine = torch.cat([tensor.flatten() for tensor in tensors])
    theirs = torch.empty_like(mine)
    distance = 1
    while distance < group.world:
        neighbour = group.rank ^ distance
        sending, receiving = dist.P2POp(dist.isend, mine, neighbour), dist.P2POp(dist.irecv, theirs, neighbour)
        for work in dist.batch_isend_irecv([sending, receiving]):
            work.wait()
        mine += theirs
        distance *= 2
    parts = mine.split([tensor.numel() for tensor in tensors])
    return [part.view_as(tensor) for part, tensor in zip(parts, tensors, strict=True)]


def _device() -> torch.device:
    """The accelerator of this process: LOCAL_RANK's under torchrun and Ray, else torch's current one; or the CPU."""
    if not torch.cuda.is_available() or (dist.is_initialized() and dist.get_backend() == "gloo"):
        return torch.device("cpu")
    local = int(os.environ.get("LOCAL_RANK", torch.cuda.current_device()))
    device = torch.device("cuda", local if local < torch.cuda.device_count() else torch.cuda.current_device())
    torch.cuda.set_device(device)
    return device
