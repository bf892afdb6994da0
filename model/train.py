"""The training loop: Recipe + Seeds + Plan -> ledger, checkpoints, fingerprints.

One function, the same under Ray Train, under plain `torchrun`, and alone. Everything random in a step is a function of
the train seed, the step and the number of the microbatch, so a run that was stopped goes on to the same bits.
"""

import argparse
import ctypes
import hashlib
import math
import os
import resource
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.utils import get_total_norm

from farm.errors import BadCorpus, Nonfinite, NotFound
from farm.record.ledger import Line, Writer
from farm.record.result import Computed, Exam, Fingerprints, Outcome, Tokens
from farm.study import compiler, planner
from farm.study.planner import Plan
from farm.study.processor import instruction_set
from farm.study.recipe import TEST, Kernels, Recipe
from farm.study.run import Run
from farm.study.study import load
from model import checkpoint, kernels, optim
from model.checkpoint import Identity
from model.corpus.checks import exams_of, prepare
from model.corpus.sources import open_split
from model.data import Batches
from model.evaluate import scored
from model.gpt import GPT
from model.init import fingerprint, initialised
from model.meter import Meter, Signal, Sums, Totals
from model.precision import LossScale, autocast, matmuls
from model.reduce import Group, join, reducer
from model.saver import Saver, State
from model.validation import Validator

CLIP_EPS = 1e-6  # as in torch.nn.utils.clip_grad_norm_
Fetched = TypeVar("Fetched")
M_TRIM_THRESHOLD, M_MMAP_MAX, M_ARENA_MAX = -1, -4, -8  # malloc.h


def train(
    run: Run,
    plan: Plan,
    folder: Path,
    *,
    cache: Path,
    epoch: int,
    resume: Path | None,
    resume_epoch: int | None,
    control: Callable[[], Signal],
    observe: Callable[[Line], None],
    saved: Callable[[int, Path, str], None],
    scoring: Callable[[], None] = lambda: None,
    note: Callable[[str, str], None] = lambda event, detail: None,
    tokens: Tokens | None = None,
    exams: Sequence[Exam] = (),
) -> Outcome:
    """Train `run` as `plan` says, from the checkpoint `resume` or from the start; every rank calls this.

    Writes folder/ledger.jsonl and folder/checkpoints/step-XXXXXXXX/. `control` is asked on rank 0 before each step, and
    `observe` told there after it; `saved(step, path, manifest_sha256)` is called on every rank once a checkpoint is on
    the disk, and `scoring` before each batch of a validation and of the test at the end. `note(event, detail)` is told
    on rank 0 what a person should know of this run. At the end the model is tested, and scored by `exams`.

    Raises: Nonfinite, BadCorpus, CheckpointInvalid, StorageFull, NoCompiler
    """
    group = join(plan)
    with conditions(run.recipe, group.device, agreed(run.recipe.train.kernels, group)):
        trainer = Trainer(run, plan, group, cache, tokens)
        further = [(exam, open_split(exam.recipe.tested_data, exam.recipe.evaluation.split, cache)) for exam in exams]
        if resume:
            trainer.restore(resume)
            if group.leads and len(trainer.kernels) > 1:
                note("other-kernels", _other_kernels(trainer))
        trainer.make_ready()
        with (
            _ledger(folder, epoch, resume_epoch, trainer.step, group) as ledger,
            Saver(
                folder / "checkpoints", Identity.of(run, plan), group, ledger.sync if ledger else None, saved
            ) as saver,
        ):
            while trainer.step < run.recipe.steps:
                asked = control() if group.leads else Signal.CONTINUE
                totals = trainer.compute(asked, saver.news)
                if totals.signal is Signal.ABANDON:
                    return Outcome(finished=False, step=trainer.step)
                line = trainer.update(totals)
                line = line._replace(validation=trainer.validator.after(line.step, trainer.gpt, scoring))
                if ledger:
                    ledger.append(line)
                    observe(line)
                if totals.news:
                    saver.settle()
                if totals.signal is Signal.STOP:
                    return _stopped(trainer, saver)
                if saver.is_due(totals.signal is Signal.SAVE, run.policy.checkpoint_seconds):
                    saver.begin(trainer.state())
            return _finished(trainer, saver, further, scoring)


