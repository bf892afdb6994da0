"""What is trained: everything that may change the loss, and nothing that may not.

`Recipe()` is the published baseline: a 163,009,536-parameter GPT-2 on 3.26 billion tokens of FineWeb. A study's
interventions are patches on it. How a machine does the work (world size, microbatch, accumulation) is a Plan's matter.
"""

import hashlib
import json
from functools import lru_cache
from math import ceil
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

Precision = Literal["fp32", "tf32", "fp16", "bf16"]
Kernels = Literal["auto", "farm", "torch"]
Fraction = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]
MAX_TOKENS = 10**15  # more than were ever written, and far from where a float no longer tells whole numbers apart
Betas = Annotated[tuple[float, float], BeforeValidator(lambda v: tuple(v) if isinstance(v, list) else v)]


def _no_nul(text: str) -> str:
    if not text.strip() or "\0" in text:
        raise ValueError("must be a path or a name, not empty")
    return text


class Frozen(BaseModel):
    """A value: strict types, no unknown keys, no NaN or infinity, no change after birth."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class Model(Frozen):
    """The network: GPT-2, pre-norm, learned positions, tanh GELU, layer-norm eps 1e-5."""

    vocab: int = Field(50257, ge=2, le=65536, description="tokens that the corpus may hold")
    vocab_multiple: int = Field(1, ge=1, le=1024, description="pad the embedding rows up to a multiple of this")
    context: int = Field(1024, ge=1, le=65536)
    width: int = Field(768, ge=1, le=65536)
    layers: int = Field(12, ge=1, le=1024)
    heads: int = Field(12, ge=1, le=1024)
    dropout: float = Field(0.1, ge=0, lt=1)
    qkv_bias: bool = False
    tie_weights: bool = False
    init: Literal["keyed", "sequential"] = Field("keyed", description="how the init seed reaches each tensor")
    initializer: Literal["torch", "gpt2"] = Field("torch", description="torch's defaults, or N(0, 0.02) as GPT-2")

    @model_validator(mode="after")
    def _heads_divide_width(self) -> Self:
        if self.width % self.heads:
            raise ValueError(f"heads = {self.heads} does not divide width = {self.width}")
        return self

    @property
    def rows(self) -> int:
        """Rows of the embedding: `vocab` rounded up to `vocab_multiple`."""
        return ceil(self.vocab / self.vocab_multiple) * self.vocab_multiple

    @property
    def parameters(self) -> int:
        """Trained numbers, each counted once: 163,009,536 for the baseline."""
        width, norm = self.width, 2 * self.width
        attention = 3 * width * width + (3 * width if self.qkv_bias else 0) + width * width + width
        mlp = 4 * width * width + 4 * width + 4 * width * width + width
        embedding = self.rows * width
        head = 0 if self.tie_weights else embedding
        return embedding + self.context * width + self.layers * (2 * norm + attention + mlp) + norm + head

    @property
    def multiplied(self) -> int:
        """Weights that a token is multiplied by, a tied head included: what the time of a step goes with."""
        looked_up = self.context * self.width + (0 if self.tie_weights else self.rows * self.width)
        return self.parameters - looked_up


class Schedule(Frozen):
    """The learning rate over the run, as a share of the peak: a pure function of step / steps."""

    kind: Literal["constant", "warmup-cosine", "warmup-linear"] = "constant"
    warmup: Fraction = Field(0.0, description="share of all steps spent rising linearly to the peak")
    floor: Fraction = Field(0.0, description="share of the peak that is left at the last step")


class Train(Frozen):
    """How the network is trained. `batch` is the only batch number that a person writes."""

    batch: int = Field(96, ge=1, le=1_048_576, description="sequences per optimiser step, over all workers")
    tokens: int = Field(3_260_190_720, ge=1, le=MAX_TOKENS, description="training stops after the step that reaches it")
    learning_rate: Positive = 4e-4
    schedule: Schedule = Schedule()
    weight_decay: float = Field(0.1, ge=0)
    decay: Literal["all", "matrices"] = Field("all", description="which tensors decay: all, or those of 2 dimensions")
    betas: Betas = (0.9, 0.999)
    eps: Positive = 1e-8
    clip_grad_norm: Positive | None = None
    precision: Precision = "fp16"
    reduction: Literal["fast", "canonical"] = "fast"
    canonical_microbatch: int | None = Field(None, ge=1, description="fixed microbatch on every machine")
    compile: bool = False
    kernels: Kernels = Field("auto", description="on a CPU: farm's, torch's, or by its instruction set")

    @model_validator(mode="after")
    def _canonical_needs_its_microbatch(self) -> Self:
        if any(not 0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"betas = {list(self.betas)} must lie in [0, 1)")
        micro = self.canonical_microbatch
        if self.reduction == "canonical" and micro is None:
            raise ValueError('reduction = "canonical" needs canonical_microbatch, the same on every machine')
        if micro is not None and self.batch % micro:
            raise ValueError(f"canonical_microbatch = {micro} does not divide batch = {self.batch}")
        return self


class Data(Frozen):
    """Where tokens come from and in which order.

    `source` is `builtin:python-reference`, `hf:OWNER/NAME` (a Hugging Face dataset repo), or a path that every node
    sees: a folder of `<split>.safetensors`, a folder of nanoGPT `<split>.bin`, or parquet, jsonl or text files.
    """

    source: Annotated[str, AfterValidator(_no_nul)] = "hf:gpjt/fineweb-gpt2-tokens"
    revision: str | None = Field(None, description="commit or tag of the Hugging Face repo")
    split: str = "train"
    tokenizer: Literal["gpt2"] = "gpt2"
    text_field: str = "text"
    order: Literal["sequential", "shuffled"] = Field("sequential", description="shuffled draws from the train seed")
    repeat: bool = Field(False, description="allow more than one epoch")


class Evaluation(Frozen):
    """The held-out slice behind `test_loss`. Results of different evaluations are never ranked together."""

    split: str = "validation"
    offset: int = Field(50_000_000, ge=0, le=MAX_TOKENS, description="first token of the slice")
    sequences: int = Field(19_200, ge=1, le=MAX_TOKENS, description="3200 x 6 sequences of `model.context` tokens")
    precision: Precision = "fp32"

    @property
    def version(self) -> str:
        """Name of this evaluation, for the table's heading."""
        return f"test_loss@{digest(self)[:8]}"


