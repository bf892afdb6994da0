"""The fused head and cross-entropy agree with torch's own, in every precision, however they are cut."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from model import loss
from model.loss import summed_loss, token_losses


def example(dtype: torch.dtype = torch.float32, tokens: int = 50, vocab: int = 37) -> tuple[Tensor, Tensor, Tensor]:
    random = torch.Generator().manual_seed(3)
    h_NC = torch.randn(tokens, 8, generator=random, dtype=dtype).requires_grad_()
    head_VC = torch.randn(vocab, 8, generator=random, dtype=dtype).requires_grad_()
    y_N = torch.randint(0, vocab, (tokens,), generator=random)
    y_N[::7] = -100
    return h_NC, head_VC, y_N


def gradients(value: Tensor, h_NC: Tensor, head_VC: Tensor) -> tuple[Tensor, Tensor]:
    return torch.autograd.grad(value, (h_NC, head_VC))


@pytest.mark.parametrize("rows_a_chunk", [1, 7, 50, 1000])
def test_in_chunks_of_any_size_it_is_the_cross_entropy(rows_a_chunk, monkeypatch):
    monkeypatch.setattr(loss, "CHUNK_BYTES", 4 * 37 * rows_a_chunk)
    h_NC, head_VC, y_N = example(torch.float64)
    expected = F.cross_entropy(h_NC @ head_VC.T, y_N, reduction="sum")
    found = summed_loss(h_NC, head_VC, y_N, vocab=37)
    assert float(found) == pytest.approx(float(expected), rel=1e-14)
    for one, other in zip(gradients(found, h_NC, head_VC), gradients(expected, h_NC, head_VC), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-14)


def test_a_head_that_is_padded_for_tensor_cores_changes_nothing(monkeypatch):
    h_NC, head_VC, y_N = example(torch.float64)
    expected = summed_loss(h_NC, head_VC, y_N, vocab=37)
    gradients_expected = gradients(expected, h_NC, head_VC)
    monkeypatch.setattr(loss, "ROWS", 16)
    monkeypatch.setattr(loss, "on_gpu", lambda x: True)
    found = summed_loss(h_NC, head_VC, y_N, vocab=37)
    assert float(found) == pytest.approx(float(expected), rel=1e-14)
    for one, other in zip(gradients(found, h_NC, head_VC), gradients_expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-14)
    with Largest() as largest:
        token_losses(h_NC, head_VC, y_N, vocab=37)
    assert largest.numbers == 50 * 48


@pytest.mark.parametrize(("numbers", "most"), [(1335, 667), (12_288, 5336), (1, 8), (8, 8), (9, 8), (1000, 1)])
def test_rows_are_cut_into_slices_that_are_alike(numbers, most):
    sizes = [len(range(numbers)[rows]) for rows in loss._even(numbers, most)]
    assert (sum(sizes), max(sizes) <= most, max(sizes) - min(sizes) <= 1) == (numbers, True, True)


def test_torchs_deterministic_mode_is_as_before():
    h_NC, head_VC, y_N = example()
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        summed_loss(h_NC, head_VC, y_N, vocab=37)
        assert torch.get_deterministic_debug_mode() == 1
    finally:
        torch.use_deterministic_algorithms(False)


def test_logits_far_apart_give_their_true_loss_and_no_infinity():
    h_NC, head_VC = torch.tensor([[300.0]]), torch.tensor([[1.0], [-1.0]])
    assert float(summed_loss(h_NC, head_VC, torch.tensor([1]), vocab=2)) == 600.0
    assert float(summed_loss(h_NC, head_VC, torch.tensor([0]), vocab=2)) == 0.0


@pytest.mark.parametrize("scale", [2.0**-12, 1.0, 1024.0])
def test_the_scale_is_a_hint_and_changes_no_gradient(scale):
    h_NC, head_VC, y_N = example(torch.float64)
    expected = gradients(summed_loss(h_NC, head_VC, y_N, vocab=37) * 3, h_NC, head_VC)
    found = gradients(summed_loss(h_NC, head_VC, y_N, vocab=37, scale=scale) * 3, h_NC, head_VC)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-14)


def test_with_the_scale_small_gradients_survive_fp16():
    """A token that is nearly certain has a gradient of 1e-8 for the rest: 0 in fp16, unless it is scaled before."""
    h_NC = torch.tensor([[18.0]], requires_grad=True)
    head_VC = torch.tensor([[1.0], [0.0]], requires_grad=True)

    def found(scale: float) -> float:
        with torch.autocast("cpu", torch.float16):
            value = summed_loss(h_NC, head_VC, torch.tensor([0]), vocab=2, scale=scale)
        return float(gradients(value * scale, h_NC, head_VC)[1][1]) / scale

    assert found(1.0) == 0.0
    assert found(2.0**14) == pytest.approx(18 / (1 + torch.tensor(18.0).exp().item()), rel=1e-2)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_under_autocast_products_are_at_16_bits_and_sums_at_32(dtype):
    h_NC, head_VC, y_N = example()
    exact = summed_loss(h_NC, head_VC, y_N, vocab=37)
    with torch.autocast("cpu", dtype):
        found = summed_loss(h_NC, head_VC, y_N, vocab=37)
        assert token_losses(h_NC, head_VC, y_N, vocab=37).dtype == torch.float32
    assert float(found) == pytest.approx(float(exact), rel=5e-3)
    assert float(found) != float(exact)
    for one, other in zip(gradients(found, h_NC, head_VC), gradients(exact, h_NC, head_VC), strict=True):
        assert one.dtype == torch.float32
        torch.testing.assert_close(one, other, rtol=0.1, atol=0.05)


class Largest(TorchDispatchMode):
    """The most numbers that any tensor made under it holds."""

    numbers = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **kwargs or {})
        for tensor in result if isinstance(result, tuple) else [result]:
            if isinstance(tensor, Tensor):
                self.numbers = max(self.numbers, tensor.numel())
        return result


def test_no_tensor_holds_the_logits_of_the_whole_microbatch(monkeypatch):
    monkeypatch.setattr(loss, "CHUNK_BYTES", 4 * 1000 * 16)
    h_NC, head_VC, y_N = example(tokens=400, vocab=1000)
    with Largest() as largest:
        summed_loss(h_NC, head_VC, y_N, vocab=1000).backward()
    assert largest.numbers == 16 * 1000


def test_a_second_backward_pass_is_refused():
    h_NC, head_VC, y_N = example()
    value = summed_loss(h_NC, head_VC, y_N, vocab=37)
    value.backward(retain_graph=True)
    with pytest.raises(ValueError, match="unpack"):
        value.backward()
