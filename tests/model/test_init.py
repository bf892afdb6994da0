"""The first weights depend on the seed and on nothing that the interventions switch."""

import pytest
import torch
from torch import nn

from farm.study.recipe import Model
from model.gpt import GPT
from model.init import fingerprint, initialise

TINY = {"vocab": 67, "context": 8, "width": 16, "layers": 2, "heads": 2}


def weights(seed: int = 1, **changes) -> dict[str, torch.Tensor]:
    return {name: weight.detach() for name, weight in initialise(Model(**TINY | changes), seed).named_parameters()}


@pytest.mark.parametrize("initializer", ["torch", "gpt2"])
@pytest.mark.parametrize("switch", [{"qkv_bias": True}, {"tie_weights": True}, {"layers": 3}, {"dropout": 0.5}])
def test_keyed_a_switch_moves_no_weight_that_is_in_both(switch, initializer):
    before, after = weights(initializer=initializer), weights(**switch, initializer=initializer)
    residual = ("attention.out.weight", "mlp.down.weight")  # GPT-2 scales these by the number of layers
    for name in before.keys() & after.keys():
        scaled = initializer == "gpt2" and "layers" in switch and name.endswith(residual)
        assert torch.equal(before[name], after[name]) or scaled, name


def test_keyed_tying_drops_one_tensor_and_a_bias_adds_one_a_layer():
    assert weights().keys() - weights(tie_weights=True).keys() == {"head.weight"}
    assert weights(qkv_bias=True).keys() - weights().keys() == {f"blocks.{i}.attention.qkv.bias" for i in (0, 1)}


@pytest.mark.parametrize("init", ["keyed", "sequential"])
def test_padding_the_vocabulary_moves_no_weight(init):
    plain, padded = weights(init=init), weights(init=init, vocab_multiple=64)
    for name, weight in plain.items():
        assert torch.equal(weight, padded[name][: len(weight)]), name
        assert not padded[name][len(weight) :].any(), name


def test_keyed_tensors_of_one_shape_are_not_alike():
    drawn = weights(qkv_bias=True)
    shapes = [w for name, w in drawn.items() if w.shape == (16, 16)] + [
        *drawn["blocks.0.attention.qkv.weight"].split(16)
    ]
    assert len({float(w.sum()) for w in shapes}) == len(shapes)


@pytest.mark.parametrize("init", ["keyed", "sequential"])
def test_another_seed_gives_other_weights_and_the_same_seed_the_same(init):
    model = Model(**TINY, init=init)
    assert fingerprint(initialise(model, 1)) == fingerprint(initialise(model, 1))
    assert fingerprint(initialise(model, 1)) != fingerprint(initialise(model, 2))


@pytest.mark.parametrize("qkv_bias", [False, True])
def test_sequential_is_what_plain_torch_constructs_after_manual_seed(qkv_bias):
    """As in a GPT-2 written by hand: separate query, key and value, each block's attention before its MLP."""
    state = torch.get_rng_state()
    torch.manual_seed(9)
    expected = [nn.Embedding(67, 16).weight, nn.Embedding(8, 16).weight]
    for _ in range(2):
        query, key, value = (nn.Linear(16, 16, bias=qkv_bias) for _ in range(3))
        expected.append(torch.cat([query.weight, key.weight, value.weight]))
        if qkv_bias:
            expected.append(torch.cat([query.bias, key.bias, value.bias]))
        for layer in (nn.Linear(16, 16), nn.Linear(16, 64), nn.Linear(64, 16)):
            expected += [layer.weight, layer.bias]
    expected.append(nn.Linear(16, 67, bias=False).weight)
    torch.set_rng_state(state)
    drawn = weights(seed=9, init="sequential", qkv_bias=qkv_bias)
    found = [weight for name, weight in drawn.items() if "norm" not in name]
    assert len(found) == len(expected)
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))


def test_norms_start_as_identities():
    for name, weight in weights().items():
        if "norm" in name:
            assert torch.equal(weight, torch.ones(16) if name.endswith("weight") else torch.zeros(16))


@pytest.mark.parametrize("init", ["keyed", "sequential"])
def test_gpt2_draws_from_a_normal_and_residual_projections_from_a_narrower_one(init):
    drawn = weights(init=init, initializer="gpt2", qkv_bias=True, vocab=4000, width=64, layers=8)
    for name, weight in drawn.items():
        if "norm" in name:
            continue
        if name.endswith("bias"):
            assert not weight.any(), name
        else:
            narrow = name.endswith(("attention.out.weight", "mlp.down.weight"))
            assert float(weight.std()) == pytest.approx(0.02 / 4 if narrow else 0.02, rel=0.1), name


def test_torch_draws_within_the_bounds_of_its_layers():
    drawn = weights(qkv_bias=True, width=64)
    for name, fan_in in (("attention.qkv", 64), ("attention.out", 64), ("mlp.up", 64), ("mlp.down", 256)):
        for kind in ("weight", "bias"):
            largest = float(drawn[f"blocks.1.{name}.{kind}"].abs().max())
            assert 0.8 / fan_in**0.5 < largest <= 1.0001 / fan_in**0.5, name
    assert float(drawn["tokens.weight"].std()) == pytest.approx(1, rel=0.05)


def test_the_random_state_of_the_process_neither_matters_nor_changes():
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = fingerprint(initialise(Model(**TINY), 1))
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    assert fingerprint(initialise(Model(**TINY), 1)) == first


def test_the_fingerprint_sees_one_flipped_bit():
    gpt = GPT(Model(**TINY))
    before = fingerprint(gpt)
    with torch.no_grad():
        gpt.norm.weight[3] = torch.nextafter(gpt.norm.weight[3], torch.tensor(2.0))
    assert fingerprint(gpt) != before


@pytest.mark.parametrize(
    ("init", "expected"),
    [("keyed", [-7.3831248, -0.2958032, -0.0296341]), ("sequential", [0.1020759, 0.0217558, 0.6155005])],
)
def test_the_first_weights_of_the_tiny_model_are_these(init, expected):
    """A change here would make every keyed run of old another run."""
    drawn = weights(seed=42, init=init, qkv_bias=True)
    found = [float(drawn[name][-1].sum()) for name in ("tokens.weight", "blocks.1.attention.qkv.weight", "head.weight")]
    assert found == pytest.approx(expected, rel=1e-5)  # the last bits of a normal depend on the processor
