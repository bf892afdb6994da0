"""The training loop: Recipe + Seeds + Plan -> ledger, checkpoints, fingerprints.

One function, the same under Ray Train, under plain `torchrun`, and alone. Everything random in a step is a function of
the train seed, the step and the number of the microbatch, so a run that was stopped goes on to the same bits.
"""

import hashlib
import math
import resource
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.utils import get_total_norm

from farm.errors import BadCorpus, Nonfinite
from farm.record import layout
from farm.record.ledger import FILE, Line, Writer
from farm.record.result import Computed, Exam, Fingerprints, Outcome, Tokens
from farm.study.planner import Plan
from farm.study.recipe import TEST
from farm.study.run import Run
from model import checkpoint, kernels, memory, optim, peaks
from model.assignment import Assignment, Listener
from model.checkpoint import Identity
from model.conditions import agree, compile_blocks, compiles, conditions, other_compilation, other_kernels
from model.corpus.checks import prepare
from model.corpus.sources import open_split, open_test
from model.data import Batches
from model.evaluate import score_exam
from model.feed import Feed
from model.group import Group, in_turn, join
from model.init import fingerprint, initialise
from model.meter import Meter, Signal, StepTotals, Sums
from model.precision import LossScale, autocast
from model.reduce import reducer
from model.samples import Sampler
from model.saver import Saver, Snapshot
from model.validation import Validator

CLIP_EPS = 1e-6  # as in torch.nn.utils.clip_grad_norm_


def train(assignment: Assignment, listener: Listener) -> Outcome:
    """Carry an assignment out; every rank calls this.

    Writes ledger.jsonl, samples.jsonl and checkpoints/step-XXXXXXXX/ into the attempt's folder.

    Raises: Nonfinite, BadCorpus, CheckpointInvalid, StorageFull, NoCompiler, OutOfMemory
    """
    run, group = assignment.run, join(assignment.plan)
    by = agree(run.recipe.train.kernels, group)
    with memory.explain(assignment.plan), conditions(run.recipe, group.device, by):
        trainer = Trainer(run, assignment.plan, group, assignment.cache, assignment.tokens)
        if trainer.peaks:
            listener.on_peaks(trainer.peaks)
        further = [(exam, open_test(exam.recipe, assignment.cache)) for exam in assignment.exams]
        if assignment.resume:
            trainer.restore(assignment.resume.checkpoint)
            if group.leads and len(trainer.kernels) > 1:
                change = other_kernels(trainer.kernels, run.recipe.train.kernels, trainer.step, group.device)
                listener.on_note("other-kernels", change)
            if group.leads and len(trainer.compiled) > 1:
                listener.on_note("other-kernels", other_compilation(trainer.compiled[-1], trainer.step))
        trainer.make_ready()
        with (
            _ledger(assignment, trainer.step, group) as ledger,
            _sampler(assignment, trainer.step, group, listener) as sampler,
            _saver(assignment, group, (ledger, sampler), listener) as saver,
        ):
            if sampler and trainer.step == 0:
                sampler.after(0, trainer.gpt)
            while trainer.step < run.recipe.steps:
                asked = listener.signal() if group.leads else Signal.CONTINUE
                totals = trainer.compute(asked, saver.news)
                if totals.signal is Signal.ABANDON:
                    return Outcome(finished=False, step=trainer.step)
                line = trainer.update(totals)
                line = line._replace(validation=trainer.validator.after(line.step, trainer.gpt, listener.on_scoring))
                if ledger:
                    ledger.append(line)
                    listener.on_step(line)
                if sampler:
                    sampler.after(line.step, trainer.gpt)
                if totals.news:
                    saver.settle()
                if totals.signal is Signal.STOP:
                    return _stop(trainer, saver)
                if saver.is_due(totals.signal is Signal.SAVE, run.policy.checkpoint_seconds):
                    if sampler:  # first: the record of a checkpoint's sample is on the disk before the checkpoint
                        sampler.with_checkpoint(line.step, trainer.gpt)
                    saver.begin(trainer.state())
            return _finish(trainer, saver, further, listener.on_scoring)


