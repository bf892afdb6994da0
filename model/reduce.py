"""Gradients over microbatches and ranks. Two ways, one interface: `turn` around each microbatch, then `finish`.

Fast is torch's DistributedDataParallel: gradients accumulate on each rank, and one round of all-reduce, in buckets,
runs under the last backward pass. Canonical adds microbatches in one binary tree over all of them, so 1, 2, 4 or 8
workers give the same bits, and so do workers with unequal shares.

Both leave in `parameter.grad`, on every rank, the sum over all microbatches of the step.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from math import ceil
from typing import Protocol

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import GradBucket
from torch.futures import Future
from torch.nn import Parameter
from torch.nn.parallel import DistributedDataParallel

from farm.study.planner import Plan
from farm.study.recipe import Precision, Recipe
from model.gpt import GPT
from model.group import Group
from model.precision import autocast

BUCKET_MIB = 25.0  # DistributedDataParallel's default
PIECE = 2**22  # numbers that travel together: one piece is added while the next is on its way


class Reducer(Protocol):
    forward: Callable[..., Tensor]  # the model: tokens and targets -> sum of losses

    def turn(self, turn: int) -> AbstractContextManager[None]:
        """Around forward and backward of this rank's microbatch number `turn`."""

    def finish(self) -> None:
        """Leaves in every parameter.grad the sum over microbatches and ranks."""


def reducer(recipe: Recipe, plan: Plan, group: Group, gpt: GPT) -> Reducer:
    """The reducer that the recipe names."""
    if recipe.train.reduction == "canonical":
        return Canonical(gpt, plan, group)
    return Fast(gpt, plan, group, recipe.train.precision)


class Fast:
    """DistributedDataParallel, made to resume to the bit.

    DDP regroups its buckets once, after the first backward pass, by the order in which gradients became ready; with 4
    workers or more that changes the order of addition. A warm-up pass brings it there before the first step, in a run
    that begins and in one that resumes alike. no_sync is around forward and backward of all but the last microbatch:
    around the backward alone, DDP would still have prepared to reduce.
    """

    def __init__(self, gpt: GPT, plan: Plan, group: Group, precision: Precision):
        self._last = plan.share(group.rank) - 1
        self._ddp = None if group.world == 1 else _wrap(gpt)
        self.forward: Callable[..., Tensor] = self._ddp or gpt
        if self._ddp:
            blank_BT = torch.zeros(plan.microbatch, gpt.shape.context, dtype=torch.int64, device=group.device)
            with autocast(precision, group.device):  # in float32 its activations would not fit where training does
                loss_sum = self._ddp(blank_BT, blank_BT)
            loss_sum.backward()
            gpt.zero_grad(set_to_none=True)

    def turn(self, turn: int) -> AbstractContextManager[None]:
        return self._ddp.no_sync() if self._ddp and turn < self._last else nullcontext()

    def finish(self) -> None:
        """DDP has finished when backward returns."""


def _wrap(gpt: GPT) -> DistributedDataParallel:
    """`gpt` in DDP with the sum over ranks in place of DDP's mean: the loss is divided by all targets already."""
    ddp = DistributedDataParallel(
        gpt,
        bucket_cap_mb=BUCKET_MIB,
        gradient_as_bucket_view=True,
    )
    ddp.register_comm_hook(None, _sum_bucket)
    return ddp


def _sum_bucket(_: object, bucket: GradBucket) -> Future[Tensor]:
    work = dist.all_reduce(bucket.buffer(), async_op=True)
    assert work is not None
    return work.get_future().then(lambda done: done.value()[0])


class Canonical:
    """Microbatches 0, 1, 2, ... summed as ((0 + 1) + (2 + 3)) + ..., wherever each of them was computed.

    A node of the tree is known by its first microbatch. A rank adds what lies wholly in its own range as it goes, and
    so keeps at most two buffers a level. What is left is added across ranks: the holder of a right child sends it to
    the holder of the left one, and the root comes back to all. Where every rank holds one whole subtree of the same
    size, ranks swap halves with the neighbour at distance 1, 2, 4, ... instead: x + y and y + x are the same bits.
    """

    def __init__(self, gpt: GPT, plan: Plan, group: Group):
        self.forward: Callable[..., Tensor] = gpt
        self._parameters, self._plan, self._group = list(gpt.parameters()), plan, group
        self._first = plan.first(group.rank)
        self._owners = [rank for rank in range(plan.world) for _ in range(plan.share(rank))]
        self._nodes: dict[int, list[Tensor]] = {}

    @contextmanager
    def turn(self, turn: int) -> Iterator[None]:
        yield
        start, size = self._first + turn, 1
        subtree = _take(self._parameters)
        while start & size and start - size >= self._first:  # its left sibling is here, and whole
            start -= size
            torch._foreach_add_(subtree, self._nodes.pop(start))
            size *= 2
        self._nodes[start] = subtree

    def finish(self) -> None:
        if self._group.world > 1 and self._plan.shares is None:
            total = self._nodes.pop(self._first)
            _exchange(total, self._group)
        else:
            total = self._gather()
        for parameter, gradient in zip(self._parameters, total, strict=True):
            parameter.grad = gradient

    def _gather(self) -> list[Tensor]:
        """The root, after every rank has walked the rest of the tree in the same order, which is why none waits for
        ever. A node without a right child, in a tree of no power of two, is its left child."""
        me, size = self._group.rank, 1
        while size < len(self._owners):
            for left in range(0, len(self._owners) - size, 2 * size):
                holder, sender = self._owners[left], self._owners[left + size]
                if sender != holder == me:
                    _add_received(self._nodes[left], sender)
                elif sender != holder and sender == me:
                    dist.send(_flat(self._nodes.pop(left + size)), holder)
                elif holder == me and left + size in self._nodes:
                    torch._foreach_add_(self._nodes[left], self._nodes.pop(left + size))
            size *= 2
        return _broadcast(self._nodes.pop(0, None), self._parameters, self._group)


