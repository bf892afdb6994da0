"""A whole farm: `farm up` through the installed command, in a home of its own, with every process real."""

import json
import os
import socket
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import pytest
from waiting import wait_until

from farm.queue.queue import Queue
from farm.queue.values import Status
from farm.record.result import Result
from farm.record.store import Store
from farm.site import serving
from farm.site.server import free_port
from farm.site.session import session
from farm.site.settings import Settings
from farm.study.run import State
from workers.node.environment import environment, token

FARM = Path(sys.executable).with_name("farm")

STUDY = """
[study]
name = "{name}"
machines = ["cpu-x1"]
seeds = {{ init = [42], train = [23] }}
first_rerun = {first_rerun}

[policy]
{policy}
checkpoint_seconds = {checkpoint_seconds}
hang_seconds = {hang_seconds}

[baseline]
machines = {machines}

[baseline.model]
vocab = 257
context = 32
width = 32
layers = 2
heads = 4
dropout = 0.1

[baseline.train]
batch = 8
tokens = {tokens}
learning_rate = {learning_rate}
precision = "fp32"
reduction = "{reduction}"
canonical_microbatch = 2

[baseline.data]
source = "builtin:python-reference"
repeat = true

[baseline.evaluation]
offset = 0
sequences = 64

{more}
"""


def study_text(name: str, **changes: Any) -> str:
    """A study that trains in seconds: 8 x 32 tokens a step."""
    defaults = {
        "first_rerun": 0,
        "checkpoint_seconds": 600,
        "hang_seconds": 1800,
        "policy": "",
        "machines": '["cpu-x1"]',
        "tokens": 25_600,
    }
    defaults |= {"learning_rate": 1e-3, "reduction": "fast", "more": ""}
    return STUDY.format(name=name, **(defaults | changes))


class Attached(NamedTuple):
    """A farm on a Ray that it did not start."""

    address: str  # of Ray
    variables: dict[str, str]  # what its processes inherit
    serve: subprocess.Popen[bytes]