class Trainer:
    """One run on one rank: its state, and the two halves of a step."""

    def __init__(self, run: Run, plan: Plan, group: Group, cache: Path, tokens: Tokens | None):
        recipe = run.recipe
        self.run, self.plan, self.group, self.recipe = run, plan, group, recipe
        self.tokens = tokens or _in_turn(lambda: prepare(recipe, cache), group)
        self.test_tokens = open_split(recipe.tested_data, recipe.evaluation.split, cache)
        self.batches = Batches(open_split(recipe.data, recipe.data.split, cache), recipe, run.seeds)
        self.gpt = initialised(recipe.model, run.seeds.init)
        self.initial_fingerprint = fingerprint(self.gpt)
        self.gpt.to(group.device)
        if recipe.train.compile:
            compile_blocks(self.gpt, group.device)
        self.parameters = list(self.gpt.parameters())
        self.optimiser = optim.adamw(self.gpt, recipe.train)
        self.loss_scale = LossScale.of(recipe.train.precision)
        self.kernels: tuple[Computed, ...] = (kernels.in_use(group.device),)  # all that computed this run, in order
        self.reducer = reducer(recipe, plan, group, self.gpt)
        self.meter = Meter(plan, group)
        self.validator = Validator(recipe, self.test_tokens, self.tokens.validated, group, plan.microbatch)
        on_cuda = group.device.type == "cuda"
        self.randomness = torch.cuda.default_generators[group.device.index] if on_cuda else torch.default_generator
        self.sums = Sums()
        self.step = 0  # optimiser steps done

    def make_ready(self) -> None:
        """Start all ranks from the weights of rank 0, and fetch the first microbatch."""
        if self.group.world > 1:
            for parameter in self.parameters:
                dist.broadcast(parameter.data, src=0)
        self.feed = Feed(self.batches, self.plan, self.group, first_step=self.step, steps=self.recipe.steps)

    def compute(self, signal: Signal, news: bool) -> Totals:
        """First half of a step: forward and backward over this rank's microbatches, and the sums over all ranks."""
        self._began = time.perf_counter()
        scale = self.loss_scale.scale / self.recipe.tokens_per_step
        first = self.plan.first(self.group.rank)
        for turn in range(self.plan.share(self.group.rank)):
            batch = self.feed.take()
            self._seed_dropout(first + turn)
            with self.reducer.turn(turn):
                with autocast(self.recipe.train.precision, self.group.device):
                    loss_sum = self.reducer.forward(batch.x_BT, batch.y_BT, scale)
                (loss_sum * scale).backward()
            self.meter.add(loss_sum, batch.targets)
            self.feed.fetch()  # the next one, while the device still works on this one
        self.reducer.finish()
        return self.meter.total(get_total_norm(self._gradients()), signal, news)

    def update(self, totals: Totals) -> Line:
        """Second half: clip the gradients and apply them, or skip the step where fp16 overflowed.

        Raises: Nonfinite
        """
        self.step += 1
        rate = optim.learning_rate(self.recipe, self.step)
        norm, clipped = None, False
        if totals.is_finite:
            # So far gradients are of loss_scale * loss / (targets expected). They shall be of loss / (targets counted).
            factor = self.recipe.tokens_per_step / totals.tokens / self.loss_scale.scale
            norm = totals.gradient_norm * factor
            limit = self.recipe.train.clip_grad_norm or math.inf
            clipped = norm > limit
            self._apply(factor * limit / (norm + CLIP_EPS) if clipped else factor, rate)
        self.optimiser.zero_grad()
        if not self.loss_scale.update(totals.is_finite):
            raise _nonfinite(self.step, totals)
        seconds = time.perf_counter() - self._began
        line = Line(self.step, totals.tokens, totals.loss_sum, rate, norm, clipped, not totals.is_finite, seconds)
        self.sums.add(line)
        return line

    def _seed_dropout(self, microbatch: int) -> None:
        """Masks depend on what is trained, not on who trains it or when."""
        key = hashlib.sha256(f"dropout {self.run.seeds.train} {self.step} {microbatch}".encode()).digest()
        self.randomness.manual_seed(int.from_bytes(key[:8]) >> 1)

    def _apply(self, factor: float, rate: float) -> None:
        if factor != 1.0:
            torch._foreach_mul_(self._gradients(), factor)
        for settings in self.optimiser.param_groups:
            settings["lr"] = rate
        self.optimiser.step()

    def _gradients(self) -> list[Tensor]:
        return [parameter.grad for parameter in self.parameters if parameter.grad is not None]

    def state(self) -> State:
        """Everything that the steps to come depend on."""
        progress = {
            "sums": asdict(self.sums),
            "loss_scale": asdict(self.loss_scale),
            "initial_fingerprint": self.initial_fingerprint,
            "tokens": self.tokens.model_dump(),
            "kernels": self.kernels,
        }
        return State(self.step, dict(self.gpt.named_parameters()), optim.state(self.gpt, self.optimiser), progress)

    def restore(self, folder: Path) -> None:
        """Put back what `state` gave when this checkpoint was made.

        Raises: CheckpointInvalid. BadCorpus: the tokens are no longer those that it was trained on.
        """
        contents = checkpoint.read(folder, self.run, self.plan)
        progress = contents.progress
        before = Tokens(**progress["tokens"])
        if before.model_copy(update={"validated": self.tokens.validated}) != self.tokens:
            trains = before.trained != self.tokens.trained
            source, split = (
                (self.recipe.data.source, self.recipe.data.split)
                if trains
                else (self.recipe.tested_data.source, self.recipe.evaluation.split)
            )
            raise BadCorpus(
                f"the {split} split of {source} has changed since the checkpoint at step {contents.step}.",
                remedy="Put the old tokens back, or train the run anew.",
            )
        with torch.no_grad():
            for name, weight in self.gpt.named_parameters():
                weight.copy_(torch.from_numpy(contents.weights[name]))
        self.step, self.sums = contents.step, Sums(**progress["sums"])
        self.loss_scale = LossScale(**progress["loss_scale"])
        self.initial_fingerprint = progress["initial_fingerprint"]
        self.kernels = tuple(name for name, _ in groupby((*progress["kernels"], *self.kernels)))
        optim.restore(self.gpt, self.optimiser, contents.moments, updates=self.step - self.sums.skipped)


