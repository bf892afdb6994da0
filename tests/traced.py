"""What a GPU would do in a microbatch, without one: shapes go through the network, and no number is computed.

Tensors are fake ones of the CPU, since torch's CPU build cannot differentiate fake ones of CUDA. Where torch does
something else on a CPU, it does here as on a GPU: dropout keeps masks of bytes, attention none; softmax takes 16 bits.
"""

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from farm.study.recipe import Recipe
from model import loss
from model.gpt import GPT
from model.precision import autocast

CPU = torch.device("cpu")


class Trace(TorchDispatchMode):
    """Bytes that are read and written by operations under it, how many there are, and the most that is alive."""

    def __init__(self) -> None:
        super().__init__()
        self.moved = self.peak = self.operations = 0
        self._now, self._alive = 0, set[int]()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **kwargs or {})
        read, made = ([leaf for leaf in tree_leaves(x) if isinstance(leaf, Tensor)] for x in ((args, kwargs), result))
        is_view = bool(made) and not [self.hold(tensor) for tensor in made].count(True) and not func._schema.is_mutable
        if read and made and not is_view:
            self.operations += 1
            self.moved += sum(tensor.nbytes for tensor in (*read, *made))
        return result

    def hold(self, tensor: Tensor) -> bool:
        """Count its memory for as long as that lives. False: it is counted already."""
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key in self._alive:
            return False
        self._alive.add(key)
        self._now += size
        self.peak = max(self.peak, self._now)
        weakref.finalize(storage, self._drop, key, size)
        return True

    def _drop(self, key: int, size: int) -> None:
        self._alive.remove(key)
        self._now -= size


def microbatch(recipe: Recipe, size: int) -> Trace:
    """A later microbatch of a step: weights and gradients are there, and moments of the optimiser are not."""
    with _as_on_a_gpu(), FakeTensorMode():
        gpt = GPT(recipe.model)
        x_BT = torch.zeros(size, recipe.model.context, dtype=torch.int64)
        trace = Trace()
        for parameter in gpt.parameters():
            parameter.grad = torch.empty_like(parameter)
            trace.hold(parameter)
            trace.hold(parameter.grad)
        with trace:
            with autocast(recipe.train.precision, CPU):
                loss_sum = gpt(x_BT, x_BT)
            loss_sum.backward()
    return trace


@contextmanager
def _as_on_a_gpu() -> Iterator[None]:
    attention = F.scaled_dot_product_attention

    def without_masks(q: Tensor, k: Tensor, v: Tensor, dropout_p: float, is_causal: bool) -> Tensor:
        return attention(q, k, v, is_causal=is_causal)

    def with_masks_of_bytes(x: Tensor, p: float, training: bool, inplace: bool) -> Tensor:
        return torch.native_dropout(x, p, training)[0] if p and training else x

    def from_16_bits(logits: Tensor, dim: int, dtype: torch.dtype) -> Tensor:
        return logits.exp() if logits.dtype is dtype else torch.empty_like(logits, dtype=dtype)

    with (
        patch.object(loss, "on_gpu", lambda x: True),
        patch.object(F, "scaled_dot_product_attention", without_masks),
        patch.object(F, "dropout", with_masks_of_bytes),
        patch.object(Tensor, "log_softmax", from_16_bits),
    ):
        yield
