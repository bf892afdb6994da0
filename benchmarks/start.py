"""How long from `farm submit` to the first optimiser step on a farm that is up, and from one run's last step to the
next one's first? Against `ray job submit` of a TorchTrainer script, as one writes it, on the same Ray.

Both sides are typed as a person would, train the same GPT on the same tokens for the same few steps, and evaluate and
save at the end. They take turns on an otherwise idle farm. The script runs twice: with Ray Train's own defaults, and
with what this farm's nodes set for all jobs (the controller polls ten times as often).
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import NamedTuple

from benchmarks.alternate import ROUNDS, heading, ratio, show
from benchmarks.sides import corpus
from benchmarks.through_ray import served, typed
from benchmarks.waiting import wait_for
from farm.queue.queue import Queue
from farm.record.store import Store
from farm.site import serving
from farm.site.session import session
from farm.site.settings import Settings
from farm.study.run import State

ROOT = Path(__file__).resolve().parent.parent
STEPS, BATCH, CONTEXT = 20, 8, 128
STUDY = """
[study]
name = "{name}"
machines = ["cpu"]
seeds = {{ init = {seeds}, train = [23] }}
[baseline.model]
vocab = 257
context = 128
width = 128
layers = 4
heads = 4
dropout = 0.0
[baseline.train]
batch = 8
tokens = {tokens}
precision = "fp32"
[baseline.data]
source = "{source}"
[baseline.evaluation]
offset = 0
sequences = 8
"""
SCRIPT = """
import os, sys, time
if "defaults" in sys.argv:  # of Ray Train; the controller and the workers take them over from here
    os.environ |= {"RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "2.0", "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "1"}
import numpy as np, torch
from torch.nn import functional as F
from ray.train import RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer, prepare_model
from farm.study.recipe import Model
from model.gpt import GPT

def loop(config):
    tokens = np.memmap(config["corpus"], dtype=np.uint16, mode="r")
    gpt = GPT(Model(vocab=257, context=128, width=128, layers=4, heads=4, dropout=0.0))
    prepare_model(gpt)
    optimiser = torch.optim.AdamW(gpt.parameters(), lr=4e-4, fused=True)
    with open(config["times"], "a", buffering=1) as times:
        for step in range(20):
            x, y = (torch.from_numpy(tokens[step * 1024 + i :][:1024].astype(np.int64)).view(8, 128) for i in (0, 1))
            loss = F.cross_entropy(gpt.logits(x).flatten(0, 1), y.flatten())
            loss.backward()
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
            print(time.time(), loss.item(), file=times)
    with torch.no_grad():
        F.cross_entropy(gpt.logits(x).flatten(0, 1), y.flatten()).item()
    torch.save({"model": gpt.state_dict(), "optimiser": optimiser.state_dict()}, config["times"] + ".pt")

