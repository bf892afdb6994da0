"""A farm that is hurt while it trains, for `make soak`: the farm, every kind of fault, and whom it may befall."""

import os
import random
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import psutil

from benchmarks.waiting import wait_for
from farm.errors import FarmError
from farm.queue.queue import Queue
from farm.queue.values import Status
from farm.record import ledger
from farm.record.store import Store
from farm.site import serving
from farm.site.client import connect
from farm.site.server import Server
from farm.site.settings import Settings
from farm.study.processor import WITH_AVX512, instruction_set
from farm.study.run import State
from workers.head.parts import census

ROOT = Path(__file__).resolve().parent.parent
STEPS = 900 if instruction_set() in WITH_AVX512 else 360  # 5 s (Zen 5) to 10 (Zen 3): time to be hurt in
TURN_SECONDS = 0.25
STUCK_SECONDS = 600.0  # without one more step or finished run
PATIENCE_SECONDS = 60.0  # for what a fault needs, such as a checkpoint to damage
STOPPED_SECONDS = {"worker": 30.0, "agent": 45.0}  # longer than hang_seconds, longer than a lease
BRIEFLY = 5.0
GONE_SECONDS = 40.0
OF_RAY = {  # what a fault calls a part of Ray -> what workers.head.parts calls it
    "raylet": "raylet",
    "gcs": "GCS",
    "dashboard": "dashboard",
    "job-agent": "dashboard agent",
    "env-agent": "runtime environment agent",
}


class Farm:
    """A farm in a fresh home, as a person has it who types its commands, and may look at its processes and files."""

    def __init__(self, home: Path):
        self.home = home
        self.settings = Settings(home=home / "farm", storage=home / "storage")
        self.store = Store(self.settings.storage, home / "read")
        self.server = Server(self.settings.home / "redis")
        self.temporary = home / "tmp"
        self.temporary.mkdir()
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("FARM_", "RAY_"))}
        own = {"FARM_HOME": self.settings.home, "FARM_STORAGE": self.settings.storage, "TMPDIR": self.temporary}
        self.environment = kept | {key: str(value) for key, value in own.items()} | {"PYTHONPATH": str(ROOT)}
        self.seen: set[psutil.Process] = set()

    def start(self, *words: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "cli.main", *words]
        pipe = subprocess.PIPE
        return subprocess.Popen(
            command, env=self.environment, cwd=self.home, stdout=pipe, stderr=pipe, encoding="utf-8"
        )

    def type(self, *words: str, codes: tuple[int, ...] = (0,)) -> str:
        """`farm WORDS`, and what it says for people. Raises: RuntimeError: another exit code than `codes`."""
        process = self.start(*words)
        out, err = process.communicate(timeout=STUCK_SECONDS)
        if process.returncode not in codes:
            raise RuntimeError(f"farm {' '.join(words)}: exit code {process.returncode}\n{out}{err}")
        return err

    @contextmanager
    def queue(self) -> Iterator[Queue]:
        """The queue as it is, without starting a server that is down. Raises: FarmError."""
        if self.server.url is None:
            raise FarmError("no Redis yet.")
        with connect(self.server.url) as redis:
            yield Queue(redis)

    def processes(self) -> list[psutil.Process]:
        """Whatever the process that serves has started, itself included, oldest first."""
        found: list[psutil.Process] = []
        if facts := serving.facts(self.settings):
            with suppress(psutil.Error):
                serve = psutil.Process(facts.pid)
                found = [serve, *serve.children(recursive=True)]
        with suppress(psutil.Error):
            if self.server.pid:  # whether it answers is not asked: it may be stopped
                found.append(psutil.Process(self.server.pid))
        self.seen |= {*found}
        return found

    def left(self) -> list[psutil.Process]:
        """Those that were seen and still live."""
        _, alive = psutil.wait_procs([process for process in self.seen if process.is_running()], GONE_SECONDS)
        return [process for process in alive if process.is_running() and process.status() != psutil.STATUS_ZOMBIE]


class Hurt(NamedTuple):
    """What was done, and to whom."""

    kind: str
    victim: str
    at: float  # share of all steps
    seconds: float


