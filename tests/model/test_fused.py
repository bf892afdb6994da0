"""The GPU's kernel for the loss, run line by line by Triton's interpreter on the CPU, against torch's words for it."""

import pytest
import torch

from model import fused, loss

VOCAB = 37


def logits(dtype: torch.dtype, columns: int) -> tuple[torch.Tensor, torch.Tensor]:
    """More logits a row than a kernel holds at a time, of which the last are garbage; and targets, some ignored."""
    random = torch.Generator().manual_seed(3)
    logits_NV = (torch.randn(9, columns, generator=random, dtype=torch.float64) * 4).to(dtype)
    logits_NV[:, VOCAB:] = 1e3
    y_N = torch.randint(0, VOCAB, (9,), generator=random)
    y_N[::4] = -100
    return logits_NV, y_N


@pytest.mark.parametrize("wanted", [True, False])
@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [(torch.float64, 1e-13), (torch.float32, 2e-6), (torch.float16, 2e-3), (torch.bfloat16, 2e-2)],
)
def test_it_is_torchs_cross_entropy_and_gradient(
    dtype: torch.dtype, tolerance: float, wanted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fused, "BLOCK", 16)
    exact = torch.promote_types(dtype, torch.float32)
    (ours_NV, y_N), (theirs_NV, _) = logits(dtype, 48), logits(dtype, 48)
    ours_N, theirs_N = torch.full((9,), torch.nan, dtype=exact), torch.full((9,), torch.nan, dtype=exact)
    fused.cross_entropy(ours_NV, y_N, ours_N, VOCAB, 8.0, wanted)
    loss.cross_entropy(theirs_NV, y_N, theirs_N, VOCAB, 8.0, wanted)
    torch.testing.assert_close(ours_N, theirs_N, rtol=tolerance, atol=tolerance)
    if wanted:
        torch.testing.assert_close(ours_NV, theirs_NV, rtol=tolerance, atol=tolerance)
        assert ours_NV[:, VOCAB:].count_nonzero() == 0
    else:
        assert torch.equal(ours_NV, logits(dtype, 48)[0]), "nothing was written"


def test_logits_far_apart_give_their_true_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fused, "BLOCK", 2)
    logits_NV, loss_N = torch.tensor([[-300.0, 0.0, 300.0], [300.0, 0.0, -300.0]]), torch.empty(2)
    fused.cross_entropy(logits_NV, torch.tensor([0, 0]), loss_N, 3, 1.0, True)
    assert loss_N.tolist() == [600.0, 0.0]
    assert logits_NV.tolist() == [[-1.0, 0.0, 1.0], [0.0, 0.0, 0.0]]
