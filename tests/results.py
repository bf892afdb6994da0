"""Results as a training would hand them in, for tests of what reads them."""

from collections.abc import Sequence
from typing import Any

from farm.record.reference import Reference, ReferenceScore
from farm.record.result import Fingerprints, Hardware, Provenance, Result, Tokens
from farm.record.score import Score, blocks, pack, sha256, standard_error
from farm.stats import mean
from farm.study.machine import BUILT_IN, mix, parts
from farm.study.planner import plan
from farm.study.run import Run
from farm.study.study import Study

TINY = """
[study]
name = "{name}"
machines = {machines}
seeds = {{ init = {init}, train = [23] }}

[baseline.model]
vocab = 50257
context = 32
width = 16
layers = 1
heads = 2
[baseline.train]
batch = 8
tokens = 2560
precision = "fp32"
[baseline.data]
source = "builtin:python-reference"
[baseline.evaluation]
offset = 0
sequences = 8

[interventions.remove-dropout]
model.dropout = 0.0
[interventions.gradient-clipping]
train.clip_grad_norm = 3.5
"""


def study_text(name: str = "tiny", machines: tuple[str, ...] = ("cpu",), init: tuple[int, ...] = (42, 22, 67)) -> str:
    """A study of a baseline and two interventions, small enough to train anywhere."""
    return TINY.format(name=name, machines=str(list(machines)).replace("'", '"'), init=list(init))


def tiny_study(name: str = "tiny", machines: tuple[str, ...] = ("cpu",), init: tuple[int, ...] = (42, 22, 67)) -> Study:
    """The same, read."""
    return Study.parse(study_text(name, machines, init))


def result(run: Run, test_loss: float, epoch: int = 1, **changes: Any) -> Result:
    """What `run` says when it finishes with `test_loss`; `changes` replace any field."""
    recipe, classes = run.recipe, [BUILT_IN[name] for name in parts(run.machine)]
    machine = mix(tuple(classes)) if len(classes) > 1 else classes[0]
    tokens = recipe.steps * recipe.tokens_per_step
    values = {
        "run_id": run.id,
        "arm": run.arm,
        "machine": run.machine,
        "seeds": run.seeds,
        "rerun": run.rerun,
        "recipe": recipe,
        "plan": plan(recipe, machine),
        "epoch": epoch,
        "evaluation": recipe.evaluation_version,
        "test_loss": test_loss,
        "test_tokens": recipe.evaluation.sequences * recipe.tested_context,
        "train_loss": test_loss - 0.1,
        "best_loss": test_loss - 0.2,
        "best_step": recipe.steps,
        "steps": recipe.steps,
        "tokens": tokens,
        "started": 1000.0,
        "ended": 1036.0,
        "seconds": 36.0,
        "train_seconds": tokens / 1000,
        "tokens_per_second": 1000.0,
        "peak_bytes": 2**20,
        "checkpoint_seconds_stalled": 0.01,
        "kernels": ("farm",),
        "compiled": (False,),
        "usd": 0.0,
        "hardware": Hardware(
            host="here",
            accelerator=machine.accelerator,
            accelerators=machine.accelerators,
            memory_bytes=machine.memory,
            cpu="a CPU",
            cores=2,
            threads=1,
        ),
        "provenance": Provenance(farm="0", code="c" * 64, python="3.11", torch="2"),
        "fingerprints": Fingerprints(
            initial=f"{run.seeds.init:064x}",
            tokens=Tokens(head="c" * 64, trained="d" * 64, tested="e" * 64),
            final="f" * 64,
        ),
        "checkpoint": f"runs/{run.id}/{epoch}/checkpoints/step-{recipe.steps:08d}",
    }
    return Result.model_validate(values | changes)


def score(of: Result, values: Sequence[float], name: str = "test_loss", **changes: Any) -> Score:
    """What the model of a result is worth by an evaluation whose items have these `values`."""
    fields = {
        "run_id": of.run_id,
        "name": name,
        "evaluation": of.recipe.evaluation_id(name),
        "definition": of.recipe.tested,
        "value": mean(values),
        "count": len(values),
        "standard_error": standard_error(values),
        "blocks": blocks(values),
        "items": of.fingerprints.tokens.tested,
        "weights": of.fingerprints.final,
        "values": sha256(pack(values)),
        "code": "c" * 64,
        "hardware": of.hardware,
        "precision": "fp32",
        "when": of.ended,
        "epoch": of.epoch,
    }
    return Score.model_validate(fields | changes)


def reference(run: Run, name: str, test_loss: float, **more: Any) -> Reference:
    """A model of the shape of `run`'s that somebody else trained, scored as `run` is tested; `more` of the score."""
    values = {
        "name": "test_loss",
        "evaluation": run.recipe.evaluation_version,
        "value": test_loss,
        "count": 8,
        "items": "e" * 64,
        "precision": "fp32",
        "code": "c" * 64,
        "host": "here",
        "accelerator": "cpu",
        "when": 1.0,
    }
    made = ReferenceScore.model_validate(values | more)
    return Reference(name=name, weights="a" * 64, shape=run.recipe.model, scores=(made,))
