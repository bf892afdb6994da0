"""What does it cost to train through the farm (Ray, agent, Redis, dashboard) instead of calling model.train?

A real farm is started, a run submitted; the same run trains in a process of ours. Each is stopped (SIGSTOP) while the
other has its turn, and its speed is read from the arrival of lines in its ledger.
"""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import NamedTuple

import psutil

from benchmarks.alternate import ROUNDS, heading, ratio, show
from benchmarks.waiting import wait_for
from farm.queue.queue import Queue
from farm.queue.values import Status
from farm.record.store import Store
from farm.site import serving
from farm.site.session import session
from farm.site.settings import Settings
from farm.study.planner import Plan
from farm.study.run import Run

ROOT = Path(__file__).resolve().parent.parent
SECONDS, SETTLE_SECONDS = 4.0, 0.5
STUDY = """
[study]
name = "bench"
machines = ["cpu-x1"]
seeds = { init = [42], train = [23] }
[baseline.model]
vocab = 257
context = 128
width = 128
layers = 4
heads = 4
dropout = 0.0
[baseline.train]
batch = 8
tokens = 1_000_000_000
precision = "fp32"
[baseline.data]
source = "builtin:python-reference"
repeat = true
[baseline.evaluation]
offset = 0
sequences = 8
"""
# The bare loop, as a process of its own: run, plan, folder.
BARE = """
import sys, torch
from pathlib import Path
from farm.study.planner import Plan
from farm.study.run import Run
from model.assignment import Assignment, Listener
from model.train import train
torch.set_num_threads(1)
run, plan, folder = Run.model_validate_json(sys.argv[1]), Plan.model_validate_json(sys.argv[2]), Path(sys.argv[3])
train(Assignment(run, plan, folder, cache=folder), Listener())
"""


def main() -> None:
    heading("Through Ray against the bare loop, 4 x 128, vocabulary 257, fp32 (goal: at most 1.02)")
    with tempfile.TemporaryDirectory() as folder, served(Path(folder)) as settings:
        status = _training(settings)
        store = Store(settings.storage)
        ledger = store.attempt_folder(status.run.id, status.epoch) / "ledger.jsonl"
        plan = Plan.model_validate(store.runs.attempts(status.run.id)[-1].plan)
        with _bare(status.run, plan, Path(folder) / "bare") as (bare, bare_ledger):
            worker = _writer(ledger, settings)
            sides = {"bare": (bare, bare_ledger), "through Ray": (worker, ledger)}
            try:
                found = _alternated(sides)
            finally:
                worker.send_signal(signal.SIGCONT)
        rows = []
        for name, paces in found.items():
            by_clock, by_processor = (
                ratio([getattr(pace, what) for pace in paces], [getattr(pace, what) for pace in found["bare"]])
                for what in Pace._fields
            )
            rows.append([name, f"{median(pace.seconds for pace in paces) * 1000:.1f}", by_clock, by_processor])
        show(["side", "ms a step", "this / bare", "by processor time"], rows)
        typed(settings, "cancel", status.run.id)


class Pace(NamedTuple):
    """What one step takes: by the clock, and of the training process's processor time."""

    seconds: float
    cpu_seconds: float


def _alternated(sides: dict[str, tuple[psutil.Process, Path]]) -> dict[str, list[Pace]]:
    """The pace of each side, by round."""
    for process, _ in sides.values():
        process.send_signal(signal.SIGSTOP)
    found: dict[str, list[Pace]] = {name: [] for name in sides}
    for _ in range(ROUNDS):
        for name, (process, ledger) in sides.items():
            process.send_signal(signal.SIGCONT)
            time.sleep(SETTLE_SECONDS)
            found[name].append(_pace(process, ledger))
            process.send_signal(signal.SIGSTOP)
    return found


def _pace(process: psutil.Process, ledger: Path) -> Pace:
    """From one line's arrival to another's."""
    first, began = _next_line(ledger)
    cpu_began = sum(process.cpu_times()[:2])
    time.sleep(SECONDS)
    last, ended = _next_line(ledger)
    cpu_seconds = sum(process.cpu_times()[:2]) - cpu_began
    return Pace((ended - began) / (last - first), cpu_seconds / (last - first))


def _next_line(ledger: Path) -> tuple[int, float]:
    """How many lines the ledger has when its next one comes, and when that is."""
    size = ledger.stat().st_size
    wait_for(lambda: ledger.stat().st_size > size, "the next step", pause=0.0005)
    now = time.perf_counter()
    return ledger.read_bytes().count(b"\n"), now


@contextmanager
def served(home: Path) -> Iterator[Settings]:
    """A farm that is up at `home`."""
    settings = Settings(home=home, storage=home / "storage")
    typed(settings, "up")
    try:
        yield settings
    finally:
        typed(settings, "down")


def _training(settings: Settings) -> Status:
    """Submit the run and wait until it has trained a few steps."""
    file = settings.home / "bench.toml"
    file.write_text(STUDY, encoding="utf-8")
    typed(settings, "submit", str(file))
    with session(settings) as redis:
        queue = Queue(redis)
        wait_for(lambda: queue.listing.statuses("bench")[0].step > 3, "the run trains")
        return queue.listing.statuses("bench")[0]


@contextmanager
def _bare(run: Run, plan: Plan, folder: Path) -> Iterator[tuple[psutil.Process, Path]]:
    folder.mkdir()
    words = [sys.executable, "-c", BARE, run.model_dump_json(), plan.model_dump_json(), str(folder)]
    with subprocess.Popen(words, cwd=ROOT) as process:
        try:
            ledger = folder / "ledger.jsonl"
            wait_for(lambda: ledger.exists() and ledger.read_bytes().count(b"\n") > 3, "the bare loop trains")
            yield psutil.Process(process.pid), ledger
        finally:
            process.kill()


def _writer(ledger: Path, settings: Settings) -> psutil.Process:
    """The process of the farm that writes this ledger."""
    facts = serving.facts(settings)
    assert facts is not None, "the farm is up"
    for process in psutil.Process(facts.pid).children(recursive=True):
        try:
            if any(file.path == str(ledger) for file in process.open_files()):
                return process
        except psutil.Error:
            continue
    raise RuntimeError(f"nobody writes {ledger}")


def typed(settings: Settings, *words: str) -> None:
    """Run `farm WORDS` in the home of `settings`."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("FARM_", "RAY_"))}
    environment |= {"FARM_HOME": str(settings.home), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "cli.main", *words]
    subprocess.run(command, env=environment, cwd=settings.home, check=True, stdout=subprocess.DEVNULL)
