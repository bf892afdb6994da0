"""How fast is a training step on the CPU, against other ways to write it? `PEER=FOLDER` adds a checkout of your own."""

import os
import tempfile
from collections.abc import Iterator
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from benchmarks import sides
from benchmarks.alternate import Side, alternate, heading, show_speeds
from farm.study.processor import emulates_bf16, instruction_set
from farm.study.run import Run

TURN_SECONDS = 1.0
PEER = "PEER"  # the variable that names a checkout with nanoGPT's model.py
# What model.conditions asks of glibc's malloc, for a side that does not: shows what of the gain is the allocator's.
KEEP_MEMORY = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**31 - 1), "MALLOC_ARENA_MAX": "1"}


class Shape(NamedTuple):
    """A network, and the batch that it trains on: 1,024 tokens."""

    layers: int
    width: int
    vocab: int
    context: int = 128
    dropout: float = 0.0

    def __str__(self) -> str:
        return f"{self.layers} x {self.width}, vocabulary {self.vocab}, T {self.context}, dropout {self.dropout:g}"


SHAPES = (
    Shape(4, 128, 257),
    Shape(4, 256, 50257),
    Shape(6, 192, 257, context=256, dropout=0.1),
    Shape(6, 384, 8192),
)
SMALLEST = Shape(1, 16, 64, context=8)  # a step of it is what happens around the products


def main() -> None:
    heading("Training step, CPU, 1 thread a worker, 1,024 tokens")
    if find_spec("litgpt") is None:
        print("litgpt is not installed: pip install --no-deps litgpt lightning lightning-utilities torchmetrics\n")
    found = instruction_set()
    is_emulated = found is not None and emulates_bf16(found)
    if is_emulated:
        print("bf16 is not measured: this processor has no instructions for it.\n")
    for shape in SHAPES:
        for precision in ("fp32",) if is_emulated else ("fp32", "bf16"):
            for world in (1, 2) if shape in SHAPES[:2] else (1,):
                _measure(shape, 1024 // shape.context, precision, world)
    heading("What a step costs around its products: a model of nearly nothing")
    _measure(SMALLEST, 1, "fp32", 1)


def _measure(shape: Shape, batch: int, precision: str, world: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        corpus = sides.corpus(Path(folder), shape.vocab)
        run = sides.case(corpus, **shape._asdict(), batch=batch, precision=precision)
        turns = alternate(list(_sides(run, world)), TURN_SECONDS)
    show_speeds(f"{shape}, {precision}, world {world}", turns, run.recipe.tokens_per_step)


def _sides(run: Run, world: int) -> Iterator[Side]:
    plan = sides.planned(run, world)
    yield Side("ours", sides.ours, run, plan)
    yield Side("textbook loop, our GPT", sides.textbook, run, plan)
    if world > 1:
        return
    yield Side("the same, malloc kept", sides.textbook, run, plan, KEEP_MEMORY)
    yield Side("the same, compiled, malloc kept", sides.textbook_compiled, run, plan, KEEP_MEMORY)
    yield Side("the same, explicit attention", sides.textbook_explicit, run, plan)
    yield Side("transformers", sides.transformers, run, plan)
    yield Side("transformers, malloc kept", sides.transformers, run, plan, KEEP_MEMORY)
    if find_spec("litgpt"):
        yield Side("litgpt", sides.litgpt, run, plan)
    if folder := os.environ.get(PEER):
        yield Side("peer", partial(sides.peer, Path(folder)), run, plan)
        yield Side("peer, malloc kept", partial(sides.peer, Path(folder)), run, plan, KEEP_MEMORY)
