"""The recipe of a training: everything that may change the loss, and nothing that may not.

`Recipe()` is the published baseline: a 163,009,536-parameter GPT-2 on 3.26 billion tokens of FineWeb. A study's
interventions are patches on it. How a machine does the work (world size, microbatch, accumulation) is a Plan's matter.

Longer than other files, so that all that may change a loss can be read in one place, with what makes an id of it.
"""

import hashlib
import json
from fractions import Fraction as Exact
from functools import lru_cache
from math import ceil
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from pydantic_core import PydanticKnownError

Precision = Literal["fp32", "tf32", "fp16", "bf16"]
Kernels = Literal["auto", "farm", "gelu", "torch"]
Fraction = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]
MEANING = 1  # of what a recipe leaves out. Raised when a default comes to mean something else: every id changes with it
CODE = 1  # of model.evaluate. Raised when it comes to compute another number: every score before that is out of date
CHECKPOINT = "final"  # which weights of a run are scored
TEST = "test_loss"  # the evaluation that every recipe has
HEAD_TOKENS = 1024  # at the beginning of what training reads, with a fingerprint of their own
MAX_TOKENS = 10**15  # more than were ever written, and far from where a float no longer tells whole numbers apart
LEAST_VALIDATED = 8  # sequences: the loss of fewer says little
WATCHED = ("every", "validation_sequences")  # of `evaluation`: how training is watched, which changes no bit of it
NONE = "none"  # unsets an optional field, of which it can therefore never be a value: TOML has no null
Unset = BeforeValidator(lambda value: None if value == NONE else value)
Betas = Annotated[tuple[float, float], BeforeValidator(lambda v: tuple(v) if isinstance(v, list) else v)]


def _no_number(value: Any) -> Any:
    """Python takes 1 for True. Raises: PydanticKnownError"""
    if type(value) in (int, float):
        raise PydanticKnownError("literal_error", {"expected": "'auto', True or False"})
    return value


Compile = Annotated[Literal["auto", True, False], BeforeValidator(_no_number)]


def _no_nul(text: str) -> str:
    if not text.strip() or "\0" in text:
        raise ValueError("must be a path or a name, not empty")
    return text


def _tokenizer(text: str) -> str:
    if text not in ("gpt2", "bytes") and not text.startswith(("/", "~")):
        raise ValueError('must be "gpt2", "bytes" or the full path of a tokenizer.json')
    return text


class Frozen(BaseModel):
    """A value: strict types, no unknown keys, no NaN or infinity, no change after birth."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False, defer_build=True)


class Model(Frozen):
    """The network: GPT-2, pre-norm, learned positions, tanh GELU, layer-norm eps 1e-5."""

    vocab: int = Field(50257, ge=2, le=65536, description="number of different tokens that the corpus may hold")
    vocab_multiple: int = Field(1, ge=1, le=1024, description="pad the embedding rows up to a multiple of this")
    context: int = Field(1024, ge=1, le=65536, description="tokens in a sequence: how far back a prediction may look")
    width: int = Field(768, ge=1, le=65536, description="channels of the residual stream; the MLP has 4 times as many")
    layers: int = Field(12, ge=1, le=1024, description="transformer blocks")
    heads: int = Field(12, ge=1, le=1024, description="attention heads of a block; must divide width")
    dropout: float = Field(0.1, ge=0, lt=1, description="share of embeddings, attention and residuals dropped")
    qkv_bias: bool = Field(False, description="whether queries, keys and values have biases, as GPT-2's have")
    tie_weights: bool = Field(False, description="whether embedding and output share one matrix, as GPT-2's do")
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
        """Weights that a token is multiplied by, a tied head included: what most of a step's time goes with."""
        looked_up = self.context * self.width + (0 if self.tie_weights else self.rows * self.width)
        return self.parameters - looked_up

    @property
    def flops_per_token(self) -> int:
        """Floating-point operations of a training step: 6 a weight, and attention's share, which grows with context.

        Chowdhery et al. 2022 (PaLM), appendix B. 855 million for the baseline, of which attention is 13 %.
        """
        return 6 * self.multiplied + 12 * self.layers * self.width * self.context


