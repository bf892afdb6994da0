"""Do the commands that people wait for feel instant?"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.alternate import ROUNDS, heading, show
from farm.queue.queue import Queue
from farm.record import layout
from farm.record.result import Fingerprints, Hardware, Provenance, Result, Tokens
from farm.site.client import connect
from farm.site.server import Server
from farm.study.machine import BUILT_IN
from farm.study.planner import plan
from farm.study.run import Run
from farm.study.study import Study

ROOT = Path(__file__).resolve().parent.parent
SEEDS = 334  # three arms: 1,002 runs
STUDY = f"""
[study]
name = "bench"
machines = ["cpu"]
seeds = {{ init = {list(range(SEEDS))}, train = [23] }}
[baseline.train]
precision = "fp32"
[interventions.remove-dropout]
model.dropout = 0.0
[interventions.gradient-clipping]
train.clip_grad_norm = 3.5
"""


def main() -> None:
    heading("Commands, from start to exit, each in a process of its own")
    with tempfile.TemporaryDirectory() as folder:
        server = Server(Path(folder) / "redis")
        try:
            url = server.start()
            with connect(url) as client:
                runs = _fill(Queue(client))
            environment = {"FARM_REDIS_URL": url, "FARM_HOME": folder, "HOME": folder, "PYTHONPATH": str(ROOT)}
            rows = [
                ["python -c pass", _seconds(environment, "-c", "pass"), ""],
                ["farm --help", _seconds(environment, "-m", "cli.main", "--help"), "0.2"],
                [f"farm table, {runs:,} runs", _seconds(environment, "-m", "cli.main", "table", "bench"), "1"],
            ]
        finally:
            server.stop()
    show(["command", "median seconds (range)", "goal"], rows)


def _seconds(environment: dict[str, str], *words: str) -> str:
    times = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        command = [sys.executable, *words]
        subprocess.run(command, env=os.environ | environment, check=True, stdout=subprocess.DEVNULL)
        times.append(time.perf_counter() - began)
    return f"{statistics.median(times):.3f} ({min(times):.3f}-{max(times):.3f})"


def _fill(queue: Queue) -> int:
    """Submit a study and finish all its runs; how many they are."""
    asked = Study.parse(STUDY)
    queue.put(asked)
    count = 0
    while claim := queue.claim("cpu", "bench", 3600):
        queue.finish(claim.lease, _result(claim.run, claim.lease.epoch))
        count += 1
    return count


def _result(run: Run, epoch: int) -> Result:
    recipe = run.recipe
    tokens = recipe.steps * recipe.tokens_per_step
    return Result(
        run_id=run.id,
        arm=run.arm,
        machine=run.machine,
        seeds=run.seeds,
        recipe=recipe,
        plan=plan(recipe, BUILT_IN["cpu"].model_copy(update={"memory": 2**36})),
        epoch=epoch,
        evaluation=recipe.evaluation_version,
        test_loss=3.5 + int(run.digest[:4], 16) / 2**20,
        test_tokens=recipe.evaluation.sequences * recipe.model.context,
        train_loss=3.4,
        best_loss=3.3,
        best_step=recipe.steps,
        steps=recipe.steps,
        tokens=tokens,
        started=0.0,
        ended=1.0,
        seconds=1.0,
        train_seconds=1.0,
        tokens_per_second=float(tokens),
        peak_bytes=2**30,
        checkpoint_seconds_stalled=0.0,
        kernels=("torch",),
        compiled=(False,),
        hardware=Hardware(host="h", accelerator="cpu", accelerators=1, memory_bytes=2**36, cpu="c", cores=2, threads=1),
        provenance=Provenance(farm="0", code="0" * 64, python="3", torch="2"),
        fingerprints=Fingerprints(
            initial=f"{run.seeds.init:064x}",
            tokens=Tokens(head="0" * 64, trained="0" * 64, tested="0" * 64),
            final=run.digest,
        ),
        checkpoint=f"{layout.checkpoints(run.id, epoch)}/{layout.checkpoint(recipe.steps)}",
    )
