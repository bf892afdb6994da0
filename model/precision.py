"""The precisions of training: float32, TF32, float16 and bfloat16; and the handling of a step that overflows."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

import torch

from farm.study.recipe import Precision

AUTOCAST = {"fp16": torch.float16, "bf16": torch.bfloat16}
LOSS_SCALE, GROWTH, BACKOFF, GROWTH_STEPS = 2.0**16, 2.0, 0.5, 2000  # torch.amp.GradScaler's numbers
LOWEST_SCALE = 2.0**-10  # 26 overflows in a row from the start: no scale can help any more


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


@dataclass
class LossScale:
    """The factor that keeps fp16 gradients in range; 1 for ever in the other precisions.

    The rule is torch.amp.GradScaler's, on the host: the trainer already knows there, once a step, whether the gradients
    are finite.
    """

    precision: Precision
    scale: float = 1.0
    finite_steps: int = 0

    @classmethod
    def of(cls, precision: Precision) -> "LossScale":
        return cls(precision, LOSS_SCALE if precision == "fp16" else 1.0)

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