class Schedule(Frozen):
    """The learning rate over the run, as a share of the peak: a pure function of step / steps."""

    kind: Literal["constant", "warmup-cosine", "warmup-linear"] = Field(
        "constant", description="how it falls after the warmup: not at all, as half a cosine, or as a straight line"
    )
    warmup: Fraction = Field(0.0, description="share of all steps spent rising linearly to the peak")
    floor: Fraction = Field(0.0, description="share of the peak that is left at the last step")

    def rising(self, steps: int) -> int:
        """How many of `steps` rise to the peak: ceil(warmup * steps), of the decimal that was written.

        0.07 of 100 steps is 7; the binary number nearest to 0.07 is larger, and its product rounds up to 8.
        """
        return ceil(Exact(repr(self.warmup)) * steps)


class Train(Frozen):
    """How the network is trained. `batch` is the only batch size that a study sets."""

    batch: int = Field(96, ge=1, le=1_048_576, description="sequences per optimiser step, over all workers")
    tokens: int = Field(3_260_190_720, ge=1, le=MAX_TOKENS, description="training stops after the step that reaches it")
    learning_rate: Positive = Field(4e-4, description="AdamW's, at the peak of the schedule")
    schedule: Schedule = Field(Schedule(), description="the learning rate over the run")
    weight_decay: float = Field(0.1, ge=0, description="AdamW's, decoupled from the gradient")
    decay: Literal["all", "matrices"] = Field("all", description="which tensors decay: all, or those of 2 dimensions")
    betas: Betas = Field((0.9, 0.999), description="AdamW's decay rates of the two moments")
    eps: Positive = Field(1e-8, description="AdamW's, added to the root of the second moment")
    clip_grad_norm: Annotated[Positive | None, Unset] = Field(
        None, description="the largest global norm that a gradient keeps; unset, gradients are not clipped"
    )
    precision: Precision = Field("fp16", description="precision of the arithmetic in training; a CPU has fp32 and bf16")
    reduction: Literal["fast", "canonical"] = Field(
        "fast", description="DDP's sum of gradients, or one in a fixed order, the same bits on 1, 2, 4 or 8 workers"
    )
    canonical_microbatch: Annotated[int | None, Unset] = Field(
        None, ge=1, description="fixed microbatch on every machine"
    )
    compile: Compile = Field(
        "auto", description="whether torch.compile is used; auto: on a GPU whose node has a C compiler, and on no CPU"
    )
    kernels: Kernels = Field(
        "auto",
        description="farm's kernels, torch's, torch's with farm's GELU (gelu), or the fastest known there (auto)",
    )

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

    source: Annotated[str, AfterValidator(_no_nul)] = Field(
        "hf:gpjt/fineweb-gpt2-tokens", description="where the corpus is; see data.md"
    )
    revision: Annotated[str | None, Unset] = Field(None, description="commit or tag of the Hugging Face repo")
    split: str = Field("train", description="the split to train on")
    tokenizer: Annotated[str, AfterValidator(_no_nul), AfterValidator(_tokenizer)] = Field(
        "gpt2", description='how text becomes tokens: "gpt2", "bytes", or the path of a tokenizer.json'
    )
    text_field: str = Field("text", description="the column or key that holds a document's text")
    order: Literal["sequential", "shuffled"] = Field(
        "sequential", description="order of the sequences; shuffled: by the train seed"
    )
    repeat: bool = Field(False, description="allow more than one epoch")

    @model_validator(mode="after")
    def _built_in_text_is_bytes(self) -> Self:
        if self.source.startswith("builtin:") and self.tokenizer not in ("gpt2", "bytes"):
            raise ValueError(f"tokenizer = {self.tokenizer!r} has no effect: {self.source} is read as bytes")
        return self

    @property
    def named(self) -> dict[str, Any]:
        """The fields that name the tokens of the split: recipes that agree in this read the same ones, as far as each
        reads.
        """
        return self.model_dump(include={"source", "revision", "split", "tokenizer", "text_field"})


