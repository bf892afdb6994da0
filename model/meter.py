"""The sums of a step, over all microbatches and ranks: one small all-reduce and one device sync per step.

Every microbatch has a slot of its own, so that adding zeros is all the all-reduce does. The sum is then taken on the
host, correctly rounded (math.fsum): it is the same number whichever ranks the microbatches were on.
"""

import math
from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from farm.record.ledger import Line
from farm.study.planner import Plan
from model.group import Group


class Signal(IntEnum):
    """The request made of rank 0 before a step; it takes effect on every rank after that step, ABANDON in its place."""

    CONTINUE = 0
    SAVE = 1
    STOP = 2
    ABANDON = 3


class StepTotals(NamedTuple):
    """One step over the global batch. `gradient_norm` is of the raw gradients, loss scale and all."""

    loss_sum: float
    tokens: int
    gradient_norm: float
    signal: Signal
    news: bool

    @property
    def is_finite(self) -> bool:
        return math.isfinite(self.loss_sum) and math.isfinite(self.gradient_norm)


class Meter:
    """Collects a step's losses on the device and brings them, summed over ranks, to every host."""

    def __init__(self, plan: Plan, group: Group):
        self._plan, self._group = plan, group
        self._losses: list[Tensor] = []
        self._tokens = 0

    def add(self, loss_sum: Tensor, tokens: int) -> None:
        """Note a microbatch of this rank: the float64 sum of its losses, still on the device, over `tokens` targets."""
        self._losses.append(loss_sum.detach())
        self._tokens += tokens

    def total(self, gradient_norm: Tensor, signal: Signal, news: bool) -> StepTotals:
        """Close the step. The norm, the signal and the news of rank 0 become those of all."""
        plan, group = self._plan, self._group
        microbatches = plan.microbatches
        slots = torch.zeros(microbatches + 4, dtype=torch.float64, device=group.device)
        first = plan.first(group.rank)
        slots[first : first + plan.share(group.rank)] = torch.stack(self._losses)
        slots[microbatches].fill_(self._tokens)  # `slots[i] = number` waits for the device
        if group.leads:
            slots[microbatches + 1] = gradient_norm
            slots[microbatches + 2].fill_(int(signal))
            slots[microbatches + 3].fill_(news)
        if group.world > 1:
            dist.all_reduce(slots)
        *losses, tokens, norm, told, heard = slots.tolist()
        self._losses, self._tokens = [], 0
        return StepTotals(exact_sum(losses), int(tokens), norm, Signal(int(told)), bool(heard))


@dataclass
class Sums:
    """Everything the ledger's lines add up to, so that a resumed run goes on where it stood, in float64."""

    tokens: int = 0
    loss_sum: float = 0.0
    skipped: int = 0
    clipped: int = 0
    seconds: float = 0.0
    best_loss: float | None = None  # nats per token
    best_step: int | None = None

    def add(self, line: Line) -> None:
        """A skipped step has trained on nothing."""
        self.seconds += line.seconds
        self.skipped += line.skipped
        if not line.skipped:
            self.tokens += line.tokens
            self.loss_sum += line.loss_sum
            self.clipped += line.clipped
            loss = line.loss_sum / line.tokens
            if self.best_loss is None or loss < self.best_loss:
                self.best_loss, self.best_step = loss, line.step


def exact_sum(values: list[float]) -> float:
    """The sum, correctly rounded, whatever the order; NaN if a value is not finite."""
    return math.fsum(values) if all(map(math.isfinite, values)) else math.nan
