"""How fast is the 163M baseline on an NVIDIA GPU, and which share of its matrix peak is that?

Goal: 3 times the textbook loop with explicit attention, and 50 % of the measured bf16 peak.
"""

import statistics
import tempfile
import time
from pathlib import Path

import torch

from benchmarks.alternate import Side, alternate, heading, show_speeds, speeds
from benchmarks.sides import case, corpus, ours, textbook, textbook_explicit, transformers
from farm.study.machine import Machine
from farm.study.planner import plan
from farm.study.recipe import Model

SECONDS = 5.0
SHAPE: dict[str, int] = {"vocab": 50257, "width": 768, "layers": 12, "context": 1024, "batch": 96}


def main() -> None:
    heading("163M baseline, batch 96 x 1024 tokens, one GPU")
    peak = _peak_flops()
    print(f"measured bf16 matrix peak: {peak / 1e12:.0f} TFLOP/s\n")
    # Two sides take turns and both hold memory, so each may use half of the card, at one microbatch for all.
    memory = torch.cuda.get_device_properties(0).total_memory // 2
    machine = Machine(name="bench", accelerator=torch.cuda.get_device_name(), memory=memory)
    with tempfile.TemporaryDirectory() as folder:
        source = corpus(Path(folder), SHAPE["vocab"])
        for precision in ("fp16", "bf16"):
            run = case(source, **SHAPE, precision=precision)
            compiled = case(source, **SHAPE, precision=precision, compile=True)
            split = plan(run.recipe, machine)
            first = Side("ours", ours, run, split)
            for other in (
                Side("ours, compiled", ours, compiled, split),
                Side("textbook loop, our GPT", textbook, run, split),
                Side("the same, explicit attention", textbook_explicit, run, split),
                Side("transformers", transformers, run, split),
            ):
                turns = alternate([first, other], SECONDS)
                show_speeds(f"{precision}, {split}", turns, run.recipe.tokens_per_step)
                for name, taken in turns.items():
                    speed = statistics.median(speeds(taken, run.recipe.tokens_per_step))
                    share = speed * flops_per_token(run.recipe.model) / peak
                    print(f"{name}: {share:.0%} of the bf16 peak, {taken[-1].peak_bytes / 2**30:.1f} GiB")
                print()


def flops_per_token(model: Model) -> int:
    """6 for each weight of a matrix product, and 12 T C a layer for attention (Chowdhery et al. 2022, appendix B)."""
    weights = model.parameters - (model.rows + model.context) * model.width
    return 6 * weights + 12 * model.layers * model.context * model.width


def _peak_flops(size: int = 8192, times: int = 20) -> float:
    """The fastest of several bf16 products of square matrices, in FLOP/s."""
    a, b = (torch.randn(size, size, dtype=torch.bfloat16, device="cuda") for _ in range(2))
    best = 0.0
    for _ in range(times):
        torch.cuda.synchronize()
        began = time.perf_counter()
        for _ in range(10):
            a @ b
        torch.cuda.synchronize()
        best = max(best, 10 * 2 * size**3 / (time.perf_counter() - began))
    torch.cuda.empty_cache()
    return best
