"""The largest microbatch that fits this accelerator, found by trying.

Each trial is a process of its own that trains for one optimiser step and into the next, through the very loop that
trains runs, so that weights, gradients, both moments and every activation are alive at once. It ends with
OUT_OF_MEMORY where that needs more than there is. `python -m model.probe --microbatch 8 < recipe.json` is one trial.

On CUDA a trial may take MARGIN of the card: the rest is for CUDA's own context, NCCL's buffers and fragments of memory
that hours of training leave. A CPU has no memory of its own to run out of, other processes die first; there a trial
runs only under a limit on the address space (`ulimit -v`).
"""

import argparse
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from farm.errors import DoesNotFit, FarmError, OutOfMemory, reason
from farm.record.ledger import Line
from farm.record.result import Tokens
from farm.study.planner import Plan
from farm.study.recipe import Recipe, Seeds
from farm.study.run import Run
from model.memory import is_out_of_memory

OUT_OF_MEMORY = 77  # exit code; no shell, signal or Python error has it
MARGIN = 0.95
IDLE = 0.8  # of the card's memory must be free, or another process is using it and the trial would measure that
TRIAL_SECONDS = 300  # importing torch and starting CUDA take 10
ROOT = Path(__file__).resolve().parent.parent


def largest_microbatch(
    recipe: Recipe, limit: int, guess: int = 1, *, world: int = 1, give_up: Callable[[], bool] = lambda: False
) -> int:
    """The largest microbatch up to `limit` with which `recipe.model` trains at its precision on this device; `guess`
    is tried first, and a good one saves trials.

    `world` is the number of workers that will train together: several need room for the gradients on their way. All
    whole numbers are candidates, not only the divisors of this recipe's share, because what is found is kept by model
    and precision and serves every batch. `give_up` is asked before each trial.

    Raises: DoesNotFit: a single sequence does not. FarmError: a trial ended in another way, or `give_up` said so.
    """

    def fits(microbatch: int) -> bool:
        if give_up():
            raise FarmError("the probe was given up.")
        return trial_fits(recipe, microbatch, world)

    found = search(fits, limit, guess)
    if not found:
        raise DoesNotFit(
            f"one sequence of {recipe.model.context} tokens and {recipe.model.parameters:,} parameters at"
            f" {recipe.train.precision} ran out of memory here.",
            remedy="Use a larger machine, or lower model.context, model.layers or model.width.",
        )
    return found


def search(fits: Callable[[int], bool], limit: int, guess: int = 1) -> int:
    """The largest number from 1 to `limit` that `fits`, where all below one that fits do; 0 when 1 does not.

    Doubles from `guess` until one does not, or halves until one does, then bisects.
    """
    good, bad, size = 0, limit + 1, min(guess, limit)
    while good < size < bad:
        if fits(size):
            good, size = size, min(2 * size, limit)
        else:
            bad, size = size, size // 2
    while bad - good > 1 and good < limit:
        middle = (good + bad) // 2
        good, bad = (middle, bad) if fits(middle) else (good, middle)
    return good


