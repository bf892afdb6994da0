"""Scores a trained model again, from its stored checkpoint.

On the machine that trained it this gives the bits that the end of training gave: the same network under the same
conditions, in batches of the same size. How many ranks there were makes no difference to a score.
"""

from collections.abc import Callable
from pathlib import Path

from farm.errors import CheckpointInvalid
from farm.record.result import Exam, Measurement
from farm.study.run import Run
from model.conditions import agree, compile_blocks, compiles, conditions
from model.corpus.sources import open_test
from model.evaluate import score_exam
from model.export import load_network
from model.group import Group, device
from model.init import fingerprint


def rescore(
    run: Run,
    exam: Exam,
    checkpoint: Path,
    weights: str,
    size: int,
    cache: Path,
    advanced: Callable[[], None] = lambda: None,
) -> Measurement:
    """Score the model of `run` in `checkpoint`, whose fingerprint is `weights`, `size` sequences at a time.

    `advanced` is called before each batch.

    Raises: CheckpointInvalid: damaged, of another run, or other weights. Nonfinite. NoCompiler
    """
    gpt = load_network(checkpoint, run)
    if (found := fingerprint(gpt)) != weights:
        raise CheckpointInvalid(f"{checkpoint} holds weights {found[:8]}, but the result is for {weights[:8]}.")
    group = Group(0, 1, device())
    gpt.to(group.device)
    with conditions(run.recipe, group.device, agree(run.recipe.train.kernels, group)):
        if compiles(run.recipe.train.compile, group):
            compile_blocks(gpt, group.device)
        tokens = open_test(exam.recipe, cache)
        return score_exam(gpt, exam, tokens, group, size, advanced)
