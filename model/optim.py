"""AdamW over one or two groups of tensors, and the learning rate of each step."""

import math
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor
from torch.optim import AdamW

from farm.recipe import Recipe, Train
from model.gpt import GPT

MOMENTS = ("exp_avg", "exp_avg_sq")


def adamw(gpt: GPT, train: Train) -> AdamW:
    """AdamW, one kernel per group. All tensors decay, or only those of two dimensions."""
    parameters = list(gpt.parameters())
    decayed = [p for p in parameters if train.decay == "all" or p.dim() >= 2]
    spared = [p for p in parameters if train.decay == "matrices" and p.dim() < 2]
    groups = [{"params": decayed, "weight_decay": train.weight_decay}, {"params": spared, "weight_decay": 0.0}]
    return AdamW(
        [group for group in groups if group["params"]],
        lr=train.learning_rate,
        betas=train.betas,
        eps=train.eps,
        fused=True,
    )


def learning_rate(recipe: Recipe, step: int) -> float:
    """The rate of optimiser step `step`, counted from 1 to recipe.steps.

    It rises linearly over the first ceil(warmup * steps) steps, the last of which is at the peak, then stays there, or
    falls as half a cosine or a straight line to floor * peak at the last step.
    """
    schedule, peak = recipe.train.schedule, recipe.train.learning_rate
    rising = schedule.rising(recipe.steps)
    if step < rising:
        return peak * step / rising
    top = max(rising, 1)
    if schedule.kind == "constant" or step == top:
        return peak
    fallen = (step - top) / (recipe.steps - top)
    left = (1 + math.cos(math.pi * fallen)) / 2 if schedule.kind == "warmup-cosine" else 1 - fallen
    return peak * (schedule.floor + (1 - schedule.floor) * left)


def state(gpt: GPT, optimiser: AdamW) -> dict[str, Tensor]:
    """The moments by name: `exp_avg.<parameter>`, `exp_avg_sq.<parameter>`. Empty before the first update."""
    return {
        f"{moment}.{name}": optimiser.state[parameter][moment]
        for moment in MOMENTS
        for name, parameter in gpt.named_parameters()
        if parameter in optimiser.state
    }


def restore(gpt: GPT, optimiser: AdamW, moments: Mapping[str, np.ndarray], updates: int) -> None:
    """Put back the moments that `state` gave after `updates` updates."""
    if not updates:
        return
    names = {parameter: name for name, parameter in gpt.named_parameters()}
    ordered = [names[parameter] for group in optimiser.param_groups for parameter in group["params"]]
    kept = {
        index: {"step": torch.tensor(float(updates))}
        | {moment: torch.from_numpy(moments[f"{moment}.{name}"]) for moment in MOMENTS}
        for index, name in enumerate(ordered)
    }
    optimiser.load_state_dict({"state": kept, "param_groups": optimiser.state_dict()["param_groups"]})
