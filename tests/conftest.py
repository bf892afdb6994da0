"""A Redis of our own for the whole session, on a free port, empty for every test."""

from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest
from redis import Redis
from waiting import wait_until

from farm.queue import Queue
from farm.server import Server, connect

PREFIX = "farm:"

hypothesis.settings.register_profile("farm", deadline=None)  # other sessions may have the processor for a second
hypothesis.settings.load_profile("farm")


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