class Batch(NamedTuple):
    """A microbatch on the device, and how many targets count."""

    x_BT: Tensor
    y_BT: Tensor
    targets: int


class Feed:
    """This rank's microbatches in the order of training, each fetched one ahead."""

    def __init__(self, batches: Batches, plan: Plan, group: Group, first_step: int, steps: int):
        self._batches, self._plan, self._group = batches, plan, group
        share = plan.share(group.rank)
        self._turns = ((step, turn) for step in range(first_step, steps) for turn in range(share))
        self.fetch()

    def take(self) -> Batch:
        assert self._next is not None, "training is over"
        return self._next

    def fetch(self) -> None:
        """Begin to move the next microbatch to the device; on CUDA without waiting for it."""
        turn = next(self._turns, None)
        self._next = None if turn is None else self._load(*turn)

    def _load(self, step: int, turn: int) -> Batch:
        x_BT, y_BT = map(torch.from_numpy, self._batches.microbatch(step, self._plan, self._group.rank, turn))
        targets = int((y_BT >= 0).sum())
        if self._group.device.type == "cuda":
            x_BT, y_BT = x_BT.pin_memory(), y_BT.pin_memory()
        device = self._group.device
        return Batch(x_BT.to(device, non_blocking=True), y_BT.to(device, non_blocking=True), targets)


@contextmanager
def _ledger(folder: Path, epoch: int, from_epoch: int | None, from_step: int, group: Group) -> Iterator[Writer | None]:
    """The ledger on rank 0, which writes for all."""
    if not group.leads:
        yield None
        return
    with Writer(folder / "ledger.jsonl", epoch, from_epoch, from_step) as ledger:
        yield ledger


