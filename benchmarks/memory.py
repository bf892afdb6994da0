"""How much memory does training the GPT-2 small shape take?"""

import tempfile
from pathlib import Path

from benchmarks.alternate import Side, alternate, heading, show
from benchmarks.sides import case, corpus, ours, planned, transformers

SIDES = {"ours": ours, "transformers": transformers}


def main() -> None:
    """Two steps in a fresh process each: forward, backward, AdamW, and all of it again with the moments there."""
    heading("Peak resident memory, GPT-2 small (12 x 768, vocabulary 50257), 1 x 1024 tokens")
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        source = corpus(Path(folder), 50257)
        for precision in ("fp32", "bf16"):
            run = case(source, vocab=50257, width=768, layers=12, context=1024, batch=1, precision=precision)
            peaks = {}
            for name, train in SIDES.items():
                turns = alternate([Side(name, train, run, planned(run))], seconds=0, rounds=1)
                peaks[name] = turns[name][0].peak_bytes
            for name, peak in peaks.items():
                rows.append([precision, name, f"{peak / 2**30:.2f}", f"{peaks['ours'] / peak:.2f}"])
    show(["precision", "side", "GiB", "ours / this"], rows)