TorchTrainer(
    loop,
    train_loop_config={"corpus": sys.argv[1], "times": sys.argv[2]},
    scaling_config=ScalingConfig(num_workers=1),
    run_config=RunConfig(name="run", storage_path=sys.argv[2] + "-storage"),
).fit()
"""


class Pair(NamedTuple):
    """Two runs that were submitted together to a machine that trains one at a time; seconds."""

    start: float  # from submit to the first step
    gap: float  # from the last step of one to the first of the other


def main() -> None:
    heading("Submit to first optimiser step, and the gap between two runs (goal: at most 0.7 of the script's)")
    with tempfile.TemporaryDirectory() as folder, served(Path(folder)) as settings:
        tokens = corpus(settings.home, vocab=257)
        (settings.home / "script.py").write_text(SCRIPT, encoding="utf-8")
        sides: dict[str, Callable[[int], Pair]] = {
            "farm submit": lambda turn: _ours(settings, tokens, turn),
            "ray job submit, our settings": lambda turn: _script(settings, tokens, f"ours-{turn}", "ours"),
            "ray job submit, Ray's defaults": lambda turn: _script(settings, tokens, f"defaults-{turn}", "defaults"),
        }
        for side in sides.values():  # warm: files in the page cache, bytecode compiled
            side(0)
        turns = [{name: side(turn) for name, side in sides.items()} for turn in range(1, ROUNDS + 1)]
    ours = [turn["farm submit"] for turn in turns]
    rows = []
    for name in sides:
        theirs = [turn[name] for turn in turns]
        row = [name]
        for what in Pair._fields:
            each, first = ([getattr(pair, what) for pair in side] for side in (theirs, ours))
            row += [f"{median(each):.2f} ({min(each):.2f}-{max(each):.2f})", ratio(first, each)]
        rows.append(row)
    show(["side", "to first step, s", "farm / this", "gap, s", "farm / this"], rows)


def _ours(settings: Settings, tokens: Path, turn: int) -> Pair:
    name, seeds = f"bench-{turn}", [2 * turn, 2 * turn + 1]  # other seeds: a run that is known is not trained again
    file = settings.home / f"{name}.toml"
    file.write_text(
        STUDY.format(name=name, seeds=seeds, tokens=STEPS * BATCH * CONTEXT, source=tokens), encoding="utf-8"
    )
    began = time.time()
    typed(settings, "submit", str(file))
    with session(settings) as redis:
        queue = Queue(redis)
        runs = [status.run for status in queue.listing.statuses(name)]
        ledgers = [Store(settings.storage).attempt_folder(run.id, 1) / "ledger.jsonl" for run in runs]
        first = _pair(began, ledgers, head=1)
        wait_for(
            lambda: all(status.state is State.SUCCEEDED for status in queue.listing.statuses(name)), "both are done"
        )
    return first


def _script(settings: Settings, tokens: Path, name: str, words: str) -> Pair:
    facts = serving.facts(settings)
    assert facts is not None, "the farm is up"
    assert facts.token_path is not None, "its dashboard asks for a token"
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("FARM_", "RAY_"))}
    environment |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": facts.token_path}
    ray = [str(Path(sys.executable).with_name("ray")), "job"]
    times = [settings.home / f"{name}-{i}" for i in range(2)]
    jobs = [f"{file.name}-job" for file in times]
    children = []
    began = time.time()
    for file, job in zip(times, jobs, strict=True):
        command = [*ray, "submit", "--address", facts.dashboard, "--no-wait", "--submission-id", job]
        command += ["--entrypoint-resources", json.dumps({"farm:cpu": 1}), "--", sys.executable]
        command += [str(settings.home / "script.py"), str(tokens / "train.bin"), str(file), words]
        children.append(
            subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        )
        if len(children) == 1:
            children[0].wait()
    pair = _pair(began, times, head=0)
    for job in jobs:
        wait_for(lambda job=job: _is_done(ray, facts.dashboard, job, environment), f"{job} is done")
    return pair


def _is_done(ray: list[str], dashboard: str, job: str, environment: dict[str, str]) -> bool:
    command = [*ray, "status", "--address", dashboard, job]
    done = subprocess.run(command, env=environment, capture_output=True, encoding="utf-8", errors="replace", check=True)
    return "succeeded" in done.stdout


def _pair(began: float, files: list[Path], head: int) -> Pair:
    """When the lines came: `files` have `head` lines before those of the steps."""
    starts = {}
    ends = {}

    def count(file: Path) -> int:
        return file.read_bytes().count(b"\n") - head if file.exists() else 0

    def look() -> bool:
        for file in files:
            done = count(file)
            if done >= 1:
                starts.setdefault(file, time.time())
            if done >= STEPS:
                ends.setdefault(file, file.stat().st_mtime)
        return len(ends) == len(files)

    wait_for(look, "both runs step", pause=0.01)
    first, second = sorted(files, key=lambda file: starts[file])
    return Pair(starts[first] - began, starts[second] - ends[first])
