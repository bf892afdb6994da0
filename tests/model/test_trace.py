"""What a GPU would do, seen without one: memory, passes over it, and waits."""

from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from torch import Tensor
from traced import microbatch
from worlds import BATCH, SOME_TOKENS, canonical, corpus, planned, tiny

from farm.study.machine import BUILT_IN
from farm.study.memory import bytes_needed
from farm.study.recipe import Recipe
from model.gpt import Block
from model.group import Group
from model.meter import Meter, Signal
from model.train import Trainer

GPU = BUILT_IN["1xrtx3090"]
MOMENTS = 8  # bytes a parameter, which a trace does not have
SMALL = {"layers": 2, "width": 256, "heads": 4, "vocab": 257}


def recipe(precision: str = "fp16", **model: object) -> Recipe:
    return Recipe().with_patch({"model": model, "train": {"precision": precision}})


@pytest.mark.parametrize(
    ("size", "precision", "model"),
    [
        (12, "fp16", {}),
        (1, "bf16", {"layers": 2}),
        (12, "tf32", {"layers": 2}),
        (48, "fp16", {"layers": 2, "dropout": 0.0}),
        (8, "fp16", {"layers": 1, "width": 1024, "heads": 16, "tie_weights": True}),
        (2, "fp16", {"layers": 2, "context": 8192}),
        (1, "fp16", SMALL | {"width": 2048, "heads": 16, "context": 64}),
        (64, "fp16", SMALL),
        (64, "fp32", SMALL),
    ],
)
def test_the_formula_is_no_less_than_a_trace_needs_and_hardly_more(size: int, precision: str, model: dict) -> None:
    asked = recipe(precision, **model)
    needs = microbatch(asked, size).peak + MOMENTS * asked.model.parameters
    assert needs <= bytes_needed(asked, GPU, size) <= 1.3 * needs


def traffic(recipe: Recipe) -> tuple[int, float, float]:
    """Operations of a layer; bytes moved per position, channel and layer; bytes per logit, by torch's words for it."""
    shape = recipe.model
    more = {"layers": shape.layers + 1, "vocab": 2 * shape.vocab}
    layered, wider = (recipe.with_patch({"model": {name: value}}) for name, value in more.items())
    one, two = ({size: microbatch(asked, size) for size in (1, 2)} for asked in (recipe, layered))
    three = {size: microbatch(wider, size) for size in (1, 2)}
    layer, logit = ((b[2].moved - b[1].moved) - (one[2].moved - one[1].moved) for b in (two, three))
    return (
        two[1].operations - one[1].operations,
        layer / (shape.context * shape.width),
        logit / (shape.context * shape.vocab),
    )


# Written down as they are. What is more was added: one more pass in float32 over the residual stream is 8 bytes.
TRAFFIC = {"fp16": (63, 324.75, 48.0), "fp32": (43, 492.75, 60.0)}
NARROW = {"width": 64, "heads": 2, "layers": 1, "vocab": 2048, "context": 64}


@pytest.mark.parametrize("precision", TRAFFIC)
def test_no_pass_over_memory_was_added(precision: str) -> None:
    for found, most in zip(traffic(recipe(precision, **NARROW)), TRAFFIC[precision], strict=True):
        assert found <= most


def test_a_pass_that_is_added_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    forward = Block.forward
    monkeypatch.setattr(Block, "forward", lambda self, x_BTC: forward(self, x_BTC) * 0.5)
    operations, layer, _ = traffic(recipe("fp16", **NARROW))
    assert (operations, layer) == (TRAFFIC["fp16"][0] + 2, pytest.approx(TRAFFIC["fp16"][1] + 16, abs=1))


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many numbers were read from the device, each time that it was asked for some.

    The device is torch's meta device, which has shapes and no numbers: whatever else would wait for one raises.
    """
    read: list[int] = []
    monkeypatch.setattr(Tensor, "tolist", lambda tensor: read.append(len(tensor)) or [1.0] * len(tensor))
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())  # which it does not have
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda *_: False)
    return read


def steps(count: int, folder: Path, **settings: object) -> None:
    kind = canonical if settings.get("reduction") == "canonical" else tiny
    micro = {"canonical_microbatch": BATCH // 2} if kind is canonical else {}
    run = kind(corpus(folder), train={"kernels": "torch", **micro, **settings})
    trainer = Trainer(run, planned(run, 1, BATCH // 2), Group(0, 1, torch.device("meta")), folder, SOME_TOKENS)
    trainer.make_ready()
    for _ in range(count):
        trainer.update(trainer.compute(Signal.CONTINUE, news=False))


@pytest.mark.parametrize("settings", [{}, {"precision": "fp16", "clip_grad_norm": 1.0}, {"reduction": "canonical"}])
def test_a_step_waits_for_the_device_once(settings: dict, waits: list[int], tmp_path: Path) -> None:
    steps(2, tmp_path, **settings)
    assert waits == [2 + 4] * 2, "the losses of its two microbatches, targets, norm, signal and news"


def test_a_wait_that_is_added_is_seen(waits: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add = Meter.add
    monkeypatch.setattr(Meter, "add", lambda meter, loss_sum, tokens: add(meter, loss_sum, tokens + int(loss_sum > 0)))
    with pytest.raises((RuntimeError, NotImplementedError), match="meta"):
        steps(1, tmp_path)
