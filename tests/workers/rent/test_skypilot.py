"""The real SkyPilot, as farm drives it, on a local server that speaks the API of its Lambda cloud.

`make soak` installs it into .venv/sky. Its machines get no ssh here, so that a launch comes as far as a machine that
boots. The answers of the program that stands in for it elsewhere are held against its own.
"""

import json
import os
import random
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import psutil
import pytest
from lambda_server import KEY, LambdaCloud, lambda_cloud
from proxy import proxy
from sky_stand_in import Stand
from tls import Authority
from waiting import wait_until

from farm.errors import Guard, NoCapacity, NotFound
from farm.queue.rental import Rental
from farm.site import invitation
from workers.node import hardware
from workers.rent.engine import Way
from workers.rent.sky_command import Sky
from workers.rent.sky_engine import SkyEngine

ROOT = Path(__file__).resolve().parents[3]
PROGRAM = ROOT / ".venv" / "sky" / "bin" / "sky"
HOST = "cloud.lambdalabs.com"  # where SkyPilot has Lambda's API
CATALOGS = ".sky/catalogs/v8"
SKYPILOT_WAITS_SECONDS = 60  # for its server: WAIT_APISERVER_START_TIMEOUT_SEC in its source
NAME = "farm-12345678-8xa100m40-0001abcd"
TOKEN, PASSWORD = "t0ken-of-ray-0123456789", "s3cret-of-redis-0123456789"

pytestmark = [pytest.mark.long, pytest.mark.timeout(1800)]


class Real(NamedTuple):
    """SkyPilot with a home of its own, and the cloud that it rents from."""

    home: Path
    cloud: LambdaCloud


@pytest.fixture
def real(monkeypatch: pytest.MonkeyPatch) -> Iterator[Real]:
    assert PROGRAM.exists(), f"no {PROGRAM}: make soak installs it"
    home = Path(tempfile.mkdtemp(prefix="sky-"))
    authority = Authority(home)
    with lambda_cloud() as cloud:
        port = int(cloud.url.rpartition(":")[2])
        with proxy({HOST: (port, authority.context(HOST))}) as through:
            for name, value in {
                "HOME": str(home),
                "HTTPS_PROXY": through,
                "REQUESTS_CA_BUNDLE": str(authority.file),
                "SKYPILOT_API_SERVER_LOCAL_PORT": str(port_of_server()),
                "SKYPILOT_DISABLE_USAGE_COLLECTION": "1",
                "PATH": f"{PROGRAM.parent}:{ROOT / '.venv' / 'bin'}:/usr/bin:/bin",
            }.items():
                monkeypatch.setenv(name, value)
            try:
                yield Real(home, cloud)
            finally:
                stop_server()
                shutil.rmtree(home, ignore_errors=True)


def port_of_server() -> int:
    """A free port for SkyPilot's server, whose queue listens at another, which follows from it and must be free, too.

    It is even, and below the ports of outgoing connections; so the queue's is odd. For a connection Linux takes an even
    port, and one at the queue's port would keep the server from starting: one of another program, or SkyPilot's own,
    which tries to connect to its queue until that listens, and may so reach itself.
    """
    for port in random.sample(range(20000, 32768, 2), 100):
        with suppress(OSError):
            for one in (port, 50000 + (11 + port - 46580) % 10000):  # as in its server/requests/queues/mp_queue.py
                socket.create_server(("127.0.0.1", one)).close()
            return port
    raise AssertionError("no free port")


def stop_server() -> None:
    """That of this port alone."""
    subprocess.run([PROGRAM, "api", "stop"], check=True, capture_output=True)


def ready(real: Real) -> None:
    """Credentials, and SkyPilot's own price list of the cloud, which it would download."""
    keys = real.home / ".lambda_cloud" / "lambda_keys"
    keys.parent.mkdir()
    keys.write_text(f"api_key = {KEY}\n")
    lists = real.home / CATALOGS
    (lists / "common").mkdir(parents=True)
    python = PROGRAM.with_name("python")
    fetch = [python, "-m", "sky.catalog.data_fetchers.fetch_lambda_cloud"]
    subprocess.run(fetch, cwd=lists, check=True, capture_output=True)
    names = "".join(f"{name},['Lambda']\n" for name in ("A100", "A10", "H100"))
    (lists / "common" / "accelerators.csv").write_text(f"AcceleratorName,Clouds\n{names}")
    (lists / "common" / "metadata.csv").write_text("GPU,MemoryGB,Manufacturer\nA100,40,NVIDIA\n")


def wanted(**changes: object) -> Rental:
    told = {"name": NAME, "keeper": "here", "cloud": "skypilot", "machine": "8xa100m40", "max_usd_per_hour": 12.0,
            "hours": 1.0, "idle_minutes": 10.0, "ssh_key": "", "ssh": "", "asked": 0.0, "launched": 1.8e9,
            "region": "lambda/us-east-1"}  # fmt: skip
    return Rental.model_validate(told | changes)


