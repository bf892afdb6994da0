"""A program that stands at SkyPilot's command line, and keeps its clusters on disk as a cloud does.

Words, answers and errors are those of SkyPilot 0.14.1: tests/workers/rent/test_skypilot.py holds the real one against
what is read of them here. A launched machine is a folder, in which the task's files lie and its script really runs.

    state.json    {"clouds": [...], "capacity": bool, "held": bool, "price": dollars, "clusters": {...}, "asked": [...],
                  "broken": {command: error}, "unready": commands that find no server}
"""

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

VARIABLE = "FARM_STAND_IN_SKY"  # the folder of state.json
FRESH = {"clouds": ["Lambda"], "capacity": True, "held": False, "price": 11.84, "clusters": {}, "asked": []}
NOTHING_FREE = """\
W 11-27 00:01:40.539 PID=13988 instance.py:125] run_instances error: instance-operations/launch/insufficient-capacity: \
Not enough capacity to fulfill launch request. Regions with capacity available: None
Failed to provision resources. View logs: sky logs --provision {name}

sky.exceptions.ResourcesUnavailableError: Failed to provision all possible launchable resources. Relax the task's \
resource requirements: 1x Lambda({{'A100': 8}}, max_cost=$12.0/hr)
To keep retrying until the cluster is up, use the `--retry-until-up` flag.
Reasons for provision failures (for details, please check the log above):
Provision failures (tried 1 infra):

✗ Lambda (us-east-1) — (gpus=A100:8, gpu_8x_a100, ...)
  Failed to acquire resources in all zones in us-east-1 for {{Lambda({{'A100': 8}}, max_cost=$12.0/hr)}}.
"""
NO_SERVER = """\
RuntimeError: Failed to start SkyPilot API server at http://127.0.0.1:46580
View logs at: ~/.sky/api_server/server.log
"""


class Stand:
    """The program as a test has it: `command` is what to type, `folder` what it keeps."""

    def __init__(self, folder: Path):
        self.folder = folder
        folder.mkdir()
        self.command = folder / "sky"
        words = f'#!/bin/sh\n{VARIABLE}={folder} exec {sys.executable} -I -S {Path(__file__).resolve()} "$@"\n'
        self.command.write_text(words)
        self.command.chmod(0o755)
        self.set(**FRESH)

    def set(self, **changes: Any) -> None:
        with _state(self.folder) as state:
            state |= changes

    def get(self, key: str) -> Any:
        with _state(self.folder) as state:
            return state[key]

    @property
    def alive(self) -> list[str]:
        """The clusters that are paid for."""
        return list(self.get("clusters"))

    def add(self, name: str) -> None:
        """A cluster that somebody else has launched."""
        with _state(self.folder) as state:
            state["clusters"][name] = {"status": "UP", "pid": None, "task": {}}

    def machine(self, name: str) -> Path:
        """The home folder of a machine."""
        return self.folder / "machines" / name

    def asked(self, word: str) -> list[list[str]]:
        return [words for words in self.get("asked") if words[0] == word]

    def close(self) -> None:
        for name in self.alive:
            main(self.folder, ["down", "-y", name])


