"""What does it cost that any number of workers gives the same bits?"""

import tempfile
from pathlib import Path
from typing import Any

from benchmarks.alternate import Side, alternate, heading, show_speeds
from benchmarks.sides import case, corpus, ours, planned

MICROBATCH = 2  # of a batch of 8: the tree has two levels on one rank, one on each of two and one between


def main() -> None:
    heading("Fast against canonical reduction (goal: first / this at most 1.1 at world 2)")
    with tempfile.TemporaryDirectory() as folder:
        for vocab, width, world in ((257, 128, 1), (257, 128, 2), (50257, 256, 2)):
            shape: dict[str, Any] = {"vocab": vocab, "width": width, "precision": "fp32"}
            source = corpus(Path(folder), vocab)
            fast = case(source, **shape)
            canonical = case(source, **shape, reduction="canonical", canonical_microbatch=MICROBATCH)
            sides = [
                Side("fast", ours, fast, planned(fast, world, MICROBATCH)),
                Side("canonical", ours, canonical, planned(canonical, world)),
            ]
            title = f"4 x {width}, vocabulary {vocab}, microbatch {MICROBATCH}, world {world}"
            show_speeds(title, alternate(sides), fast.recipe.tokens_per_step)
