"""FlexAttention: the same attention as torch's fused one, asked for exactly where it was measured to be faster."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from farm.study.recipe import Model
from model import conditions, flex, kernels
from model.gpt import GPT

CPU = torch.device("cpu")
HOPPER, AMPERE = (9, 0), (8, 0)
SHAPE: dict[str, Any] = {"vocab": 67, "context": 256, "width": 128, "layers": 1, "heads": 2, "dropout": 0.0}


@pytest.fixture
def hopper(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch says that a Hopper is here; what needs one is not run."""
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: HOPPER)


def draw(*size: int, seed: int = 0) -> Tensor:
    return torch.randn(size, generator=torch.Generator().manual_seed(seed))


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_it_is_the_attention_of_torchs_fused_one(hopper: None) -> None:
    """Its gradients need a GPU: the row "attention" of `python -m benchmarks cuda` has their error."""
    past = flex.past(Model(**SHAPE), CPU)
    assert past is not None
    q, k, v = (draw(2, 2, 256, 64, seed=seed).double() for seed in range(3))
    torch.testing.assert_close(flex.attention(q, k, v, past), F.scaled_dot_product_attention(q, k, v, is_causal=True))


@pytest.mark.parametrize(
    ("changed", "capability"),
    [
        ({"dropout": 0.1}, HOPPER),
        ({"heads": 4}, HOPPER),
        ({"context": 200}, HOPPER),
        ({}, AMPERE),
    ],
    ids=["dropout", "narrow heads", "part of a block", "another card"],
)
def test_it_is_asked_for_only_where_it_was_measured(
    changed: dict[str, Any], capability: tuple[int, int], hopper: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert flex.past(Model(**SHAPE), CPU)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: capability)
    assert flex.past(Model(**SHAPE | changed), CPU) is None


def compiled(gpt: GPT, x_BTC: Tensor, dtype: torch.dtype) -> tuple[Tensor, str]:
    """What the block says when dynamo has taken it whole, and the graph that it found."""
    found: list[str] = []

    def note(graph: torch.fx.GraphModule, inputs: object) -> Any:
        found.append(graph.print_readable(print_output=False))
        return graph.forward

    torch._dynamo.reset()
    block = torch.compile(gpt.blocks[0], backend=note, fullgraph=True, dynamic=False)
    with torch.autocast("cpu", dtype, enabled=dtype is not torch.float32), torch.no_grad():
        return block(x_BTC), found[0]


def test_a_compiled_block_takes_it_at_16_bits_and_whole_sequences(hopper: None) -> None:
    gpt, x_BTC = GPT(Model(**SHAPE)), draw(2, 256, 128)
    before, graph = compiled(gpt, x_BTC, torch.bfloat16)
    assert "flex_attention" not in graph
    gpt.blocks[0].attention.past = flex.past(gpt.shape, CPU)
    after, graph = compiled(gpt, x_BTC, torch.bfloat16)
    assert "flex_attention" in graph
    torch.testing.assert_close(after, before, rtol=0.02, atol=0.02)
    assert "flex_attention" not in compiled(gpt, x_BTC, torch.float32)[1]
    assert "flex_attention" not in compiled(gpt, x_BTC[:, :128], torch.bfloat16)[1]


@pytest.mark.parametrize("kind", ["farm", "torch"])
def test_blocks_for_a_gpu_have_it_where_farms_kernels_compute(
    kind: Any, hopper: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = flex.past
    monkeypatch.setattr(flex, "past", lambda shape, device: here(shape, CPU))
    gpt = GPT(Model(**SHAPE))
    with kernels.use(kind):
        conditions.compile_blocks(gpt, torch.device("cuda"))
    assert (gpt.blocks[0].attention.past is not None) == (kind == "farm")
