"""Microbatches on their way to the device, each fetched while the one before is worked on."""

from typing import NamedTuple

import torch
from torch import Tensor

from farm.study.planner import Plan
from model.data import Batches
from model.group import Group


class Batch(NamedTuple):
    """A microbatch on the device, and how many targets count."""

    x_BT: Tensor
    y_BT: Tensor
    targets: int


class Feed:
    """This rank's microbatches in the order of training, each fetched one ahead."""

    def __init__(self, batches: Batches, plan: Plan, group: Group, first_step: int, steps: int):
        self._batches, self._plan, self._group = batches, plan, group
        share = plan.share(group.rank)
        self._turns = ((step, turn) for step in range(first_step, steps) for turn in range(share))
        self.fetch()

    def take(self) -> Batch:
        assert self._next is not None, "training is over"
        return self._next

    def fetch(self) -> None:
        """Begin to move the next microbatch to the device; on CUDA without waiting for it."""
        turn = next(self._turns, None)
        self._next = None if turn is None else self._load(*turn)

    def _load(self, step: int, turn: int) -> Batch:
        x_BT, y_BT = map(torch.from_numpy, self._batches.microbatch(step, self._plan, self._group.rank, turn))
        targets = int((y_BT >= 0).sum())
        if self._group.device.type == "cuda":
            x_BT, y_BT = x_BT.pin_memory(), y_BT.pin_memory()
        device = self._group.device
        return Batch(x_BT.to(device, non_blocking=True), y_BT.to(device, non_blocking=True), targets)
