"""AdamW over one or two groups of tensors, and the learning rate of each step."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.optim.adamw import adamw as fused_update

from farm.study.recipe import Recipe, Train
from model.gpt import GPT

MOMENTS = ("exp_avg", "exp_avg_sq")


class AdamW:
    """torch's fused AdamW, one kernel a group, without torch.optim.Optimizer around it: that imports torch's compiler,
    which takes seconds at the start of every run, compiled or not."""

    def __init__(self, groups: list[dict[str, Any]]):
        self.param_groups = groups
        self.state: dict[Tensor, dict[str, Tensor]] = {}

    def zero_grad(self) -> None:
        for parameter in self._parameters():
            parameter.grad = None

    @torch.no_grad()
    def step(self) -> None:
        """One update of every parameter that has a gradient."""
        for group in self.param_groups:
            ready = [parameter for parameter in group["params"] if parameter.grad is not None]
            states = [self.state.get(parameter) or self._begin(parameter) for parameter in ready]
            averages, squares = ([state[moment] for state in states] for moment in MOMENTS)
            fused_update(
                ready,
                [parameter.grad for parameter in ready if parameter.grad is not None],
                averages,
                squares,
                max_exp_avg_sqs=[],
                state_steps=[state["step"] for state in states],
                fused=True,
                amsgrad=False,
                beta1=group["betas"][0],
                beta2=group["betas"][1],
                lr=group["lr"],
                weight_decay=group["weight_decay"],
                eps=group["eps"],
                maximize=False,
            )

    def _begin(self, parameter: Tensor, updates: int = 0) -> dict[str, Tensor]:
        state = {"step": torch.tensor(float(updates), device=parameter.device)}
        state |= {moment: torch.zeros_like(parameter, memory_format=torch.preserve_format) for moment in MOMENTS}
        self.state[parameter] = state
        return state

    def _parameters(self) -> Iterator[Tensor]:
        return (parameter for group in self.param_groups for parameter in group["params"])

    def load(self, moments: Mapping[Tensor, Mapping[str, np.ndarray]], updates: int) -> None:
        """Put back the moments of every parameter after `updates` updates."""
        for parameter, kept in moments.items():
            state = self._begin(parameter, updates)
            for moment in MOMENTS:
                state[moment].copy_(torch.from_numpy(kept[moment]))


def adamw(gpt: GPT, train: Train) -> AdamW:
    """All tensors decay, or only those of two dimensions."""
    parameters = list(gpt.parameters())
    decayed = [p for p in parameters if train.decay == "all" or p.dim() >= 2]
    spared = [p for p in parameters if train.decay == "matrices" and p.dim() < 2]
    shared = {"lr": train.learning_rate, "betas": train.betas, "eps": train.eps}
    groups = [{"params": decayed, "weight_decay": train.weight_decay}, {"params": spared, "weight_decay": 0.0}]
    return AdamW([group | shared for group in groups if group["params"]])


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
    optimiser.load(
        {p: {moment: moments[f"{moment}.{name}"] for moment in MOMENTS} for name, p in gpt.named_parameters()}, updates
    )