def test_skypilot_answers_as_farm_reads_it_and_rents_and_ends_a_machine(real: Real, tmp_path: Path) -> None:
    there = invitation.Invitation(head="head", ray="10.8.0.1:6379", token=TOKEN, redis=f"redis://:{PASSWORD}@10.8.0.1/0",
                                  storage="s3://b/farm")  # fmt: skip
    (tmp_path / "home").mkdir()
    invitation.write(tmp_path / "home" / invitation.FILE, there)
    (tmp_path / "home" / "rented" / NAME).mkdir(parents=True)
    engine = SkyEngine(tmp_path / "home", hardware.provenance, str(PROGRAM))
    with pytest.raises(NotFound, match="may use no cloud"):
        engine.agree("8xa100m40", None, None, Way())
    ready(real)
    (offer,) = engine.agree("8xa100m40", None, None, Way()).offers
    assert (offer.type, offer.usd_per_hour, "lambda/us-east-1" in offer.regions) == ("lambda gpu_8x_a100", 11.84, True)
    with pytest.raises(Guard, match=r"costs \$11\.84/h at lambda gpu_8x_a100, more than \$10\.00/h"):
        engine.agree("8xa100m40", 10.0, "lambda/us-east-1", Way())

    assert engine.instances() == []
    engine.launch(wanted())
    assert "Not enough capacity to fulfill launch request" in refused(engine)
    real.cloud.capacity["gpu_8x_a100"] = ["us-east-1"]
    engine.launch(wanted(max_usd_per_hour=10.0))
    assert "Catalog does not contain any instances satisfying the request" in refused(engine)
    assert (real.cloud.alive(), engine.instances()) == ([], []), "L1"

    engine.launch(wanted())
    wait_until(lambda: real.cloud.alive(), "it is launched", 300)
    (booting,) = SkyEngine(tmp_path / "home", hardware.provenance, str(PROGRAM)).instances()
    assert (booting.id, booting.status, booting.address) == (NAME, "booting", NAME), "L2: found by its name"
    place = ("lambda gpu_8x_a100", "lambda/us-east-1", 11.84)
    assert (booting.type, booting.region, booting.usd_per_hour) == place
    assert engine.is_launching(NAME)
    engine.launch(wanted())  # as after a crash
    compare_with_the_stand_in(tmp_path)
    engine.end(NAME, [])
    assert (real.cloud.alive(), engine.instances()) == ([], []), "L3: also what is being launched"
    assert len(real.cloud.instances) == 1, "a name is launched once"
    engine.end(NAME, [])

    stop_server()  # whose files come and go
    for secret in (TOKEN, PASSWORD):
        for path in real.home.rglob("*"):
            assert not path.is_file() or secret.encode() not in path.read_bytes(), f"{path} has a secret in it"


def test_a_server_that_this_machine_is_too_slow_to_start_is_waited_for(real: Real) -> None:
    """It is stopped as soon as it is there, for longer than SkyPilot waits for it."""
    stopped: list[psutil.Process] = []

    def stop_the_first() -> bool:
        port = f"--port={os.environ['SKYPILOT_API_SERVER_LOCAL_PORT']}"
        stopped.extend(one for one in psutil.process_iter(["cmdline"]) if port in (one.info["cmdline"] or ()))
        for server in stopped:
            server.suspend()
        return bool(stopped)

    with ThreadPoolExecutor(1) as other:
        clouds = other.submit(Sky(str(PROGRAM)).clouds)
        wait_until(stop_the_first, "a server", 120)
        time.sleep(SKYPILOT_WAITS_SECONDS + 5)
        for server in stopped:
            server.resume()
        with pytest.raises(NotFound, match="may use no cloud"):
            clouds.result()


def refused(engine: SkyEngine) -> str:
    """Why a launch came to nothing."""

    def over() -> str | None:
        try:
            engine.is_launching(NAME)
        except NoCapacity as error:
            return str(error)
        return None

    return wait_until(over, "the launch fails", 300)


def compare_with_the_stand_in(folder: Path) -> None:
    """What it prints has every field that the program prints which stands in for it, with values of the same type."""
    stand = Stand(folder / "stand")
    stand.add(NAME)
    for words in (
        ("check", "-o", "json"),
        ("gpus", "list", "A100:8", "--infra", "lambda", "--all-regions", "-o", "json"),
        ("status", "--refresh", "-o", "json", "--no-show-managed-jobs", "--no-show-services", "--no-show-pools"),
    ):
        ours, theirs = Sky(str(stand.command))._json(*words), Sky(str(PROGRAM))._json(*words)
        assert shape(ours, theirs), f"{words}: {json.dumps(ours)} is not as {json.dumps(theirs)}"
    stand.close()


def shape(ours: object, theirs: object) -> bool:
    """Whether the first has no key that the second lacks, and the same types."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        return all(key in theirs and shape(value, theirs[key]) for key, value in ours.items())
    if isinstance(ours, list) and isinstance(theirs, list):
        return all(shape(one, theirs[0]) for one in ours) if theirs else not ours
    return type(ours) is type(theirs)
