"""Farm's CPU kernels give what torch's give, up to rounding; and the same bits every time."""

from itertools import product as combinations
from pathlib import Path
from typing import get_args

import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from worlds import STEPS, VOCAB, attempt, canonical, corpus, in_world, planned, stop_after, tiny

from farm.study.processor import InstructionSet, instruction_set
from farm.study.recipe import Model
from farm.study.run import Run
from model import conditions, kernels
from model.conditions import WITH_DROPOUT, compiles, inductor_options
from model.gpt import GPT
from model.group import Group
from model.kernels import Dropout, Linear, causal_attention, gelu, in_use, product, resolve, use
from model.loss import summed_loss

CPU = torch.device("cpu")


def draw(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype).requires_grad_()


def test_this_machine_has_them():
    """Else nothing below would test anything."""
    assert kernels.ONEDNN
    assert in_use(CPU) == "torch"
    with use("farm"):
        assert in_use(CPU) == "farm"
        with use("torch"):
            assert in_use(CPU) == "torch"
        assert in_use(torch.device("cuda")) == "farm"


def test_on_a_gpu_farms_need_triton_and_a_compiler(monkeypatch):
    asked = ("auto", "farm", "gelu", "torch")
    assert [kernels.resolve_on_cuda(one) for one in asked] == ["farm", "farm", "torch", "torch"]
    monkeypatch.setenv("CC", "/nowhere/gcc")
    assert kernels.resolve_on_cuda("farm") == "torch"


def test_auto_compiles_on_a_gpu_where_it_can_and_on_no_cpu(monkeypatch):
    monkeypatch.setattr(conditions, "_all", lambda mine, group: mine)
    gpu, cpu = (Group(0, 1, torch.device(kind)) for kind in ("cuda", "cpu"))
    assert [compiles(asked, gpu) for asked in ("auto", True, False)] == [True, True, False]
    assert [compiles(asked, cpu) for asked in ("auto", True, False)] == [False, True, False]
    monkeypatch.setattr("sysconfig.get_paths", lambda: {"include": "/nowhere/python3.11"})
    assert not compiles("auto", gpu), "Triton includes Python's header files"
    monkeypatch.undo()
    monkeypatch.setattr(conditions, "_all", lambda mine, group: mine)
    monkeypatch.setenv("CC", "/nowhere/gcc")
    assert not compiles("auto", gpu)


def test_torchs_choice_for_norms_is_left_out_where_dropout_makes_it_slow() -> None:
    small = {"vocab": 67, "context": 8, "width": 16, "layers": 2, "heads": 2}
    assert inductor_options(GPT(Model(**small, dropout=0.1))) == WITH_DROPOUT, (
        "an option that this torch lacks is not asked"
    )
    assert inductor_options(GPT(Model(**small, dropout=0.0))) == {}


def all_can(ranks: list[bool]) -> bool:
    return conditions._all(ranks[dist.get_rank()], Group(dist.get_rank(), len(ranks), CPU))


def test_all_ranks_compile_or_none_does():
    assert in_world(2, all_can, [True, False]) == [False] * 2
    assert in_world(2, all_can, [True, True]) == [True] * 2


class Copies(TorchDispatchMode):
    """How many numbers are copied under it from one tensor to another."""

    numbers = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **kwargs or {})
        aten = torch.ops.aten
        if func.overloadpacket in (aten.copy_, aten.clone, aten.stack, aten.cat):
            self.numbers += result.numel()
        return result


def test_the_backward_pass_of_attention_copies_its_gradient_once():
    qkv_BTX = draw(2, 8, 3 * 16)
    y_BTC = causal_attention(qkv_BTX, heads=4)
    dy_BTC = torch.ones_like(y_BTC)
    with Copies() as copies:
        y_BTC.backward(dy_BTC)
    assert copies.numbers <= qkv_BTX.numel()


def test_auto_is_what_was_faster_with_these_instructions():
    table = {has: resolve("auto", has) for has in (*get_args(InstructionSet), None)}
    assert {has for has, found in table.items() if found == "farm"} == {"AVX-512", "AVX512-BF16", "AMX"}
    assert {has for has, found in table.items() if found == "gelu"} == {"AVX2"}


@pytest.mark.parametrize("has", [*get_args(InstructionSet), None])
def test_a_name_means_itself_on_any_processor(has):
    assert [resolve(name, has) for name in ("farm", "gelu", "torch")] == ["farm", "gelu", "torch"]


