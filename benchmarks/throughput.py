"""How fast is a training step on the CPU, against other ways to write it?"""

import tempfile
from importlib.util import find_spec
from pathlib import Path

from benchmarks.alternate import Side, alternate, heading, show_speeds
from benchmarks.sides import case, corpus, litgpt, ours, planned, textbook, textbook_explicit, transformers
from farm.study.run import Run

TURN_SECONDS = 1.0
SHAPES = {"4 x 128, vocabulary 257": (257, 128), "4 x 256, vocabulary 50257": (50257, 256)}
# What model.conditions asks of glibc's malloc, for a side that does not: shows what of the gain is the allocator's.
KEEP_MEMORY = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**31 - 1), "MALLOC_ARENA_MAX": "1"}


def main() -> None:
    heading("Training step, CPU, 1 thread a worker, batch 8 x 128 tokens")
    if find_spec("litgpt") is None:
        print("litgpt is not installed: pip install --no-deps litgpt lightning lightning-utilities torchmetrics\n")
    with tempfile.TemporaryDirectory() as folder:
        for shape, (vocab, width) in SHAPES.items():
            for precision in ("fp32", "bf16"):
                run = case(corpus(Path(folder), vocab), vocab=vocab, width=width, precision=precision)
                for world in (1, 2):
                    turns = alternate(_sides(run, world), TURN_SECONDS)
                    show_speeds(f"{shape}, {precision}, world {world}", turns, run.recipe.tokens_per_step)


def _sides(run: Run, world: int) -> list[Side]:
    plan = planned(run, world)
    sides = [Side("ours", ours, run, plan), Side("textbook loop, our GPT", textbook, run, plan)]
    if world == 1:
        sides += [
            Side("the same, explicit attention", textbook_explicit, run, plan),
            Side("transformers", transformers, run, plan),
            Side("transformers, malloc kept", transformers, run, plan, KEEP_MEMORY),
        ]
        if find_spec("litgpt"):
            sides.append(Side("litgpt", litgpt, run, plan))
    return sides
