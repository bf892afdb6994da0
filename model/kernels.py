"""Matrix products, attention, dropout and GELU on a CPU, where ours are faster than torch's own; else those.
On a GPU the cross-entropy is ours (model.fused), and attention is torch's other one where that is the faster
(model.flex); the choice is made here, too.

Four things that torch leaves behind, each with its numbers in docs/log.md: on a processor with AVX-512, oneDNN
multiplies float32 matrices about twice as fast as MKL (seen on AMD), and torch's fused attention is slow in bfloat16;
`bernoulli_` draws one mask entry at a time; and with AVX2 a tanh costs three times as much as a sigmoid, which says the
same, and torch's GELU takes two. With AVX2 torch wins the first two, so that only the last is ours there. The results
differ from torch's by rounding, masks altogether: so which kernels a run asks for is a field of its recipe, and which
computed it is in its result.

Letters: N rows, K and M columns, B sequences, T positions, C channels, H heads, D channels of a head, G = B * H.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from importlib.util import find_spec

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from farm.errors import NoCompiler
from farm.record.result import Computed
from farm.study import compiler
from farm.study.processor import WITH_AVX512, InstructionSet
from farm.study.recipe import Kernels
from model import flex

GROUP_NUMBERS = 2**19  # attention weights that are worked on at a time: 2 MiB in float32, which a core's cache holds
SIXTEEN_BITS = 2**16
# Whether torch has the operator that its compiler emits for linear layers on a CPU. It is not public: asked by name.
ONEDNN = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


GELU_PART = 2**17  # numbers that are worked on at a time: with two intermediates 1.5 MB
GELU_LEAST = 2**15  # fewer numbers than this take longer to ask for than to compute
TANH, CUBIC = math.sqrt(2 / math.pi), 0.044715  # of GELU's approximation (Hendrycks & Gimpel 2016, arXiv:1606.08415)

# Where `auto` is farm's: with AVX-512, as a Zen 5 (AVX512-BF16) showed, side by side; that the others do
# the same is a guess. A Zen 3 (AVX2) showed the opposite, but for GELU. Where nothing was measured, as on ARM, it is
# torch's.
AUTO: dict[InstructionSet, Computed] = {**dict.fromkeys(WITH_AVX512, "farm"), "AVX2": "gelu"}

_by: ContextVar[Computed] = ContextVar("_by", default="torch")


def resolve(kernels: Kernels, processor: InstructionSet | None) -> Computed:
    """Whose kernels a recipe's `kernels` means on a CPU with these instructions; None: unknown."""
    wanted = (AUTO.get(processor, "torch") if processor else "torch") if kernels == "auto" else kernels
    return "torch" if wanted == "farm" and not ONEDNN else wanted


def resolve_on_cuda(kernels: Kernels) -> Computed:
    """The same on a GPU. Farm's are written in Triton, which needs a C compiler on the node."""
    return "farm" if kernels in ("auto", "farm") and can_compile_for_cuda() else "torch"


def can_compile_for_cuda() -> bool:
    """Whether Triton is here, and what it needs."""
    try:
        compiler.find_compiler(compiler.ON_CUDA)
    except NoCompiler:
        return False
    return find_spec("triton") is not None


@contextmanager
def use(kernels: Computed) -> Iterator[None]:
    """Around training: compute by these kernels. Without it, torch's are used."""
    before = _by.set(kernels)
    try:
        yield
    finally:
        _by.reset(before)


def in_use(device: torch.device) -> Computed:
    """The kernels that compute on `device` now."""
    return _by.get() if device.type in ("cpu", "cuda") else "torch"


class Linear(nn.Linear):
    """torch's, by the chosen kernels."""

    def forward(self, input: Tensor) -> Tensor:
        return _Linear.apply(input, self.weight, self.bias) if _by_onednn(input) else super().forward(input)


class Dropout(nn.Dropout):
    """torch's, by the chosen kernels."""

    def forward(self, input: Tensor) -> Tensor:
        if self.training and self.p and _ours(input):
            return _Dropout.apply(input, self.p)
        return super().forward(input)


def product(a_NK: Tensor, b_MK: Tensor) -> Tensor:
    """a @ b.T as c_NM, without gradients."""
    return _onednn(a_NK, b_MK) if _by_onednn(a_NK) else a_NK @ b_MK.T