def test_without_onednn_torchs_compute_and_the_run_says_so(monkeypatch):
    monkeypatch.setattr(kernels, "ONEDNN", False)
    assert {resolve(name, "AVX-512") for name in ("auto", "farm", "torch")} == {"torch"}
    assert resolve("auto", "AVX2") == "gelu", "which needs none"


@pytest.mark.parametrize(
    ("rows", "inputs", "outputs", "bias"),
    [*combinations([(1,), (3, 5), (8, 128)], [16, 37], [48, 5], [True, False])],
)
def test_a_linear_layer_is_torchs_forward_and_backward(rows, inputs, outputs, bias):
    layer, x, upstream = Linear(inputs, outputs, bias=bias), draw(*rows, inputs), draw(*rows, outputs, seed=1).detach()
    operands = [x, *layer.parameters()]
    expected = F.linear(x.double(), layer.weight.double(), layer.bias.double() if bias else None)
    wanted = torch.autograd.grad(expected, operands, upstream.double())
    with use("farm"):
        found = layer(x)
        assert found.grad_fn.name() == "_LinearBackward"
        gradients = torch.autograd.grad(found, operands, upstream)
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-5)
    for one, other in zip(gradients, wanted, strict=True):
        torch.testing.assert_close(one.double(), other.double(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("transposed", [False, True])
def test_a_product_has_the_same_bits_at_any_address(transposed):
    """Rows of a larger matrix begin anywhere; a resumed run has its tensors elsewhere than one that never stopped."""
    a_NK, b_MK = draw(64, 40).detach(), draw(48, 40, seed=1).detach()
    if transposed:
        a_NK, b_MK = a_NK.T.contiguous().T, b_MK.T.contiguous().T
    with use("farm"):
        expected = product(a_NK, b_MK)
        for offset in (1, 3, 16):
            moved = torch.empty(a_NK.numel() + offset)[offset:].as_strided(a_NK.shape, a_NK.stride()).copy_(a_NK)
            assert torch.equal(product(moved, b_MK), expected)
    assert torch.allclose(expected, a_NK @ b_MK.T, atol=1e-4)


def by_definition(qkv_BTX: Tensor, heads: int, factors_BHTT: Tensor | float = 1.0) -> Tensor:
    """softmax(q @ k.T / sqrt(D) + mask) @ v, in float64."""
    B, T, X = qkv_BTX.shape
    q, k, v = (part.view(B, T, heads, -1).transpose(1, 2) for part in qkv_BTX.double().chunk(3, dim=-1))
    future = torch.full((T, T), -torch.inf, dtype=torch.float64).triu(1)
    weights = (q @ k.transpose(2, 3) / q.shape[-1] ** 0.5 + future).softmax(-1) * factors_BHTT
    return (weights @ v).transpose(1, 2).reshape(B, T, X // 3)


@pytest.mark.parametrize("group", [1, 12 * 12 * 4, 2**19])
@pytest.mark.parametrize(("dtype", "dropout"), [(torch.bfloat16, 0.0), (torch.float32, 0.3), (torch.bfloat16, 0.3)])
def test_attention_is_its_definition_forward_and_backward(dtype, dropout, group, monkeypatch):
    """However many heads are worked on at a time: one, four, all six."""
    monkeypatch.setattr(kernels, "GROUP_NUMBERS", group)
    qkv_BTX, upstream = draw(2, 12, 3 * 24, dtype=dtype), draw(2, 12, 24, seed=1, dtype=dtype).detach()
    torch.manual_seed(7)
    with use("farm"):
        found = causal_attention(qkv_BTX, 3, dropout)
        (gradient,) = torch.autograd.grad(found, qkv_BTX, upstream)
    factors = 1.0
    if dropout:
        torch.manual_seed(7)
        size = max(1, group // 144)
        masks = [kernels._keep_mask((min(size, 6 - start), 12, 12), dropout) for start in range(0, 6, size)]
        factors = torch.cat(masks).view(2, 3, 12, 12).double() / 0.7
    expected = by_definition(qkv_BTX, 3, factors)
    (wanted,) = torch.autograd.grad(expected, qkv_BTX, upstream.double())
    near = {"rtol": 1e-4, "atol": 1e-4} if dtype is torch.float32 else {"rtol": 0.05, "atol": 0.05}
    assert found.dtype == gradient.dtype == dtype
    torch.testing.assert_close(found.double(), expected, **near)
    torch.testing.assert_close(gradient.double(), wanted.double(), **near)


def written_out(qkv_BTX: Tensor, heads: int) -> Tensor:
    """As in most tutorials, for autocast to choose the precision of each operation."""
    B, T, X = qkv_BTX.shape
    q, k, v = (part.view(B, T, heads, -1).transpose(1, 2) for part in qkv_BTX.chunk(3, dim=-1))
    future = torch.ones(T, T, dtype=torch.bool).triu(1)
    weights = (q @ k.transpose(2, 3) / q.shape[-1] ** 0.5).masked_fill(future, -torch.inf).softmax(-1)
    return (weights @ v).transpose(1, 2).reshape(B, T, X // 3)


def test_attention_in_bfloat16_is_as_near_to_the_truth_as_where_it_is_written_out():
    """torch's fused kernel keeps the scores in float32 and is nearer, but by less than a factor of two."""
    qkv_BTX = draw(4, 64, 3 * 64, dtype=torch.bfloat16)
    upstream = draw(4, 64, 64, seed=1, dtype=torch.bfloat16).detach()
    exact = by_definition(qkv_BTX, 2)
    truth = [exact.detach(), torch.autograd.grad(exact, qkv_BTX, upstream.double())[0].double()]

    def errors(found: Tensor) -> list[Tensor]:
        parts = [found.detach(), torch.autograd.grad(found, qkv_BTX, upstream)[0]]
        return [(one.double() - other).pow(2).mean().sqrt() for one, other in zip(parts, truth, strict=True)]

    fused = errors(causal_attention(qkv_BTX, 2))
    with torch.autocast("cpu", torch.bfloat16):
        tutorial = errors(written_out(qkv_BTX, 2))
        with use("farm"):
            ours = errors(causal_attention(qkv_BTX, 2))
    for error, same, nearer in zip(ours, tutorial, fused, strict=True):
        assert error < 1.1 * same
        assert error < 2 * nearer


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_dropout_drops_its_share_and_keeps_the_mean(rate, dtype):
    x = torch.ones(401, 999, dtype=dtype, requires_grad=True)
    torch.manual_seed(1)
    with use("farm"):
        y = Dropout(rate)(x)
        assert y.grad_fn.name() == "_DropoutBackward"
        (gradient,) = torch.autograd.grad(y.sum(), x)
    assert torch.equal(gradient, y), "the same entries, the same factor"
    assert float((y == 0).float().mean()) == pytest.approx(rate, abs=4e-3)
    assert float(y.detach().float().mean()) == pytest.approx(1, abs=0.03)
    assert len(y.unique()) == 2


def test_each_of_the_four_numbers_of_a_draw_is_dropped_as_often_and_on_its_own():
    torch.manual_seed(2)
    dropped = (~kernels._keep_mask((200_000, 4), 0.1)).double()
    assert dropped.mean(0).tolist() == pytest.approx([0.1] * 4, abs=4e-3)
    assert (dropped.T.corrcoef() - torch.eye(4)).abs().max() < 0.01


@pytest.mark.parametrize(("rate", "share"), [(1e-9, 0), (2**-16, 2**-16), (0.1, 6554 / 2**16), (1 - 1e-9, 1 - 2**-16)])
def test_a_rate_is_rounded_to_1_of_65536_and_what_is_kept_makes_up_for_just_that(rate, share):
    kept = torch.tensor([True, False])
    assert kernels._drop_count(rate) == share * 2**16
    assert kernels._factors(kept, rate, torch.float64).tolist() == [1 / (1 - share), 0]


def test_masks_come_from_the_seed():
    with use("farm"):
        torch.manual_seed(3)
        first, second = (Dropout(0.5)(torch.ones(64)) for _ in range(2))
        torch.manual_seed(3)
        assert torch.equal(Dropout(0.5)(torch.ones(64)), first)
        assert not torch.equal(first, second)
        assert torch.equal(Dropout(0.5).eval()(torch.ones(64)), torch.ones(64))


@pytest.mark.parametrize("part", [2**17, 2**10, 1000])
def test_gelu_is_its_definition_forward_and_backward(part, monkeypatch):
    """However many numbers are worked on at a time, far out on both sides, too; as near to the truth as float32 is."""
    monkeypatch.setattr(kernels, "GELU_PART", part)
    x = torch.cat([torch.linspace(-60, 60, 30_000), draw(9_000).detach()]).requires_grad_()
    upstream = draw(39_000, seed=1).detach()
    expected = F.gelu(x.double(), approximate="tanh")
    (wanted,) = torch.autograd.grad(expected, x, upstream.double())
    with use("gelu"):
        found = gelu(x)
        assert found.grad_fn.name() == "_GeluBackward"
        (gradient,) = torch.autograd.grad(found, x, upstream)
        with torch.no_grad():
            assert torch.equal(gelu(x), found)
    torch.testing.assert_close(found.double(), expected, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(gradient.double(), wanted.double(), rtol=1e-6, atol=5e-6)


@pytest.mark.parametrize("kind", ["farm", "gelu", "torch"])
def test_gelu_is_torchs_of_few_numbers_of_16_bits_and_where_others_compute(kind, monkeypatch):
    monkeypatch.setattr(kernels, "GELU_LEAST", 100)
    few, many = draw(kernels.GELU_LEAST - 1), draw(kernels.GELU_LEAST)
    with use(kind):
        assert gelu(few).grad_fn.name() == gelu(many.bfloat16()).grad_fn.name() == "GeluBackward0"
        assert gelu(many).grad_fn.name() == ("_GeluBackward" if kind == "gelu" else "GeluBackward0")


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_loss_is_torchs(precision):
    h_NC, head_VC, y_N = draw(50, 16), draw(37, 16, seed=1), torch.arange(50) % 37
    found = {}
    for kind in ("farm", "torch"):
        with use(kind), torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            value = summed_loss(h_NC, head_VC, y_N, vocab=37)
        found[kind] = [value, *torch.autograd.grad(value, (h_NC, head_VC))]
    for one, other in zip(found["farm"], found["torch"], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_run_learns_the_same_with_either_and_says_which_it_had(precision, tmp_path):
    tokens, outcomes, losses = corpus(tmp_path), {}, {}
    for kind in ("farm", "gelu", "torch"):
        # Wide, since the libraries add up short products in the same order.
        run = tiny(tokens, model={"dropout": 0.0, "width": 64}, train={"kernels": kind, "precision": precision})
        outcomes[kind], told = attempt(run, planned(run, 1, 8), tmp_path / kind)
        losses[kind] = told.losses
        assert outcomes[kind].kernels == (kind,)
    for kind in ("farm", "gelu"):
        assert losses[kind] == pytest.approx(losses["torch"], rel=1e-5 if precision == "fp32" else 5e-3)
    fingerprints = [outcome.fingerprints for outcome in outcomes.values()]
    assert len({each.initial for each in fingerprints}) == 1
    different = 3 if precision == "fp32" else 2  # farm's GELU leaves 16 bits to torch
    assert len({each.final for each in fingerprints}) == different, "else the switch does nothing"


def test_compiled_blocks_train_as_the_others_do(tmp_path):
    """The compiler has kernels of its own: these are for what it does not compile.

    Tested on as many sequences as it trains on: another number would be compiled once more.
    """
    tokens, told, outcomes = corpus(tmp_path), {}, {}
    tested = {"sequences": 8, "every": 0}
    for compiled in (False, True):
        model = {"dropout": 0.0, "vocab": VOCAB, "layers": 1}
        run = tiny(tokens, model=model, train={"compile": compiled}, evaluation=tested)
        outcome, told[compiled] = attempt(run, planned(run, 1, 8), tmp_path / f"compiled-{compiled}")
        outcomes[compiled] = outcome.compiled
    assert told[True].losses == pytest.approx(told[False].losses, rel=1e-5)
    assert told[True].losses != told[False].losses, "else nothing was compiled"
    assert outcomes == {False: (False,), True: (True,)}


def test_a_run_that_goes_on_with_the_compiler_and_had_none_says_so_and_so_does_its_outcome(tmp_path, monkeypatch):
    run = tiny(corpus(tmp_path), model={"layers": 1})
    plan = planned(run, 1, 8)
    stopped, before = attempt(run, plan, tmp_path / "stopped", signals=stop_after(2))
    assert (stopped.compiled, before.notes) == ((False,), [])
    monkeypatch.setattr("model.train.compiles", lambda asked, group: True)
    monkeypatch.setattr("model.train.compile_blocks", lambda *_: None)  # takes a minute, and is tested above
    resumed, after = attempt(run, plan, tmp_path / "stopped", resume=newest(tmp_path, stopped), epoch=2)
    assert resumed.compiled == (False, True)
    said = "blocks compute with torch.compile from step 2 on, without it until then: compile = 'auto'."
    assert after.notes == [("other-kernels", said)]


WIDE = {"model": {"width": 64}}  # since the libraries add up short products in the same order


@pytest.fixture(autouse=True)
def gelu_of_few_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Farm's GELU computes in models as small as those of these tests, too."""
    monkeypatch.setattr(kernels, "GELU_LEAST", 1)


@pytest.mark.parametrize("kind", ["auto", "farm", "gelu", "torch"])
def test_within_one_choice_a_run_that_was_stopped_ends_on_the_bits_of_one_that_never_was(kind, tmp_path):
    run = tiny(corpus(tmp_path), **WIDE, train={"kernels": kind})
    plan = planned(run, 1, 8)
    never, told = attempt(run, plan, tmp_path / "never")
    stopped, before = attempt(run, plan, tmp_path / "stopped", signals=stop_after(2))
    resumed, after = attempt(run, plan, tmp_path / "stopped", resume=newest(tmp_path, stopped), epoch=2)
    assert before.timeless + after.timeless == told.timeless
    assert resumed.fingerprints == never.fingerprints
    assert resumed.kernels == never.kernels == (resolve(kind, instruction_set()),)
    assert before.notes == after.notes == []


def newest(folder: Path, stopped) -> Path:
    return folder / "stopped" / "1" / str(stopped.checkpoint)


def test_a_run_that_goes_on_where_auto_chooses_otherwise_says_so_and_so_does_its_outcome(tmp_path, monkeypatch):
    run = tiny(corpus(tmp_path), **WIDE, train={"kernels": "auto"})
    plan = planned(run, 1, 8)
    monkeypatch.setattr(conditions, "instruction_set", lambda: "AVX512-BF16")
    stopped, before = attempt(run, plan, tmp_path / "stopped", signals=stop_after(2))
    assert (stopped.kernels, before.notes) == (("farm",), [])
    monkeypatch.setattr(conditions, "instruction_set", lambda: "AVX2")
    resumed, after = attempt(run, plan, tmp_path / "stopped", resume=newest(tmp_path, stopped), epoch=2)
    assert resumed.finished
    assert resumed.kernels == ("farm", "gelu")
    ((event, detail),) = after.notes
    assert event == "other-kernels"
    said = "torch's kernels with farm's GELU compute from step 2 on, farm's kernels until then"
    assert detail == f"{said}: kernels = 'auto' with AVX2."


def by_unlike_processors(run: Run, world: int, folder: Path, sets: list[InstructionSet]) -> tuple:
    conditions.instruction_set = lambda: sets[dist.get_rank()]
    outcome, told = attempt(run, planned(run, world), folder)
    return outcome.kernels, outcome.fingerprints, told.losses


def test_all_ranks_of_a_group_compute_by_one_choice_which_each_would_make_alone(tmp_path):
    """Ranks that computed by their own would add up gradients of unlike kernels: bits that no one machine has."""
    run = canonical(corpus(tmp_path), **WIDE, train={"kernels": "auto"})
    alike = in_world(2, by_unlike_processors, run, 2, tmp_path / "alike", ["AVX-512", "AMX"])
    unlike = in_world(2, by_unlike_processors, run, 2, tmp_path / "unlike", ["AVX-512", "AVX2"])
    smaller = in_world(2, by_unlike_processors, run, 2, tmp_path / "smaller", ["AVX2", "AVX2"])
    assert [kernels for kernels, *_ in smaller] == [("gelu",)] * 2
    assert [kernels for kernels, *_ in alike] == [("farm",)] * 2
    assert [kernels for kernels, *_ in unlike] == [("torch",)] * 2
    plain = tiny_torch(run)
    never, told = attempt(plain, planned(plain, 1), tmp_path / "torch")
    assert unlike[0][1].final == never.fingerprints.final
    assert unlike[0][2] == told.losses
    assert alike[0][1].final != never.fingerprints.final
    assert len(told.losses) == STEPS


def tiny_torch(run: Run) -> Run:
    return run.model_copy(update={"recipe": run.recipe.with_patch({"train": {"kernels": "torch"}})})