class Trainer:
    """One run on one rank: its state, and the two halves of a step."""

    def __init__(self, run: Run, plan: Plan, group: Group, cache: Path, tokens: Tokens | None):
        recipe = run.recipe
        self.run, self.plan, self.group, self.recipe = run, plan, group, recipe
        self.tokens = tokens or in_turn(lambda: prepare(recipe, cache), group)
        self.test_tokens = open_test(recipe, cache)
        self.batches = Batches(open_split(recipe.data, recipe.data.split, cache), recipe, run.seeds)
        self.peaks = peaks.measured(recipe.train.precision, group.device) if group.leads else None
        self.gpt = initialise(recipe.model, run.seeds.init)
        self.initial_fingerprint = fingerprint(self.gpt)
        self.gpt.to(group.device)
        self.compiled = (compiles(recipe.train.compile, group),)  # whether what computed this run was, in order
        if self.compiled[0]:
            compile_blocks(self.gpt, group.device)
        self.parameters = list(self.gpt.parameters())
        self.optimiser = optim.adamw(self.gpt, recipe.train)
        self.loss_scale = LossScale.of(recipe)
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

    def compute(self, signal: Signal, news: bool) -> StepTotals:
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

    def update(self, totals: StepTotals) -> Line:
        """Second half: clip the gradients and apply them, or skip the step where fp16 overflowed.

        Raises: Nonfinite
        """
        self.step += 1
        rate = optim.learning_rate(self.recipe, self.step)
        norm, clipped = None, False
        if totals.is_finite:
            # So far gradients are of loss_scale * loss / (targets expected). Wanted: of loss / (targets counted).
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

    def state(self) -> Snapshot:
        """Everything that the steps to come depend on."""
        progress = {
            "sums": asdict(self.sums),
            "loss_scale": asdict(self.loss_scale),
            "initial_fingerprint": self.initial_fingerprint,
            "tokens": self.tokens.model_dump(),
            "kernels": self.kernels,
            "compiled": self.compiled,
        }
        return Snapshot(self.step, dict(self.gpt.named_parameters()), optim.state(self.gpt, self.optimiser), progress)

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
                remedy="Restore the old tokens, or train the run again.",
            )
        with torch.no_grad():
            for name, weight in self.gpt.named_parameters():
                weight.copy_(torch.from_numpy(contents.weights[name]))
        self.step, self.sums = contents.step, Sums(**progress["sums"])
        self.loss_scale = LossScale(**progress["loss_scale"])
        self.initial_fingerprint = progress["initial_fingerprint"]
        self.kernels = tuple(name for name, _ in groupby((*progress["kernels"], *self.kernels)))
        self.compiled = tuple(on for on, _ in groupby((*progress["compiled"], *self.compiled)))
        optim.restore(self.gpt, self.optimiser, contents.moments, updates=self.step - self.sums.skipped)


@contextmanager
def _ledger(assignment: Assignment, from_step: int, group: Group) -> Iterator[Writer | None]:
    """The ledger on rank 0, which writes for all."""
    if not group.leads:
        yield None
        return
    from_epoch = assignment.resume and assignment.resume.epoch
    with Writer(assignment.folder / FILE, assignment.epoch, from_epoch, from_step) as ledger:
        yield ledger


@contextmanager
def _sampler(assignment: Assignment, from_step: int, group: Group, listener: Listener) -> Iterator[Sampler | None]:
    """The sampler of rank 0, if samples are asked for: every other rank has the same weights."""
    if not group.leads or assignment.samples is None:
        yield None
        return
    with Sampler(assignment, from_step, listener) as sampler:
        yield sampler


def _saver(
    assignment: Assignment, group: Group, records: Sequence[Writer | Sampler | None], listener: Listener
) -> Saver:
    identity = Identity.of(assignment.run, assignment.plan)

    def flush() -> None:
        for record in records:
            if record:
                record.sync()

    return Saver(assignment.folder / layout.CHECKPOINTS, identity, group, flush, listener.on_saved)


def _nonfinite(step: int, totals: StepTotals) -> Nonfinite:
    what = f"loss {totals.loss_sum / totals.tokens}, gradient norm {totals.gradient_norm}"
    return Nonfinite(
        f"step {step}: {what}.",
        remedy="Lower train.learning_rate, clip gradients, or train in a wider precision.",
        step=step,
        loss=totals.loss_sum / totals.tokens,
        gradient_norm=totals.gradient_norm,
    )


def _stop(trainer: Trainer, saver: Saver) -> Outcome:
    """Save where training stands, and say so."""
    saver.save(trainer.state())
    saver.settle()
    return _outcome(trainer, saver, finished=False)


def _finish(
    trainer: Trainer, saver: Saver, further: Sequence[tuple[Exam, np.ndarray]], scoring: Callable[[], None]
) -> Outcome:
    """Save, test and score while the checkpoint is being written, and say how it went."""
    saver.save(trainer.state())
    test = Exam(name=TEST, recipe=trainer.recipe, items=trainer.tokens.tested)
    scores = [
        score_exam(trainer.gpt, exam, tokens, trainer.group, trainer.plan.microbatch, scoring, trainer.step)
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
        checkpoint=f"{layout.CHECKPOINTS}/{newest.path.name}" if newest else None,
        checkpoint_seconds_stalled=saver.stalled_seconds,
        best_loss=trainer.sums.best_loss,
        best_step=trainer.sums.best_step,
        peak_bytes=_peak_bytes(trainer.group),
        peaks=trainer.peaks,
        threads=torch.get_num_threads(),
        kernels=trainer.kernels,
        compiled=trainer.compiled,
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