def causal_attention(qkv_BTX: Tensor, heads: int, dropout: float = 0.0, past: flex.Past | None = None) -> Tensor:
    """softmax(q @ k.T / sqrt(D)) @ v over the past, each head on its own: y_BTC.

    X = 3C: query, key and value side by side, heads within each. `dropout` is the share of the weights that is dropped;
    with a `past`, which is for compiled blocks, there is none.
    """
    fused_is_fast = qkv_BTX.dtype is torch.float32 and not dropout
    if _ours(qkv_BTX) and not fused_is_fast:
        return _Attention.apply(qkv_BTX, heads, dropout)
    B, T, X = qkv_BTX.shape
    # In this order the backward pass lays the three gradients side by side in one copy.
    q_BHTD, k_BHTD, v_BHTD = (x_BTHD.transpose(1, 2) for x_BTHD in qkv_BTX.view(B, T, 3, heads, -1).unbind(2))
    if past is not None and flex.takes(q_BHTD, past):
        y_BHTD = flex.attention(q_BHTD, k_BHTD, v_BHTD, past)
    else:
        y_BHTD = F.scaled_dot_product_attention(q_BHTD, k_BHTD, v_BHTD, dropout_p=dropout, is_causal=True)
    return y_BHTD.transpose(1, 2).reshape(B, T, X // 3)


def gelu(x: Tensor) -> Tensor:
    """x * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 * x^3))) / 2, by the chosen kernels."""
    is_worth_it = x.dtype is torch.float32 and x.numel() >= GELU_LEAST and x.is_contiguous()
    if _is_on_cpu(x) and is_worth_it and _by.get() == "gelu":
        return _Gelu.apply(x)
    return F.gelu(x, approximate="tanh")


def by_triton(x: Tensor) -> bool:
    """Whether farm's kernel for a GPU works on `x`."""
    return x.device.type == "cuda" and _by.get() == "farm"


def _ours(x: Tensor) -> bool:
    return _is_on_cpu(x) and _by.get() == "farm" and x.dtype in (torch.float32, torch.bfloat16)


def _is_on_cpu(x: Tensor) -> bool:
    """And is not being compiled, which has kernels of its own."""
    return not torch.compiler.is_compiling() and x.device.type == "cpu"


def _by_onednn(x: Tensor) -> bool:
    """In bfloat16 torch asks oneDNN by itself; under autocast the operands are still to be cast."""
    return _ours(x) and x.dtype is torch.float32 and not torch.is_autocast_enabled("cpu")


def _onednn(a: Tensor, b_MK: Tensor, bias_M: Tensor | None = None) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(a, b_MK, bias_M, "none", [], "")


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight_MK, bias_M):
        ctx.save_for_backward(x, weight_MK)
        ctx.biased = bias_M is not None
        return _onednn(x, weight_MK, bias_M)

    @staticmethod
    @once_differentiable
    def backward(ctx, dy):
        x, weight_MK = ctx.saved_tensors
        dy_NM = dy.flatten(0, -2)
        dx = _onednn(dy_NM, weight_MK.T).view_as(x)
        dweight_MK = _onednn(dy_NM.T, x.flatten(0, -2).T)
        return dx, dweight_MK, dy_NM.sum(0) if ctx.biased else None


class _Dropout(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, rate):
        ctx.rate, kept = rate, _keep_mask(x.shape, rate)
        ctx.save_for_backward(kept)
        return x * _factors(kept, rate, x.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx, dy):
        (kept,) = ctx.saved_tensors
        return dy * _factors(kept, ctx.rate, dy.dtype), None


class _Gelu(torch.autograd.Function):
    """(1 + tanh(u)) / 2 is sigmoid(2u), so with s = sigmoid(2u) it is x * s, and its slope s + x * s * (1 - s) * 2u'.

    The slope is kept in the place of x: the backward pass is one product.
    """

    @staticmethod
    def forward(ctx, x):
        y, slope = torch.empty_like(x), torch.empty_like(x) if ctx.needs_input_grad[0] else None
        whole = (x, y) if slope is None else (x, y, slope)
        for part in zip(*(numbers.view(-1).split(GELU_PART) for numbers in whole), strict=True):
            x_N, y_N = part[:2]
            square_N = torch.mul(x_N, x_N)
            s_N = torch.mul(square_N, 2 * TANH * CUBIC).add_(2 * TANH).mul_(x_N).sigmoid_()
            torch.mul(x_N, s_N, out=y_N)
            if slope is not None:
                rest_N = torch.mul(square_N, 6 * TANH * CUBIC, out=part[2]).add_(2 * TANH).mul_(y_N)
                rest_N.addcmul_(rest_N, s_N, value=-1).add_(s_N)
        ctx.save_for_backward(slope)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx, dy):
        (slope,) = ctx.saved_tensors
        return slope * dy