class Evaluation(Frozen):
    """The held-out slice behind `test_loss`. Results of different evaluations are never ranked together.

    `source` gives arms that train on different corpora a common test set, `context` gives arms with different
    `model.context` the same sequences to be tested on.
    """

    source: Annotated[Annotated[str, AfterValidator(_no_nul)] | None, Unset] = Field(
        None, description="where the test split is; default: data.source"
    )
    revision: Annotated[str | None, Unset] = Field(
        None, description="commit or tag of evaluation.source, if that is a Hugging Face repo"
    )
    split: str = Field("validation", description="the split to test on")
    offset: int = Field(50_000_000, ge=0, le=MAX_TOKENS, description="first token of the slice")
    sequences: int = Field(
        19_200, ge=1, le=MAX_TOKENS, description="number of test sequences; 3200 x 6 for the baseline"
    )
    context: Annotated[int | None, Unset] = Field(
        None, ge=1, le=65536, description="tokens in each; default: model.context, which it may not exceed"
    )
    precision: Precision = Field("fp32", description="precision of the arithmetic in the test")
    every: float = Field(
        0.05,
        ge=0,
        le=MAX_TOKENS,
        description="how often training is validated: a share of the run (below 1), or a number of steps; 0: never."
        " It changes no bit of the training, so it is not part of a run's id",
    )
    validation_sequences: Annotated[int | None, Unset] = Field(
        None,
        ge=1,
        le=MAX_TOKENS,
        description="sequences per validation, next to the slice of the test; default: a twentieth of the test's, but"
        " no more than 1 for 400 that are trained on, and 8 at least. Not part of a run's id either",
    )

    @model_validator(mode="after")
    def _steps_are_whole(self) -> Self:
        if self.every >= 1 and self.every != int(self.every):
            raise ValueError(f"evaluation.every = {self.every:g} must be a share below 1 or a whole number of steps")
        return self

    @model_validator(mode="after")
    def _revision_needs_its_source(self) -> Self:
        if self.revision is not None and self.source is None:
            raise ValueError("evaluation.revision belongs to evaluation.source, which is not set; use data.revision")
        return self


class FurtherEvaluation(Frozen):
    """Another slice that the trained model is scored on. Keys left out are those of the arm's `evaluation`.

    A revision goes with its source: naming another source drops it, unless both are set.
    """

    source: Annotated[Annotated[str, AfterValidator(_no_nul)] | None, Unset] = Field(
        None, description="where the split is; default: as in the arm's test"
    )
    revision: Annotated[str | None, Unset] = Field(
        None, description="commit or tag of its source, if that is a Hugging Face repo"
    )
    split: Annotated[str | None, Unset] = Field(None, description="the split to score on")
    offset: Annotated[int | None, Unset] = Field(None, ge=0, le=MAX_TOKENS, description="first token of the slice")
    sequences: Annotated[int | None, Unset] = Field(None, ge=1, le=MAX_TOKENS, description="number of sequences")
    context: Annotated[int | None, Unset] = Field(
        None, ge=1, le=65536, description="tokens in each; at most model.context of every arm"
    )
    precision: Annotated[Precision | None, Unset] = Field(None, description="precision of the arithmetic")

    @model_validator(mode="after")
    def _revision_needs_its_source(self) -> Self:
        if self.revision is not None and self.source is None:
            raise ValueError("revision belongs to source, which is not set; set both")
        return self


