"""The cross-entropy of a chunk of logits and its gradient as one kernel for a GPU, in Triton.

torch needs five kernels for it, one of which sorts where results have to be the same every time: about 28 bytes of
memory traffic for a logit of 16 bits. Here each row is read twice and written once, 6 bytes, by one program that adds
in a fixed order, so that the bits are the same every time. `model.loss` has the same in torch's words.

Letters: N tokens, V columns of the logits (the vocabulary and its padding).
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK = 4096  # columns that a program holds at a time
WARPS = 8


def cross_entropy(logits_NV: Tensor, y_N: Tensor, loss_N: Tensor, vocab: int, scale: float, wanted: bool) -> None:
    """Fill `loss_N`, and where `wanted` put the gradient of scale * loss_N.sum() in the place of the logits.

    Columns from `vocab` on take no part in the softmax, whatever they hold; their gradient is 0.
    """
    assert logits_NV.stride(1) == 1
    _cross_entropy[(len(y_N),)](
        logits_NV,
        y_N,
        loss_N,
        logits_NV.stride(0),
        vocab,
        logits_NV.shape[1],
        scale,
        WANTED=wanted,
        EXACT=tl.float64 if loss_N.dtype is torch.float64 else tl.float32,
        BLOCK=min(BLOCK, triton.next_power_of_2(logits_NV.shape[1])),
        num_warps=WARPS,
    )


@triton.jit
def _cross_entropy(
    logits_NV,
    y_N,
    loss_N,
    stride,
    vocab,
    columns,
    scale,
    WANTED: tl.constexpr,
    EXACT: tl.constexpr,
    BLOCK: tl.constexpr,
):
    n = tl.program_id(0).to(tl.int64)
    row_V = logits_NV + n * stride
    target = tl.load(y_N + n)
    counts = target >= 0
    # log(sum(exp(x))) in one pass: what was added so far is scaled down whenever a larger x comes (Milakov &
    # Gimelshein 2018, Online normalizer calculation for softmax)
    largest = tl.full((), float("-inf"), EXACT)
    total = tl.zeros((), EXACT)
    for start in range(0, vocab, BLOCK):
        column = start + tl.arange(0, BLOCK)
        x = tl.load(row_V + column, mask=column < vocab, other=float("-inf")).to(EXACT)
        before = largest
        largest = tl.maximum(before, tl.max(x, 0))
        total = total * tl.exp(before - largest) + tl.sum(tl.exp(x - largest), 0)
    log_total = largest + tl.log(total)
    at_target = tl.load(row_V + tl.where(counts, target, 0)).to(EXACT)
    tl.store(loss_N + n, tl.where(counts, log_total - at_target, 0.0))
    if WANTED:
        factor = tl.where(counts, scale, 0.0).to(EXACT)
        for start in range(0, columns, BLOCK):
            column = start + tl.arange(0, BLOCK)
            x = tl.load(row_V + column, mask=column < vocab, other=float("-inf")).to(EXACT)
            one = tl.where(column == target, 1.0, 0.0).to(EXACT)
            gradient = (tl.exp(x - log_total) - one) * factor
            tl.store(row_V + column, gradient.to(logits_NV.dtype.element_ty), mask=column < columns)
