"""A farm of four hosts, started with the commands of docs/machines/ and watched from outside their network."""

import os
import secrets
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from cluster.hosts import Host, Switch, allow_only, block, unblock
from waiting import wait_until

from farm.queue.queue import Queue, Status
from farm.record.store import Store
from farm.site.server import connect, find_binary
from farm.study.run import State

BIN = Path(sys.executable).parent
HEAD, FARM_PORT, RAY_PORT, RAYS_REDIS_PORT = "10.77.0.1", 6380, 6379, 6381
TOO_SLOW = ("Deadline Exceeded", "timed out during startup")  # what Ray says after 30 s
NUMBERS = {
    "head": 1,
    "home": 2,
    "rented": 3,
    "laptop": 4,
    "spare": 5,
    "rental": 6,
    "attic": 7,
}  # the last of each address

CLASSES = """
[machines.home]
threads = 1
[machines.rented]
accelerators = 2
threads = 1
"""


class Cluster:
    """A head that trains nothing, a one-worker node, a two-worker node, and a laptop that reaches Redis alone."""

    def __init__(self, folder: Path, stack: ExitStack):
        self.folder, self.stack = folder, stack
        self.short = Path(tempfile.mkdtemp(prefix="farm-", dir="/tmp"))  # Unix sockets have at most 107 characters
        stack.callback(shutil.rmtree, self.short, ignore_errors=True)
        self.here = self.short / "here"  # every host has a folder of its own there
        self.here.mkdir()
        self.password = secrets.token_hex(16)
        (folder / "ray-token").write_text(secrets.token_hex(32))
        self.store = Store(folder / "storage")
        self.switch = Switch(folder / "switch", self.here)
        stack.callback(self.switch.host.off)
        self.head = self.host("head", self._of_a_node())
        self._start_redis(FARM_PORT)
        self.queue = Queue(stack.enter_context(connect(f"unix://:{self.password}@{self._socket(FARM_PORT)}")))
        self.start_head()
        self.nodes = {name: self.join(name, name) for name in ("home", "rented")}
        self.laptop = self.host("laptop", self._of_a_laptop())
        allow_only(self.laptop, FARM_PORT)

    def host(self, name: str, variables: dict[str, str]) -> Host:
        """A host that is on and plugged in; it goes off at the end."""
        host = Host(name, self.folder / name, self.here, self._of_anyone() | variables)
        self.stack.callback(host.off)
        config = self.folder / name / "home/.config/farm/config.toml"
        config.parent.mkdir(parents=True)
        config.write_text(CLASSES)
        self.switch.plug(host, NUMBERS[name])
        return host

    def start_head(self) -> None:
        """Ray's own Redis, Ray's head and the dispatcher; again, if they were killed."""
        self._start_redis(RAYS_REDIS_PORT)
        ray = ("ray", "start", "--head", f"--port={RAY_PORT}", "--num-cpus=0", "--disable-usage-stats")
        words = ("env", f"RAY_REDIS_ADDRESS=127.0.0.1:{RAYS_REDIS_PORT}", *ray, f"--redis-password={self.password}")
        try:
            self.head.run(*words)
        except AssertionError as slow:  # Ray gives its head 30 s, in its source; a busy machine may need a second try
            if not any(words in str(slow) for words in TOO_SLOW):
                raise
            self._end_rays_head()
            self.head.run(*words)
        log, before = self.folder / "serve.log", time.time()
        self.serve = self.head.start("farm", "serve", "--attach", f"127.0.0.1:{RAY_PORT}", log=log)
        facts = self.folder / "head/home/.farm/farm.json"
        is_up = lambda: facts.exists() and facts.stat().st_mtime > before  # noqa: E731
        wait_until(lambda: is_up() or self.serve.poll() is not None, "farm serve is up", 120)
        assert self.serve.poll() is None, log.read_text()

    def kill_head(self) -> None:
        """kill -9 of all that runs on the head but the farm's Redis."""
        spared = self._redis(FARM_PORT)
        assert len(spared) == 1
        self.head.kill(spared)
        self.serve.wait(timeout=30)

    def _end_rays_head(self) -> None:
        """kill -9 of what a `ray start` that gave up has left."""
        self.head.kill([*self._redis(FARM_PORT), *self._redis(RAYS_REDIS_PORT)])

    def _redis(self, port: int) -> list[int]:
        names = ("redis-server", "valkey-server")
        servers = [process for process in self.head.processes() if process.name().startswith(names)]
        return [process.pid for process in servers if f":{port}" in "".join(process.cmdline())]

    def join(self, name: str, machine: str) -> Host:
        """A new host, which offers one run at a time of a machine class."""
        node = self.host(name, self._of_a_node())
        node.start("farm", "join", f"{HEAD}:{RAY_PORT}", "--machine", machine, log=self.folder / f"{name}.log")
        return node

    @property
    def rental(self) -> dict[str, str]:
        """The variables of a machine that is to have a farm of its own."""
        return self._of_anyone() | {"FARM_REDIS_URL": ""}

    @contextmanager
    def without_redis(self, *hosts: Host) -> Iterator[None]:
        """Let `hosts` reach everything but the farm's Redis for a while."""
        for host in hosts:
            block(host, FARM_PORT)
        try:
            yield
        finally:
            for host in hosts:
                unblock(host)

    def submit(self, name: str, text: str) -> list[str]:
        """Have the laptop submit a study; the ids of its runs."""
        path = self.folder / "laptop" / f"{name}.toml"
        path.write_text(text)
        self.laptop.run("farm", "submit", str(path))
        return [status.run.id for status in self.queue.statuses(name)]

    def wait_for(self, run_id: str, state: State, seconds: float = 300) -> Status:
        """Wait until a run is in `state`."""
        wait_until(lambda: self._is(self.queue.status(run_id), state), f"{run_id} is {state}", seconds)
        return self.queue.status(run_id)

    def _is(self, status: Status, state: State) -> bool:
        assert status.state is state or not status.state.is_final, f"{status.run.id} is {status.state}: {status.causes}"
        assert self.serve.poll() is None, (self.folder / "serve.log").read_text()
        return status.state is state

    def wait_for_checkpoint(self, run_id: str, epoch: int = 1, seconds: float = 300) -> Status:
        """Wait until attempt `epoch` of a run trains and a checkpoint of it is on the disk."""

        def trains() -> bool:
            status = self.queue.status(run_id)
            assert not status.state.is_final, f"{run_id} is {status.state}: {status.causes}"
            return status.checkpoint is not None and status.checkpoint.epoch >= epoch

        wait_until(trains, f"{run_id} has a checkpoint of attempt {epoch}", seconds)
        return self.queue.status(run_id)

    def _start_redis(self, port: int) -> None:
        """A server as docs/machines/README.md wants it. Tests reach it by a Unix socket, which no fault touches."""
        folder = self.folder / f"redis-{port}"
        folder.mkdir(exist_ok=True)
        self.head.run(
            *(str(find_binary()), "-", "--port", str(port), "--bind", "0.0.0.0", "--dir", str(folder)),
            *("--appendonly", "yes", "--appendfsync", "always", "--maxmemory-policy", "noeviction"),
            *("--unixsocket", str(self._socket(port)), "--daemonize", "yes"),
            stdin=f"requirepass {self.password}\n",
        )
        wait_until(self._socket(port).exists, f"Redis listens on {port}")

    def _socket(self, port: int) -> Path:
        return self.short / f"redis-{port}.sock"

    def _of_anyone(self) -> dict[str, str]:
        kept = {name: os.environ[name] for name in ("LANG", "PYTHONPATH") if name in os.environ}
        return kept | {
            "PATH": f"{BIN}:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "HOME": str(self.here / "home"),
            "TMPDIR": str(self.here),
            "FARM_REDIS_URL": f"redis://:{self.password}@{HEAD}:{FARM_PORT}/0",
        }

    def _of_a_node(self) -> dict[str, str]:
        return {
            "FARM_STORAGE": str(self.store.root),
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(self.folder / "ray-token"),
            "RAY_TMPDIR": str(self.here),
        }

    def _of_a_laptop(self) -> dict[str, str]:
        """A light client has neither Ray nor torch."""
        barred = self.folder / "barred"
        for name in ("ray", "torch"):
            (barred / name).mkdir(parents=True)
            (barred / name / "__init__.py").write_text("raise ImportError('a light client has no such thing')\n")
        return {"PYTHONPATH": os.pathsep.join(filter(None, [str(barred), os.environ.get("PYTHONPATH")]))}