def trial_fits(recipe: Recipe, microbatch: int, world: int = 1) -> bool:
    """Whether one trial, in a process of its own, has memory enough.

    Raises: FarmError: it ended in another way; says which.
    """
    command = [sys.executable, "-m", "model.probe", "--microbatch", str(microbatch), "--world", str(world)]
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    try:
        done = subprocess.run(
            command,
            input=recipe.model_dump_json(),
            env=os.environ | {"PYTHONPATH": os.pathsep.join(paths), "PYTHONSAFEPATH": "1"},
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=TRIAL_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise FarmError(f"the trial of microbatch {microbatch} has not ended after {TRIAL_SECONDS} s.") from None
    if done.returncode not in (0, OUT_OF_MEMORY):
        said = reason(done.stderr)
        raise FarmError(f"the trial of microbatch {microbatch} ended with code {done.returncode}: {said}")
    return done.returncode == 0


def main() -> int:
    """One trial of the recipe on stdin."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--microbatch", type=int, required=True)
    parser.add_argument("--world", type=int, default=1)
    words = parser.parse_args()
    recipe = Recipe.model_validate_json(sys.stdin.read())
    try:
        trial(recipe, words.microbatch, words.world)
    except OutOfMemory:
        return OUT_OF_MEMORY
    except FarmError as error:
        print(error, file=sys.stderr)
        return 1
    except (MemoryError, OSError, RuntimeError) as error:  # torch.OutOfMemoryError is a RuntimeError
        if not is_out_of_memory(error):
            raise
        return OUT_OF_MEMORY
    return 0


def trial(recipe: Recipe, microbatch: int, world: int = 1) -> None:
    """Train until one optimiser step is done and the next has its gradients, then stop and leave nothing behind.

    Raises: what an allocator raises. FarmError: this is not the place for a trial.
    """
    import torch

    from model.assignment import Assignment, Listener
    from model.meter import Signal
    from model.train import train

    class OneStep(Listener):
        """Ends the training once a step is done; fp16 begins with a few that it skips."""

        is_done = False

        def signal(self) -> Signal:
            return Signal.ABANDON if self.is_done else Signal.CONTINUE

        def on_step(self, line: Line) -> None:
            self.is_done = self.is_done or not line.skipped

    on_cuda = torch.cuda.is_available()
    _check_cuda(torch) if on_cuda else _check_cpu()
    device = torch.device("cuda" if on_cuda else "cpu")
    in_flight = torch.empty(recipe.model.parameters if world > 1 else 0, device=device)  # as model.reduce's buckets
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        run = _run(recipe, microbatch, folder)
        plan = Plan(
            machine=run.machine, world=1, microbatch=microbatch, accumulation=2, bytes_needed=0, basis="declared"
        )
        tokens = Tokens(head="0" * 64, trained="0" * 64, tested="0" * 64)
        train(Assignment(run, plan, folder, cache=folder, tokens=tokens), OneStep())
    del in_flight


def _run(recipe: Recipe, microbatch: int, folder: Path) -> Run:
    """`recipe` on random tokens, two microbatches a step; not compiled, since what is found serves both ways."""
    import numpy as np

    model = recipe.model
    tokens = 2 * microbatch * model.context
    random = np.random.default_rng(0)
    for split in ("train", "validation"):
        random.integers(0, model.vocab, tokens + 1).astype(np.uint16).tofile(folder / f"{split}.bin")
    train: dict[str, Any] = {"batch": 2 * microbatch, "tokens": 100 * tokens, "compile": False}
    train |= {"reduction": "fast", "canonical_microbatch": None}
    data = {"source": str(folder), "revision": None, "split": "train", "order": "sequential", "repeat": True}
    evaluation = {"split": "validation", "offset": 0, "sequences": 1}
    patched = recipe.with_patch({"train": train, "data": data, "evaluation": evaluation})
    return Run(arm="probe", recipe=patched, seeds=Seeds(), machine="probe")


def _check_cuda(torch) -> None:
    torch.cuda.set_per_process_memory_fraction(MARGIN)
    free, total = torch.cuda.mem_get_info()
    if free < IDLE * total:
        raise FarmError(
            f"only {free / 2**30:.1f} of the GPU's {total / 2**30:.1f} GiB are free: another process is using it.",
            remedy="Try again when it has ended.",
        )


def _check_cpu() -> None:
    if resource.getrlimit(resource.RLIMIT_AS)[0] == resource.RLIM_INFINITY:
        raise FarmError(
            "there is no CUDA device here, and a CPU's memory is not probed: that could kill other processes.",
            remedy="Set `microbatch` for the machine class, or a limit with ulimit -v.",
        )


if __name__ == "__main__":
    sys.exit(main())
