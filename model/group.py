"""The processes that train one run together: how they meet, which of them this is, and how they wait for each other."""

import os
import platform
from collections.abc import Callable
from datetime import timedelta
from typing import Any, NamedTuple, TypeVar

import torch
import torch.distributed as dist

from farm.errors import DoesNotFit, NoAccelerator
from farm.study.planner import Plan

HANG_SECONDS = 1800.0  # as ray.train.torch: a collective that takes longer has failed
PATIENCE = timedelta(days=1)  # with a rank that fetches a corpus
Fetched = TypeVar("Fetched")


class Group(NamedTuple):
    """This process among those that train the run."""

    rank: int
    world: int
    device: torch.device

    @property
    def leads(self) -> bool:
        return self.rank == 0


def check(on_cuda: bool) -> None:
    """Raises: NoAccelerator: torch sees no GPU here, and would train on the CPU."""
    if on_cuda and not torch.cuda.is_available():
        raise NoAccelerator(
            f"torch {torch.__version__} sees no GPU on {platform.node()}, but its machine class has GPUs.",
            remedy="Its driver may be too old for this torch, or this is torch's CPU build: run farm doctor there.",
        )


def initialise(on_cuda: bool, **words: Any) -> None:
    """Have this process meet the others: torch.distributed over NCCL or Gloo. `words` go to init_process_group.

    Raises: NoAccelerator
    """
    check(on_cuda)
    # Sums through NVLink's switches (NVLS) differ between calls. torch rules them out only in deterministic mode, which
    # begins later here.
    os.environ.setdefault("NCCL_ALGO", "^NVLS")
    if on_cuda:
        words["device_id"] = _own_gpu()  # connects the group now, and no pairs of its ranks later
    dist.init_process_group("nccl" if on_cuda else "gloo", timeout=timedelta(seconds=HANG_SECONDS), **words)


def join(plan: Plan) -> Group:
    """The group of this process: torch.distributed's if it was initialised, else this process alone."""
    rank, world = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    if world != plan.world:
        raise DoesNotFit(f"the plan is for {plan.world} workers, but the process group has {world}.")
    return Group(rank, world, device())


def device() -> torch.device:
    """The accelerator of this process: LOCAL_RANK's under torchrun and Ray, else torch's current one; or the CPU."""
    if not torch.cuda.is_available() or (dist.is_initialized() and dist.get_backend() == "gloo"):
        return torch.device("cpu")
    found = _own_gpu()
    torch.cuda.set_device(found)
    return found


def _own_gpu() -> torch.device:
    local = int(os.environ.get("LOCAL_RANK", torch.cuda.current_device()))
    return torch.device("cuda", local if local < torch.cuda.device_count() else torch.cuda.current_device())


def meet() -> None:
    """Wait until every rank is here, for as long as a download takes: NCCL's own barrier gives up after HANG_SECONDS,
    and meanwhile keeps a GPU busy."""
    waiting = dist.new_group(backend="gloo", timeout=PATIENCE)
    dist.barrier(waiting)
    dist.destroy_process_group(waiting)


def in_turn(fetch: Callable[[], Fetched], group: Group) -> Fetched:
    """Fetch data on rank 0 first; the others then find it there."""
    for leads in (True, False):
        if group.leads is leads:
            fetched = fetch()
        if group.world > 1:
            meet()
    return fetched


def tell(note: bytes, group: Group) -> bytes:
    """The note of rank 0, on every rank; all of one length."""
    if group.world == 1:
        return note
    tensor = torch.frombuffer(bytearray(note), dtype=torch.uint8).to(group.device)
    dist.broadcast(tensor, src=0)
    return bytes(tensor.cpu().numpy())
