"""The language-model head and its cross-entropy in one piece, a chunk of tokens at a time.

The logits of GPT-2 are its largest tensor: 6 sequences of 1024 tokens and 50,257 rows are 1.2 GB in float32, as much
again for their gradient. Here a chunk's logits turn into losses and into the gradients of `h` and `head` at once, then
make room for the next chunk. Chunks depend on the shape of the microbatch only, never on the number of workers.

Letters: N tokens, C channels, V rows of the head (the vocabulary and its padding).
"""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

CHUNK_BYTES = 2**27  # of float32 logits: 667 tokens of GPT-2's vocabulary, enough work for a matrix product


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
        return dh_NC.mul_(factor), dhead_VC.mul_(factor), None, None, None


def _losses_and_gradients(
    h_NC: Tensor, head_VC: Tensor, y_N: Tensor, vocab: int, scale: float, wanted: bool
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """loss_N, and where `wanted` the gradients of scale * loss_N.sum() with respect to h and head."""
    device = h_NC.device.type
    compute = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else head_VC.dtype
    wide = torch.promote_types(compute, torch.float32)
    with torch.autocast(device, enabled=False):
        inputs_NC, weight_VC = h_NC.to(compute), head_VC.to(compute)
        loss_N = torch.empty(len(y_N), dtype=wide, device=h_NC.device)
        dh_NC = torch.empty_like(h_NC) if wanted else None
        dhead_VC = torch.zeros_like(head_VC) if wanted else None
        for rows in _chunks(len(y_N), len(head_VC)):
            logits_NV = inputs_NC[rows] @ weight_VC.T
            logits_NV[:, vocab:] = -torch.inf  # rows that pad the vocabulary take no part in the softmax
            logp_NV = logits_NV.log_softmax(dim=1, dtype=wide)
            counts_N1 = (y_N[rows] >= 0).unsqueeze(1)
            target_N1 = y_N[rows].clamp(min=0).unsqueeze(1)
            loss_N[rows] = torch.where(counts_N1, -logp_NV.gather(1, target_N1), 0).squeeze(1)
            if dh_NC is not None and dhead_VC is not None:
                # d loss / d logits = softmax - one_hot(target), or 0 where the target is ignored
                one_N1 = torch.ones_like(target_N1, dtype=wide)
                dlogits_NV = logp_NV.exp_().scatter_add_(1, target_N1, -one_N1).mul_(counts_N1 * scale).to(compute)
                dh_NC[rows] = dlogits_NV @ weight_VC
                _add_product(dhead_VC, dlogits_NV.T, inputs_NC[rows])
    return loss_N, dh_NC, dhead_VC


def _add_product(sum_VC: Tensor, a_VN: Tensor, b_NC: Tensor) -> None:
    """sum += a @ b, in the sum's precision, without a temporary where the three agree."""
    if a_VN.dtype == sum_VC.dtype:
        sum_VC.addmm_(a_VN, b_NC)
    else:
        sum_VC += a_VN @ b_NC


def _chunks(tokens: int, rows: int) -> Iterator[slice]:
    size = max(1, CHUNK_BYTES // (4 * rows))
    return (slice(start, min(start + size, tokens)) for start in range(0, tokens, size))
