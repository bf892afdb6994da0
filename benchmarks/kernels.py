"""Which CPU kernels are faster on this processor, and what does bf16 cost here?

`auto` should never lose to `torch` by more than the noise. By processor time, which other work hardly moves. Where bf16
is emulated, a step of the larger shape in it takes minutes, so that it is left out.
"""

import tempfile
from itertools import product
from pathlib import Path

from benchmarks.alternate import Side, alternate, heading, show_speeds
from benchmarks.sides import case, corpus, ours, planned
from benchmarks.throughput import SHAPES
from farm.study.processor import emulates_bf16, instruction_set
from model.kernels import resolve

KINDS = ("auto", "torch", "farm")


def main() -> None:
    has = instruction_set()
    heading(f"CPU kernels, 1 thread, batch 8 x 128 tokens; auto: {resolve('auto', has)}")
    with tempfile.TemporaryDirectory() as folder:
        for (shape, (vocab, width)), dropout in product(SHAPES.items(), (0.0, 0.1)):
            is_bearable = has is None or not emulates_bf16(has) or vocab < 1024
            precisions = ("fp32", "bf16") if is_bearable else ("fp32",)
            source = corpus(Path(folder), vocab)
            runs = {
                f"{kind}, {precision}": case(
                    source, vocab=vocab, width=width, dropout=dropout, precision=precision, kernels=kind
                )
                for precision, kind in product(precisions, KINDS)
            }
            sides = [Side(name, ours, run, planned(run)) for name, run in runs.items()]
            show_speeds(f"{shape}, dropout {dropout:g}", alternate(sides), sides[0].run.recipe.tokens_per_step)
