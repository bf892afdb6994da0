"""Who is measured: our training loop, and how others write it. Same shape, tokens, AdamW (fused) and precision.

Ours is `model.train.train` itself, ledger and all. The others get the best of what their users commonly write: fused
AdamW, no logging, no clipping, `no_sync` while accumulating, no key-value cache.
"""

import math
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, Dataset, DistributedSampler

from farm.study.machine import Machine
from farm.study.planner import Plan, plan
from farm.study.recipe import Model, Recipe, Seeds
from farm.study.run import Run
from model.assignment import Assignment, Listener
from model.gpt import GPT, Attention
from model.meter import Signal
from model.train import train

Gate = Callable[[], None]
AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}
STEPS = 10**6  # nobody gets that far


def corpus(folder: Path, vocab: int, tokens: int = 2**20) -> Path:
    """Random tokens: what they are does not change the work."""
    random = np.random.default_rng(0)
    for split in ("train", "validation"):
        random.integers(0, vocab, tokens).astype(np.uint16).tofile(folder / f"{split}.bin")
    return folder


def case(
    folder: Path,
    *,
    vocab: int,
    width: int,
    layers: int = 4,
    context: int = 128,
    batch: int = 8,
    dropout: float = 0.0,
    **train_: Any,
) -> Run:
    """What every side trains: GPT-2 as `transformers` has it by default, but for its dropout and tied head."""
    shape = {"vocab": vocab, "context": context, "width": width, "layers": layers, "heads": max(4, width // 64)}
    tables = {
        "model": shape | {"dropout": dropout, "qkv_bias": True},
        "train": {"batch": batch, "tokens": STEPS * batch * context} | train_,
        "data": {"source": str(folder), "repeat": True},
        "evaluation": {"offset": 0, "sequences": 8},
    }
    return Run(arm="bench", recipe=Recipe().with_patch(tables), seeds=Seeds(), machine="cpu")


def planned(run: Run, world: int = 1, microbatch: int | None = None) -> Plan:
    """A plan for `world` workers, in one microbatch each unless told."""
    machine = Machine(name="bench", accelerators=world, memory=2**40, microbatch=microbatch)
    return plan(run.recipe.with_patch({"train": {"precision": "fp32"}}), machine)


class _Gated(Listener):
    """Passes the gate before each step."""

    def __init__(self, gate: Gate):
        self._gate = gate

    def signal(self) -> Signal:
        self._gate()
        return Signal.CONTINUE


def ours(run: Run, plan: Plan, gate: Gate) -> None:
    with tempfile.TemporaryDirectory() as folder:
        train(Assignment(run, plan, Path(folder), cache=Path(folder)), _Gated(gate))


def textbook(run: Run, plan: Plan, gate: Gate) -> None:
    """Our GPT, its logits whole, F.cross_entropy."""
    _train(_Textbook(GPT(run.recipe.model)), run, plan, gate)


def textbook_explicit(run: Run, plan: Plan, gate: Gate) -> None:
    """The same, with attention written out."""
    gpt = GPT(run.recipe.model)
    for block in gpt.blocks:
        block.attention = ExplicitAttention(run.recipe.model)
    _train(_Textbook(gpt), run, plan, gate)


def textbook_compiled(run: Run, plan: Plan, gate: Gate) -> None:
    """The first, compiled as a whole."""
    _train(torch.compile(_Textbook(GPT(run.recipe.model))), run, plan, gate)


def peer(folder: Path, run: Run, plan: Plan, gate: Gate) -> None:
    """The GPT of a checkout that has nanoGPT's model.py, compiled where a GPU is, as its train.py does."""
    network = _Peer(folder, run.recipe.model)
    _train(torch.compile(network) if torch.cuda.is_available() else network, run, plan, gate)


def transformers(run: Run, plan: Plan, gate: Gate) -> None:
    """GPT2LMHeadModel and the loss it computes itself when given labels."""
    _train(_Transformers(run.recipe), run, plan, gate)


def litgpt(run: Run, plan: Plan, gate: Gate) -> None:
    """litgpt's GPT and its pretraining loss."""
    _train(_LitGpt(run.recipe), run, plan, gate)


class ExplicitAttention(Attention):
    """As in most tutorials: scores, mask, softmax, product."""

    past_TT: Tensor

    def __init__(self, model: Any):
        super().__init__(model)
        self.register_buffer("past_TT", torch.ones(model.context, model.context, dtype=torch.bool).tril())

    def forward(self, x_BTC: Tensor) -> Tensor:
        B, T, C = x_BTC.shape
        q_BTC, k_BTC, v_BTC = self.qkv(x_BTC).split(C, dim=2)
        q_BHTD, k_BHTD, v_BHTD = (z.view(B, T, self.heads, -1).transpose(1, 2) for z in (q_BTC, k_BTC, v_BTC))
        scores_BHTT = q_BHTD @ k_BHTD.transpose(-2, -1) / math.sqrt(C // self.heads)
        weights_BHTT = scores_BHTT.masked_fill(~self.past_TT[:T, :T], -torch.inf).softmax(dim=-1)
        weights_BHTT = F.dropout(weights_BHTT, self.dropout, self.training)
        return self.out((weights_BHTT @ v_BHTD).transpose(1, 2).reshape(B, T, C))


class _Textbook(nn.Module):
    def __init__(self, gpt: GPT):
        super().__init__()
        self.gpt = gpt

    def forward(self, x_BT: Tensor, y_BT: Tensor) -> Tensor:
        logits_BTV = self.gpt.logits(x_BT)
        return F.cross_entropy(logits_BTV.flatten(0, 1), y_BT.flatten())


class _Peer(nn.Module):
    def __init__(self, folder: Path, shape: Model):
        super().__init__()
        place = spec_from_file_location("peer", folder / "model.py")
        assert place is not None
        assert place.loader is not None
        its = module_from_spec(place)
        sys.modules[place.name] = its  # dataclasses look it up there
        place.loader.exec_module(its)
        config = its.GPTConfig(
            block_size=shape.context,
            vocab_size=shape.vocab,
            n_layer=shape.layers,
            n_head=shape.heads,
            n_embd=shape.width,
            dropout=shape.dropout,
            bias=True,
        )
        self.gpt = its.GPT(config)

    def forward(self, x_BT: Tensor, y_BT: Tensor) -> Tensor:
        return self.gpt(x_BT, y_BT)[1]


class _Transformers(nn.Module):
    def __init__(self, recipe: Recipe):
        from transformers import GPT2Config, GPT2LMHeadModel

        super().__init__()
        shape = recipe.model
        self.gpt2 = GPT2LMHeadModel(
            GPT2Config(
                vocab_size=shape.vocab,
                n_positions=shape.context,
                n_embd=shape.width,
                n_layer=shape.layers,
                n_head=shape.heads,
                tie_word_embeddings=shape.tie_weights,
                resid_pdrop=shape.dropout,
                embd_pdrop=shape.dropout,
                attn_pdrop=shape.dropout,
                use_cache=False,
                bos_token_id=0,
                eos_token_id=0,
            )
        )

    def forward(self, x_BT: Tensor, y_BT: Tensor) -> Tensor:
        return self.gpt2(input_ids=x_BT, labels=x_BT).loss  # it shifts the labels itself


class _LitGpt(nn.Module):
    def __init__(self, recipe: Recipe):
        from litgpt.config import Config
        from litgpt.model import GPT as LitGpt
        from litgpt.utils import chunked_cross_entropy

        super().__init__()
        shape = recipe.model
        self._loss: Callable[[Tensor, Tensor], Tensor] = chunked_cross_entropy
        self.gpt = LitGpt(
            Config(
                name="bench",
                block_size=shape.context,
                vocab_size=shape.vocab,
                padded_vocab_size=shape.vocab,
                n_layer=shape.layers,
                n_head=shape.heads,
                n_embd=shape.width,
                parallel_residual=False,
                gelu_approximate="tanh",
            )
        )

    def forward(self, x_BT: Tensor, y_BT: Tensor) -> Tensor:
        return self._loss(self.gpt(x_BT), y_BT)


class _Sequences(Dataset):
    def __init__(self, run: Run):
        self._tokens = np.memmap(Path(run.recipe.data.source) / "train.bin", dtype=np.uint16, mode="r")
        self._context = run.recipe.model.context

    def __len__(self) -> int:
        return (len(self._tokens) - 1) // self._context

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
        start = i * self._context
        piece = torch.from_numpy(self._tokens[start : start + self._context + 1].astype(np.int64))
        return piece[:-1], piece[1:]


def _train(network: nn.Module, run: Run, plan: Plan, gate: Gate) -> None:
    """The usual loop, for ever."""
    settings = run.recipe.train
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    network.to(device)
    optimiser = torch.optim.AdamW(
        network.parameters(), settings.learning_rate, settings.betas, settings.eps, settings.weight_decay, fused=True
    )
    model = DistributedDataParallel(network) if plan.world > 1 else None
    dtype = AUTOCAST.get(settings.precision)
    scaler = torch.amp.GradScaler(device.type, enabled=dtype is torch.float16)
    batches = _batches(run, plan, device)
    while True:
        gate()
        for turn in range(plan.accumulation):
            last = turn == plan.accumulation - 1
            x_BT, y_BT = next(batches)
            with nullcontext() if last or model is None else model.no_sync():
                with torch.autocast(device.type, dtype=dtype or torch.bfloat16, enabled=dtype is not None):
                    loss = (model or network)(x_BT, y_BT) / plan.accumulation
                scaler.scale(loss).backward()
        scaler.step(optimiser)
        scaler.update()
        optimiser.zero_grad(set_to_none=True)


def _batches(run: Run, plan: Plan, device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
    sequences = _Sequences(run)
    rank = dist.get_rank() if plan.world > 1 else 0
    sampler: DistributedSampler = DistributedSampler(sequences, num_replicas=plan.world, rank=rank, shuffle=False)
    loader = DataLoader(
        sequences, batch_size=plan.microbatch, sampler=sampler, drop_last=True, pin_memory=device.type == "cuda"
    )
    while True:
        for x_BT, y_BT in loader:
            yield x_BT.to(device, non_blocking=True), y_BT.to(device, non_blocking=True)
