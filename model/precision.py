"""The precisions of training: float32, TF32, float16 and bfloat16; and the handling of a step that overflows."""

import math
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

import torch

from farm.study.recipe import Precision, Recipe

AUTOCAST = {"fp16": torch.float16, "bf16": torch.bfloat16}
LOSS_SCALE, GROWTH, BACKOFF, GROWTH_STEPS = 2.0**16, 2.0, 0.5, 2000  # torch.amp.GradScaler's numbers
LOWEST_SCALE = 2.0**-10  # 26 overflows in a row from 2**16: no scale can help any more
SMALLEST_NORMAL = torch.finfo(torch.float16).smallest_normal  # below it, fp16 loses digits


def autocast(precision: Precision, device: torch.device) -> AbstractContextManager:
    """Around the forward pass: matrix products at 16 bits for fp16 and bf16, nothing for the others."""
    dtype = AUTOCAST.get(precision)
    return torch.autocast(device.type, dtype=dtype or torch.bfloat16, enabled=dtype is not None)


@contextmanager
def matmuls(precision: Precision) -> Iterator[None]:
    """Around everything: float32 matrix products are exact for fp32, else they may use the TF32 units."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest" if precision == "fp32" else "high")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def first_scale(recipe: Recipe) -> float:
    """The loss scale that fp16 begins with: GradScaler's, or a larger power of two where gradients would be subnormal.

    A logit of an untrained model has a gradient of scale / targets / vocabulary: with 2**16 that is 1.3e-5 for the
    baseline, a quarter of the smallest normal number. 2**19 gives 1.1e-4, as stock DDP has on eight GPUs.
    """
    needed = SMALLEST_NORMAL * recipe.tokens_per_step * recipe.model.vocab
    return max(LOSS_SCALE, 2.0 ** math.ceil(math.log2(needed)))


@dataclass
class LossScale:
    """The factor that keeps fp16 gradients in range; 1 for ever in the other precisions.

    The rule is torch.amp.GradScaler's, on the host: the trainer already knows there, once a step, whether the gradients
    are finite. Its start is not: loss and scale are divided by the targets of the whole step, so that gradients are the
    same on any number of workers, while DDP divides by those of one worker.
    """

    precision: Precision
    scale: float = 1.0
    finite_steps: int = 0

    @classmethod
    def of(cls, recipe: Recipe) -> "LossScale":
        precision = recipe.train.precision
        return cls(precision, first_scale(recipe) if precision == "fp16" else 1.0)

    def update(self, finite: bool) -> bool:
        """Learn from a step: halve the scale if it overflowed, double it after 2000 good ones in a row.

        False means that the step was not finite and that no scale can help.
        """
        if self.precision != "fp16":
            return finite
        self.finite_steps = self.finite_steps + 1 if finite else 0
        if not finite:
            self.scale *= BACKOFF
        elif self.finite_steps == GROWTH_STEPS:
            self.scale, self.finite_steps = self.scale * GROWTH, 0
        return self.scale >= LOWEST_SCALE
