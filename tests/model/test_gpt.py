"""The network is GPT-2, whatever is switched on."""

from itertools import product

import pytest
import torch
from torch.nn import functional as F

from farm.study.recipe import Model
from model.gpt import GPT
from model.init import initialise

SWITCHES = list(product([False, True], [False, True], [1, 16]))
TINY = {"vocab": 67, "context": 8, "width": 16, "layers": 2, "heads": 2}


def tiny(**changes) -> GPT:
    return initialise(Model(**TINY | {"dropout": 0.0} | changes), seed=1)


def batch(sequences: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    tokens = torch.randint(0, 67, (sequences, 9), generator=torch.Generator().manual_seed(5))
    return tokens[:, :-1], tokens[:, 1:]


@pytest.mark.parametrize(("qkv_bias", "tie_weights", "vocab_multiple"), SWITCHES)
def test_it_has_as_many_parameters_as_the_recipe_says(qkv_bias, tie_weights, vocab_multiple):
    model = Model(**TINY, qkv_bias=qkv_bias, tie_weights=tie_weights, vocab_multiple=vocab_multiple)
    assert sum(p.numel() for p in GPT(model).parameters()) == model.parameters


def test_the_baseline_has_163_009_536_parameters():
    with torch.device("meta"):
        gpt = GPT(Model())
    assert sum(p.numel() for p in gpt.parameters()) == 163_009_536


@pytest.mark.parametrize(("qkv_bias", "tie_weights", "vocab_multiple"), SWITCHES)
def test_the_loss_is_the_sum_of_the_cross_entropy_of_its_logits(qkv_bias, tie_weights, vocab_multiple):
    gpt = tiny(qkv_bias=qkv_bias, tie_weights=tie_weights, vocab_multiple=vocab_multiple).double()
    x_BT, y_BT = batch()
    y_BT = y_BT.clone()
    y_BT[0, :5] = -100
    logits_BTV = gpt.logits(x_BT)
    assert logits_BTV.shape == (3, 8, 67)
    expected = F.cross_entropy(logits_BTV.flatten(0, 1), y_BT.flatten(), reduction="sum")
    wanted = torch.autograd.grad(expected, list(gpt.parameters()))
    found = torch.autograd.grad(gpt(x_BT, y_BT), list(gpt.parameters()))
    assert float(gpt(x_BT, y_BT)) == pytest.approx(float(expected), rel=1e-13)
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-11, atol=1e-13)


def test_rows_that_pad_the_vocabulary_change_no_loss_and_get_no_gradient():
    plain, padded = tiny(), tiny(vocab_multiple=64)
    x_BT, y_BT = batch()
    assert float(padded(x_BT, y_BT)) == pytest.approx(float(plain(x_BT, y_BT)), rel=1e-6)
    padded(x_BT, y_BT).backward()
    assert padded.tokens.weight.grad[67:].abs().sum() == 0
    assert padded.head.weight.grad[67:].abs().sum() == 0


def test_a_position_does_not_see_what_follows():
    gpt = tiny()
    x_BT, _ = batch(1)
    before = gpt.logits(x_BT)
    x_BT[0, 5] = (x_BT[0, 5] + 1) % 67
    after = gpt.logits(x_BT)
    assert torch.equal(before[0, :5], after[0, :5])
    assert not torch.allclose(before[0, 5:], after[0, 5:])


def test_order_matters():
    gpt = tiny()
    x_BT, _ = batch(1)
    swapped = x_BT[:, [1, 0, *range(2, 8)]]
    assert not torch.allclose(gpt.logits(x_BT)[0, -1], gpt.logits(swapped)[0, -1])


def test_attention_is_softmax_of_scaled_products_over_the_past():
    gpt = tiny(qkv_bias=True)
    attention, x_BTC = gpt.blocks[0].attention, torch.randn(2, 8, 16, generator=torch.Generator().manual_seed(0))
    q, k, v = (part.view(2, 8, 2, 8).transpose(1, 2) for part in attention.qkv(x_BTC).chunk(3, dim=-1))
    future = torch.full((8, 8), -torch.inf).triu(1)
    mixed = ((q @ k.transpose(2, 3) / 8**0.5 + future).softmax(-1) @ v).transpose(1, 2).reshape(2, 8, 16)
    torch.testing.assert_close(attention(x_BTC), attention.out(mixed))


def test_dropout_is_after_the_embedding_in_attention_and_on_both_residual_branches():
    """With everything dropped but one place's, each place alone makes the output random."""
    for place in ("dropout", "blocks.0.dropout", "blocks.0.attention"):
        gpt = tiny()
        target = gpt.get_submodule(place)
        setattr(target, "dropout" if place.endswith("attention") else "p", 0.5)
        x_BT, _ = batch()
        assert not torch.equal(gpt.logits(x_BT), gpt.logits(x_BT)), place
        gpt.eval()
        assert torch.equal(gpt.logits(x_BT), gpt.logits(x_BT)), place


def test_dropout_reaches_every_place_from_the_recipe():
    gpt = tiny(dropout=0.25)
    rates = {name: m.p for name, m in gpt.named_modules() if isinstance(m, torch.nn.Dropout)}
    assert rates == {"dropout": 0.25, "blocks.0.dropout": 0.25, "blocks.1.dropout": 0.25}
    assert [block.attention.dropout for block in gpt.blocks] == [0.25, 0.25]


def test_losses_of_single_tokens_add_up_to_the_loss():
    gpt = tiny()
    x_BT, y_BT = batch()
    y_BT = y_BT.clone()
    y_BT[1, 2] = -100
    loss_BT = gpt.losses(x_BT, y_BT)
    assert loss_BT.dtype == torch.float32
    assert loss_BT[1, 2] == 0
    assert not loss_BT.requires_grad
    assert float(loss_BT.sum(dtype=torch.float64)) == float(gpt(x_BT, y_BT))


def test_the_names_of_the_weights_are_a_contract():
    """They key the initial weights and name the tensors on disk."""
    with torch.device("meta"):
        gpt = GPT(Model(**TINY | {"layers": 1}, qkv_bias=True))
    assert [name for name, _ in gpt.named_parameters()] == [
        "tokens.weight",
        "positions.weight",
        "blocks.0.norm1.weight",
        "blocks.0.norm1.bias",
        "blocks.0.attention.qkv.weight",
        "blocks.0.attention.qkv.bias",
        "blocks.0.attention.out.weight",
        "blocks.0.attention.out.bias",
        "blocks.0.norm2.weight",
        "blocks.0.norm2.bias",
        "blocks.0.mlp.up.weight",
        "blocks.0.mlp.up.bias",
        "blocks.0.mlp.down.weight",
        "blocks.0.mlp.down.bias",
        "norm.weight",
        "norm.bias",
        "head.weight",
    ]
