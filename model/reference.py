"""A GPT-2 in transformers' format, scored as a run's model is: OpenAI's own, or one that `farm export` wrote."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch

from farm.errors import BadCorpus, CheckpointInvalid
from farm.record.result import Exam, Measurement
from farm.study.recipe import Model, Recipe
from model.conditions import agree, conditions
from model.corpus.sources import open_test
from model.corpus.tokenizer import GPT2, of
from model.evaluate import score_exam
from model.export import read
from model.gpt import GPT
from model.group import Group, device

WEIGHTS = "model.safetensors"
BATCH_TOKENS = 4096  # of GPT-2's vocabulary, logits of 0.8 GB in fp32


class Opened(NamedTuple):
    """A reference model, on the CPU."""

    gpt: GPT
    weights: str  # sha256 of its file

    @property
    def shape(self) -> Model:
        return self.gpt.shape


def load(folder: Path) -> Opened:
    """The GPT-2 in a folder. Nothing but JSON and safetensors is ever read.

    Raises: CheckpointInvalid: there is none, or none that is like ours.
    """
    for name in ("config.json", WEIGHTS):
        if not (folder / name).is_file():
            raise CheckpointInvalid(f"{folder} holds no {name}.", remedy=_remedy(folder, name))
    with (folder / WEIGHTS).open("rb") as file:
        weights = hashlib.file_digest(file, "sha256").hexdigest()
    return Opened(read(folder), weights)


def check(shape: Model, recipe: Recipe, folder: Path) -> None:
    """Whether a model of this shape can be scored as `recipe` tests its own.

    A vocabulary of the same size is taken for the same one: nothing in the weights tells tokens apart.

    Raises: CheckpointInvalid
    """
    if shape.vocab not in (sizes := _vocabularies(recipe)):
        raise CheckpointInvalid(
            f"{folder} has a vocabulary of {shape.vocab:,} tokens, the study's data of"
            f" {' or '.join(f'{size:,}' for size in sizes)}: losses per token over different vocabularies cannot be"
            " compared.",
            remedy="Use a reference model with the tokenizer of the study's data.",
        )
    if shape.context < recipe.tested_context:
        raise CheckpointInvalid(
            f"{folder} has a context of {shape.context:,} tokens, the evaluation of {recipe.tested_context:,}.",
            remedy=f"Use a model with more, or set evaluation.context to {shape.context} or less.",
        )


def score(one: Opened, exam: Exam, cache: Path, advanced: Callable[[], None] = lambda: None) -> Measurement:
    """The score of a reference by an evaluation, on this machine; `advanced` is called before each batch.

    Raises: Nonfinite
    """
    group = Group(0, 1, device())
    one.gpt.to(group.device)
    with conditions(exam.recipe, group.device, agree(exam.recipe.train.kernels, group)):
        tokens = open_test(exam.recipe, cache)
        return score_exam(one.gpt, exam, tokens, group, size(exam.recipe), advanced)


def accelerator() -> str:
    """The device that computes here: the name of the GPU, or cpu."""
    found = device()
    return torch.cuda.get_device_name(found) if found.type == "cuda" else "cpu"


def size(recipe: Recipe) -> int:
    """Sequences in a batch."""
    return max(1, BATCH_TOKENS // recipe.tested_context)


def batches(recipe: Recipe) -> int:
    return -(-recipe.evaluation.sequences // size(recipe))


def _vocabularies(recipe: Recipe) -> list[int]:
    """The sizes that agree with the data: the baseline's, and GPT-2's own where its tokenizer made the tokens, since a
    baseline may round that up."""
    sizes = [recipe.model.vocab]
    try:
        is_gpt2 = of(recipe.data) is GPT2
    except BadCorpus:
        is_gpt2 = False
    return sorted({*sizes, GPT2.vocab}) if is_gpt2 else sizes


def _remedy(folder: Path, name: str) -> str:
    if name == WEIGHTS and any(folder.glob("*.bin")):
        return "Its weights are a pickle, which can run code and is never loaded: use a folder with model.safetensors."
    if name == WEIGHTS and any(folder.glob("*.safetensors*")):
        return f"Its weights lie in several files: save it in one, {WEIGHTS}."
    return "Name the folder of a GPT-2 as transformers' save_pretrained writes it: config.json and model.safetensors."
