"""The test loss: right to the last batch, and the same number on any number of ranks."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from worlds import CONTEXT, VOCAB, in_world, planned, tiny

from farm.study.recipe import CODE, Recipe
from farm.study.run import Run
from model.evaluate import MeanLoss, evaluate
from model.group import Group, join
from model.init import initialise

ALONE = Group(0, 1, torch.device("cpu"))
NOWHERE = Path("/nowhere")
GOLDEN, GOLDEN_VALUES = 5.1733547319296616, (6.344671442819617, 3.8068185294882824)
TOKENS = np.random.default_rng(1).integers(0, VOCAB, 400).astype(np.uint16)


def scored(run: Run, world: int, size: int) -> MeanLoss:
    return evaluate(initialise(run.recipe.model, 1), run.recipe, TOKENS, join(planned(run, world)), size)


def test_a_uniform_model_of_gpt2s_vocabulary_scores_its_logarithm():
    recipe = Recipe().with_patch(
        {
            "model": {"vocab": 50257, "context": 4, "width": 4, "layers": 1, "heads": 1, "tie_weights": True},
            "evaluation": {"offset": 0, "sequences": 7},
        }
    )
    gpt = initialise(recipe.model, 1)
    torch.nn.init.zeros_(gpt.tokens.weight)
    batches = []
    score = evaluate(gpt, recipe, np.arange(100, dtype=np.uint16), ALONE, size=3, advanced=lambda: batches.append(1))
    assert len(batches) == 3, "7 sequences, 3 at a time"
    assert score.loss == pytest.approx(10.824905, abs=1e-6)
    assert score.loss == pytest.approx(math.log(50257), abs=1e-6)
    assert score.tokens == 7 * 4


@pytest.mark.parametrize("size", [1, 4, 13, 50])
def test_a_last_batch_that_is_not_full_counts_for_what_it_holds(size):
    run = tiny(NOWHERE)
    gpt = initialise(run.recipe.model, 1).eval()
    x_BT = torch.from_numpy(TOKENS[: 13 * CONTEXT].astype(np.int64)).view(13, CONTEXT)
    y_BT = torch.from_numpy(TOKENS[1 : 13 * CONTEXT + 1].astype(np.int64)).view(13, CONTEXT)
    expected = float(F.cross_entropy(gpt.logits(x_BT).flatten(0, 1).detach(), y_BT.flatten()))
    score = scored(run, 1, size)
    assert score.loss == pytest.approx(expected, rel=1e-6)
    assert score.tokens == 13 * CONTEXT
    each = [float(F.cross_entropy(gpt.logits(x_BT[i : i + 1])[0].detach(), y_BT[i])) for i in range(13)]
    assert score.values == pytest.approx(each, rel=1e-6), "of each sequence, in the order of the slice"


@pytest.mark.parametrize("size", [2, 5])
def test_every_rank_of_every_world_gets_the_same_bits(size):
    run = tiny(NOWHERE)
    alone = scored(run, 1, size)
    for world in (2, 4, 8):  # of 8 ranks, some get nothing at all
        assert set(in_world(world, scored, run, world, size)) == {alone}


def test_the_code_of_an_evaluation_is_what_it_was():
    """A golden: once it computes another number, CODE in recipe.py is raised, and old scores are out of date."""
    run = tiny(NOWHERE, model={"vocab": 2, "layers": 1})
    gpt = initialise(run.recipe.model, 1)
    with torch.no_grad():
        for parameter in gpt.parameters():
            parameter.copy_(torch.linspace(-1, 1, parameter.numel()).view_as(parameter))
    found = evaluate(gpt, run.recipe, np.arange(400, dtype=np.uint16) // 3 % 2, ALONE, 4)
    assert (CODE, found.loss) == (1, pytest.approx(GOLDEN, rel=1e-6))
    assert found.values[:2] == pytest.approx(GOLDEN_VALUES, rel=1e-6)


def test_a_loss_that_is_not_a_number_is_in_the_score():
    run = tiny(NOWHERE)
    gpt = initialise(run.recipe.model, 1)
    with torch.no_grad():
        gpt.tokens.weight[int(TOKENS[3])] = math.nan  # so that only some sequences have it
    score = evaluate(gpt, run.recipe, TOKENS, ALONE, size=4)
    assert math.isnan(score.loss)
    assert score.tokens == 13 * CONTEXT


def test_dropout_is_off_and_then_on_again():
    run = tiny(NOWHERE, model={"dropout": 0.5})
    gpt = initialise(run.recipe.model, 1)
    first, second = (evaluate(gpt, run.recipe, TOKENS, ALONE, 4) for _ in range(2))
    assert first == second
    assert gpt.training


def test_the_precision_is_that_of_the_evaluation_not_of_the_training():
    exact = scored(tiny(NOWHERE), 1, 4)
    assert scored(tiny(NOWHERE, train={"precision": "bf16"}), 1, 4) == exact
    rough = scored(tiny(NOWHERE, evaluation={"precision": "bf16"}), 1, 4)
    assert rough.loss != exact.loss
    assert rough.loss == pytest.approx(exact.loss, rel=1e-2)


def test_the_slice_begins_at_the_offset():
    run = tiny(NOWHERE, evaluation={"offset": 100})
    gpt = initialise(run.recipe.model, 1)
    moved = evaluate(gpt, run.recipe, np.concatenate([np.zeros(100, np.uint16), TOKENS]), ALONE, 4)
    assert moved == scored(tiny(NOWHERE), 1, 4)


def test_models_of_any_context_can_be_tested_on_the_same_sequences():
    """13 sequences of CONTEXT tokens score the same as 26 of half of them where no token looks further back."""
    run = tiny(NOWHERE, evaluation={"context": CONTEXT // 2, "sequences": 26})
    short = scored(run, 1, 4)
    assert short.tokens == 13 * CONTEXT
    gpt = initialise(run.recipe.model, 1).eval()
    x_BT = torch.from_numpy(TOKENS[: 13 * CONTEXT].astype(np.int64)).view(26, CONTEXT // 2)
    y_BT = torch.from_numpy(TOKENS[1 : 13 * CONTEXT + 1].astype(np.int64)).view(26, CONTEXT // 2)
    expected = float(F.cross_entropy(gpt.logits(x_BT).flatten(0, 1).detach(), y_BT.flatten()))
    assert short.loss == pytest.approx(expected, rel=1e-6)
    assert short.loss != scored(tiny(NOWHERE), 1, 4).loss
