"""A study that trains for real in a second, for the commands that need a model."""

from pathlib import Path
from typing import Any

from results import result
from worlds import attempt, planned, stop_after

from farm.queue.values import Claim
from farm.record.result import Outcome
from farm.study.study import Study
from model.corpus.text import BUILTIN

from .conftest import Farm

STUDY = """
[study]
name = "{name}"
machines = ["cpu"]
{study}
[baseline.model]
vocab = {vocab}
context = 16
width = 16
layers = 2
heads = 2
{model}
[baseline.train]
batch = 4
tokens = 256
precision = "fp32"
learning_rate = 0.01
[baseline.data]
source = "{source}"
{tokenizer}
[baseline.evaluation]
offset = 0
sequences = 4
{more}
"""
STEPS = 4


def small_study(source: str | Path = BUILTIN, vocab: int = 257, name: str = "small", **lines: str) -> Study:
    """`lines` go into its tables (`study`, `model`, `tokenizer`), or behind all of them (`more`)."""
    told = dict.fromkeys(("study", "model", "tokenizer", "more"), "") | lines
    return Study.parse(STUDY.format(source=source, vocab=vocab, name=name, **told))


def train(farm: Farm, claim: Claim, stop: int | None = None, **more: Any) -> Outcome:
    """Train a leased run for real, in its run directory; `stop` ends it early."""
    signals = {"signals": stop_after(stop)} if stop else {}
    run = claim.run
    outcome, _ = attempt(run, planned(run, 1, run.recipe.train.batch), farm.store.folder(run.id), **signals, **more)
    return outcome


def finish(farm: Farm, claim: Claim, outcome: Outcome, test_loss: float | None = None, **changes: Any) -> Path:
    """Have a run that was trained succeed; where its last checkpoint is."""
    assert outcome.test_loss is not None
    place = f"runs/{claim.run.id}/1/{outcome.checkpoint}"
    reached = outcome.test_loss if test_loss is None else test_loss
    told = result(claim.run, reached, checkpoint=place, fingerprints=outcome.fingerprints, **changes)
    farm.store.runs.record(told)
    farm.queue.finish(claim.lease, told)
    return farm.store.root / place