@contextmanager
def _state(folder: Path) -> Iterator[dict[str, Any]]:
    with open(folder / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        path = folder / "state.json"
        state = json.loads(path.read_text()) if path.exists() else {}
        yield state
        path.with_suffix(".new").write_text(json.dumps(state))
        path.with_suffix(".new").replace(path)


def main(folder: Path, words: list[str]) -> int:
    with _state(folder) as state:
        state["asked"].append(words)
        broken = state.get("broken", {}).get(words[0])
        unready = state.get("unready", 0)
        state["unready"] = max(0, unready - 1)
    if unready:
        print(NO_SERVER, file=sys.stderr)
        return 1
    if broken:
        print(broken)
        return 1
    known: dict[str, Callable[[Path, list[str]], int]] = {
        "check": _check, "gpus": _gpus, "status": _status, "launch": _launch, "down": _down
    }  # fmt: skip
    return known[words[0]](folder, words)


def _check(folder: Path, words: list[str]) -> int:
    assert words == ["check", "-o", "json"]
    with _state(folder) as state:
        print(json.dumps({"default": {cloud: ["compute"] for cloud in state["clouds"]}}, indent=2))
    return 0


def _gpus(folder: Path, words: list[str]) -> int:
    wanted, infra = words[2], words[4]
    regions = [] if "/" in infra else ["--all-regions"]
    assert words == ["gpus", "list", wanted, "--infra", infra, *regions, "-o", "json"]
    name, count = wanted.partition(":")[0], float(wanted.partition(":")[2])
    with _state(folder) as state:
        price = state["price"]
    row = {"cloud": "Lambda", "instance_type": "gpu_8x_a100", "accelerator_name": name, "accelerator_count": count,
           "cpu_count": 124.0, "device_memory": 40.0, "memory": 1800.0, "price": price, "spot_price": None}  # fmt: skip
    places = [place for place in ("us-east-1", "us-west-1") if infra in ("lambda", f"lambda/{place}")]
    found = [row | {"region": place} for place in places] if wanted == "A100:8" else []
    print(json.dumps({name: found} if found else {}, indent=2))
    return 0


def _status(folder: Path, words: list[str]) -> int:
    assert words[1:4] == ["--refresh", "-o", "json"]
    with _state(folder) as state:
        found = [
            {"name": name, "status": one["status"], "cloud": "Lambda", "region": "us-east-1",
             "resources_str_full": "1x(gpus=A100:8, cpus=124, mem=1800, gpu_8x_a100, disk=256)"}
            for name, one in state["clusters"].items()
        ]  # fmt: skip
    print(json.dumps(found, indent=2))
    return 0


def _launch(folder: Path, words: list[str]) -> int:
    name, minutes, file = words[4], words[7], words[8]
    assert words == ["launch", "-y", "-d", "-c", name, "--down", "-i", minutes, file]
    task = json.loads(Path(file).read_text())
    print(f"YAML to run: {file}\nRunning on cluster: {name}", flush=True)
    with _state(folder) as state:
        if state["price"] > task["resources"]["max_hourly_cost"] or not state["capacity"]:
            print(NOTHING_FREE.format(name=name))
            return 1
        cluster = state["clusters"].setdefault(name, {"status": "INIT", "pid": None, "task": task})
    while _still(folder, name) and _held(folder):
        time.sleep(0.02)
    if not _still(folder, name):
        print(f"sky.exceptions.RequestCancelled: the launch of {name} was cancelled")
        return 1
    home = folder / "machines" / name
    home.mkdir(parents=True, exist_ok=True)
    for there, here in task["file_mounts"].items():
        shutil.copytree(here, home / there.removeprefix("~/"), dirs_exist_ok=True)
    environment = os.environ | {
        "HOME": str(home),
        "RAY_ADDRESS": "skypilots-own",
        "PATH": f"{home}/bin:{os.environ['PATH']}",
    }
    with _state(folder) as state:
        cluster = state["clusters"][name]
        if cluster["pid"] is None:
            log = (home / "run.log").open("ab")
            words = ["bash", "-c", task["run"]]
            job = subprocess.Popen(words, cwd=home, env=environment, stdout=log, stderr=log, start_new_session=True)
            cluster |= {"pid": job.pid}
        cluster |= {"status": "UP"}
    return 0


def _held(folder: Path) -> bool:
    with _state(folder) as state:
        return state["held"]


def _still(folder: Path, name: str) -> bool:
    with _state(folder) as state:
        return name in state["clusters"]


def _down(folder: Path, words: list[str]) -> int:
    name = words[2]
    assert words == ["down", "-y", name]
    with _state(folder) as state:
        gone = state["clusters"].pop(name, None)
    if gone and gone["pid"]:
        with suppress(ProcessLookupError):
            os.killpg(gone["pid"], signal.SIGKILL)
    print(f"Terminating cluster {name}...done." if gone else f"Cluster(s) not found: {name}.")
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(os.environ[VARIABLE]), sys.argv[1:]))
