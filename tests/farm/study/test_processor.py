"""Which instructions a processor says that it has."""

from typing import get_args

import pytest

from farm.study.processor import InstructionSet, emulates_bf16, instruction_set, read

ZEN_3 = "fpu sse2 fma avx avx2 sha_ni vaes"
SKYLAKE = f"{ZEN_3} avx512f avx512dq avx512bw avx512vl"
ZEN_5 = f"{SKYLAKE} avx512_bf16 avx512_vnni"
SAPPHIRE_RAPIDS = f"{ZEN_5} amx_bf16 amx_tile amx_int8"
KNIGHTS_LANDING = f"{ZEN_3} avx512f avx512er"  # AVX-512 as neither torch nor oneDNN uses it


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ("fpu sse2", "x86-64"),
        (ZEN_3, "AVX2"),
        (KNIGHTS_LANDING, "AVX2"),
        (SKYLAKE, "AVX-512"),
        (ZEN_5, "AVX512-BF16"),
        (SAPPHIRE_RAPIDS, "AMX"),
    ],
)
def test_an_x86_processor_is_named_after_its_widest_instructions(flags, expected):
    assert read(f"processor\t: 0\nmodel name\t: X\nflags\t\t: {flags}\nbugs\t\t: avx512f\n", "x86_64") == expected


@pytest.mark.parametrize(("features", "expected"), [("fp asimd", "ARM"), ("fp asimd i8mm bf16", "ARM-BF16")])
def test_an_arm_processor_has_bf16_or_not(features, expected):
    assert read(f"processor\t: 0\nFeatures\t: {features}\n", "aarch64") == expected


@pytest.mark.parametrize(("text", "architecture"), [("", "x86_64"), ("isa: rv64imafdc\n", "riscv64")])
def test_what_the_system_does_not_tell_is_unknown(text, architecture):
    assert read(text, architecture) is None


def test_this_machine_has_one_of_them():
    assert instruction_set() in get_args(InstructionSet)


def test_bf16_is_emulated_by_all_but_those_named_for_it():
    native = {has for has in get_args(InstructionSet) if not emulates_bf16(has)}
    assert native == {"AVX512-BF16", "AMX", "ARM-BF16"}
