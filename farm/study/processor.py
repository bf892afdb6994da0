"""This machine's processor: which instructions it has, and what follows from them for training on it.

Only the instructions that decide how fast matrices are multiplied count here. The names are for people too: a result
and a machine class carry them.
"""

import os
import platform
from functools import cache
from pathlib import Path
from typing import Literal, get_args

InstructionSet = Literal["x86-64", "AVX2", "AVX-512", "AVX512-BF16", "AMX", "ARM", "ARM-BF16"]

# Per step up, what Linux calls the instructions. AVX-512 is what torch and oneDNN take for it.
_X86: tuple[tuple[InstructionSet, frozenset[str]], ...] = (
    ("AMX", frozenset({"amx_tile", "amx_bf16"})),
    ("AVX512-BF16", frozenset({"avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512_bf16"})),
    ("AVX-512", frozenset({"avx512f", "avx512bw", "avx512dq", "avx512vl"})),
    ("AVX2", frozenset({"avx2", "fma"})),
)
WITH_AVX512: frozenset[InstructionSet] = frozenset({"AVX-512", "AVX512-BF16", "AMX"})
_WITH_BF16 = frozenset({"AVX512-BF16", "AMX", "ARM-BF16"})


def cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@cache
def instruction_set() -> InstructionSet | None:
    """The widest that this machine has; None where the system does not tell, as on macOS."""
    try:
        return read(Path("/proc/cpuinfo").read_text(encoding="utf-8"), platform.machine())
    except OSError:
        return None


def read(cpuinfo: str, architecture: str) -> InstructionSet | None:
    """The same from the text of Linux's /proc/cpuinfo and the name of the architecture, such as x86_64 or aarch64."""
    lines = (line.partition(":") for line in cpuinfo.splitlines())
    flags = next((set(words.split()) for name, _, words in lines if name.strip() in ("flags", "Features")), None)
    if flags is None:
        return None
    if architecture in ("aarch64", "arm64"):
        return "ARM-BF16" if "bf16" in flags else "ARM"
    if architecture in ("x86_64", "AMD64"):
        return next((name for name, needed in _X86 if needed <= flags), "x86-64")
    return None


def emulates_bf16(found: InstructionSet) -> bool:
    """Whether a processor with these instructions has none that multiply bfloat16."""
    assert found in get_args(InstructionSet)
    return found not in _WITH_BF16