class Soak:
    """A farm under attack. `random` makes every choice."""

    def __init__(self, farm: Farm, study: Path, runs: int, chance: random.Random):
        self.farm, self.study, self.runs, self.random = farm, study, runs, chance
        self.stopped: list[tuple[float, psutil.Process]] = []
        self.wrong: list[str] = []
        self.restarts = 0
        self.reached, self.moved = 0.0, time.monotonic()

    # What befalls it. Each returns who was hurt, or None while there is nobody to hurt.

    def kill(self, what: str) -> str | None:
        if process := self.process(what):
            process.kill()
            return told(process)
        return None

    def stop(self, what: str) -> str | None:
        if process := self.process(what):
            process.suspend()
            self.stopped.append((time.monotonic() + STOPPED_SECONDS.get(what, BRIEFLY), process))
            return told(process)
        return None

    def flush(self) -> str | None:
        with self.farm.queue() as queue:
            queue.redis.flushall()
        self.farm.type("reindex", codes=(0, 1))
        self.farm.type("submit", str(self.study))  # those that had not begun are on no record but the study's
        return "every key; then farm reindex, farm submit"

    def drain(self) -> str | None:
        with self.farm.queue() as queue:
            nodes = [node.id for node in queue.roster.nodes()]
        if not nodes:
            return None
        node = self.random.choice(nodes)
        self.farm.type("drain", node)
        self.farm.type("drain", node, "--undo")
        return f"node {node[:8]}, and --undo"

    def cancel(self) -> str | None:
        run = self.running()
        if run is None:
            return None
        self.farm.type("cancel", run.id, codes=(0, 6))  # 6: it has just finished
        with suppress(TimeoutError):
            wait_for(
                lambda: self.status(run.id).state is not State.RUNNING,
                f"{run.id} stops",
                pause=TURN_SECONDS,
                patience=PATIENCE_SECONDS,
            )
        if self.status(run.id).state is State.CANCELLED:
            self.farm.type("retry", run.id)
        return f"{run.id}, and retried"

    def submits(self) -> str | None:
        typed = [self.farm.start("submit", str(self.study)) for _ in range(4)]
        for process in typed:
            out, err = process.communicate(timeout=STUCK_SECONDS)
            if process.returncode:
                self.wrong.append(f"one of four submits at once ended with {process.returncode}: {out}{err}")
        return "four at once"

    def checkpoint(self, spoil: Callable[[Path], None]) -> str | None:
        run = self.running()
        found = sorted(self.farm.store.copies.checkpoints(run.id), key=lambda path: path.stat().st_mtime) if run else []
        if not run or not found:
            return None
        spoil(next(found[-1].glob("*.safetensors")))
        self.end_training(run)
        return f"{found[-1].relative_to(self.farm.store.root)}, and its worker killed"

    def tail(self) -> str | None:
        run = self.running()
        path = run and self.farm.store.attempt_folder(run.id, run.epoch) / ledger.FILE
        if not run or not path or not path.exists():
            return None
        garbage = self.random.choice(["12\n", '{"step": 5}\n', '{"step": 7, "tok', "\x00\x00\x00\x00"])
        self.end_training(run)
        with path.open("a", encoding="utf-8") as file:
            file.write(garbage)
        return f"{run.id}/{run.epoch}: {garbage!r}, and its worker killed"

    def attempt(self) -> str | None:
        run = self.running()
        folder = run and self.farm.store.attempt_folder(run.id, run.epoch)
        if not run or not folder or not (folder / ledger.FILE).exists():
            return None
        self.end_training(run)
        if self.farm.store.runs.result(run.id):  # it was done before its worker was: of its ledger there is no other
            return None
        shutil.rmtree(folder, ignore_errors=True)
        return f"{run.id}/{run.epoch} deleted, and its worker killed"

    def stray(self) -> str | None:
        root = self.farm.store.root
        folders = sorted(path for path in [root, *root.iterdir(), *root.glob("*/*")] if path.is_dir())
        folder = self.random.choice(folders)
        (folder / "stray.json").write_bytes(b'{"half of ')
        return str(folder.relative_to(root) / "stray.json")

    # Whom it may befall

    def process(self, what: str) -> psutil.Process | None:
        """One of the farm's processes of that kind; None if there is none now."""
        found = [process for process in self.farm.processes() if self._is_a(process, what)]
        alive = [process for process in found if process.pid not in {other.pid for _, other in self.stopped}]
        return self.random.choice(sorted(alive, key=lambda process: process.pid)) if alive else None

    def _is_a(self, process: psutil.Process, what: str) -> bool:
        if what not in OF_RAY:
            return is_a(process, what, str(self.farm.store.root))
        facts = serving.facts(self.farm.settings)
        return facts is not None and process == census(psutil.Process(facts.pid)).get(OF_RAY[what])

    def running(self) -> Status | None:
        """A run that has trained a step, and has a checkpoint under its present lease."""
        with self.farm.queue() as queue:
            found = [one for one in queue.listing.running() if one.checkpoint and one.checkpoint.epoch == one.epoch]
        return self.random.choice(sorted(found, key=lambda one: one.id)) if found else None

    def status(self, run_id: str) -> Status:
        with self.farm.queue() as queue:
            return queue.listing.status(run_id)

    def end_training(self, run: Status) -> None:
        """Kill who writes the ledger of `run`, and wait until it is dead."""
        for process in self.farm.processes():
            if is_a(process, "worker", str(self.farm.store.folder(run.id))):
                process.kill()
                psutil.wait_procs([process], BRIEFLY)

    # The course of it

    def turn(self) -> bool:
        """Let go on what was stopped for long enough, have a farm that is down up again; whether all runs are final."""
        for when, process in [*self.stopped]:
            if time.monotonic() > when:
                with suppress(psutil.Error):
                    process.resume()
                self.stopped.remove((when, process))
        if not serving.facts(self.farm.settings):
            say("the farm is down: farm up")
            self.restarts += 1
            self.farm.type("up", "--machine", "cpu-x1=2")
        self.farm.processes()
        try:
            with self.farm.queue() as queue:
                statuses, put = queue.listing.statuses(), queue.listing.put_count() - queue.listing.forgotten_count()
                total = sum(queue.listing.counts().values())
        except FarmError:
            return False
        if put != total:
            self.wrong.append(f"conservation: {put} were put, {total} are known")
        steps = sum(STEPS if one.state is State.SUCCEEDED else min(one.step, STEPS) for one in statuses)
        reached = steps / (self.runs * STEPS)
        if reached > self.reached:
            self.reached, self.moved = reached, time.monotonic()
        if time.monotonic() - self.moved > STUCK_SECONDS:
            raise TimeoutError(f"no step in {STUCK_SECONDS:g} s: {Counter(str(one.state) for one in statuses)}")
        return len(statuses) == self.runs and all(one.state.is_final for one in statuses)

    def inflict(self, kind: str) -> Hurt | None:
        """None where there was nobody to hurt for PATIENCE_SECONDS, or all runs are final. Raises: TimeoutError: as
        `turn`."""
        began, until = time.monotonic(), time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < until:
            with suppress(FarmError, OSError, StopIteration, psutil.Error):
                if victim := KINDS[kind](self):
                    hurt = Hurt(kind, victim, self.reached, time.monotonic() - began)
                    say(f"{hurt.at:4.0%}  {kind}: {victim}")
                    return hurt
            if self.turn():
                return None
            time.sleep(TURN_SECONDS)
        say(f"{self.reached:4.0%}  {kind}: nobody to hurt")
        return None


