"""Which CPU kernels are faster on this processor, and what does bf16 cost here?

`auto` should never lose to `torch` by more than the noise. By processor time, which other work hardly moves.
"""

import tempfile
from itertools import product
from pathlib import Path

from benchmarks.alternate import Side, alternate, heading, show_speeds
from benchmarks.sides import case, corpus, ours, planned
from benchmarks.throughput import SHAPES
from farm.processor import instruction_set
from model.kernels import resolved

KINDS = ("auto", "torch", "farm")


def main() -> None:
    has = instruction_set()
    heading(f"CPU kernels, 1 thread, batch 8 x 128 tokens; auto is {resolved('auto', has)!r} here")
    with tempfile.TemporaryDirectory() as folder:
        for (shape, (vocab, width)), dropout in product(SHAPES.items(), (0.0, 0.1)):
            source = corpus(Path(folder), vocab)
            runs = {
                f"{kind}, {precision}": case(
                    source, vocab=vocab, width=width, dropout=dropout, precision=precision, kernels=kind
                )
                for precision, kind in product(("fp32", "bf16"), KINDS)
            }
            sides = [Side(name, ours, run, planned(run)) for name, run in runs.items()]
            show_speeds(f"{shape}, dropout {dropout:g}", alternate(sides), sides[0].run.recipe.tokens_per_step)
