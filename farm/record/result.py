"""The result of a finished run, and the software and hardware that produced it."""

from math import isfinite
from typing import Any, Literal

from pydantic import Field

from farm.errors import Nonfinite, WorkerDied
from farm.study.machine import Price
from farm.study.memory import least_traffic
from farm.study.planner import Plan
from farm.study.processor import InstructionSet
from farm.study.recipe import Frozen, Recipe, Seeds

Computed = Literal["farm", "gelu", "torch"]  # whose kernels; "gelu": torch's, but farm's GELU


class Hardware(Frozen):
    """The node that trained, as it described itself."""

    host: str
    accelerator: str
    accelerators: int
    memory_bytes: int = Field(description="per accelerator; of the host when there is none")
    driver: str | None = None
    cuda: str | None = None
    cpu: str
    instruction_set: InstructionSet | None = Field(None, description="of the CPU; None where the system does not tell")
    cores: int
    threads: int = Field(description="torch threads per worker; they change the last bits")


class Provenance(Frozen):
    """The software that trained."""

    farm: str
    commit: str | None = Field(None, description="of the checkout that ran, if it ran from one")
    dirty: bool | None = None
    code: str = Field(description="sha256 over the installed sources of farm, model and workers")
    python: str
    torch: str
    ray: str | None = None


class Tokens(Frozen):
    """sha256 of the tokens that training, the test and validations read."""

    head: str = Field(description="of the first 1,024 that training reads: alike for runs of any length")
    trained: str = Field(description="of all that training reads; of the whole split when shuffled")
    tested: str = Field(description="of all that the test reads")
    validated: str | None = Field(None, description="of all that a validation reads; None: there is none")


class Fingerprints(Frozen):
    """sha256 of the weights before the first step and after the last; and of the tokens between them."""

    initial: str
    tokens: Tokens
    final: str


class Validated(Frozen):
    """A point of the validation curve. Tokens and seconds are those of all steps that count, up to this one."""

    step: int = Field(ge=1)
    tokens: int = Field(ge=1)
    seconds: float = Field(ge=0, description="of training alone: no validation, checkpoint, start or lost work")
    loss: float = Field(description="nats per token of the slice behind fingerprints.tokens.validated")


class Peaks(Frozen):
    """The peak rates of one accelerator, measured before the first step."""

    flops_per_second: float = Field(gt=0, description="of matrix products at the precision of training")
    bytes_per_second: float = Field(gt=0, description="read and written in its memory")


class Utilisation(Frozen):
    """How much of the measured peaks of its accelerators a training reached."""

    peaks: Peaks
    flops: float = Field(description="share: model FLOPs utilisation, of the arithmetic of forward and backward passes")
    bandwidth: float = Field(description="share, at least: of the bytes that no implementation could do without")


def utilisation(peaks: Peaks, recipe: Recipe, plan: Plan, tokens_per_second: float) -> Utilisation:
    """Express `tokens_per_second` of all workers as shares of the peaks."""
    each = tokens_per_second / plan.world
    traffic = least_traffic(recipe, plan.microbatch, recipe.tokens_per_step / plan.world)
    return Utilisation(
        peaks=peaks,
        flops=each * recipe.model.flops_per_token / peaks.flops_per_second,
        bandwidth=each * traffic / peaks.bytes_per_second,
    )


