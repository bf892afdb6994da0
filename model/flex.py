"""Causal attention by torch's FlexAttention: in compiled blocks without dropout, on the GPUs where it was measured to
be the faster one.

torch's fused attention adds up the gradient of the queries in whatever order its blocks come to an end. Asked for the
same bits every time, it takes 1.34 times as long: 3.08 ms instead of 2.29, forward and backward, of 96 sequences of
1,024 tokens, 12 heads of 64, fp16, on an H200 (torch 2.11). FlexAttention (Dong et al. 2024, arXiv:2412.05496), which
torch compiles into two Triton kernels, adds in one order anyway: 2.5 ms with blocks like these. It has no dropout.

Letters: B sequences, H heads, T positions, D channels of a head.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from farm.study.recipe import Model

HEAD = 64  # channels, for which it was measured
BLOCK = 128  # tokens that a mask tells of at a time
# Compute capability -> how the kernels cut their work, as the fastest of 21 ways that were tried there.
OPTIONS = {
    (9, 0): {
        "fwd_BLOCK_M": 64,
        "fwd_BLOCK_N": 64,
        "fwd_num_warps": 4,
        "fwd_num_stages": 3,
        "bwd_BLOCK_M1": 32,
        "bwd_BLOCK_N1": 128,
        "bwd_BLOCK_M2": 128,
        "bwd_BLOCK_N2": 64,
        "bwd_num_warps": 4,
        "bwd_num_stages": 3,
        "ROWS_GUARANTEED_SAFE": True,  # every token sees itself
        "BLOCKS_ARE_CONTIGUOUS": True,
    }
}


class Past(NamedTuple):
    """What each of `tokens` positions may look at: those up to itself. `mask` is a BlockMask."""

    mask: Any
    tokens: int
    options: dict[str, Any]


def past(shape: Model, device: torch.device) -> Past | None:
    """What `attention` needs for such a model there; None where torch's fused attention is to compute."""
    options = OPTIONS.get(torch.cuda.get_device_capability(device))
    is_measured = shape.width == HEAD * shape.heads and shape.context % BLOCK == 0
    if options is None or not is_measured or shape.dropout:
        return None
    from torch.nn.attention.flex_attention import create_block_mask

    size = shape.context
    return Past(create_block_mask(_is_past, None, None, size, size, device, BLOCK), size, options)


def takes(q_BHTD: Tensor, past: Past) -> bool:
    """Whether `attention` is for such tensors: of 16 bits, and as long as those it was made for."""
    return q_BHTD.element_size() == 2 and q_BHTD.shape[2] == past.tokens


def attention(q_BHTD: Tensor, k_BHTD: Tensor, v_BHTD: Tensor, past: Past) -> Tensor:
    """softmax(q @ k.T / sqrt(D)) @ v over the past: y_BHTD. Fast only where it is compiled."""
    from torch.nn.attention.flex_attention import flex_attention

    options: Any = past.options
    return flex_attention(q_BHTD, k_BHTD, v_BHTD, block_mask=past.mask, kernel_options=options)


def _is_past(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
    return query >= key
