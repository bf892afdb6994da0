"""Gradients over microbatches and ranks. Two ways, one interface: `backward` each microbatch, then `finish`.

Fast is what DistributedDataParallel does: gradients accumulate on each rank, and one round of all-reduce, in buckets,
runs under the last backward pass. The buckets never change: DDP rebuilds its own after the first step, so with 4
workers a resumed run would add in another order than one that never stopped. Canonical adds microbatches in one binary
tree over all of them, so 1, 2, 4 or 8 workers give the same bits.

Both leave in `parameter.grad`, on every rank, the sum over all microbatches of the step.
"""

import os
from collections.abc import Sequence
from typing import NamedTuple, Protocol

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import Parameter

from farm.errors import WorkerDied
from farm.planner import Plan
from farm.recipe import Recipe

BUCKET_BYTES = 2**25


class Group(NamedTuple):
    """This process among those that train the run."""

    rank: int
    world: int
    device: torch.device

    @property
    def leads(self) -> bool:
        return self.rank == 0


class Reducer(Protocol):
    def backward(self, objective: Tensor, turn: int) -> None:
        """Add the gradients of this rank's microbatch number `turn`."""

    def finish(self) -> None:
        """Wait until every parameter.grad holds the sum over microbatches and ranks."""


def join(plan: Plan) -> Group:
    """The group of this process: torch.distributed's if it was initialised, else this process alone."""
    rank, world = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    if world != plan.world:
        raise WorkerDied(f"the plan is for {plan.world} workers, but the process group has {world}.")
    return Group(rank, world, _device())


def reducer(recipe: Recipe, plan: Plan, group: Group, parameters: Sequence[Parameter]) -> Reducer:
    kind = Canonical if recipe.train.reduction == "canonical" else Fast
    return kind(parameters, plan.accumulation, group)


class Fast:
    """One round of all-reduce a step, in fixed buckets, while the last backward pass still runs."""

    def __init__(self, parameters: Sequence[Parameter], accumulation: int, group: Group):
        self._turns = accumulation
        self._reducing = False
        self._buckets = [_Bucket(members) for members in _bucketed(parameters)] if group.world > 1 else []
        self._ready: list[_Bucket] = []
        for bucket in self._buckets:
            for parameter in bucket.members:
                parameter.register_post_accumulate_grad_hook(lambda p, b=bucket: self._landed(p, b))

    def backward(self, objective: Tensor, turn: int) -> None:
        self._reducing = turn == self._turns - 1
        objective.backward()

    def finish(self) -> None:
        for bucket in self._buckets:
            bucket.wait()
        self._ready.clear()

    def _landed(self, parameter: Parameter, bucket: "_Bucket") -> None:
        """A gradient is complete on this rank. Buckets leave in one order, the same on every rank."""
        if not self._reducing:
            return
        bucket.take(parameter)
        while len(self._ready) < len(self._buckets) and self._buckets[len(self._ready)].is_full:
            self._ready.append(self._buckets[len(self._ready)])
            self._ready[-1].send()


class _Bucket:
    """Some gradients in one flat tensor."""

    def __init__(self, members: Sequence[Parameter]):
        self.members = members
        self._flat = torch.zeros(sum(p.numel() for p in members), dtype=members[0].dtype, device=members[0].device)
        parts = self._flat.split([p.numel() for p in members])
        self._views = {p: part.view_as(p) for p, part in zip(members, parts, strict=True)}
        self._taken = 0
        self._work: dist.Work | None = None

    @property
    def is_full(self) -> bool:
        return self._taken == len(self.members)

    def take(self, parameter: Parameter) -> None:
        view = self._views[parameter]
        view.copy_(parameter.grad)
        parameter.grad = view
        self._taken += 1

    def send(self) -> None:
        self._work = dist.all_reduce(self._flat, async_op=True)

    def wait(self) -> None:
        assert self._work is not None, "a parameter got no gradient"
        self._work.wait()
        self._taken, self._work = 0, None


def _bucketed(parameters: Sequence[Parameter]) -> list[list[Parameter]]:
    """Parameters from the last to the first, as backward reaches them, in buckets of at least BUCKET_BYTES."""
    buckets: list[list[Parameter]] = []
    size = BUCKET_BYTES
    for parameter in reversed(parameters):
        if size >= BUCKET_BYTES:
            buckets.append([])
            size = 0
        buckets[-1].append(parameter)
        size += parameter.numel() * parameter.element_size()
    return buckets


class Canonical:
    """Microbatches 0, 1, 2, ... summed as ((0 + 1) + (2 + 3)) + ..., wherever each of them was computed.

    A rank holds a whole subtree, so it keeps one buffer a level, as a binary counter keeps digits. Ranks then exchange
    sums with the neighbour at distance 1, 2, 4, ...: x + y and y + x are the same bits.
    """

    def __init__(self, parameters: Sequence[Parameter], accumulation: int, group: Group):
        self._parameters, self._group = parameters, group
        self._subtrees: list[list[Tensor]] = []

    def backward(self, objective: Tensor, turn: int) -> None:
        objective.backward()
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
