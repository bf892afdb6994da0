"""The sampler with its keys and values kept: token by token what the whole network says, and nothing else touched."""

import math
from collections import Counter

import pytest
import torch
from torch import Generator

from farm.study.recipe import Model
from farm.study.samples import Samples
from model.gpt import GPT
from model.init import initialise
from model.sampler import Cache, draw, sample

CONTEXT, VOCAB = 12, 67
SHAPE = {"vocab": VOCAB, "context": CONTEXT, "width": 16, "layers": 3, "heads": 4, "dropout": 0.5}


def network(seed: int = 1, **changes: object) -> GPT:
    """In training mode, with a dropout that would change every prediction. What the blocks say outweighs the token."""
    gpt = initialise(Model.model_validate(SHAPE | changes), seed)
    with torch.no_grad():
        for block in gpt.blocks:
            block.attention.out.weight.mul_(20)
            block.mlp.down.weight.mul_(20)
    return gpt


def plain(gpt: GPT, prompt: list[int], how: Samples) -> list[int]:
    """One pass of the whole network for each token, over the newest that the context holds."""
    gpt.eval()
    generator, tokens = Generator().manual_seed(how.seed), list(prompt)
    with torch.no_grad():
        for _ in range(how.tokens):
            logits_V = gpt.logits(torch.tensor([tokens[-gpt.shape.context :]]))[0, -1]
            tokens.append(draw(logits_V, how, generator))
    gpt.train()
    return tokens[len(prompt) :]


@pytest.mark.parametrize("length", [1, 5, CONTEXT - 1, CONTEXT, CONTEXT + 7])
@pytest.mark.parametrize("how", [{}, {"temperature": 0.0}, {"temperature": 1.7, "top_k": VOCAB, "seed": 3}])
@pytest.mark.parametrize(
    "changes", [{}, {"qkv_bias": True, "tie_weights": True, "vocab_multiple": 64}], ids=["baseline", "as GPT-2"]
)
def test_it_gives_the_tokens_of_a_sampler_without_a_cache(changes: dict, how: dict, length: int) -> None:
    gpt, asked = network(**changes), Samples(tokens=CONTEXT + 9, **how)
    prompt = torch.randint(0, VOCAB, (length,), generator=Generator().manual_seed(length)).tolist()
    found = sample(gpt, prompt, asked)
    assert gpt.training
    assert found == plain(gpt, prompt, asked)
    assert len(set(found)) > 3, "else equal tokens would prove little"


def test_each_prediction_is_that_of_the_whole_network() -> None:
    gpt = network()
    tokens = torch.randint(0, VOCAB, (CONTEXT,), generator=Generator().manual_seed(7))
    with torch.no_grad():
        cache = Cache(gpt, CONTEXT)
        found = [cache.logits(tokens[:4].tolist(), start=0)]
        found += [cache.logits([int(token)], start=cache.length) for token in tokens[4:]]
        expected = gpt.eval().logits(tokens[None])[0, 3:]
    torch.testing.assert_close(torch.stack(found), expected, rtol=0, atol=1e-5)


def test_the_draws_touch_no_other_generator_and_depend_on_the_seed_alone() -> None:
    gpt, how = network(), Samples(tokens=8)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = sample(gpt, [1, 2], how)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert sample(gpt, [1, 2], how) == first
    assert sample(gpt, [1, 2], how.model_copy(update={"seed": 1})) != first


def test_a_block_that_is_compiled_for_training_is_not_called() -> None:
    gpt = network()
    expected = sample(gpt, [1], Samples())

    def compiled(*_: object) -> None:
        raise AssertionError("it would be compiled anew for every length")

    for block in gpt.blocks:
        block._compiled_call_impl = compiled  # as Module.compile does
    with pytest.raises(AssertionError, match="compiled anew"):
        gpt.logits(torch.tensor([[1]]))
    assert sample(gpt, [1], Samples()) == expected


def test_a_model_whose_predictions_are_not_finite_says_nothing_more() -> None:
    gpt = network()
    with torch.no_grad():
        gpt.norm.weight[0] = math.nan
    assert sample(gpt, [1, 2], Samples()) == []


LOGITS = torch.tensor([0.0, 3.0, -1.0, 2.0, 2.5, -math.inf])


def drawn(**how: object) -> Counter[int]:
    generator = Generator().manual_seed(5)
    return Counter(draw(LOGITS, Samples.model_validate(how), generator) for _ in range(4000))


@pytest.mark.parametrize("how", [{"temperature": 0.0}, {"top_k": 1}, {"temperature": 5e-324}])
def test_without_a_choice_the_likeliest_is_drawn(how: dict) -> None:
    assert set(drawn(**how)) == {1}


@pytest.mark.parametrize(("temperature", "top_k"), [(1.0, 3), (0.5, 3), (2.0, 25), (1e300, 5)])
def test_tokens_come_as_often_as_softmax_says_and_only_the_likeliest(temperature: float, top_k: int) -> None:
    found = drawn(temperature=temperature, top_k=top_k)
    kept = sorted(range(6), key=lambda token: -LOGITS[token])[:top_k]
    weights = {token: math.exp((float(LOGITS[token]) - 3.0) / temperature) for token in kept}
    for token, weight in weights.items():
        chance = weight / sum(weights.values())
        assert found[token] / 4000 == pytest.approx(chance, abs=4 * math.sqrt(chance * (1 - chance) / 4000) + 1e-9)
    assert set(found) <= set(kept)
