"""The language-model head and its cross-entropy in one piece, a chunk of tokens at a time.

The logits of GPT-2 are its largest tensor: 6 sequences of 1024 tokens and 50,257 rows are 1.2 GB in float32, as much
again for their gradient. Here a chunk's logits turn into losses and into the gradients of `h` and `head` at once, then
make room for the next chunk. Chunks depend on the shape of the microbatch only, never on the number of workers.

Letters: N tokens, C channels, V rows of the head (the vocabulary and its padding).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from math import ceil

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from farm.study.memory import LOGIT_BYTES
from model.kernels import by_triton, product

CHUNK_BYTES = 2**27  # of logits: 667 tokens of GPT-2's vocabulary in float32, enough work for a matrix product
CUDA_CHUNK_BYTES = LOGIT_BYTES  # a GPU wants more work, and adds the head's gradient once a chunk
ROWS = 64  # on a GPU the head is padded to a multiple of them: tensor cores want rows of logits that begin at 16 bytes
BLOCK_BYTES = 2**20  # of log-probabilities: four passes go over them, in the cache of a CPU core


def summed_loss(h_NC: Tensor, head_VC: Tensor, y_N: Tensor, *, vocab: int, scale: float = 1.0) -> Tensor:
    """Sum of the cross-entropy of softmax(h @ head.T) over all targets >= 0, a differentiable float64 scalar.

    `scale` is what the caller multiplies the result by before the backward pass. Gradients are right whatever it is,
    but in half precision they keep their small values only if it is told here.
    """
    return _SummedLoss.apply(h_NC, head_VC, y_N, vocab, scale)


def token_losses(h_NC: Tensor, head_VC: Tensor, y_N: Tensor, *, vocab: int) -> Tensor:
    """The cross-entropy of each token as loss_N, 0 where the target is negative; without gradients."""
    with torch.no_grad():
        return _losses_and_gradients(h_NC, head_VC, y_N, vocab, scale=1.0, wanted=False)[0]


class _SummedLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx, h_NC, head_VC, y_N, vocab, scale):
        wanted = any(ctx.needs_input_grad)
        loss_N, *ctx.gradients = _losses_and_gradients(h_NC, head_VC, y_N, vocab, scale, wanted)
        ctx.scale = scale
        return loss_N.sum(dtype=torch.float64)

    @staticmethod
    @once_differentiable
    def backward(ctx, dloss):
        dh_NC, dhead_VC = ctx.gradients
        ctx.gradients = ()  # scaled in place, because the head's is large: there is no second backward pass
        factor = (dloss / ctx.scale).to(dhead_VC.dtype)  # 1 when the caller kept its word
        if not on_gpu(factor) and float(factor) == 1:  # on a GPU to ask costs more than to multiply
            return dh_NC, dhead_VC, None, None, None
        return dh_NC.mul_(factor), dhead_VC.mul_(factor), None, None, None


def _losses_and_gradients(
    h_NC: Tensor, head_VC: Tensor, y_N: Tensor, vocab: int, scale: float, wanted: bool
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """loss_N, and where `wanted` the gradients of scale * loss_N.sum() with respect to h and head."""
    device = h_NC.device.type
    compute = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else head_VC.dtype
    with torch.autocast(device, enabled=False):
        inputs_NC, weight_VC = h_NC.to(compute), _align(head_VC, compute)
        loss_N = torch.empty(len(y_N), dtype=torch.promote_types(compute, torch.float32), device=h_NC.device)
        dh_NC = torch.empty_like(h_NC) if wanted else None
        dhead_VC = None
        for rows in _chunks(len(y_N), len(weight_VC) * compute.itemsize, on_gpu(h_NC)):
            logits_NV = product(inputs_NC[rows], weight_VC)
            cross_entropy(logits_NV, y_N[rows], loss_N[rows], vocab, scale, wanted)
            if dh_NC is not None:
                dh_NC[rows] = product(logits_NV, weight_VC.T)
                part_VC = product(logits_NV.T, inputs_NC[rows].T)[: len(head_VC)]
                dhead_VC = part_VC.to(head_VC.dtype) if dhead_VC is None else dhead_VC.add_(part_VC)
    return loss_N, dh_NC, dhead_VC


def on_gpu(x: Tensor) -> bool:
    """Whether the work on `x` is cut as a GPU wants it."""
    return x.device.type != "cpu"


def cross_entropy(logits_NV: Tensor, y_N: Tensor, loss_N: Tensor, vocab: int, scale: float, wanted: bool) -> None:
    """Fill `loss_N`, and where `wanted` put the gradient of scale * loss_N.sum() in the place of the logits.

    Columns from `vocab` on take no part in the softmax. On a GPU by one kernel of farm's, where that was chosen.
    """
    if by_triton(logits_NV):
        from model import fused  # Triton, which is there on CUDA only

        fused.cross_entropy(logits_NV, y_N, loss_N, vocab, scale, wanted)
        return
    logits_NV[:, vocab:] = -torch.inf
    size = len(y_N) if on_gpu(logits_NV) else BLOCK_BYTES // (loss_N.itemsize * logits_NV.shape[1])
    for rows in _even(len(y_N), max(1, size)):
        counts_N1, target_N1 = (y_N[rows] >= 0).unsqueeze(1), y_N[rows].clamp(min=0).unsqueeze(1)
        logp_NV = logits_NV[rows].log_softmax(dim=1, dtype=loss_N.dtype)
        loss_N[rows] = torch.where(counts_N1, -logp_NV.gather(1, target_N1), 0).squeeze(1)
        if wanted:
            # d loss / d logits = softmax - one_hot(target), or 0 where the target is ignored
            one_N1 = torch.ones_like(target_N1, dtype=loss_N.dtype)
            with _in_any_order():  # a row has one target, so that no two numbers are added to the same place
                gradient_NV = logp_NV.exp_().scatter_add_(1, target_N1, -one_N1)
            logits_NV[rows] = gradient_NV.mul_(counts_N1 * scale)


@contextmanager
def _in_any_order() -> Iterator[None]:
    """Let torch add in any order: with its deterministic mode it sorts first, which costs more than the sum."""
    mode = torch.get_deterministic_debug_mode()
    torch.set_deterministic_debug_mode(0)
    try:
        yield
    finally:
        torch.set_deterministic_debug_mode(mode)


def _align(head_VC: Tensor, dtype: torch.dtype) -> Tensor:
    """The head in `dtype`; on a GPU a copy whose rows are a multiple of ROWS, of zeros where there were none."""
    V, C = head_VC.shape
    missing = -V % ROWS if on_gpu(head_VC) else 0
    if not missing:
        return head_VC.to(dtype)
    padded_VC = head_VC.new_empty(V + missing, C, dtype=dtype)
    padded_VC[:V], padded_VC[V:] = head_VC, 0
    return padded_VC


def _chunks(numbers: int, bytes_each: int, for_gpu: bool) -> Iterator[slice]:
    """Slices of `numbers` rows whose logits are worked on at a time."""
    if for_gpu:
        return _even(numbers, max(1, CUDA_CHUNK_BYTES // bytes_each))
    size = max(1, CHUNK_BYTES // bytes_each)
    return (slice(start, min(start + size, numbers)) for start in range(0, numbers, size))


def _even(numbers: int, most: int) -> Iterator[slice]:
    """As few slices of at most `most` rows as will do, alike in size: none is left with a row or two."""
    count = max(1, ceil(numbers / most))
    return (slice(numbers * i // count, numbers * (i + 1) // count) for i in range(count))
