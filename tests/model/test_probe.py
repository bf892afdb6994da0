"""The probe: real trials that run out of real memory, under a limit on the address space of their processes."""

import os
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from farm.errors import DoesNotFit, FarmError
from farm.study.recipe import Recipe
from model.probe import ROOT, largest_microbatch, search

# 130 MB a sequence; importing torch takes 700, and what two processes of one kind reserve differs by up to 150.
SMALL = Recipe().with_patch(
    {
        "model": {"vocab": 64, "context": 1024, "width": 128, "layers": 2, "heads": 2},
        "train": {"precision": "fp32", "reduction": "canonical", "canonical_microbatch": 1, "batch": 6},
    }
)
LONG = SMALL.with_patch({"model": {"context": 16_384}})

LIMITED = """
import resource, sys
resource.setrlimit(resource.RLIMIT_AS, (int(sys.argv[1]), int(sys.argv[1])))
from farm.errors import DoesNotFit
from farm.study.recipe import Recipe
from model.probe import largest_microbatch
recipe, longer = (Recipe.model_validate_json(line) for line in sys.stdin)
print(largest_microbatch(recipe, 8, guess=4))
try:
    print(largest_microbatch(longer, 8))
except DoesNotFit as error:
    print(error)
"""

MEASURED = """
import resource, sys
resource.setrlimit(resource.RLIMIT_AS, (2**40, 2**40))
from farm.study.recipe import Recipe
from model.probe import trial
trial(Recipe.model_validate_json(sys.stdin.readline()), microbatch=int(sys.argv[1]))
(peak,) = (line for line in open("/proc/self/status") if line.startswith("VmPeak"))
print(int(peak.split()[1]) * 1024)
"""


def python(*words: str, recipes: tuple[Recipe, ...] = (SMALL,)) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *words],
        input="\n".join(recipe.model_dump_json() for recipe in recipes),
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1"},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


@given(st.integers(0, 300), st.integers(1, 200), st.integers(1, 400))
def test_the_search_finds_the_boundary_from_any_guess(boundary: int, limit: int, guess: int) -> None:
    tried: list[int] = []

    def fits(number: int) -> bool:
        tried.append(number)
        return number <= boundary

    assert search(fits, limit, guess) == min(boundary, limit)
    assert tried[0] == min(guess, limit)
    assert len(tried) == len(set(tried)) <= 2 * limit.bit_length() + 1
    assert max(tried) <= min(limit, max(guess, 2 * boundary))


def test_a_good_guess_saves_trials() -> None:
    tried: list[int] = []
    assert search(lambda number: not tried.append(number) and number <= 48, 1024, guess=32) == 48  # type: ignore[func-returns-value]
    assert tried == [32, 64, 48, 56, 52, 50, 49]


def peak(microbatch: int) -> int:
    """The most address space, in bytes, that a trial of SMALL takes."""
    measured = python("-c", MEASURED, str(microbatch))
    assert measured.returncode == 0, measured.stderr
    return int(measured.stdout)


def test_the_probe_stops_at_the_microbatch_that_runs_out_of_memory() -> None:
    """From a good guess: that the search finds any boundary is tested above."""
    limit = peak(4)
    told = python("-c", LIMITED, str(limit), recipes=(SMALL, LONG))
    assert told.returncode == 0, told.stderr
    found, refused = told.stdout.splitlines()
    assert 3 <= int(found) <= 7, f"{found} of at most 8 sequences in {limit:,} bytes, in which four were trained"
    assert "one sequence of 16384 tokens" in refused


def test_a_cpu_without_a_limit_is_not_probed() -> None:
    with pytest.raises(
        FarmError, match=r"the trial of microbatch 1 ended with code 1: .* a CPU's memory is not probed"
    ):
        largest_microbatch(SMALL, 4)


def test_a_trial_that_fails_in_another_way_is_no_sign_of_too_little_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(FarmError, match="ended with code 1: it said nothing") as failure:
        largest_microbatch(SMALL, 4)
    assert not isinstance(failure.value, DoesNotFit)


def test_a_probe_can_be_given_up_before_its_next_trial() -> None:
    with pytest.raises(FarmError, match="given up"):
        largest_microbatch(SMALL, 4, give_up=lambda: True)
