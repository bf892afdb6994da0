"""`farm connect HEAD`"""

import json
import shlex
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from typing import Annotated, NamedTuple
from urllib.parse import urlsplit

import typer

from cli.render import say
from farm.errors import BadSetting, FarmError, NotFound, Refused, Unreachable
from farm.site import tunnel
from farm.site.client import connect as checked
from farm.site.process import end_with_parent
from farm.site.server import free_port
from farm.site.settings import Settings, make_home
from farm.site.urls import split
from farm.study import endpoint

OPTIONS = {
    "ExitOnForwardFailure": "yes",
    "ConnectTimeout": "15",
    "ServerAliveInterval": "10",  # a lid that was closed is noticed after half a minute
    "ServerAliveCountMax": "3",
}
CARD = "redis/server.json"  # of a farm's own Redis, in its home
OPEN_SECONDS = 60.0  # somebody may have to type a passphrase
LOOK_SECONDS = 0.1
PAUSES = (1.0, 2.0, 5.0, 10.0, 30.0)  # before another try; the last one from then on

Head = Annotated[str, typer.Argument(metavar="HEAD", help="Its ssh destination: a host, user@host, or an alias.")]
Far = Annotated[
    str | None,
    typer.Option("--redis", metavar="URL", help="The farm's Redis as HEAD sees it; default: that of the farm there."),
]
Home = Annotated[str | None, typer.Option("--home", metavar="FOLDER", help="The farm's home on HEAD, if not ~/.farm.")]
Ssh = Annotated[str, typer.Option("--ssh", metavar="COMMAND", help="How to call ssh, e.g. 'ssh -p 2222'.")]


class Way(NamedTuple):
    """From a port of this machine to the Redis of a farm."""

    head: str
    near: str
    command: list[str]


def connect(head: Head, redis: Far = None, home: Home = None, ssh: Ssh = "ssh") -> None:
    """Reach the farm on HEAD through ssh; commands of this home use it until Ctrl-C.

    Opens a tunnel from a port of this machine to the Redis there, and opens it again whenever it breaks.
    """
    settings = Settings.load(through_tunnel=False)
    if settings.redis_url:
        raise BadSetting("FARM_REDIS_URL or a farm.toml names a Redis, which overrides a tunnel.", remedy="Unset it.")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that ssh is stopped, too
    make_home(settings.home)
    way = _way(head, redis or _ask(head, home, ssh), ssh)
    with tunnel.announce(settings.home, head, way.near):
        _keep(way, f"commands with the home {settings.home} use it now; Ctrl-C closes it")


def _way(head: str, far: str, ssh: str) -> Way:
    """Raises: BadSetting: `far` is not redis://."""
    place = split(far)
    if place.scheme != "redis" or not place.hostname:
        raise BadSetting(
            f"--redis: {place.scheme}://{place.hostname or ''} is not redis://HOST.",
            remedy="The tunnel encrypts everything.",
        )
    port = free_port()
    secret, at, _ = place.netloc.rpartition("@")
    forward = f"127.0.0.1:{port}:{endpoint.host_port(place.hostname, place.port or 6379)}"
    near = f"redis://{secret}{at}127.0.0.1:{port}{place.path or '/0'}"
    return Way(head, near, [*_words(ssh), "-N", "-L", forward, head])


def _words(ssh: str) -> list[str]:
    options = OPTIONS | ({} if sys.stdin.isatty() else {"BatchMode": "yes"})  # without a terminal nobody is asked
    return [*shlex.split(ssh), *(word for key, value in options.items() for word in ("-o", f"{key}={value}"))]


def _ask(head: str, home: str | None, ssh: str) -> str:
    """The Redis URL of the farm of HEAD in `home`, which is ~/.farm if left out; anyone who can log in there can read
    it.

    Raises: NotFound, Refused, Unreachable
    """
    place = shlex.quote(f"{home}/{CARD}") if home else f'"${{FARM_HOME:-$HOME/.farm}}/{CARD}"'
    command = [*_words(ssh), head, f"cat {place}"]
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, encoding="utf-8", errors="replace", check=False
    )
    if done.returncode == 255:  # ssh's own
        raise _error(head, done.stderr)
    try:
        return json.loads(done.stdout)["url"]
    except (ValueError, KeyError, TypeError):
        raise NotFound(
            f"{head} has no farm of its own in {home or '~/.farm'}.",
            remedy="Name its Redis: --redis redis://:PASSWORD@HOST:PORT/0; or its home: --home FOLDER",
        ) from None


def _keep(way: Way, hint: str) -> None:
    """Hold the tunnel open until Ctrl-C.

    Raises: Refused, Unreachable: the first try failed; later ones are repeated.
    """
    failures, hints = 0, [hint]
    while True:
        with subprocess.Popen(
            way.command,
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            errors="replace",
            preexec_fn=end_with_parent,  # or the port would lead to the head for good
        ) as ssh:
            try:
                _until_open(ssh, way)
                say(f"open: redis://127.0.0.1:{urlsplit(way.near).port} is the Redis of {way.head}")
                while hints:
                    say(hints.pop())
                failures = 0
                reason = str(_error(way.head, ssh.communicate()[1]))
            except FarmError as error:
                if hints:
                    raise
                reason = str(error)
            finally:
                ssh.terminate()
        pause = PAUSES[min(failures, len(PAUSES) - 1)]
        failures += 1
        say(f"closed: {reason} Trying again in {pause:g} s.")
        time.sleep(pause)


def _until_open(ssh: subprocess.Popen, way: Way) -> None:
    """Raises: Refused, Unreachable: also when there is no Redis at the other end, or not with that password."""
    port = urlsplit(way.near).port
    deadline = time.monotonic() + OPEN_SECONDS
    while ssh.poll() is None and time.monotonic() < deadline:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1.0):
            return checked(way.near).close()
        time.sleep(LOOK_SECONDS)
    ssh.terminate()
    raise _error(way.head, ssh.communicate()[1])


def _error(head: str, said: str | None) -> FarmError:
    """The last line of ssh's output as a FarmError."""
    lines = [line.strip() for line in (said or "").splitlines() if line.strip()]
    reason = lines[-1].rstrip(".") if lines else "it said nothing"
    if "Permission denied" in reason or "Host key verification failed" in reason:
        return Refused(f"ssh to {head}: {reason}.", remedy=f"Try: ssh {head}")
    return Unreachable(f"ssh to {head} ended: {reason}.", remedy=f"Try: ssh {head}")
