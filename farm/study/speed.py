"""The speed of a machine class on a recipe: what changes it, and stated ratios from one precision to another."""

import re
from collections.abc import Mapping
from typing import Literal, NamedTuple, TypeVar

from farm.study.machine import Machine
from farm.study.processor import emulates_bf16
from farm.study.recipe import Precision, Recipe

T = TypeVar("T")
Basis = Literal["measured", "scaled", "declared", "assumed"]
BASES: tuple[Basis, ...] = ("measured", "scaled", "declared", "assumed")  # the weaker word last


class Speed(NamedTuple):
    """The speed that a machine is expected to reach on a recipe, why, and what a reader must know to believe it."""

    tokens_per_second: float
    basis: Basis
    note: str | None = None


class Ratio(NamedTuple):
    """The time of a step relative to the reference precision: fp16 on a GPU, fp32 on a CPU."""

    times: float
    source: str | None  # None: nothing was published or measured for this hardware


REFERENCE = Ratio(1.0, "the reference")
_TENSOR_CORES = "its tensor cores have one rate for both (NVIDIA's datasheets)"
# Seen by others, with an eager loop: the published battery's fp32 arm on 8 x A100 took 2.4 times as long as its fp16
# arms; its author's RTX 3090 reached 19,921 tokens/s in fp16, 15,402 in tf32 and 12,599 in fp32 (gilesthomas.com, LLM
# from scratch, part 32h, 3 April 2026).
_GPUS: dict[str, dict[Precision, Ratio]] = {
    "A100": {"fp32": Ratio(2.4, "as in the published battery on A100s"), "bf16": Ratio(1.0, _TENSOR_CORES)},
    "3090": {
        "fp32": Ratio(19_921 / 12_599, "as published for an RTX 3090"),
        "tf32": Ratio(19_921 / 15_402, "as published for an RTX 3090"),
        "bf16": Ratio(1.0, _TENSOR_CORES),
    },
    "H100": {"bf16": Ratio(1.0, _TENSOR_CORES)},
}
_ANY_GPU: dict[Precision, Ratio] = {"fp32": Ratio(2.4, None), "tf32": Ratio(1.3, None), "bf16": Ratio(1.0, None)}
# Peaks of dense products in TFLOPS, sums in fp32: NVIDIA's datasheets of V100, T4, A10, A100, L4, L40S, H100 and H200
# (SXM; half of what is told with sparsity), and its whitepapers of GA102 (RTX 3090) and of Ada (RTX 4090). A GPU
# without TF32 has the rate of fp32 there.
_PEAKS: dict[str, dict[Precision, float]] = {
    "V100": {"fp32": 15.7, "tf32": 15.7, "fp16": 125},
    "T4": {"fp32": 8.1, "tf32": 8.1, "fp16": 65},
    "A10": {"fp32": 31.2, "tf32": 62.5, "bf16": 125, "fp16": 125},
    "A100": {"fp32": 19.5, "tf32": 156, "bf16": 312, "fp16": 312},
    "L4": {"fp32": 30.3, "tf32": 60, "bf16": 121, "fp16": 121},
    "L40S": {"fp32": 91.6, "tf32": 183, "bf16": 362, "fp16": 362},
    "H100": {"fp32": 67, "tf32": 495, "bf16": 989, "fp16": 989},
    "H200": {"fp32": 67, "tf32": 495, "bf16": 989, "fp16": 989},
    "3090": {"fp32": 35.6, "tf32": 35.6, "bf16": 71, "fp16": 71},
    "4090": {"fp32": 82.6, "tf32": 82.6, "bf16": 165, "fp16": 165},
}
# Another card of the same name: an H100 for a PCIe slot has fewer multiprocessors and slower memory than one for SXM.
_VARIANT = re.compile(r"(?<![a-z0-9])(pcie|nvl|ti|super|d|laptop|max-q)(?![a-z0-9])", re.IGNORECASE)
# Of a processor that emulates bf16, as a Zen 3 (AVX2) does: 6.4 to 13 were measured there. One that has it is at least
# as fast as in fp32.
_CPU: dict[Precision, Ratio] = {"bf16": Ratio(13.0, None)}


def reference(machine: Machine) -> Precision:
    """The precision in which the speed of a machine class is declared."""
    return "fp32" if machine.is_cpu else "fp16"