class Farm:
    """The farm under test, as a person at a terminal has it, and as its queue sees it."""

    def __init__(self, home: Path, storage: str | None = None):
        self.home = home
        self.command = [str(FARM)]
        self.settings = Settings(home=home, storage=storage or home / "storage")
        self.store = Store(self.settings.storage, home / "read")
        self.environment = {k: v for k, v in os.environ.items() if not k.startswith(("FARM_", "RAY_"))}
        self.environment |= {"FARM_HOME": str(home), "HOME": str(home)}
        self.environment |= {"FARM_STORAGE": storage} if storage else {}

    @contextmanager
    def attached(self, script: str, *words: str, config: Path | None = None, **variables: str) -> Iterator["Attached"]:
        """A Ray that `script` of this folder starts, and `farm serve --attach` beside its head.

        The script is given `words` and the dashboard's port, prints its Ray's address as JSON, and ends with its stdin.
        """
        inherited = environment(self.settings, token(self.home)) | self.environment | variables
        command = [sys.executable, str(Path(__file__).with_name(script)), *words, str(free_port())]
        ray = subprocess.Popen(command, env=inherited, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert ray.stdin is not None
        assert ray.stdout is not None
        address = json.loads(ray.stdout.readline())["address"]
        try:
            with self.dispatching(address, inherited, config) as serve:
                yield Attached(address, inherited, serve)
        finally:
            ray.stdin.close()
            ray.wait(timeout=60)

    @contextmanager
    def dispatching(
        self, address: str, variables: dict[str, str], config: Path | None = None
    ) -> Iterator[subprocess.Popen[bytes]]:
        """`farm serve --attach` beside a Ray that runs."""
        scaled = ["--autoscaling-config", str(config)] if config else []
        said = self.home / "serve.out"
        with said.open("w") as output:
            serve = subprocess.Popen(
                [*self.command, "serve", "--attach", address, *scaled], env=variables, stdout=output, stderr=output
            )
        try:
            wait_until(lambda: serving.facts(self.settings) or serve.poll() is not None, "farm serve is up", seconds=60)
            assert serve.poll() is None, said.read_text()
            yield serve
        finally:
            serve.terminate()
            serve.wait(timeout=60)

    def run(self, *words: str, code: int = 0, seconds: float = 500) -> subprocess.CompletedProcess[str]:
        """Run `farm WORDS` and check its exit code."""
        done = subprocess.run(
            [*self.command, *words],
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=seconds,
            cwd=self.home,
            check=False,
        )
        assert done.returncode == code, f"{words}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    def json(self, *words: str) -> Any:
        return json.loads(self.run(*words).stdout)["data"]

    def dashboard(self, path: str) -> Any:
        """What the dashboard's pages are made of."""
        facts = serving.facts(self.settings)
        assert facts is not None
        assert facts.token_path is not None
        secret = Path(facts.token_path).read_text().strip()
        request = urllib.request.Request(facts.dashboard + path, headers={"Authorization": f"Bearer {secret}"})
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.load(answer)

    def submit(self, name: str, **changes: Any) -> list[str]:
        """Write a study file, submit it, and return the ids of its runs."""
        path = self.home / f"{name}.toml"
        path.write_text(study_text(name, **changes))
        self.run("submit", str(path))
        with self.queue() as queue:
            return [status.run.id for status in queue.listing.statuses(name)]

    @contextmanager
    def queue(self) -> Iterator[Queue]:
        with session(self.settings) as redis:
            yield Queue(redis)

    def wait_for(self, run_id: str, state: State, seconds: float = 400) -> Status:
        """Wait until a run is in `state`."""
        with self.queue() as queue:
            wait_until(lambda: self._is(queue.listing.status(run_id), state), f"{run_id} is {state}", seconds)
            return queue.listing.status(run_id)

    def wait_for_end(self, run_id: str, seconds: float = 400) -> State:
        """Wait until a run, or an evaluation, has ended, however it does."""
        with self.queue() as queue:
            wait_until(lambda: queue.listing.status(run_id).state.is_final, f"{run_id} has ended", seconds)
            return queue.listing.status(run_id).state

    def _is(self, status: Status, state: State) -> bool:
        assert status.state is state or not status.state.is_final, f"{status.run.id} is {status.state}: {status.causes}"
        return status.state is state

    def wait_for_checkpoint(self, run_id: str, seconds: float = 300) -> Status:
        """Wait until a run trains and a checkpoint of it is on the disk."""
        with self.queue() as queue:
            wait_until(lambda: queue.listing.status(run_id).checkpoint, f"{run_id} has a checkpoint", seconds)
            assert queue.listing.status(run_id).state is State.RUNNING
            return queue.listing.status(run_id)

    def wait_for_event(self, run_id: str, event: str, seconds: float = 100) -> None:
        """Wait until something was noted of a run."""
        with self.queue() as queue:
            seen = f"{run_id} has the event {event}"
            wait_until(lambda: event in [found.event for found in queue.listing.events(run_id)], seen, seconds)

    def wait_for_step(self, run_id: str, step: int, seconds: float = 100) -> Status:
        """Wait until the curve of a run has reached a step."""
        with self.queue() as queue:
            reached = lambda: max((point.step for point in queue.listing.curve(run_id)), default=0)  # noqa: E731
            wait_until(lambda: reached() >= step, f"{run_id} is at step {step}", seconds)
            return queue.listing.status(run_id)

    def agent(self, run_id: str) -> psutil.Process:
        """The process that drives the running attempt of `run_id`."""
        for process in self._own_processes():
            words = process.cmdline()
            if "workers.attempt.agent" in words and run_id in words and not words[0].endswith("sh"):
                return process
        raise AssertionError(f"no agent of {run_id}")

    def trainer(self, run_id: str) -> psutil.Process:
        """The worker process of `run_id` that writes its ledger: rank 0."""
        folder = f"{self.home}/"
        for process in self._own_processes():
            try:
                paths = [file.path for file in process.open_files()]
            except psutil.Error:
                continue
            if any(path.startswith(folder) and path.endswith("/ledger.jsonl") and run_id in path for path in paths):
                return process
        raise AssertionError(f"nobody writes the ledger of {run_id}")

    def _own_processes(self) -> list[psutil.Process]:
        facts = serving.facts(self.settings)
        assert facts is not None, "the farm is up"
        found = []
        for process in psutil.Process(facts.pid).children(recursive=True):
            try:
                process.cmdline()
            except psutil.Error:
                continue
            found.append(process)
        return found


@pytest.fixture(scope="session")
def walk_farm() -> type[Farm]:
    """For a farm that a test starts by itself."""
    return Farm


class Stranger:
    """Another cluster, a proxy, another Redis: what a shell may name, and what nobody is to call for this farm."""

    def __init__(self, listener: socket.socket):
        self.callers: list[object] = []
        self.place = f"127.0.0.1:{listener.getsockname()[1]}"
        threading.Thread(target=self._listen, args=(listener,), daemon=True).start()

    def _listen(self, listener: socket.socket) -> None:
        with suppress(OSError):
            while True:
                caller, _ = listener.accept()
                with suppress(OSError), caller:
                    caller.settimeout(1.0)
                    self.callers.append(caller.recv(1000))

    @property
    def variables(self) -> dict[str, str]:
        url = f"http://{self.place}"
        own = dict.fromkeys(("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS", "http_proxy", "HTTP_PROXY", "ALL_PROXY"), url)
        own |= {"RAY_REDIS_ADDRESS": self.place, "RAY_AUTH_TOKEN": "0" * 64, "no_proxy": ""}
        return own | {"RAY_JOB_HEADERS": '{"Authorization": "Bearer wrong"}', "RAY_OVERRIDE_RESOURCES": '{"CPU": 0}'}


@pytest.fixture(scope="session")
def stranger() -> Iterator[Stranger]:
    """A listener that must stay silent."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield Stranger(listener)
        listener.shutdown(socket.SHUT_RDWR)


SHADOWS = ("model", "farm", "cli", "workers", "torch", "ray")


@pytest.fixture(scope="package")
def farm(tmp_path_factory: pytest.TempPathFactory, stranger: Stranger) -> Iterator[Farm]:
    """A farm that is up. It is taken down after the last test of this folder, and nothing of it may be left.

    Its commands are typed in a folder full of modules named as those that it needs, in a shell full of variables that
    name somebody else, where temporary files have a long path.
    """
    farm = Farm(tmp_path_factory.mktemp("farm"))
    for name in SHADOWS:
        (farm.home / f"{name}.py").write_text(f"raise ImportError('{name}.py of the working folder')\n")
    (farm.home / ".netrc").write_text("default login somebody password else\n")
    (farm.home / ".netrc").chmod(0o600)
    temporary = farm.home / ("t" * 60)
    temporary.mkdir()
    farm.environment |= stranger.variables | {"TMPDIR": str(temporary)}
    farm.run("up")
    facts = serving.facts(farm.settings)
    assert facts is not None
    children = psutil.Process(facts.pid).children(recursive=True)
    try:
        yield farm
    finally:
        farm.run("down")
        _, alive = psutil.wait_procs([psutil.Process(p.pid) for p in children if p.is_running()], timeout=20)
        left = [process for process in alive if process.status() != psutil.STATUS_ZOMBIE]
        assert not left, f"farm down left {left}"


MORE = """
[interventions.remove-dropout]
model.dropout = 0.0
[evaluations.late]
offset = 4096
sequences = 32
"""


class Walked(NamedTuple):
    """A study that was submitted and waited for."""

    farm: Farm
    ids: list[str]
    results: dict[str, Result]


@pytest.fixture(scope="package")
def walked(farm: Farm) -> Walked:
    """Its runs: the baseline on two machine classes, an intervention on one."""
    ids = farm.submit("walk", machines='["cpu-x1", "cpu-x2"]', more=MORE)
    farm.run("watch", "walk")
    results = {run_id: result for run_id in ids if (result := farm.store.runs.result(run_id))}
    assert list(results) == ids, farm.run("runs", "walk").stdout
    return Walked(farm, ids, results)
