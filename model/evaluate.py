"""The test loss: nats per token of the frozen slice, the same number on any number of workers."""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
import torch.distributed as dist

from farm.errors import Nonfinite
from farm.record.result import Exam, Measurement
from farm.study.recipe import TEST, Recipe
from model.data import evaluation_batches
from model.gpt import GPT
from model.group import Group
from model.meter import exact_sum
from model.precision import autocast, matmuls


class MeanLoss(NamedTuple):
    """nats per token over `tokens` targets; and of each sequence, in the order of the slice."""

    loss: float
    tokens: int
    values: tuple[float, ...]


def evaluate(
    gpt: GPT,
    recipe: Recipe,
    tokens: np.ndarray,
    group: Group,
    size: int,
    advanced: Callable[[], None] = lambda: None,
) -> MeanLoss:
    """Score `gpt` on recipe.evaluation's slice of `tokens`, `size` sequences at a time, each rank its share.

    Every rank gets the result, and calls `advanced` before each of its batches. A sequence is in the same batch at the
    same place whatever the number of ranks, its losses are summed in float64, and these sums are added with correct
    rounding: the score does not depend on ranks.
    """
    sums, targets = _sums(gpt, recipe, tokens, group, size, advanced)
    if group.world > 1:  # a sequence has one rank, and zeros of the others
        dist.all_reduce(sums)
        dist.all_reduce(targets)
    counted = int(targets.sum())
    return MeanLoss(exact_sum(sums.tolist()) / counted, counted, tuple((sums / targets).tolist()))


def score_exam(
    gpt: GPT,
    exam: Exam,
    tokens: np.ndarray,
    group: Group,
    size: int,
    advanced: Callable[[], None],
    step: int | None = None,
) -> Measurement:
    """The score of `gpt` by `exam`, as by `evaluate`. `step`: the training step after which it is scored.

    Raises: Nonfinite
    """
    found = evaluate(gpt, exam.recipe, tokens, group, size, advanced)
    if not math.isfinite(found.loss):
        what = "test loss" if exam.name == TEST else f"loss by evaluation {exam.name}"
        after = "" if step is None else f" after step {step}"
        raise Nonfinite(f"the {what}{after} is {found.loss}.", step=step)
    return Measurement(exam=exam, value=found.loss, tokens=found.tokens, values=found.values)


@torch.no_grad()
def _sums(
    gpt: GPT, recipe: Recipe, tokens: np.ndarray, group: Group, size: int, advanced: Callable[[], None]
) -> tuple[torch.Tensor, torch.Tensor]:
    """The loss of each sequence of this rank's batches, and how many targets it has; 0 for all others."""
    was_training = gpt.training
    gpt.eval()
    precision, device, sequences = recipe.evaluation.precision, group.device, recipe.evaluation.sequences
    sums, targets = torch.zeros(2, sequences, dtype=torch.float64, device=device)
    batches = evaluation_batches(tokens, recipe, group.rank, group.world, size)
    with matmuls(precision), autocast(precision, device):
        for first, (x_BT, y_BT) in zip(range(group.rank * size, sequences, group.world * size), batches, strict=True):
            advanced()
            here = slice(first, first + len(x_BT))
            loss_BT = gpt.losses(*(torch.from_numpy(np.ascontiguousarray(a)).to(device) for a in (x_BT, y_BT)))
            sums[here] = loss_BT.sum(dim=1, dtype=torch.float64)
            targets[here] = torch.from_numpy((y_BT >= 0).sum(axis=1)).to(targets)
    gpt.train(was_training)
    return sums, targets