class Recipe(Frozen):
    """Everything that may change the loss, but the seeds. `Recipe()` is the baseline."""

    model: Model = Model()
    train: Train = Train()
    data: Data = Data()
    evaluation: Evaluation = Evaluation()

    @property
    def steps(self) -> int:
        """Optimiser steps: `tokens` rounded up to whole batches."""
        return ceil(self.train.tokens / self.tokens_per_step)

    @property
    def tokens_per_step(self) -> int:
        return self.train.batch * self.model.context

    @property
    def digest(self) -> str:
        """sha256 over the canonical JSON of every field, defaults included."""
        return _digest_of(self)

    def changes(self) -> dict[str, Any]:
        """Only what differs from the baseline, nested as in a study file."""
        return self.model_dump(mode="json", exclude_defaults=True)

    def patched(self, patch: dict[str, Any]) -> "Recipe":
        """This recipe with `patch` (nested tables) laid over it, validated anew."""
        return Recipe.model_validate(merged(self.model_dump(), patch))


@lru_cache(maxsize=1024)  # the runs of an arm share one recipe, and each asks for its digest several times
def _digest_of(recipe: Recipe) -> str:
    return digest(recipe)


class Seeds(Frozen):
    """Two numbers, always: the seed of the weights, and the seed of data order and dropout."""

    init: Seed = 42
    train: Seed = 23

    def __str__(self) -> str:
        return f"{self.init}.{self.train}"


def merged(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """`above` laid over `below`, table by table."""
    result = dict(below)
    for key, value in above.items():
        inner = result.get(key)
        result[key] = merged(inner, value) if isinstance(inner, dict) and isinstance(value, dict) else value
    return result


def canonical_json(value: BaseModel | dict | list) -> str:
    """The one spelling of a value: sorted keys, no spaces, no NaN."""
    data = value.model_dump(mode="json") if isinstance(value, BaseModel) else value
    return json.dumps(data, sort_keys=True, separators=(",", ":"), allow_nan=False)


def digest(value: BaseModel | dict | list) -> str:
    """sha256 of the canonical JSON, in hex."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()
