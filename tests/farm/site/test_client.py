"""A client that was found fit, and what is said of a Redis that is not there, or not fit."""

import os
import re
import signal
import socket
import threading
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from redis import Redis
from redis.exceptions import ResponseError
from waiting import wait_until

from farm.errors import BadSetting, Refused, StorageFull, Unreachable
from farm.site.client import connect, translate_errors
from farm.site.server import Server


def test_nobody_there_is_unreachable_and_the_password_is_not_told() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(Unreachable, match=rf"no Redis answers at redis://127.0.0.1:{port}/0: .*refused") as caught:
        connect(f"redis://:secret@127.0.0.1:{port}/0")
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("password", ["wrong", ""])
def test_a_wrong_or_missing_password_is_refused_at_once(redis_url: str, password: str) -> None:
    place = urlsplit(redis_url)
    with pytest.raises(Refused, match="refused the credentials") as caught:
        connect(f"redis://:{password}@127.0.0.1:{place.port}/0")
    assert "wrong@" not in str(caught.value)


@pytest.mark.parametrize(
    ("end", "words"),
    [
        ("99", r"has no such database: DB index is out of range\. End FARM_REDIS_URL with"),
        ("0?foo=secret", r"has an unknown option after its '\?'\. Leave it out\."),
    ],
)
def test_what_no_redis_has_is_a_bad_setting(redis_url: str, end: str, words: str) -> None:
    with pytest.raises(BadSetting, match=words) as caught:
        connect(redis_url.rpartition("/")[0] + f"/{end}")
    assert not {"secret", urlsplit(redis_url).password} & set(re.findall(r"[\w-]+", str(caught.value)))


def test_a_unix_socket_has_a_url(tmp_path: Path) -> None:
    """As tests/cluster and a head's own commands may use it; its path is no database."""
    with pytest.raises(Unreachable, match=f"no Redis answers at redis://{tmp_path}/redis.sock/0: "):
        connect(f"unix://:secret@{tmp_path}/redis.sock")


@pytest.mark.parametrize(
    ("key", "value", "fact"),
    [
        ("appendonly", "no", "has no append-only file"),
        ("appendfsync", "everysec", "has appendfsync everysec"),
        ("maxmemory-policy", "allkeys-lru", "has maxmemory-policy allkeys-lru"),
    ],
)
def test_a_server_that_may_lose_writes_is_not_used(server: Server, key: str, value: str, fact: str) -> None:
    with connect(server.url) as client:
        client.config_set(key, value)
    with pytest.raises(BadSetting, match=rf"{fact}, so it may lose acknowledged writes\. CONFIG SET {key} "):
        connect(server.url)


def test_a_restart_is_waited_for_even_with_the_shortest_of_random_waits(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("redis.backoff.random.random", lambda: 0.0)
    monkeypatch.setattr("redis.backoff.random.uniform", lambda low, _: low)
    with connect(server.url) as client:
        os.kill(server.pid, signal.SIGKILL)
        os.waitpid(server.pid, 0)
        starter = threading.Timer(1.0, server.start)
        starter.start()
        try:
            assert client.ping(), "the client tries again until the server is back"
        finally:
            starter.join()


def test_a_primary_that_became_a_replica_is_unreachable(server: Server) -> None:
    with connect(server.url) as client:
        script = client.register_script("return redis.call('SET', 'a', 1)")
        client.slaveof("127.0.0.1", 1)
        for write in (lambda: client.set("a", 1), script):
            with pytest.raises(Unreachable, match=r"is not accepting writes.*to the primary"), translate_errors(client):
                write()
        client.slaveof()
        assert script()


def test_a_redis_that_runs_somebodys_long_script_is_unreachable(server: Server) -> None:
    with connect(server.url) as client, connect(server.url) as other:
        client.config_set("lua-time-limit", 10)
        busy = threading.Thread(target=loop, args=(other,))
        busy.start()
        try:
            wait_until(lambda: is_busy(client), "Redis says that it is busy")
        finally:
            client.script_kill()
            busy.join()


def is_busy(client: Redis) -> bool:
    try:
        with translate_errors(client):
            client.set("a", 1)
    except Unreachable as error:
        return "BUSY" in str(error)
    return False


def loop(client: Redis) -> None:
    """Run a script that does not end; whoever kills it is told so."""
    with suppress(ResponseError):
        client.eval("while true do end", 0)


def test_a_full_memory_is_storage_full(server: Server) -> None:
    with connect(server.url) as client:
        client.config_set("maxmemory", "1")
        with pytest.raises(StorageFull, match="cannot write"), translate_errors(client):
            client.set("key", "value")
        with pytest.raises(StorageFull, match="cannot write"), translate_errors(client):
            client.eval("return redis.call('set', KEYS[1], '1')", 1, "key")


def test_a_client_speaks_text(redis: Redis) -> None:
    redis.set("farm:key", "é")
    assert redis.get("farm:key") == "é"


def test_an_ipv6_address_is_shown_in_brackets() -> None:
    with pytest.raises(Unreachable, match=r"redis://\[::1\]:1/0"):
        connect("redis://[::1]:1/0")
