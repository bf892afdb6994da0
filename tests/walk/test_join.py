"""Machines that join a farm, train, and leave: by a cloud's notice, by `farm drain`, by Ctrl-C. Each on a real Ray."""

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from metadata import served
from waiting import wait_until

from farm.site.server import Server
from farm.site.settings import Settings
from farm.study.run import State

HEAD, AWAY, HOME, IDLE = "127.0.31.1", "127.0.31.2", "127.0.31.3", "127.0.31.4"
STEPS = 4000  # more than it gets to


class Cluster:
    """A head with its dispatcher; machines join it."""

    def __init__(self, farm, address: str, variables: dict[str, str], folder: Path):
        self.farm, self.address, self.variables, self.folder = farm, address, variables, folder

    @contextmanager
    def joined(self, name: str, host: str, machine: str, **options: str) -> Iterator["Member"]:
        """A machine that joins, as `farm join` becomes it; it does not outlive the test."""
        words = {"name": name, "host": host, "machine": machine} | options
        with (self.folder / f"{name}.out").open("w") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "workers.node.join", f"--head={self.address}", "--options", json.dumps(words)],
                env=self.variables | {"FARM_HOME": str(self.folder / name)},
                stdout=output,
                stderr=output,
                cwd=self.folder,
            )
        member = Member(name, process, self.folder / f"{name}.out")
        try:
            yield member
        finally:
            if process.poll() is None:
                process.terminate()
            process.wait(timeout=120)


class Member:
    def __init__(self, name: str, process: subprocess.Popen, output: Path):
        self.name, self.process, self.output = name, process, output

    @property
    def said(self) -> str:
        return self.output.read_text()

    def wait_until_joined(self) -> None:
        wait_until(lambda: "joined as" in self.said or self.process.poll() is not None, f"{self.name} joined", 90)
        assert self.process.poll() is None, self.said

    def left(self) -> int:
        """The exit code of a machine that leaves by itself."""
        try:
            return self.process.wait(timeout=120)
        except subprocess.TimeoutExpired:
            raise AssertionError(self.said) from None


@pytest.fixture
def cluster(tmp_path: Path, walk_farm) -> Iterator[Cluster]:
    farm = walk_farm(tmp_path)
    redis = Server(tmp_path / "redis")
    url = redis.start()
    farm.settings = Settings(home=tmp_path, storage=tmp_path / "storage", redis_url=url)
    farm.environment |= {"FARM_REDIS_URL": url, "FARM_STORAGE": str(tmp_path / "storage")}
    try:
        with farm.attached("ray_head.py", HEAD) as ray:
            yield Cluster(farm, ray.address, ray.variables, tmp_path)
    finally:
        redis.stop()


def test_machines_join_train_and_leave_and_no_run_is_hurt(cluster):
    """One has nothing to do, until Ctrl-C. Then two take turns at one run: a notice ends the first, a drain the second.

    One after the other: Ray gives a node 30 s to start.
    """
    farm = cluster.farm
    with cluster.joined("idle", IDLE, "cpu-x2") as idle:
        idle.wait_until_joined()
        refusals(cluster)
        assert doing(farm) == {"idle": "idle: nothing queued for cpu-x2"}
        idle.process.send_signal(signal.SIGINT)
        assert idle.left() == 130, idle.said
    assert "leaving: Ctrl-C on " in idle.said
    assert "empty; stopping Ray" in idle.said

    (run_id,) = farm.submit("travels", tokens=256 * STEPS, checkpoint_seconds=0.5)
    with served("AWS") as cloud, cluster.joined("away", AWAY, "cpu-x1", metadata=cloud.url) as away:
        away.wait_until_joined()
        farm.wait_for_checkpoint(run_id)
        cloud.action = '{"action": "terminate", "time": "2030-01-01T00:02:00Z"}'
        assert away.left() == 0, away.said
    assert "leaving: AWS will terminate this spot instance at 2030-01-01T00:02:00Z" in away.said
    assert f"{run_id} was released: queued" in away.said

    with cluster.joined("home", HOME, "cpu-x1") as home:
        home.wait_until_joined()
        wait_until(lambda: len(farm.store.runs.attempts(run_id)) == 2, "home has begun", 90)
        assert doing(farm)["home"].startswith(f"{run_id} at step ")
        said = farm.run("drain", "home").stderr
        assert home.left() == 0, home.said
    assert f"{run_id} stopped and was released at step " in said
    assert "is empty; it leaves" in said
    assert "leaving: farm drain on " in home.said

    with farm.queue() as queue:
        status = queue.listing.status(run_id)
        assert (status.state, status.attempts, status.epoch) == (State.QUEUED, 0, 2)
        assert queue.roster.offers() == {"cpu-x1": [], "cpu-x2": []}
    first, second = farm.store.runs.attempts(run_id)
    assert (first.outcome, second.outcome) == ("released", "released")
    assert second.resumed_from.step > 0
    assert farm.run("drain", "homer", code=3).stderr.startswith("error: no node 'homer'")


def doing(farm) -> dict[str, str]:
    """What `farm machines` says of each node."""
    return {node["node"]: node["doing"] for row in farm.json("machines", "--json") for node in row["on"]}


def refusals(cluster: Cluster) -> None:
    """A machine with a wrong token, and one whose name is taken, are told so in one line."""
    wrong = cluster.folder / "wrong-token"
    wrong.write_text("0" * 64)
    said = join_refused(cluster, 4, RAY_AUTH_TOKEN_PATH=str(wrong))
    assert said.startswith(f"error: the Ray at {cluster.address} refused this machine's token. Copy the head's")
    said = join_refused(cluster, 6)
    assert said.startswith(f"error: another machine has joined as 'idle': {IDLE}, process ")
    assert "--name OTHER" in said


def join_refused(cluster: Cluster, code: int, **variables: str) -> str:
    """The one line that `farm join --name idle` says, not counting what it found out before."""
    done = subprocess.run(
        [*cluster.farm.command, "join", cluster.address, "--name", "idle", "--machine", "cpu-x1"],
        env=cluster.variables | {"FARM_HOME": str(cluster.folder / "refused")} | variables,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == code, done.stderr
    assert "gcs_client.cc" not in done.stderr, "what Ray's C++ logs"
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error")]
    return line
