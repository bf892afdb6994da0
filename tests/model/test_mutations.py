"""Bugs that trainers are known for, planted one at a time in a copy of this one: the suite must go red for each.

If a text is not found, somebody moved the code: plant the bug in its new place, do not drop it.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

pytestmark = pytest.mark.long

ROOT = Path(__file__).parents[2]
COPIED = ("farm", "model", "tests", "pyproject.toml")
FAILED = 1  # pytest's exit code when tests failed; 2 and above mean that they were not run
CRASHES = re.compile(r"\b(?:Name|Type|Attribute|Import|ModuleNotFound|Syntax|Indentation)Error\b")

# Imports what takes seconds, but nothing of ours, and runs each copy's tests in a fork of itself.
NURSERY = """
import json, os, sys
import hypothesis, numpy, pytest, redis, safetensors.torch, torch._dynamo, torch.distributed, torch.profiler
for request in sys.stdin:
    folder, tests, said = json.loads(request)
    child = os.fork()
    if child:
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
        continue
    os.chdir(folder)
    os.environ["PYTHONPATH"] = folder  # for the processes that the tests start
    sys.path.insert(0, folder)
    os.dup2(os.open(said, os.O_WRONLY | os.O_CREAT), 1)
    os.dup2(1, 2)
    code = pytest.main(["-p", "no:cacheprovider", f"--basetemp={folder}/tmp", *tests])
    sys.stdout.flush()
    os._exit(code)
