"""The test loss: nats per token of the frozen slice, the same number on any number of workers."""

from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np
import torch
import torch.distributed as dist

from farm.recipe import Recipe
from model.data import evaluation_batches
from model.gpt import GPT
from model.meter import exact_sum
from model.precision import autocast, matmuls
from model.reduce import Group


class Score(NamedTuple):
    """nats per token over `tokens` targets."""

    loss: float
    tokens: int


def evaluate(
    gpt: GPT,
    recipe: Recipe,
    tokens: np.ndarray,
    group: Group,
    size: int,
    advanced: Callable[[], None] = lambda: None,
) -> Score:
    """Score `gpt` on recipe.evaluation's slice of `tokens`, `size` sequences at a time, each rank its share.

    Every rank gets the result, and calls `advanced` before each of its batches. A sequence is in the same batch at the
    same place whatever the number of ranks, its losses are summed in float64, and these sums are added with correct
    rounding: the score does not depend on ranks.
    """
    batches = evaluation_batches(tokens, recipe, group.rank, group.world, size)
    sums, targets = _sums(gpt, recipe, batches, group.device, advanced)
    slots = torch.zeros(group.world, recipe.evaluation.sequences + 1, dtype=torch.float64, device=group.device)
    slots[group.rank, : len(sums)] = sums
    slots[group.rank, -1] = targets
    if group.world > 1:
        dist.all_reduce(slots)
    counted = int(slots[:, -1].sum())
    return Score(exact_sum(slots[:, :-1].flatten().tolist()) / counted, counted)


@torch.no_grad()
def _sums(
    gpt: GPT, recipe: Recipe, batches: Iterable, device: torch.device, advanced: Callable[[], None]
) -> tuple[torch.Tensor, int]:
    """The loss of each sequence of `batches`, and how many targets there were."""
    was_training = gpt.training
    gpt.eval()
    sums, targets = [torch.empty(0, dtype=torch.float64, device=device)], 0
    with matmuls(recipe.evaluation.precision), autocast(recipe.evaluation.precision, device):
        for x_BT, y_BT in batches:
            advanced()
            targets += int((y_BT >= 0).sum())
            loss_BT = gpt.losses(*(torch.from_numpy(np.ascontiguousarray(a)).to(device) for a in (x_BT, y_BT)))
            sums.append(loss_BT.sum(dim=1, dtype=torch.float64))
    gpt.train(was_training)
    return torch.cat(sums), targets
