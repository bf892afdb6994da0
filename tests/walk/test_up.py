"""A farm of its own, brought up under the worst of conditions: twice at once, beside another Ray, its Redis killed."""

import os
import signal
import socket
import subprocess
from contextlib import closing, suppress
from pathlib import Path

import psutil
import pytest
from waiting import wait_until

from farm.site.server import Server
from farm.site.settings import Settings
from farm.study.processor import instruction_set
from farm.study.run import State

PAIR = """
[machines.pair]
accelerators = 2
memory = "1GiB"
threads = 1
usd_per_hour = 0.5
"""
AGENTS_PORT = 52365  # which every Ray wants on 127.0.0.1 unless told otherwise


@pytest.fixture
def crowded():
    """A machine where another Ray has the port of Ray's agents; or has it already."""
    with closing(socket.socket()) as taken:
        with suppress(OSError):
            taken.bind(("127.0.0.1", AGENTS_PORT))
            taken.listen()
        yield


def servers(home: Path) -> list[psutil.Process]:
    """The processes that serve the farm of `home`."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if "workers.head.serve" in process.cmdline() and process.environ().get("FARM_HOME") == str(home):
                found.append(process)
    return found


@pytest.mark.usefixtures("crowded")
def test_two_ups_at_once_are_one_farm_which_trains_and_outlives_its_redis(walk_farm, tmp_path):
    farm, typed = walk_farm(tmp_path), tmp_path / "typed"
    typed.mkdir()
    (typed / "farm.toml").write_text(PAIR)
    up = [*farm.command, "up", "--machine", "cpu-x1", "--machine", "pair"]
    both = [subprocess.Popen(up, env=farm.environment, cwd=typed) for _ in range(2)]
    targets = tmp_path / "prometheus-targets.json"
    try:
        assert [process.wait(timeout=200) for process in both] == [0, 0]
        wait_until(targets.exists, "what Prometheus may scrape is listed", 30)
        wait_until(lambda: len(servers(tmp_path)) == 1, "one of the two farms has left")
        with farm.queue() as queue:
            told, declared = queue.roster.machines()["pair"], Settings.load({}, (typed / "farm.toml",)).machines["pair"]
            assert told == declared.model_copy(update={"instruction_set": instruction_set()}), "as it says there"
        (run_id,) = farm.submit("crowded")
        redis = Server(tmp_path / "redis")
        assert redis.pid is not None
        os.kill(redis.pid, signal.SIGKILL)
        wait_until(lambda: not redis.is_running(), "Redis is dead")
        wait_until(redis.is_running, "Redis is back, though nobody typed a command", 30)
        farm.wait_for(run_id, State.SUCCEEDED)
    finally:
        farm.run("down")
    assert servers(tmp_path) == []
    assert not targets.is_symlink()
