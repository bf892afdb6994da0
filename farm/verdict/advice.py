"""Warnings for planning or submitting a study on its machines; none of them forbids it."""

from collections.abc import Iterator

from farm.study.machine import Machine, Mixed
from farm.study.processor import emulates_bf16
from farm.study.study import Study
from farm.verdict.cohort import find_other_training

# Measured on an AMD Zen 3 with AVX2, one thread; docs/performance.md has the shapes.
EMULATED_BF16 = "6 to 13"


def advice(study: Study, known: dict[str, Machine]) -> Iterator[str]:
    """One sentence for each thing that is likely to be regretted; none about a class without a description.

    Raises: BadStudy: a machine class is unknown.
    """
    for odd, difference in find_other_training(study.arms()).items():
        yield f"arm {odd}: trains differently from the baseline ({difference}), so never ranked with it"
    slow: dict[str, list[str]] = {}
    for arm in study.arms():
        for name in arm.machines if arm.recipe.train.precision == "bf16" else ():
            slow.setdefault(name, []).append(arm.name)
    for name, arms in slow.items():
        if has := _emulating(study.machine(name, known)):
            yield (
                f"{name} only emulates bf16 (its processor has {has}, without instructions for it), and trains"
                f" {_list(arms)} far slower than in fp32: a step takes {EMULATED_BF16} times as long on an AMD Zen 3"
                ' with AVX2. Use train.precision = "fp32" there, or another machine'
            )


def _emulating(machine: Machine) -> str | None:
    """The instruction set because of which `machine` emulates bf16, if it does."""
    for part in machine.parts if isinstance(machine, Mixed) else (machine,):
        if part.is_cpu and part.instruction_set and emulates_bf16(part.instruction_set):
            return part.instruction_set
    return None


def _list(arms: list[str], most: int = 3) -> str:
    more = f" and {len(arms) - most} more arms" if len(arms) > most else ""
    return ", ".join(arms[:most]) + more
