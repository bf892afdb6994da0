"""Samples while training: now and then rank 0 has the model go on from the study's prompts, and records what it says.

It changes no bit of the training: the model computes without dropout and without gradients, and the draws have a
generator of their own. The other ranks need nothing of it. They wait at the next sum over ranks, for as long as one or
two steps take: 20 tokens are 20 passes of a single position.
"""

import time
from collections.abc import Callable
from functools import cached_property
from types import TracebackType
from typing import Self

from farm.errors import FarmError
from farm.record.sample import FILE, Sample, SampleWriter
from farm.study.recipe import Recipe
from farm.study.samples import Samples
from model.assignment import Assignment, Listener
from model.corpus.reader import Reader, reader, without_tokenizer
from model.gpt import GPT
from model.sampler import sample

SHARE = 0.01  # of an attempt's time, from which on checkpoints are no longer sampled from


class Sampler:
    """The samples of one attempt, which goes on from `from_step`. Use it as a context manager."""

    def __init__(self, assignment: Assignment, from_step: int, listener: Listener):
        assert assignment.samples
        self._asked, self._recipe = assignment.samples, assignment.run.recipe
        self._advanced = listener.on_scoring
        from_epoch = assignment.resume.epoch if assignment.resume else None
        self._writer = SampleWriter(assignment.folder / FILE, assignment.epoch, from_epoch, from_step)
        self._note = listener.on_note
        self._began, self._seconds, self._newest = time.perf_counter(), 0.0, -1

    def after(self, step: int, gpt: GPT) -> None:
        """Sample if that is due after `step`; 0 is before the first."""
        if self._asked.is_due(step, self._recipe.steps):
            self._sample(step, gpt)

    def with_checkpoint(self, step: int, gpt: GPT) -> None:
        """Sample from the weights of a checkpoint, if that is asked for and samples have not taken too long so far."""
        spent = self._seconds / max(time.perf_counter() - self._began, 1e-9)
        if self._asked.with_checkpoints and step > self._newest and spent < SHARE:
            self._sample(step, gpt)

    def sync(self) -> None:
        """Return when every sample is on the disk."""
        self._writer.sync()

    @cached_property
    def _words(self) -> tuple[Reader, list[list[int]]]:
        """The reader, and the prompts as tokens: read for the first sample, since where `every` is 0 there is none."""
        return _read(self._recipe, self._asked, self._note)

    def _sample(self, step: int, gpt: GPT) -> None:
        self._newest = step
        by, prompts = self._words
        for prompt in prompts:
            self._advanced()
            found = take(gpt, by, prompt, self._asked, step)
            self._writer.append(found)
            self._seconds += found.seconds

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._writer.close()


def take(gpt: GPT, by: Reader, prompt: list[int], how: Samples, step: int) -> Sample:
    """The sample of a model, as it is after `step`, that goes on from the tokens `prompt`."""
    began = time.perf_counter()
    tokens = sample(gpt, prompt, how)
    return Sample(
        step=step,
        prompt=by.text(prompt),
        text=by.continuation(prompt, tokens),
        tokens=tuple(tokens),
        tokenizer=by.name,
        temperature=how.temperature,
        top_k=how.top_k,
        seed=how.seed,
        seconds=time.perf_counter() - began,
    )


def _read(recipe: Recipe, asked: Samples, note: Callable[[str, str], None]) -> tuple[Reader, list[list[int]]]:
    """The reader and the prompts as tokens. A tokenizer that is not there ends no training: then both are token ids,
    which is noted, and a prompt that is not is the token 0."""
    try:
        by = reader(recipe)
    except FarmError as error:
        by = without_tokenizer(recipe, str(error))
    if by.missing:
        note("samples-without-tokenizer", f"Samples of this run are token ids: {by.missing.rstrip('.')}.")
    prompts = []
    for prompt in asked.prompts:
        try:
            prompts.append(by.tokens(prompt))
        except ValueError:
            prompts.append([by.start])
    return by, [tokens for place, tokens in enumerate(prompts) if tokens not in prompts[:place]]