class Recipe(Frozen):
    """Everything that may change the loss, but the seeds. `Recipe()` is the baseline."""

    model: Model = Model()
    train: Train = Train()
    data: Data = Data()
    evaluation: Evaluation = Evaluation()

    @model_validator(mode="after")
    def _test_fits_the_context(self) -> Self:
        if self.tested_context > self.model.context:
            raise ValueError(
                f"evaluation.context = {self.tested_context} is longer than model.context = {self.model.context}"
            )
        return self

    @property
    def tested_context(self) -> int:
        """Tokens in a sequence of the test."""
        return self.evaluation.context or self.model.context

    @property
    def tested_data(self) -> Data:
        """The corpus of the test: that of training, unless `evaluation.source` names another."""
        own, split = self.evaluation.source, self.evaluation.split
        update = {"split": split} | ({"source": own, "revision": self.evaluation.revision} if own else {})
        return self.data.model_copy(update=update)

    @property
    def tested(self) -> dict[str, Any]:
        """The definition of the test: all that makes two test losses comparable, but for the tokens themselves."""
        evaluation = self.evaluation
        return self.tested_data.named | {
            "offset": evaluation.offset,
            "sequences": evaluation.sequences,
            "context": self.tested_context,
            "precision": evaluation.precision,
            "code": CODE,
            "checkpoint": CHECKPOINT,
        }

    @property
    def trained(self) -> dict[str, Any]:
        """Which tokens training reads, and how many: recipes that agree in this must have read the same ones."""
        count = None if self.data.order == "shuffled" else self.steps * self.tokens_per_step
        return self.data.named | {"tokens": count, "context": self.model.context}

    @property
    def begun(self) -> dict[str, Any]:
        """Which tokens training reads first: as `trained`, for recipes that do not read equally many."""
        count = HEAD_TOKENS if self.data.order == "shuffled" else self.steps * self.tokens_per_step
        return self.data.named | {"tokens": min(HEAD_TOKENS, count)}

    @property
    def evaluation_version(self) -> str:
        """Name of the evaluation: equal for recipes whose test losses may be compared on the same tokens."""
        return self.evaluation_id(TEST)

    def evaluation_id(self, name: str) -> str:
        """The same for an evaluation of that name, which this recipe has as its test (see `with_test`)."""
        return _evaluation_id(self, name, CODE, CHECKPOINT)

    def with_test(self, further: FurtherEvaluation) -> "Recipe":
        """This recipe with another test. Raises: ValidationError: the two do not fit together."""
        patch = further.model_dump(exclude_none=True)
        if further.source is not None:
            patch["revision"] = further.revision
        return self.with_patch({"evaluation": patch})

    @property
    def steps(self) -> int:
        """Optimiser steps: `tokens` rounded up to whole batches."""
        return ceil(self.train.tokens / self.tokens_per_step)

    @property
    def tokens_per_step(self) -> int:
        return self.train.batch * self.model.context

    def validates(self, step: int) -> bool:
        """Whether training is validated after optimiser step `step`, from 1: at even distances, and after the last."""
        return is_due(self.evaluation.every, step, self.steps)

    @property
    def validation_sequences(self) -> int:
        """How many sequences a validation reads, where the split has room for them.

        The default depends on neither `every` nor, where training is long, on its length: curves can be compared.
        """
        trained = self.steps * self.tokens_per_step // self.tested_context
        few = max(LEAST_VALIDATED, min(self.evaluation.sequences // 20, trained // 400))
        return self.evaluation.validation_sequences or few

    @property
    def digest(self) -> str:
        """sha256 of its `identity`."""
        return _digest_of(self)

    @property
    def corpus(self) -> str:
        """sha256 over what decides whether a corpus will do, and which tokens are read: what model.corpus looks at."""
        return _corpus_of(self)

    def changes(self) -> dict[str, Any]:
        """Only what differs from the baseline, nested as in a study file."""
        return self.model_dump(mode="json", exclude_defaults=True)

    def setting(self, path: str) -> Any:
        """The value at `path` ("model.dropout"), defaults included, as a study file would write it.

        NONE: it is unset, or not among the settings, as the warm-up of a constant learning rate.
        """
        found: Any = self.model_dump(mode="json")
        for key in path.split("."):
            found = found.get(key) if isinstance(found, dict) else None
        return NONE if found is None else found

    def with_patch(self, patch: dict[str, Any]) -> "Recipe":
        """This recipe with `patch` (nested tables) laid over it, validated again."""
        return Recipe.model_validate(merge(self.model_dump(), patch))


def is_due(every: float, step: int, steps: int) -> bool:
    """Whether something is done after optimiser step `step`, from 1: at even distances, and after the last of `steps`.

    `every` is a share of the run (below 1) or a number of steps; 0: never.
    """
    distance = Exact(repr(every))  # of the decimal that was written, as in `Schedule.rising`
    if not distance:
        return False
    distance = distance if distance >= 1 else distance * steps
    return step == steps or step // distance > (step - 1) // distance


@lru_cache(maxsize=1024)  # the runs of an arm share one recipe, and each asks for its digest several times
def _digest_of(recipe: Recipe) -> str:
    return digest(identity(recipe))


def _drop_watching(recipe: Recipe) -> Recipe:
    """`recipe` without the fields that only say how its training is watched."""
    watched = {name: Evaluation.model_fields[name].default for name in WATCHED}
    return recipe.model_copy(update={"evaluation": recipe.evaluation.model_copy(update=watched)})


@lru_cache(maxsize=1024)
def _evaluation_id(recipe: Recipe, name: str, code: int, checkpoint: str) -> str:
    baseline = Recipe().tested | {"code": 1, "checkpoint": "final"}  # as they were when the first scores were made
    tested = recipe.tested | {"code": code, "checkpoint": checkpoint}
    changes = {key: value for key, value in tested.items() if value != baseline.get(key)}
    return f"{name}@{digest(_of_today(changes))[:8]}"


def identity(value: Frozen) -> dict[str, Any]:
    """The identity of `value` among its kind: where it differs from the defaults, and what these mean.

    A field that a later version adds with a default of "as before" changes no identity; a default that comes to mean
    something else raises MEANING. What changes no bit of a training is no part of a recipe's (WATCHED).
    """
    told = _drop_watching(value) if isinstance(value, Recipe) else value
    return _of_today(told.model_dump(mode="json", exclude_defaults=True))


def _of_today(changes: dict[str, Any]) -> dict[str, Any]:
    return {"meaning": MEANING, "changes": _drop_sign(changes)}


def _drop_sign(value: Any) -> Any:
    """With 0.0 for -0.0, which is the same number in another spelling."""
    if isinstance(value, dict):
        return {key: _drop_sign(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_drop_sign(inner) for inner in value]
    return value + 0.0 if isinstance(value, float) else value


@lru_cache(maxsize=1024)
def _corpus_of(recipe: Recipe) -> str:
    tables = {name: getattr(recipe, name).model_dump(mode="json") for name in ("data", "evaluation")}
    model, sequences = recipe.model, recipe.steps * recipe.train.batch
    return digest(tables | {"context": model.context, "vocab": model.vocab, "sequences": sequences})


class Seeds(Frozen):
    """Two numbers, always: the seed of the weights, and the seed of data order and dropout."""

    init: Seed = Field(42, description="seed of the initial weights")
    train: Seed = Field(23, description="seed of the order of the data and of dropout")

    def __str__(self) -> str:
        return f"{self.init}.{self.train}"


def merge(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """`above` laid over `below`, table by table."""
    result = dict(below)
    for key, value in above.items():
        inner = result.get(key)
        result[key] = merge(inner, value) if isinstance(inner, dict) and isinstance(value, dict) else value
    return result


def canonical_json(value: BaseModel | dict | list) -> str:
    """The one spelling of a value: sorted keys, no spaces, no NaN."""
    data = value.model_dump(mode="json") if isinstance(value, BaseModel) else value
    return json.dumps(data, sort_keys=True, separators=(",", ":"), allow_nan=False)


def digest(value: BaseModel | dict | list) -> str:
    """sha256 of the canonical JSON, in hex."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()
