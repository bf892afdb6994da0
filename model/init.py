"""The weights before the first step: a pure function of the recipe and the init seed."""

import hashlib
import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Generator, Tensor, nn
from torch.overrides import TorchFunctionMode

from farm.study.recipe import Model
from model.gpt import GPT

GPT2_STD = 0.02
RESIDUAL = ("attention.out.weight", "mlp.down.weight")  # GPT-2 draws these, which write to the residual stream, smaller


def initialise(model: Model, seed: int) -> GPT:
    """A GPT on the CPU in float32 whose weights are those of `seed`, on every machine.

    Keyed: each tensor is drawn from hash(seed, name, shape), so a switch that adds or drops a tensor moves no other.
    Sequential: one stream, in the order in which plain torch constructs the layers after `manual_seed(seed)`, query,
    key and value being three layers. Rows that only pad the vocabulary are 0 and take no draw.
    """
    with _Undrawn():
        gpt = GPT(model)
    stream = torch.Generator().manual_seed(seed)
    keyed: dict[str, Generator] = {}
    with torch.no_grad():
        for name, piece in _pieces(gpt):
            if model.init == "keyed":
                stream = keyed.get(name) or keyed.setdefault(name, _generator(seed, name, piece))
            _draw(name, piece, model, stream)
    return gpt


class _Undrawn(TorchFunctionMode):
    """Layers are made without a draw. (On the device "meta" torch imports its compiler to draw nothing: seconds.)"""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__module__", "") == nn.init.__name__:
            return args[0] if args else kwargs["tensor"]
        return func(*args, **(kwargs or {}))


def fingerprint(gpt: GPT) -> str:
    """sha256 over the name, type, shape and bytes of every weight."""
    sha = hashlib.sha256()
    for name, weight in gpt.named_parameters():
        sha.update(f"{name} {weight.dtype} {list(weight.shape)}\n".encode())
        sha.update(weight.detach().cpu().contiguous().numpy().data)
    return sha.hexdigest()


def _pieces(gpt: GPT) -> Iterator[tuple[str, Tensor]]:
    """The tensors to draw, in order of construction, as (parameter's name, its rows); sets constants on the way."""
    for name, layer in gpt.named_modules():
        if isinstance(layer, nn.LayerNorm):
            layer.reset_parameters()
        elif isinstance(layer, nn.Embedding | nn.Linear):
            yield from _layer_pieces(name, layer, gpt.shape)


def _layer_pieces(name: str, layer: nn.Embedding | nn.Linear, model: Model) -> Iterator[tuple[str, Tensor]]:
    weight, bias = layer.weight, getattr(layer, "bias", None)
    if name in ("tokens", "head"):
        weight[model.vocab :] = 0
        weight = weight[: model.vocab]
    layers = 3 if name.endswith("qkv") else 1
    for i in range(layers):
        yield f"{name}.weight", weight.chunk(layers)[i]
        if bias is not None:
            yield f"{name}.bias", bias.chunk(layers)[i]


def _draw(name: str, piece: Tensor, model: Model, generator: Generator) -> None:
    bias, embedding = name.endswith("bias"), name in ("tokens.weight", "positions.weight")
    if model.initializer == "gpt2" and bias:
        piece.zero_()
    elif model.initializer == "gpt2":
        std = GPT2_STD / math.sqrt(2 * model.layers) if name.endswith(RESIDUAL) else GPT2_STD
        piece.normal_(0, std, generator=generator)
    elif embedding:
        piece.normal_(generator=generator)
    elif bias:
        bound = 1 / math.sqrt(4 * model.width if name.endswith("mlp.down.bias") else model.width)
        piece.uniform_(-bound, bound, generator=generator)
    else:
        nn.init.kaiming_uniform_(piece, a=math.sqrt(5), generator=generator)


def _generator(seed: int, name: str, piece: Tensor) -> Generator:
    key = hashlib.sha256(f"{seed} {name} {list(piece.shape)}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(key[:8], "big") >> 1)