def agreed(asked: Kernels, group: Group) -> Computed:
    """The kernels that every rank computes by: farm's only where each rank by itself would choose them."""
    on_cpu = group.device.type == "cpu"
    mine = kernels.resolved(asked, instruction_set()) if on_cpu else kernels.resolved_on_cuda(asked)
    are_farms = torch.tensor(mine == "farm", dtype=torch.int32, device=group.device)
    if group.world > 1:
        dist.all_reduce(are_farms, op=dist.ReduceOp.MIN)
    return "farm" if are_farms else "torch"


def _other_kernels(trainer: Trainer) -> str:
    before, now = trainer.kernels[-2:]
    asked, has = trainer.recipe.train.kernels, instruction_set() or "unknown instructions"
    return (
        f"{now}'s kernels compute from step {trainer.step} on, {before}'s did before: kernels = {asked!r} with {has}."
    )


def compile_blocks(gpt: GPT, device: torch.device) -> None:
    """Have torch compile the network. Raises: NoCompiler"""
    compiler.found(compiler.ON_CUDA if device.type == "cuda" else compiler.ON_CPU)
    for block in gpt.blocks:  # all alike, so that one compilation serves every layer
        block.compile()


@contextmanager
def conditions(recipe: Recipe, device: torch.device, by: Computed) -> Iterator[None]:
    """Kernels, precision of matrix products, random state: as training needs them, then as they were."""
    if device.type == "cpu":
        _keep_freed_memory()
    on_cuda = device.type == "cuda"
    with (
        torch.random.fork_rng([device] if on_cuda else []),
        matmuls(recipe.train.precision),
        kernels.chosen(by),
        _deterministic() if on_cuda else nullcontext(),
    ):
        yield


@contextmanager
def _deterministic() -> Iterator[None]:
    """CUDA kernels that give the same bits every time. Those of the CPU always do, for one number of threads."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # without it, cuBLAS refuses
    mode: Any = torch.utils.deterministic
    enabled, fill = torch.are_deterministic_algorithms_enabled(), mode.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True)
    mode.fill_uninitialized_memory = False  # it would write NaN into every new tensor, to find what nobody has written
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(enabled)
        mode.fill_uninitialized_memory = fill


def _keep_freed_memory() -> None:
    """Have glibc's malloc keep large blocks that torch frees, for as long as this process lives.

    By default it returns them to the system, and touching new ones costs half of a bf16 step with GPT-2's vocabulary.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt:
        for setting, value in ((M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, 2**31 - 1), (M_ARENA_MAX, 1)):
            mallopt(setting, value)


def _in_turn(fetch: Callable[[], Fetched], group: Group) -> Fetched:
    """Fetch data on rank 0 first; the others then find it there."""
    for leads in (True, False):
        if group.leads is leads:
            fetched = fetch()
        if group.world > 1:
            dist.barrier()
    return fetched


def _nonfinite(step: int, totals: Totals) -> Nonfinite:
    what = f"loss {totals.loss_sum / totals.tokens}, gradient norm {totals.gradient_norm}"
    return Nonfinite(
        f"step {step}: {what}.",
        remedy="Lower train.learning_rate, clip gradients, or train in a wider precision.",
        step=step,
        loss=totals.loss_sum / totals.tokens,
        gradient_norm=totals.gradient_norm,
    )


def _stopped(trainer: Trainer, saver: Saver) -> Outcome:
    """Save where training stands, and say so."""
    saver.save(trainer.state())
    saver.settle()
    return _outcome(trainer, saver, finished=False)


