"""Around training: further evaluations of what it made, `torchrun`, and the compiler."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from worlds import (
    BATCH,
    CONTEXT,
    STEPS,
    TINY,
    attempt,
    canonical,
    in_world,
    planned,
    stop_after,
    timeless,
    tiny,
)

from farm.errors import BadCorpus, NoCompiler
from farm.record.ledger import read
from farm.record.result import Outcome
from farm.study import planner
from farm.study.machine import BUILT_IN
from farm.study.planner import Plan
from farm.study.recipe import FurtherEvaluation
from farm.study.run import Run
from farm.study.study import Study
from model.corpus.checks import exams_of
from model.meter import Signal

ROOT = Path(__file__).parents[2]


def scored(run, plan, folder, exams):
    return attempt(run, plan, folder, exams=exams)[0]


def test_a_model_is_scored_by_further_evaluations_which_change_nothing_else(tokens, tmp_path):
    run = tiny(tokens)
    cache = tmp_path / "cache"
    further = {"late": FurtherEvaluation(offset=1000, sequences=3), "short": FurtherEvaluation(context=4)}
    exams = exams_of(run.recipe, further, cache)
    outcome, told = attempt(run, planned(run, 1, BATCH), tmp_path / "more", exams=exams)
    alone, before = attempt(run, planned(run, 1, BATCH), tmp_path / "plain")
    assert told.timeless == before.timeless
    assert (outcome.fingerprints, outcome.test_loss) == (alone.fingerprints, alone.test_loss)
    test, late, short = outcome.scores
    assert alone.scores == (test,)
    assert (test.exam.name, test.value, test.tokens) == ("test_loss", outcome.test_loss, outcome.test_tokens)
    assert (late.exam, len(late.values), late.tokens) == (exams[0], 3, 3 * CONTEXT)
    assert (short.exam, len(short.values), short.tokens) == (exams[1], 13, 13 * 4)
    assert len({test.value, late.value, short.value}) == 3
    two = in_world(2, scored, canonical(tokens), planned(canonical(tokens), 2), tmp_path / "two", exams)
    one = scored(canonical(tokens), planned(canonical(tokens), 1), tmp_path / "one", exams)
    assert [outcome.scores for outcome in two] == [one.scores] * 2, "to the bit on any number of ranks"


def test_a_test_split_that_is_replaced_while_training_does_not_change_what_the_model_is_scored_on(tokens, tmp_path):
    """The record names the tokens that were there when training began."""
    own = Path(shutil.copytree(tokens, tmp_path / "own"))
    run = tiny(own)
    exams = exams_of(run.recipe, {"late": FurtherEvaluation(offset=1000, sequences=3)}, tmp_path / "cache")

    def replaced(seen: int) -> Signal:
        if seen == 1:
            (own / "train.bin").rename(own / "validation.bin")
        return Signal.CONTINUE

    undisturbed, _ = attempt(run, planned(run, 1), tmp_path / "before", exams=exams)
    disturbed, _ = attempt(run, planned(run, 1), tmp_path / "meanwhile", exams=exams, signals=replaced)
    assert not (own / "train.bin").exists()
    assert disturbed.scores == undisturbed.scores


def test_a_further_evaluation_that_its_corpus_cannot_serve_is_refused_before_training(tokens, tmp_path):
    run = tiny(tokens)
    for further, said in (
        (FurtherEvaluation(offset=4000), "Lower evaluation.offset"),
        (FurtherEvaluation(split="train"), "training reads the first 256 tokens"),
        (FurtherEvaluation(source=str(tmp_path / "none")), "none"),
    ):
        with pytest.raises(BadCorpus, match=said):
            exams_of(run.recipe, {"wiki": further}, tmp_path / "cache")


STUDY = """
[study]
name = "by-hand"
machines = ["cpu-x2"]
[baseline.model]
{model}
[baseline.train]
{train}
[baseline.data]
source = "{source}"
[baseline.evaluation]
offset = 0
sequences = 13
[evaluations.late]
offset = 1000
"""


def torchrun(study: Path, folder: Path, cache: Path) -> subprocess.CompletedProcess[str]:
    command = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "model"]
    options = [str(study), "cpu-x2-baseline", str(folder), "--cache", str(cache)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, *command, *options], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120
    )


def until(step: int, run: Run, plan: Plan, folder: Path) -> Any:
    """Until it is stopped after a step. Its tokens are looked up, as torchrun's are."""
    return attempt(run, plan, folder, signals=stop_after(step), tokens=None)


def test_it_runs_under_plain_torchrun_and_goes_on_from_what_is_there(tokens, tmp_path):
    """From the start it is run below, by one process."""
    tables = {name: "\n".join(f"{k} = {json.dumps(v)}" for k, v in TINY[name].items()) for name in ("model", "train")}
    study = tmp_path / "study.toml"
    study.write_text(STUDY.format(source=tokens, **tables))
    (run,) = Study.load(study).runs()
    plan = planner.plan(run.recipe, BUILT_IN["cpu-x2"])
    never, told = in_world(2, until, STEPS + 1, run, plan, tmp_path / "never")[0]
    in_world(2, until, 2, run, plan, tmp_path / "run")
    done = torchrun(study, tmp_path / "run", tmp_path / "cache")
    assert done.returncode == 0, done.stderr
    outcome = Outcome.model_validate_json(done.stdout)
    assert outcome.finished
    assert [scored.exam.name for scored in outcome.scores] == ["test_loss", "late"]
    assert (outcome.fingerprints, outcome.test_loss) == (never.fingerprints, never.test_loss)
    assert [timeless(line) for line in read(tmp_path / "run")] == told.timeless
    assert "step 3 loss" in done.stderr
    assert "step 2 loss" not in done.stderr
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["1", "2"]


def test_one_process_that_compiles_nothing_does_not_import_torchs_compiler(tokens, tmp_path):
    """It would take seconds, at the start of every run."""
    tables = {name: "\n".join(f"{k} = {json.dumps(v)}" for k, v in TINY[name].items()) for name in ("model", "train")}
    study = tmp_path / "study.toml"
    study.write_text(STUDY.format(source=tokens, **tables).replace("cpu-x2", "cpu-x1"))
    code = (
        "import sys; from model.__main__ import main; main(); assert not {'torch._dynamo', 'sympy'} & set(sys.modules)"
    )
    options = [str(study), "cpu-x1-baseline", str(tmp_path / "run"), "--cache", str(tmp_path / "cache")]
    done = subprocess.run([sys.executable, "-c", code, *options], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert Outcome.model_validate_json(done.stdout).finished


def test_without_a_compiler_a_compiled_run_ends_before_its_first_step_and_for_good(
    tokens: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXX", "/nowhere/g++")
    run = tiny(tokens, train={"compile": True})
    with pytest.raises(NoCompiler, match=r"has no /nowhere/g\+\+, which CXX names") as caught:
        attempt(run, planned(run, 1, 1), tmp_path)
    assert not caught.value.retryable
    assert not list(tmp_path.rglob("ledger.jsonl"))