KINDS: dict[str, Callable[[Soak], str | None]] = {
    "kill-worker": lambda soak: soak.kill("worker"),
    "stop-worker": lambda soak: soak.stop("worker"),
    "kill-agent": lambda soak: soak.kill("agent"),
    "stop-agent": lambda soak: soak.stop("agent"),
    "kill-serve": lambda soak: soak.kill("serve"),
    "stop-serve": lambda soak: soak.stop("serve"),
    "kill-redis": lambda soak: soak.kill("redis"),
    "stop-redis": lambda soak: soak.stop("redis"),
    "kill-raylet": lambda soak: soak.kill("raylet"),
    "stop-raylet": lambda soak: soak.stop("raylet"),
    "kill-gcs": lambda soak: soak.kill("gcs"),
    "stop-gcs": lambda soak: soak.stop("gcs"),
    "kill-dashboard": lambda soak: soak.kill("dashboard"),
    "kill-job-agent": lambda soak: soak.kill("job-agent"),
    "kill-env-agent": lambda soak: soak.kill("env-agent"),
    "flush": Soak.flush,
    "drain": Soak.drain,
    "cancel": Soak.cancel,
    "submits": Soak.submits,
    "corrupt-checkpoint": lambda soak: soak.checkpoint(flip),
    "truncate-checkpoint": lambda soak: soak.checkpoint(halve),
    "ledger-tail": Soak.tail,
    "delete-attempt": Soak.attempt,
    "stray-file": Soak.stray,
}


def is_a(process: psutil.Process, what: str, records: str) -> bool:
    """Whether a process of the farm is what a fault is for, which is no part of Ray; a worker is who writes a ledger
    under `records`."""
    try:
        name, words = process.name(), process.cmdline()
        if what == "worker":
            paths = [one.path for one in process.open_files() if one.path.startswith(f"{records}/")]
            return name.startswith("ray::") and any(path.endswith(ledger.FILE) for path in paths)
    except psutil.Error:
        return False
    return {
        "agent": "workers.attempt.agent" in words and not words[0].endswith("sh"),
        "serve": "workers.head.serve" in words,
        "redis": name in ("redis-server", "valkey-server"),
    }[what]


def told(process: psutil.Process) -> str:
    return f"{process.name()} {process.pid}"


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


def halve(file: Path) -> None:
    os.truncate(file, file.stat().st_size // 2)


def say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')}  {text}", file=sys.stderr, flush=True)
