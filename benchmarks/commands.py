"""Do the commands that people wait for feel instant, with 10,000 runs in 50 studies?"""

import os
import resource
import shlex
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from redis import Redis

from benchmarks.alternate import ROUNDS, heading, show
from benchmarks.population import populate
from farm.queue.queue import Queue
from farm.site.client import connect
from farm.site.server import Server

ROOT = Path(__file__).resolve().parent.parent
STUDIES = 50


class Took(NamedTuple):
    """Seconds of one call of a command, from the start of its process to its end."""

    clock: float
    processor: float
    redis: float  # of Redis' processor time, meanwhile


def main() -> None:
    heading("Commands, from start to exit, each in a process of its own")
    with tempfile.TemporaryDirectory() as folder:
        server = Server(Path(folder) / "redis")
        try:
            url = server.start()
            with connect(url) as client:
                there = populate(Queue(client), STUDIES)
                held = client.info("memory")["used_memory"]  # type: ignore[index]
                study = there.finished[len(there.finished) // 2]
                run = Queue(client).listing.ids(study)[-1]
                environment = {"FARM_REDIS_URL": url, "FARM_HOME": folder, "HOME": folder, "PYTHONPATH": str(ROOT)}
                rows = [
                    ["python -c pass", *_spread(client, environment, ["-c", "pass"]), ""],
                    ["farm --help", *_spread(client, environment, _farm("--help")), "0.2"],
                ]
                kept = Path(folder) / "cache" / "verdicts"
                first = _spread(client, environment, _farm(f"table {study}"), forgets=kept)
                rows.append([f"farm table {study}, judged for the first time", *first, "1"])
                _run(client, environment, _farm(f"table {study}"))
                for words in (f"table {study}", f"runs {study}", "runs", "status", f"show {run}"):
                    rows.append([f"farm {words}", *_spread(client, environment, _farm(words)), "1"])
                for words in ("table st", f"show {run[:12]}"):
                    typed = {"_FARM_COMPLETE": "complete_bash", "COMP_WORDS": f"farm {words}", "COMP_CWORD": "2"}
                    rows.append([f"farm {words}, then Tab", *_spread(client, environment | typed, _farm("")), "1"])
        finally:
            server.stop()
    show(["command", "seconds by the clock (range)", "processor time", "Redis', of it all", "goal"], rows)
    print(f"{there.runs:,} runs in {STUDIES} studies; Redis holds {held / there.runs / 1e3:.0f} kB a run")


def _farm(words: str) -> list[str]:
    return ["-m", "cli.main", *shlex.split(words)]


def _spread(client: Redis, environment: dict[str, str], words: list[str], forgets: Path | None = None) -> list[str]:
    took = []
    for _ in range(ROUNDS):
        if forgets:
            shutil.rmtree(forgets, ignore_errors=True)
        took.append(_run(client, environment, words))
    clock = sorted(one.clock for one in took)
    return [
        f"{statistics.median(clock):.2f} ({clock[0]:.2f}-{clock[-1]:.2f})",
        f"{statistics.median(one.processor for one in took):.2f}",
        f"{statistics.median(one.redis for one in took):.2f}",
    ]


def _run(client: Redis, environment: dict[str, str], words: list[str]) -> Took:
    began, ours, theirs = time.perf_counter(), _children(), _redis(client)
    subprocess.run([sys.executable, *words], env=_compiled() | environment, check=True, capture_output=True)
    return Took(time.perf_counter() - began, _children() - ours, _redis(client) - theirs)


def _compiled() -> dict[str, str]:
    """The environment, where modules may stay compiled, as those of an installed farm are."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}


def _children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _redis(client: Redis) -> float:
    used = client.info("cpu")
    return used["used_cpu_user"] + used["used_cpu_sys"]  # type: ignore[index]