def _take(parameters: Sequence[Parameter]) -> list[Tensor]:
    gradients = [p.grad for p in parameters]
    for parameter in parameters:
        parameter.grad = None
    return gradients  # type: ignore[return-value]


def _exchange(tensors: list[Tensor], group: Group) -> None:
    """Replace `tensors` by their sums over ranks, by recursive halving and then doubling (Rabenseifner, 2004,
    Optimization of collective reduction operations).

    With the neighbour at distance 1, 2, 4, ... a rank adds up one half of what it still has, and leaves the other half
    to that neighbour; then the halves go back the same way. So x and y meet as in a plain exchange of sums, and each
    rank sends 2 - 2/world of the gradients instead of log2(world) of them.
    """
    small = [tensor for tensor in tensors if tensor.numel() < PIECE]
    together = _flat(small)
    pieces: Sequence[Tensor] = [together, *(piece for tensor in tensors for piece in _large(tensor))]
    levels, distance = [], 1
    while distance < group.world:
        neighbour = group.rank ^ distance
        halves = [piece.tensor_split(2) for piece in pieces]
        kept, given = zip(*(half if group.rank < neighbour else half[::-1] for half in halves), strict=True)
        arriving = [torch.empty_like(half) for half in kept]
        for half, arrived in zip(kept, _swap(given, arriving, neighbour), strict=True):
            half += arrived
        levels.append((neighbour, kept, given))
        pieces, distance = kept, 2 * distance
    for neighbour, kept, given in reversed(levels):
        deque(_swap(kept, given, neighbour), maxlen=0)
    torch._foreach_copy_(small, _part(together, small))


def _large(tensor: Tensor) -> Sequence[Tensor]:
    """Views of a tensor of PIECE numbers or more, alike in size: none is so small that a half of its half is empty."""
    return tensor.view(-1).tensor_split(ceil(tensor.numel() / PIECE)) if tensor.numel() >= PIECE else ()


def _swap(leaving: Sequence[Tensor], arriving: Sequence[Tensor], neighbour: int) -> Iterator[Tensor]:
    """Swap tensors with a neighbour, all in one list, and give what has arrived, one after the other.

    NCCL makes one launch of the list, and one thing to wait for; Gloo has one of each for every tensor.
    """
    swaps = [
        dist.P2POp(operation, tensor, neighbour)
        for pair in zip(leaving, arriving, strict=True)
        for operation, tensor in zip((dist.isend, dist.irecv), pair, strict=True)
    ]
    works = dist.batch_isend_irecv(swaps)
    each = 2 if len(works) == len(swaps) else 0  # a send and a receive
    for work in works if not each else ():
        work.wait()
    for index, arrived in enumerate(arriving):
        for work in works[each * index : each * (index + 1)]:
            work.wait()
        yield arrived


def _add_received(tensors: list[Tensor], sender: int) -> None:
    theirs = _flat(tensors)  # only for its size
    dist.recv(theirs, sender)
    torch._foreach_add_(tensors, _part(theirs, tensors))


def _broadcast(root: list[Tensor] | None, like: Sequence[Tensor], group: Group) -> list[Tensor]:
    """The root of the tree, which rank 0 holds, on every rank."""
    if group.world == 1:
        assert root is not None
        return root
    flat = _flat(like if root is None else root)
    dist.broadcast(flat, src=0)
    return _part(flat, like)


def _flat(tensors: Sequence[Tensor]) -> Tensor:
    return torch.cat([tensor.detach().flatten() for tensor in tensors])


def _part(flat: Tensor, like: Sequence[Tensor]) -> list[Tensor]:
    """`flat` in the shapes of `like`."""
    parts = flat.split([tensor.numel() for tensor in like])
    return [part.view_as(tensor) for part, tensor in zip(parts, like, strict=True)]
