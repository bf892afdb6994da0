"""The time that a command has with this farm's Redis: the shared one, or the embedded one.

The first command starts the embedded server, and the last one stops it.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

from redis import Redis
from redis.exceptions import ResponseError

from farm.errors import BadSetting, Unreachable
from farm.files import Lock, lock
from farm.site import tunnel
from farm.site.client import client_of, connect, translate_errors
from farm.site.server import Server
from farm.site.settings import Settings, make_home
from farm.site.silence import words_of
from farm.site.urls import LOOPBACK
from farm.study import endpoint

GLANCE_SECONDS = 0.5  # a shell that completes does not wait longer


@contextmanager
def session(settings: Settings) -> Iterator[Redis]:
    """A client of this farm's Redis: the shared one of `settings.redis_url`, else the embedded one, started if need be.

    Commands that run at the same time share the embedded server: each holds a shared lock on it, and the last one stops
    it.

    Raises: Unreachable, Refused, BadSetting
    """
    if settings.redis_url:
        with (
            _name_the_tunnel(settings, settings.redis_url),
            connect(settings.redis_url, settings.redis_ca) as client,
        ):
            yield client
        return
    server = Server(settings.home / "redis")
    make_home(server.folder)
    with Lock(server.folder / "users.lock") as users:
        try:
            with lock(server.folder / "gate.lock"):  # held only while somebody comes or goes
                users.share()
                url = server.start()
            with connect(url) as client:
                yield client
        finally:
            with lock(server.folder / "gate.lock"):
                if users.try_take():  # then nobody else holds it, and nobody can come in between
                    server.stop()


@contextmanager
def _name_the_tunnel(settings: Settings, url: str) -> Iterator[None]:
    """Where `url` is the near end of a tunnel, and there is no answer, say so: no setting names it.

    Raises: Unreachable
    """
    head = tunnel.head(settings.home, url)
    try:
        yield
    except Unreachable as error:
        if head is None or "silent" not in error.fields:
            raise
        if tunnel.head(settings.home, url) is None:
            raise Unreachable(f"the tunnel to {head} was closed.", remedy=f"Open it: farm connect {head}") from None
        raise Unreachable(
            f"no Redis answers through the tunnel to {head}: {error.fields['silent']}.",
            remedy="`farm connect` opens it again when the link is back, and says so; or is the farm there down?",
            page="docs/machines/laptop.md#through-ssh",
        ) from None


@contextmanager
def glance(settings: Settings) -> Iterator[Redis]:
    """As `session`, for callers that prefer no answer to waiting: tries once, checks nothing and starts nothing.

    Raises: Unreachable, Refused, BadSetting
    """
    url = settings.redis_url or Server(settings.home / "redis").url
    if url is None:
        raise Unreachable("no farm has been up here.")
    with (
        client_of(url, retries=0, seconds=GLANCE_SECONDS, authorities=settings.redis_ca) as client,
        translate_errors(client),
    ):
        yield client


def revive(settings: Settings) -> None:
    """Start the embedded server again where it died while a session was open; a shared one is left to its owner.

    Raises: Unreachable: it does not start.
    """
    if settings.redis_url is None:
        server = Server(settings.home / "redis")
        with lock(server.folder / "gate.lock"):
            server.start()


def listen(settings: Settings, host: str | None) -> str:
    """Let the embedded server, which runs, listen on `host` besides loopback, or on loopback alone; its URL there.

    Raises: BadSetting: another program has its port there. Unreachable, Refused
    """
    url = Server(settings.home / "redis").url
    assert url is not None
    port, wanted = urlsplit(url).port, LOOPBACK if host is None else f"{LOOPBACK} {host}"
    with connect(url) as client:
        try:
            if client.config_get("bind")["bind"] != wanted:  # or it would hang up on whoever calls at this moment
                client.config_set("bind", wanted)
        except ResponseError as error:
            raise BadSetting(
                f"Redis cannot listen on {endpoint.host_port(host or LOOPBACK, port or 0)}: {words_of(error)}.",
                remedy="Stop the program that has this port there, or share another address.",
            ) from None
    return url.replace(f"@{LOOPBACK}:", f"@{endpoint.bracket(host or LOOPBACK)}:")