"""


class Mutation(NamedTuple):
    """A bug: what `file` says, what it says then, and the test that must see it."""

    bug: str
    file: str
    changes: dict[str, str]
    test: str


RESUMED_SUMS = 'Sums(**progress["sums"])'
GRADIENTS = "tests/model/test_train.py::test_gradients_are_those_of_the_mean_over_the_targets_that_count[tiny-1]"
PLAIN = "tests/model/test_train.py::test_losses_norms_and_weights_are_those_of_a_plain_loop"
SKIPPED = "tests/model/test_train.py::test_fp16_resumes_to_the_same_bits_after_a_skipped_step"
SUMS = "tests/model/test_train_bits.py::test_sums_go_on_over_a_resume"

MUTATIONS = [
    Mutation(
        "a resume forgets the losses so far, and their sum is divided by all steps",
        "model/train.py",
        {RESUMED_SUMS: 'Sums(**progress["sums"] | {"loss_sum": 0.0})'},
        SUMS,
    ),
    Mutation(
        "a resume forgets the best step so far",
        "model/train.py",
        {RESUMED_SUMS: 'Sums(**progress["sums"] | {"best_loss": None})'},
        "tests/model/test_train_bits.py::test_the_best_step_is_remembered_over_a_resume",
    ),
    Mutation("all sums begin again at a resume", "model/train.py", {RESUMED_SUMS: "Sums()"}, SUMS),
    Mutation(
        "the train loss is divided by all steps",
        "farm/record/ledger.py",
        {"/ sum(line.tokens for line in counted)": "/ sum(line.tokens for line in lines)"},
        "tests/farm/record/test_ledger.py::test_train_loss_is_over_the_last_tenth_of_the_steps[100-10]",
    ),
    Mutation(
        "a skipped step's tokens are in the denominator of the train loss",
        "farm/record/ledger.py",
        {"/ sum(line.tokens for line in counted)": "/ sum(line.tokens for line in tail)"},
        "tests/farm/record/test_ledger.py::test_train_loss_leaves_out_what_was_skipped_or_is_not_finite",
    ),
    Mutation(
        "the loss is that of rank 0 alone",
        "model/meter.py",
        {
            "        slots[first : first + plan.share(group.rank)] = torch.stack(self._losses)\n"
            "        slots[microbatches].fill_(self._tokens)  # `slots[i] = number` waits for the device\n"
            "        if group.leads:\n": "        if group.leads:\n"
            "            slots[first : first + plan.share(group.rank)] = torch.stack(self._losses)\n"
            "            slots[microbatches].fill_(self._tokens)\n"
        },
        "tests/model/test_meter.py::test_loss_and_tokens_are_sums_over_all_ranks_to_the_last_bit",
    ),
    Mutation(
        "the loss is a mean of the means of microbatches",
        "model/meter.py",
        {
            "self._losses.append(loss_sum.detach())": "self._losses.append(loss_sum.detach() / tokens)",
            "Totals(exact_sum(losses), int": "Totals(exact_sum(losses) / microbatches * tokens, int",
        },
        GRADIENTS,
    ),
    Mutation(
        "gradients are those of a mean of the means of microbatches",
        "model/train.py",
        {
            "(loss_sum * scale).backward()": (
                "(loss_sum / batch.targets * self.plan.microbatch * self.recipe.model.context * scale).backward()"
            ),
            "self.recipe.tokens_per_step / totals.tokens / self.loss_scale.scale": "1 / self.loss_scale.scale",
        },
        GRADIENTS,
    ),
    Mutation(
        "gradients grow with the number of microbatches that are accumulated",
        "model/train.py",
        {"(loss_sum * scale).backward()": "(loss_sum * scale * self.plan.accumulation).backward()"},
        GRADIENTS,
    ),
    Mutation(
        "the schedule stands still in a step that fp16 skipped",
        "model/train.py",
        {"learning_rate(self.recipe, self.step)": "learning_rate(self.recipe, self.step - self.sums.skipped)"},
        "tests/model/test_train.py::test_fp16_skips_an_overflow_and_counts_it_while_the_schedule_goes_on",
    ),
    Mutation(
        "after a resume AdamW counts the updates that fp16 skipped",
        "model/train.py",
        {"updates=self.step - self.sums.skipped": "updates=self.step"},
        SKIPPED,
    ),
    Mutation(
        "gradients are clipped while they carry fp16's loss scale",
        "model/train.py",
        {"clipped = norm > limit": "clipped, norm = totals.gradient_norm > limit, totals.gradient_norm"},
        "tests/model/test_train.py::test_gradients_are_clipped_to_the_limit_and_the_ledger_says_so[fp16]",
    ),
    Mutation(
        "a loss that is not a number is left out of the average",
        "model/meter.py",
        {
            "math.fsum(values) if all(map(math.isfinite, values)) else math.nan": (
                "math.fsum(value for value in values if math.isfinite(value))"
            )
        },
        "tests/model/test_meter.py::test_a_sum_is_rounded_once_and_knows_no_order",
    ),
    Mutation(
        "a test loss that is not a number is left out of the average",
        "model/evaluate.py",
        {"loss_BT.sum(dim=1,": "loss_BT.nansum(dim=1,"},
        "tests/model/test_evaluate.py::test_a_loss_that_is_not_a_number_is_in_the_score",
    ),
    Mutation(
        "the schedule is written down, but never applied",
        "model/train.py",
        {'settings["lr"] = rate': 'settings["lr"] += 0.0'},
        PLAIN,
    ),
    Mutation(
        "the schedule reaches only the first group of weights",
        "model/train.py",
        {"in self.optimiser.param_groups:": "in self.optimiser.param_groups[:1]:"},
        PLAIN,
    ),
    Mutation(
        "a resume forgets for how long fp16 has gone well",
        "model/train.py",
        {'LossScale(**progress["loss_scale"])': 'LossScale(**progress["loss_scale"] | {"finite_steps": 0})'},
        SKIPPED,
    ),
    Mutation(
        "the last batch of the test weighs as much as a full one",
        "model/evaluate.py",
        {
            "sums[here] = loss_BT.sum(dim=1, dtype=torch.float64)": (
                "sums[here] = loss_BT.sum(dim=1, dtype=torch.float64) * size / len(y_BT)"
            ),
            "torch.from_numpy((y_BT >= 0).sum(axis=1)).to(targets)": "y_BT.shape[1] * size / len(y_BT)",
        },
        "tests/model/test_evaluate.py::test_a_last_batch_that_is_not_full_counts_for_what_it_holds[4]",
    ),
    Mutation(
        "a validation leaves dropout off",
        "model/validation.py",
        {"        return Validation(": "        gpt.eval()\n        return Validation("},
        "tests/model/test_train_bits.py::test_a_run_stopped_after_any_step_and_resumed_ends_on_the_same_bits[canonical-1]",
    ),
    Mutation(
        "dropout masks depend on the rank",
        "model/train.py",
        {"self._seed_dropout(first + turn)": "self._seed_dropout(self.group.rank * self.recipe.train.batch + turn)"},
        "tests/model/test_train_bits.py::test_canonical_goes_on_with_another_number_of_workers_to_the_same_bits[4-1]",
    ),
    Mutation(
        "DDP regroups its buckets after the first step of every attempt",
        "model/reduce.py",
        {"            loss_sum.backward()\n": ""},
        "tests/model/test_train_bits.py::test_a_run_stopped_after_any_step_and_resumed_ends_on_the_same_bits[tiny-4]",
    ),
    Mutation(
        "every microbatch is reduced over the ranks",
        "model/reduce.py",
        {"self._ddp.no_sync() if self._ddp and turn < self._last else nullcontext()": "nullcontext()"},
        "tests/model/test_reduce.py::test_fast_sends_each_gradient_once_a_step_however_many_microbatches_there_are",
    ),
]

Judge = Callable[..., tuple[int, str]]


@pytest.fixture(scope="module")
def judge() -> Iterator[Judge]:
    """Runs tests in a copy: pytest's exit code, and what it printed."""
    command = [sys.executable, "-c", NURSERY]
    own = {name: value for name, value in os.environ.items() if name != "PYTEST_ADDOPTS"}  # meant for the suite itself
    with subprocess.Popen(
        command, cwd="/", env=own, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as nursery:
        assert nursery.stdin is not None
        assert nursery.stdout is not None
        stdin, stdout = nursery.stdin, nursery.stdout

        def judged(folder: Path, *tests: str) -> tuple[int, str]:
            said = folder / "said.txt"
            stdin.write(json.dumps([str(folder), tests, str(said)]) + "\n")
            stdin.flush()
            return int(stdout.readline()), said.read_text()

        yield judged


def copied(folder: Path) -> Path:
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, folder / name)
    return folder


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.bug.replace(" ", "-"))
def test_the_suite_goes_red_for(mutation: Mutation, judge: Judge, tmp_path: Path) -> None:
    file = copied(tmp_path) / mutation.file
    text = file.read_text()
    for old, new in mutation.changes.items():
        assert text.count(old) == 1, f"{mutation.file} no longer says this once: {old}"
        text = text.replace(old, new)
    file.write_text(text)
    code, said = judge(tmp_path, mutation.test)
    assert code == FAILED, f"exit code {code}: nobody saw that {mutation.bug}.\n{said}"
    assert not (crash := CRASHES.search(said)), f"{crash}: the planted code is broken, which proves nothing.\n{said}"


def test_without_a_bug_the_same_tests_are_green(judge: Judge, tmp_path: Path) -> None:
    code, said = judge(copied(tmp_path), *dict.fromkeys(mutation.test for mutation in MUTATIONS))
    assert code == 0, said
