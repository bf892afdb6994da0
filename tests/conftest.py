"""A Redis of our own for the whole session, on a free port, empty for every test."""

import os
import secrets
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest
from redis import Redis
from s3_server import BUCKET, S3Server, s3_server
from waiting import wait_until
from xdist.remote import Producer
from xdist.scheduler import LoadFileScheduling

from farm.queue.queue import Queue
from farm.site.client import connect
from farm.site.server import Server

PREFIX = "farm:"

if shutil.which("nvidia-smi"):
    os.environ["CUDA_VISIBLE_DEVICES"] = ""  # tests are of training on CPUs; `make bench-gpu` is for what a GPU does
os.environ["TRITON_INTERPRET"] = "1"  # kernels run on the CPU; read when Triton is imported, which torch may do early

slow = [hypothesis.HealthCheck.too_slow]  # other sessions may have the processor for a second
hypothesis.settings.register_profile("farm", deadline=None, suppress_health_check=slow)
hypothesis.settings.load_profile("farm")

signal.signal(signal.SIGINT, signal.default_int_handler)  # started in the background it is ignored, by children as well


RAYS = ("tests/walk/", "tests/workers/head/test_embedded.py")  # what starts a Ray: never two at once


class Scheduling(LoadFileScheduling):
    """A file runs in one process, and all that starts a Ray in the same one."""

    def _split_scope(self, nodeid: str) -> str:
        return "a Ray" if nodeid.startswith(RAYS) else super()._split_scope(nodeid)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> Scheduling:
    return Scheduling(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes longest comes first, so that no core waits for it at the end: Rays, then the files of tests/model.

    Of the Rays, that of the farm which many tests share comes last, so that it is up for as long as it is needed.
    """

    def turn(item: pytest.Item) -> tuple[int, bool]:
        starts_ray = item.nodeid.startswith(RAYS)
        shares = starts_ray and "farm" in getattr(item, "fixturenames", ())
        return 0 if starts_ray else 1 if item.nodeid.startswith("tests/model/") else 2, shares

    items.sort(key=turn)


@pytest.fixture(scope="session")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a redis-server that belongs to these tests, stopped at their end."""
    server = Server(Path(tmp_path_factory.mktemp("redis")))
    url = server.start()
    try:
        with connect(url) as client:  # leases shorter than its uptime expire as they would on an old server
            wait_until(lambda: client.info("server")["uptime_in_seconds"] >= 1, "the server is a second old")
        yield url
    finally:
        server.stop()


@pytest.fixture
def redis(redis_url: str) -> Iterator[Redis]:
    """A client of that server, which holds no key; afterwards all that is left must lie under the prefix."""
    with connect(redis_url) as client:
        assert not client.keys(), "the test before left keys behind"
        yield client
        strangers = [key for key in client.scan_iter() if not key.startswith(PREFIX)]
        databases = list(client.info("keyspace"))
        client.flushdb()
        assert not strangers, "keys outside the prefix"
        assert databases in ([], ["db0"]), "keys in other databases"


@pytest.fixture
def queue(redis: Redis) -> Queue:
    """A queue whose back-off is 1 ms at most."""
    return Queue(redis, PREFIX, backoff_seconds=0.001, backoff_limit_seconds=0.001)


@pytest.fixture(scope="session")
def s3() -> Iterator[S3Server]:
    """An S3 server that belongs to these tests."""
    with s3_server() as server:
        yield server


@pytest.fixture
def s3_uri(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> str:
    """An empty storage on that server, with the environment to reach it."""
    for name, value in s3.environment.items():
        monkeypatch.setenv(name, value)
    return f"s3://{BUCKET}/{secrets.token_hex(4)}"