def ratio(machine: Machine, precision: Precision) -> Ratio:
    """The time of a step at `precision` on `machine` relative to `reference(machine)`."""
    if precision == reference(machine):
        return REFERENCE
    if machine.is_cpu and machine.instruction_set and not emulates_bf16(machine.instruction_set):
        return Ratio(1.0, f"as its processor has {machine.instruction_set}")
    if machine.is_cpu:
        return _CPU.get(precision, REFERENCE)
    return _of(machine, _GPUS).get(precision) or _ANY_GPU[precision]


def _of(machine: Machine, table: Mapping[str, Mapping[Precision, T]]) -> Mapping[Precision, T]:
    """The entry for the GPU of `machine` in a table; empty where it names none, or several, or a variant."""
    if _VARIANT.search(machine.accelerator):
        return {}
    named = [word for word in table if re.search(rf"(?<![A-Za-z0-9]){word}(?![A-Za-z0-9])", machine.accelerator)]
    return table[named[0]] if len(named) == 1 else {}


def by_peaks(seen: Precision, recipe: Recipe, machine: Machine, tokens_per_second: float) -> float | None:
    """How many times as long a step takes at the precision of `recipe`, by the peaks of the hardware; None: not known.

    The arithmetic is done at the peak of either precision, and all else takes as long as before: of an A100 at the
    published baseline's speed that makes fp32 2.5 times as long as fp16, where 2.4 was seen. It is a lower bound, since
    fp32 moves more bytes, too (RTX 3090: 1.24, where 1.58 was seen).
    """
    peaks, precision = _of(machine, _PEAKS), recipe.train.precision
    if precision not in peaks or seen not in peaks:
        return None
    reached = tokens_per_second / machine.accelerators * recipe.model.flops_per_token / 1e12
    return max(1.0, 1 + reached * (1 / peaks[precision] - 1 / peaks[seen]))


def from_precision(seen: Precision, recipe: Recipe, machine: Machine, speed: Speed) -> Speed:
    """`speed`, reached at the precision `seen`, at the precision of `recipe`.

    Where no ratio is known for the hardware one is assumed, which never makes a run faster than what was seen.
    """
    precision = recipe.train.precision
    if precision == seen:
        return speed
    before, after = ratio(machine, seen), ratio(machine, precision)
    times, sources = after.times / before.times, [one.source for one in (before, after) if one is not REFERENCE]
    if None not in sources:
        because = "; ".join(dict.fromkeys(filter(None, sources)))
        told = f"{precision} takes {times:.2g} times as long as {seen}, {because}"
        return Speed(speed.tokens_per_second / times, speed.basis, _join(speed.note, told))
    if (peaks := by_peaks(seen, recipe, machine, speed.tokens_per_second)) is not None:
        told = (
            f"{precision} is assumed to take {peaks:.2g} times as long as {seen}, by the peaks of NVIDIA's datasheets"
        )
        return Speed(speed.tokens_per_second / peaks, "assumed", _join(speed.note, told))
    times = max(1.0, times)
    told = f"{precision} is assumed to take {times:.2g} times as long as {seen}; the ratio for this hardware is unknown"
    if machine.is_cpu and precision == "bf16":
        told = f"bf16 is assumed to take {times:.2g} times as long as {seen}, as on a processor that only emulates it"
    return Speed(speed.tokens_per_second / times, "assumed", _join(speed.note, told))


def declared_speed(recipe: Recipe, machine: Machine) -> Speed | None:
    """The machine's declared speed on the baseline, scaled to `recipe` by arithmetic and precision."""
    if machine.tokens_per_second is None:
        return None
    speed = machine.tokens_per_second * Recipe().model.flops_per_token / recipe.model.flops_per_token
    return from_precision(reference(machine), recipe, machine, Speed(speed, "declared"))


def unlike(one: Recipe, other: Recipe) -> tuple[str, ...]:
    """The differences between two recipes that change the speed, but for the model's arithmetic and the precision."""
    pairs = {
        "dropout": (one.model.dropout > 0, other.model.dropout > 0),
        "compile": (one.train.compile, other.train.compile),
        "kernels": (one.train.kernels, other.train.kernels),
        "reduction": (one.train.reduction, other.train.reduction),
        "batch": (one.train.batch, other.train.batch),
    }
    return tuple(name for name, (mine, theirs) in pairs.items() if mine != theirs)


def _join(*notes: str | None) -> str:
    return "; ".join(note for note in notes if note)
