"""Every precision means what it says, and the loss scale moves as torch's does."""

import random

import pytest
import torch

from farm.study.recipe import Model, Recipe, Train
from model.loss import cross_entropy
from model.precision import LOSS_SCALE, LossScale, autocast, first_scale, matmuls

CPU = torch.device("cpu")
SMALL = Recipe(model=Model(vocab=67, context=8, width=16, layers=1, heads=2), train=Train(batch=8, precision="fp16"))


@pytest.mark.parametrize(
    ("precision", "products", "allowed"),
    [
        ("fp32", torch.float32, "highest"),
        ("tf32", torch.float32, "high"),
        ("fp16", torch.float16, "high"),
        ("bf16", torch.bfloat16, "high"),
    ],
)
def test_a_precision_sets_the_type_of_products_and_puts_everything_back(precision, products, allowed):
    before = torch.get_float32_matmul_precision()
    a = torch.ones(4, 4)
    with matmuls(precision):
        assert torch.get_float32_matmul_precision() == allowed
        with autocast(precision, CPU):
            assert (a @ a).dtype == products
    assert torch.get_float32_matmul_precision() == before
    assert (a @ a).dtype == torch.float32


def test_the_settings_are_put_back_after_an_error():
    before = torch.get_float32_matmul_precision()
    with pytest.raises(KeyError), matmuls("tf32"):
        raise KeyError
    assert torch.get_float32_matmul_precision() == before


def test_the_loss_scale_moves_as_torchs_grad_scaler_does():
    weight = torch.nn.Parameter(torch.zeros(1))
    optimiser = torch.optim.SGD([weight], lr=0.0)
    theirs = torch.amp.GradScaler("cpu", growth_interval=2000)
    ours = LossScale.of(SMALL)
    dice = random.Random(0)
    for _ in range(9000):
        finite = dice.random() > 0.0005
        theirs.scale(weight.sum())
        weight.grad = torch.tensor([1.0 if finite else torch.inf])
        theirs.step(optimiser)
        theirs.update()
        assert ours.update(finite)
        assert ours.scale == theirs.get_scale()
    assert ours.scale != LossScale.of(SMALL).scale
    assert ours.finite_steps == theirs.state_dict()["_growth_tracker"]


@pytest.mark.parametrize("precision", ["fp32", "tf32", "bf16"])
def test_the_other_precisions_have_no_scale_and_no_step_to_skip(precision):
    scale = LossScale.of(SMALL.with_patch({"train": {"precision": precision}}))
    assert scale.update(finite=True)
    assert not scale.update(finite=False)
    assert scale.scale == 1.0


def test_overflow_without_end_is_no_longer_the_scales_fault():
    scale = LossScale.of(SMALL)
    steps = 0
    while scale.update(finite=False):
        steps += 1
    assert steps == 26


@pytest.mark.parametrize("batch", [8, 96, 480])
def test_the_first_gradients_of_fp16_are_normal_numbers_however_large_a_step_is(batch):
    recipe = Recipe().with_patch({"train": {"batch": batch}})
    logits_NV, loss_N = torch.zeros(1, recipe.model.vocab, dtype=torch.float16), torch.empty(1)
    scale = first_scale(recipe) / recipe.tokens_per_step
    cross_entropy(logits_NV, torch.tensor([0]), loss_N, recipe.model.vocab, scale, True)
    assert float(logits_NV[:, 1:].min()) >= torch.finfo(torch.float16).smallest_normal


def test_the_baseline_begins_with_the_gradients_of_stock_ddp_on_eight_gpus_and_a_small_model_with_grad_scalers_scale():
    """There each worker divides by its own 12 sequences, and the results are averaged."""
    assert first_scale(Recipe()) / Recipe().tokens_per_step == LOSS_SCALE / (12 * 1024)
    assert first_scale(SMALL) == LOSS_SCALE
