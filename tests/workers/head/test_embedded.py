"""`farm up` when it cannot, or when somebody else does the same. What it starts is real, as far as it gets."""

import signal
import socket
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
from waiting import wait_until

from farm.errors import BadSetting, Conflict, FarmError, Unreachable
from farm.queue.node import Head
from farm.queue.queue import Queue
from farm.record.result import Provenance
from farm.site import serving
from farm.site.server import Server
from farm.site.settings import Settings
from workers.head import embedded
from workers.head.serve import _alone


@pytest.fixture
def here(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path / "home", storage=tmp_path / "storage")


def test_a_home_that_cannot_be_made_is_a_bad_setting(here: Settings) -> None:
    here.home.write_text("")
    with pytest.raises(BadSetting, match="Set FARM_HOME elsewhere"):
        embedded.up(here)


def test_why_it_did_not_start_comes_with_its_own_exit_code_and_no_time_stamp(here: Settings) -> None:
    with pytest.raises(BadSetting) as caught:
        embedded.up(here, units={"8xa100m40": 1})
    assert str(caught.value).startswith("The farm did not start: --machine 8xa100m40 is 8 x A100")
    assert "ERROR" not in str(caught.value)


def test_a_bucket_that_this_machine_cannot_use_is_named_at_start(here: Settings, s3_uri: str) -> None:
    with pytest.raises(Unreachable) as caught:
        embedded.up(here.model_copy(update={"storage": "s3://not-there/farm"}))
    assert str(caught.value).startswith(
        "The farm did not start: s3://not-there/farm names a bucket that does not exist. Create"
    )


def test_a_redis_of_another_farm_is_named_before_ray_is_started(here: Settings, queue: Queue, redis_url: str) -> None:
    """Which would not start either: another has the port of its dashboard."""
    software = Provenance(farm="0", code="0", python="3", torch="2")
    queue.roster.publish(
        Head(host="there", ray="r", software=software, sources="/s", storage="/theirs", marker="theirs")
    )
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(BadSetting) as caught:
        embedded.up(here.model_copy(update={"redis_url": redis_url}), dashboard_port=taken.getsockname()[1])
    assert str(caught.value).startswith("The farm did not start: this Redis belongs to the farm on there with")


def test_a_home_holds_one_farm(here: Settings) -> None:
    with _alone(here.home), pytest.raises(Conflict, match="is up, starting or stopping"), _alone(here.home):
        pass
    with _alone(here.home):
        pass


HOLDER = """
import fcntl, pathlib, sys, time
home = pathlib.Path(sys.argv[1])
lock, log = (home / "serve.lock").open("w"), home / "serve.log"
fcntl.flock(lock, fcntl.LOCK_EX)
print(flush=True)
while not (log.exists() and "starting or stopping" in log.read_text()):
    time.sleep(0.1)
"""


def test_up_waits_for_whoever_holds_the_home(here: Settings) -> None:
    """The farm that holds it leaves without having been up; then this one is tried, and says what is wrong with it."""
    here.home.mkdir()
    here.storage.write_text("")
    with subprocess.Popen([sys.executable, "-c", HOLDER, str(here.home)], stdout=-1) as process:
        assert process.stdout is not None
        process.stdout.readline()
        with pytest.raises(FarmError, match="the storage"):
            embedded.up(here)
    assert "is up, starting or stopping" in (here.home / "serve.log").read_text()


STARTER = """
import pathlib, sys
from farm.site.settings import Settings
from workers.head import embedded
embedded.up(Settings(home=pathlib.Path(sys.argv[1]), storage=pathlib.Path(sys.argv[2])))
"""


def test_ctrl_c_while_it_starts_leaves_nothing_up(here: Settings) -> None:
    server = Server(here.home / "redis")
    with subprocess.Popen([sys.executable, "-c", STARTER, str(here.home), str(here.storage)], stderr=-3) as process:
        wait_until(lambda: server.url and server.is_running(), "Redis is up, and Ray next", seconds=60)
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=60) != 0
    assert not server.is_running()
    with _alone(here.home):  # nobody holds it any more
        pass


def test_a_ray_that_does_not_start_says_why_and_leaves_its_logs_and_no_folder(
    here: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What Ray raises for a port that is taken is no error of its own kind, and neither is a bare Exception."""
    with (
        tempfile.TemporaryDirectory(prefix="t-", dir="/tmp") as folder,
        socket.create_server(("127.0.0.1", 0)) as taken,
    ):
        monkeypatch.setenv("TMPDIR", folder)
        monkeypatch.setattr(tempfile, "tempdir", None)  # it was looked up before
        with pytest.raises(Unreachable) as caught:
            embedded.up(here, dashboard_port=taken.getsockname()[1])
        assert str(caught.value).startswith("The farm did not start: Ray did not start: ")
        assert f"{taken.getsockname()[1]}" in str(caught.value)
        assert f"Its logs are under {here.home}/ray-logs" in str(caught.value)
        assert list((here.home / "ray-logs").glob("gcs_server*"))
        assert list(Path(folder).iterdir()) == []


@pytest.mark.long
def test_a_ray_that_this_machine_is_too_slow_to_start_is_started_again(here: Settings) -> None:
    """Its raylet is stopped as soon as it is there, so that Ray waits for it for as long as it ever does."""
    stopped: list[psutil.Process] = []

    def stop_the_first() -> bool:
        farms = [one for one in psutil.Process().children() if "workers.head.serve" in one.cmdline()]
        stopped.extend(child for farm in farms for child in farm.children(recursive=True) if child.name() == "raylet")
        for raylet in stopped:
            raylet.suspend()
        return bool(stopped)

    with ThreadPoolExecutor(1) as other:
        facts = other.submit(embedded.up, here, units={"cpu-x1": 1})
        wait_until(stop_the_first, "a raylet", seconds=60)
        try:
            began = facts.result()
            assert serving.facts(here) == began
            said = (here.home / "serve.log").read_text(encoding="utf-8")
            assert "Ray did not start: The current node timed out during startup" in said
            assert not stopped[0].is_running()
        finally:
            embedded.down(here)