def _finished(
    trainer: Trainer, saver: Saver, further: Sequence[tuple[Exam, np.ndarray]], scoring: Callable[[], None]
) -> Outcome:
    """Save, test and score while the checkpoint is being written, and say how it went."""
    saver.save(trainer.state())
    test = Exam(name=TEST, recipe=trainer.recipe, items=trainer.tokens.tested)
    scores = [
        scored(trainer.gpt, exam, tokens, trainer.group, trainer.plan.microbatch, scoring, trainer.step)
        for exam, tokens in ((test, trainer.test_tokens), *further)
    ]
    saver.settle()
    return _outcome(
        trainer,
        saver,
        finished=True,
        test_loss=scores[0].value,
        test_tokens=scores[0].tokens,
        fingerprints=Fingerprints(
            initial=trainer.initial_fingerprint, tokens=trainer.tokens, final=fingerprint(trainer.gpt)
        ),
        scores=tuple(scores),
    )


def _outcome(trainer: Trainer, saver: Saver, **score: Any) -> Outcome:
    newest = saver.newest
    return Outcome(
        step=trainer.step,
        checkpoint=f"checkpoints/{newest.path.name}" if newest else None,
        checkpoint_seconds_stalled=saver.stalled_seconds,
        best_loss=trainer.sums.best_loss,
        best_step=trainer.sums.best_step,
        peak_bytes=_peak_bytes(trainer.group),
        threads=torch.get_num_threads(),
        kernels=trainer.kernels,
        **score,
    )


def _peak_bytes(group: Group) -> int:
    """The largest over ranks: of device memory on CUDA, of resident memory on the CPU."""
    on_cuda = group.device.type == "cuda"
    kibibytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    peak = torch.tensor(torch.cuda.max_memory_allocated(group.device) if on_cuda else kibibytes * 1024)
    peak = peak.to(group.device)
    if group.world > 1:
        dist.all_reduce(peak, op=dist.ReduceOp.MAX)
    return int(peak)


def main() -> None:
    """`torchrun --nproc-per-node N -m model.train STUDY RUN FOLDER`: one run, without Ray or Redis.

    FOLDER gets a folder per attempt, as a run directory has; called again, it goes on from the newest checkpoint there.
    SIGTERM saves and ends.
    """
    parser = argparse.ArgumentParser(prog="model.train", description="Train one run of a study.")
    parser.add_argument("study", type=Path)
    parser.add_argument("run", help="the run's id, or the beginning of it")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--cache", type=Path, default=Path("~/.cache/farm"))
    arguments = parser.parse_args()
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    study = load(arguments.study)
    run = _chosen(study.runs(), arguments.run)
    plan = planner.plan(run.recipe, study.machine(run.machine, {}))
    found = checkpoint.newest_valid(arguments.folder.glob("*/checkpoints"), run, plan)
    # Rank 0 creates its ledger once all ranks have met, so that they all count the same ones here.
    epoch = 1 + len(list(arguments.folder.glob("*/ledger.jsonl")))
    (arguments.folder / str(epoch)).mkdir(parents=True, exist_ok=True)
    told: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, frame: told.append(number))
    cache = arguments.cache.expanduser()
    group = join(plan)  # which takes this rank's GPU: NCCL's barrier needs to know it
    outcome = train(
        run,
        plan,
        arguments.folder / str(epoch),
        cache=cache,
        epoch=epoch,
        resume=found and found.path,
        resume_epoch=found and int(found.path.parent.parent.name),
        control=lambda: Signal.STOP if told else Signal.CONTINUE,
        observe=lambda line: print(f"step {line.step} loss {line.loss_sum / line.tokens:.4f}", file=sys.stderr),
        saved=lambda step, path, sha256: print(f"step {step} saved in {path}", file=sys.stderr),
        note=lambda event, detail: print(f"{event}: {detail}", file=sys.stderr),
        exams=_in_turn(lambda: exams_of(run.recipe, study.evaluations, cache), group),
    )
    if group.leads:
        print(outcome.model_dump_json())
    if dist.is_initialized():
        dist.destroy_process_group()


def _chosen(runs: list[Run], beginning: str) -> Run:
    found = [run for run in runs if run.id.startswith(beginning)]
    if len(found) != 1:
        ids = ", ".join(run.id for run in (found or runs)[:8])
        raise NotFound(f"{len(found)} runs of the study begin with {beginning!r}.", remedy=f"Choose one of {ids}.")
    return found[0]


if __name__ == "__main__":
    main()
