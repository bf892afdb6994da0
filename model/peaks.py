"""The peak rates of this accelerator: matrix products at the precision of training, and bytes moved in memory.

Measured before the first step, since cards of one name differ by their power limit, cooling and neighbours; a second's
work. Shares of it are in the result (farm.record.result.Utilisation).
"""

import time
from collections.abc import Callable

import torch

from farm.record.result import Peaks
from farm.study.recipe import Precision
from model.precision import AUTOCAST

SIZE = 8192  # of square matrices: larger ones are no faster on an H100
COPIED = 2**30  # bytes: far more than any cache holds
ROUNDS, TIMES = 5, 4  # the best of some rounds, each of some operations


def measured(precision: Precision, device: torch.device) -> Peaks | None:
    """The peaks of `device`; None where training is on a CPU, whose peak its other tenants share."""
    if device.type != "cuda":
        return None
    found = measure(device, AUTOCAST.get(precision, torch.float32), SIZE, COPIED)
    torch.cuda.empty_cache()
    return found


def measure(device: torch.device, dtype: torch.dtype, size: int, copied: int) -> Peaks:
    """The same for products of `size` x `size` numbers, and copies of so many bytes."""
    random = torch.Generator(device).manual_seed(0)  # of zeros, products take less power and are faster
    a, b = (torch.randn(size, size, generator=random, device=device).to(dtype) for _ in range(2))
    c, source = torch.empty_like(a), torch.zeros(copied, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    product = _seconds(lambda: torch.mm(a, b, out=c), device)
    copy = _seconds(lambda: target.copy_(source), device)
    return Peaks(flops_per_second=2 * size**3 / product, bytes_per_second=2 * copied / copy)


def _seconds(operation: Callable[[], object], device: torch.device) -> float:
    """Of one of them, in the best round."""
    best = float("inf")
    for _ in range(1 + ROUNDS):  # in the first, libraries are loaded
        _wait(device)
        began = time.perf_counter()
        for _ in range(TIMES):
            operation()
        _wait(device)
        best = min(best, time.perf_counter() - began)
    return best / TIMES


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