class Result(Frozen):
    """Written once, when the last step, the test and the final checkpoint are done. Never changes after."""

    run_id: str
    adopted: str | None = Field(None, description="the run that trained it: the same recipe, seeds and machine class")
    arm: str
    machine: str
    seeds: Seeds
    rerun: int = 0
    recipe: Recipe
    plan: Plan
    epoch: int
    evaluation: str = Field(description="version of the evaluation behind test_loss")
    test_loss: float = Field(description="nats per token on the held-out slice")
    test_tokens: int
    train_loss: float = Field(description="nats per token, mean over the last tenth of the steps")
    best_loss: float = Field(description="nats per token of the step with the lowest loss, before its update")
    best_step: int
    steps: int
    tokens: int
    skipped_steps: int = 0
    clipped_steps: int = 0
    started: float = Field(description="Unix seconds, of the attempt that finished")
    ended: float
    seconds: float = Field(description="wall clock over all attempts, lost work included")
    train_seconds: float = Field(description="sum over the steps that count")
    validation: tuple[Validated, ...] = Field((), description="steps ascending; a long curve is thinned out evenly")
    validation_seconds: float = Field(0.0, ge=0, description="sum over the validations after steps that count")
    tokens_per_second: float = Field(description="tokens / train_seconds")
    utilisation: Utilisation | None = Field(None, description="of GPUs; None on CPUs")
    peak_bytes: int = Field(description="largest over workers: device memory on CUDA, resident set on CPU")
    checkpoint_seconds_stalled: float = Field(description="training stood still to save, in the attempt that finished")
    kernels: tuple[Computed, ...] = Field(description="what computed; several, in order, where `auto` chose again")
    compiled: tuple[bool, ...] = Field(description="whether by torch.compile; several, in order, likewise")
    usd: float | None = None
    kwh: float | None = Field(
        None, description="of all attempts: its GPUs, or its CPU packages; None: no meter told it"
    )
    energy_meter: str | None = Field(None, description="behind `kwh`: nvml counts GPUs, rapl CPU packages")
    prices: tuple[Price, ...] = Field((), description="behind `usd`; several for a mixed group")
    hardware: Hardware
    provenance: Provenance
    fingerprints: Fingerprints
    checkpoint: str = Field(description="path of the final checkpoint, relative to the storage root")

    @property
    def definition(self) -> dict[str, Any]:
        """The tokens that it was tested on, and how."""
        return self.recipe.tested

    @property
    def items(self) -> str:
        """sha256 of the tokens that it was tested on."""
        return self.fingerprints.tokens.tested

    @property
    def faults(self) -> list[str]:
        """The counts that no finished training of its recipe can have produced: steps, tokens, tokens of its test."""
        recipe = self.recipe
        wanted = {
            "steps": recipe.steps,
            "tokens": recipe.steps * recipe.tokens_per_step,
            "test_tokens": recipe.evaluation.sequences * recipe.tested_context,
        }
        return [
            f"{name} = {getattr(self, name):,}, and its recipe has {count:,}"
            for name, count in wanted.items()
            if getattr(self, name) != count
        ]

    def check(self) -> None:
        """Make sure that a finished training of its recipe can have produced it.

        Raises: WorkerDied: says what it has, and what its recipe asks for. Nonfinite: a loss is not a finite number.
        """
        if faults := self.faults:
            raise WorkerDied(f"the result of {self.run_id} was not recorded: {'; '.join(faults)}.")
        for what in ("test_loss", "train_loss", "best_loss"):
            if not isfinite(value := getattr(self, what)):
                raise Nonfinite(f"the result of {self.run_id} was not recorded: {what} is {value}.")


class Exam(Frozen):
    """An evaluation that a model is to pass through at the end of its training."""

    name: str
    recipe: Recipe = Field(description="that it trained by, with this evaluation as its test")
    items: str = Field(description="sha256 of the tokens that are read")


class Measurement(Frozen):
    """The score by one evaluation, as the training processes computed it."""

    exam: Exam
    value: float = Field(description="nats per token")
    tokens: int = Field(description="how many were predicted")
    values: tuple[float, ...] = Field(description="nats per token of each sequence")


class Outcome(Frozen):
    """The report of the training processes to the agent. All but the first two are None unless it finished."""

    finished: bool = Field(description="False: stopped early by a signal, with a checkpoint at `step`")
    step: int
    checkpoint: str | None = Field(None, description="folder of the newest checkpoint, relative to the attempt folder")
    checkpoint_seconds_stalled: float | None = Field(None, description="training stood still for this long to save")
    test_loss: float | None = None
    test_tokens: int | None = None
    best_loss: float | None = None
    best_step: int | None = None
    peak_bytes: int | None = None
    peaks: Peaks | None = None
    threads: int | None = None
    kernels: tuple[Computed, ...] | None = None
    compiled: tuple[bool, ...] | None = None
    fingerprints: Fingerprints | None = None
    scores: tuple[Measurement, ...] = Field(
        (), description="by the test first, then by the study's further evaluations"
    )
