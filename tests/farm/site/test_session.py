"""The embedded redis-server, shared by many commands at once; and a shared one, which is left alone."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from redis_servers import processes_in
from waiting import wait_until

from farm.errors import BadSetting, Refused, Unreachable
from farm.site.client import connect
from farm.site.server import Server
from farm.site.session import glance, listen, revive, session
from farm.site.settings import Settings
from farm.site.urls import address, hide_password

# What another command of the farm does: hold a session until its stdin closes.
HOLDER = """
import sys
from pathlib import Path
from farm.site.session import session
from farm.site.settings import Settings
with session(Settings(home=Path(sys.argv[1]), storage=Path(sys.argv[1]))) as redis:
    redis.incr("visits")
    print("in", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def here(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path / "a home", storage=tmp_path / "storage")


@contextmanager
def holder(here: Settings) -> Iterator[subprocess.Popen]:
    """Another process in a session."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(here.home)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "in\n"
        try:
            yield process
        finally:
            process.kill()


def leave(process: subprocess.Popen) -> None:
    assert process.stdin is not None
    process.stdin.close()
    assert process.wait(timeout=20) == 0


def test_a_session_starts_a_server_and_stops_it(here: Settings) -> None:
    server = Server(here.home / "redis")
    assert not server.is_running()
    with session(here) as redis:
        redis.set("key", "value")
        assert server.is_running()
    assert not server.is_running()
    with session(here) as redis:
        assert redis.get("key") == "value", "what was written stays"


def test_whoever_leaves_last_stops_the_server(here: Settings) -> None:
    server = Server(here.home / "redis")
    with session(here) as redis:
        with holder(here) as first, holder(here) as second:
            leave(first)
            assert redis.ping()
            leave(second)
        assert redis.get("visits") == "2"
    assert not server.is_running()


def test_the_server_survives_the_one_who_started_it(here: Settings) -> None:
    server = Server(here.home / "redis")
    with holder(here) as first, holder(here) as second:
        leave(first)
        assert server.is_running()
        leave(second)
    assert not server.is_running()


def test_a_holder_that_is_killed_does_not_keep_the_server_for_ever(here: Settings) -> None:
    server = Server(here.home / "redis")
    with holder(here) as process:
        process.kill()
        process.wait()
    assert server.is_running(), "there was nobody to stop it"
    with session(here) as redis:
        assert redis.get("visits") == "1"
    assert not server.is_running()


def test_many_commands_may_come_and_go_at_once(here: Settings) -> None:
    command = [sys.executable, "-c", HOLDER, str(here.home)]
    crowd = [subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL) for _ in range(6)]
    assert [process.wait(timeout=60) for process in crowd] == [0] * 6
    assert processes_in(here.home / "redis") == []
    with session(here) as redis:
        assert redis.get("visits") == "6"


def test_an_exception_inside_a_session_stops_the_server_too(here: Settings) -> None:
    with pytest.raises(ZeroDivisionError), session(here):
        raise ZeroDivisionError
    assert not Server(here.home / "redis").is_running()


def test_a_home_that_cannot_be_made_is_a_bad_setting(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    bad = Settings(home=tmp_path / "file" / "home", storage=tmp_path)
    with pytest.raises(BadSetting, match=r"cannot make .*Set FARM_HOME"), session(bad):
        pass


def test_a_session_with_a_url_uses_that_server_and_leaves_it_alone(here: Settings, redis_url: str) -> None:
    with session(here.model_copy(update={"redis_url": redis_url})) as redis:
        assert redis.ping()
    with connect(redis_url) as client:
        assert client.ping()
    assert not here.home.exists()


def test_a_server_that_dies_in_a_session_is_revived_for_all_that_know_it(here: Settings) -> None:
    with session(here) as redis:
        redis.set("kept", "1")
        server = Server(here.home / "redis")
        assert server.pid is not None
        os.kill(server.pid, signal.SIGKILL)
        wait_until(lambda: not server.is_running(), "the server is dead")
        revive(here)
        revive(here)
        assert redis.get("kept") == "1"


def test_a_shared_server_is_not_ours_to_revive(here: Settings) -> None:
    revive(here.model_copy(update={"redis_url": "redis://127.0.0.1:1/0"}))
    assert not here.home.exists()


def test_a_shared_server_listens_on_one_more_address_until_it_is_not_shared(here: Settings) -> None:
    with session(here):
        there = listen(here, "127.0.0.9")
        with connect(there) as client:
            assert address(client) == hide_password(there)
            assert urlsplit(there).hostname == "127.0.0.9"
            assert urlsplit(there).password, "never without"
        with pytest.raises(Refused, match="refused the credentials"):
            connect(hide_password(there))
        assert urlsplit(listen(here, None)).hostname == "127.0.0.1"
        with pytest.raises(Unreachable), glance(here.model_copy(update={"redis_url": there})) as client:
            client.ping()


def test_an_address_whose_port_somebody_else_has_is_named(here: Settings) -> None:
    with session(here), socket.socket() as other:
        other.bind(("127.0.0.9", urlsplit(Server(here.home / "redis").url).port))
        other.listen()
        with pytest.raises(BadSetting, match=r"Redis cannot listen on 127\.0\.0\.9:\d+: .*Stop the program"):
            listen(here, "127.0.0.9")
        assert urlsplit(listen(here, None)).hostname == "127.0.0.1", "it is still there"