def _keep_mask(shape: torch.Size | tuple[int, ...], rate: float) -> Tensor:
    """Which of the numbers are kept: each is dropped with probability `rate`, to the nearest 1 / 65536.

    One draw of 64 bits serves four numbers.
    """
    numbers = math.prod(shape)
    bits = torch.empty((numbers + 3) // 4, dtype=torch.int64).random_(-(2**63), None)
    return bits.view(torch.int16)[:numbers].view(shape) >= _drop_count(rate) - SIXTEEN_BITS // 2


def _factors(kept: Tensor, rate: float, dtype: torch.dtype) -> Tensor:
    """0 for what is dropped, and for the rest what makes up for it."""
    return kept.to(dtype).mul_(SIXTEEN_BITS / (SIXTEEN_BITS - _drop_count(rate)))


def _drop_count(rate: float) -> int:
    """How many of the 65536 values of 16 bits mean: drop."""
    return min(round(rate * SIXTEEN_BITS), SIXTEEN_BITS - 1)


class _Attention(torch.autograd.Function):
    """A few heads at a time, so that their weights stay in the cache; the backward pass computes these again.

    As where attention is written out under autocast: products in the dtype of q, k and v, the softmax in float32.
    """

    @staticmethod
    def forward(ctx, qkv_BTX, heads, rate):
        q_GTD, k_GTD, v_GTD = _split(qkv_BTX, heads)
        y_GTD = torch.empty_like(q_GTD)
        ctx.shape, ctx.heads, ctx.rate, ctx.kept = qkv_BTX.shape, heads, rate, []
        ctx.save_for_backward(q_GTD, k_GTD, v_GTD)
        with torch.autocast("cpu", enabled=False):
            for g, weights_GTT in _weights(q_GTD, k_GTD):
                if rate:
                    ctx.kept.append(_keep_mask(weights_GTT.shape, rate))
                    weights_GTT = weights_GTT.mul_(_factors(ctx.kept[-1], rate, weights_GTT.dtype))
                torch.bmm(weights_GTT.to(v_GTD.dtype), v_GTD[g], out=y_GTD[g])
        B, T, X = qkv_BTX.shape
        return y_GTD.view(B, heads, T, -1).transpose(1, 2).reshape(B, T, X // 3)

    @staticmethod
    @once_differentiable
    def backward(ctx, dy_BTC):
        q_GTD, k_GTD, v_GTD = ctx.saved_tensors
        (B, T, X), heads, D = ctx.shape, ctx.heads, q_GTD.shape[-1]
        dy_GTD = dy_BTC.view(B, T, heads, D).transpose(1, 2).reshape(B * heads, T, D)
        d_3GTD = q_GTD.new_empty(3, *q_GTD.shape)
        dq_GTD, dk_GTD, dv_GTD = d_3GTD.unbind(0)
        for i, (g, weights_GTT) in enumerate(_weights(q_GTD, k_GTD)):
            dropped_GTT = weights_GTT
            dweights_GTT = torch.bmm(dy_GTD[g], v_GTD[g].transpose(1, 2)).to(weights_GTT.dtype)
            if ctx.rate:
                factors_GTT = _factors(ctx.kept[i], ctx.rate, weights_GTT.dtype)
                dropped_GTT = weights_GTT * factors_GTT
                dweights_GTT = dweights_GTT.mul_(factors_GTT)
            torch.bmm(dropped_GTT.to(dy_GTD.dtype).transpose(1, 2), dy_GTD[g], out=dv_GTD[g])
            # d softmax: w * (dw - sum(w * dw)), then the scale of the scores
            dscores_GTT = torch._softmax_backward_data(dweights_GTT, weights_GTT, -1, weights_GTT.dtype)
            dscores_GTT = dscores_GTT.mul_(D**-0.5).to(q_GTD.dtype)
            torch.bmm(dscores_GTT, k_GTD[g], out=dq_GTD[g])
            torch.bmm(dscores_GTT.transpose(1, 2), q_GTD[g], out=dk_GTD[g])
        return d_3GTD.view(3, B, heads, T, D).permute(1, 3, 0, 2, 4).reshape(B, T, X), None, None


def _split(qkv_BTX: Tensor, heads: int) -> tuple[Tensor, Tensor, Tensor]:
    """Query, key and value, each GTD."""
    B, T, _ = qkv_BTX.shape
    q_GTD, k_GTD, v_GTD = qkv_BTX.view(B, T, 3, heads, -1).permute(2, 0, 3, 1, 4).reshape(3, B * heads, T, -1).unbind(0)
    return q_GTD, k_GTD, v_GTD


def _weights(q_GTD: Tensor, k_GTD: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """The attention weights of a few heads at a time, in float32, with the slice of G that these are."""
    G, T, D = q_GTD.shape
    future_TT = torch.full((T, T), -torch.inf, dtype=q_GTD.dtype).triu_(1)
    size = max(1, GROUP_NUMBERS // (T * T))
    for start in range(0, G, size):
        g = slice(start, start + size)
        scores_GTT = torch.baddbmm(future_TT, q_GTD[g], k_GTD[g].transpose(1, 2), alpha=D**-0.5)
        yield g, scores_GTT.softmax(-1, dtype=torch.float32)
