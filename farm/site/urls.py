"""The URL of a Redis: its parts, and how it is shown without the password."""

import re
from urllib.parse import SplitResult, urlsplit

from redis import Redis, SSLConnection

from farm.errors import BadSetting
from farm.study import endpoint

LOOPBACK = "127.0.0.1"


def is_secure(client: Redis) -> bool:
    """Whether a client speaks TLS."""
    return issubclass(client.connection_pool.connection_class, SSLConnection)


def address(client: Redis) -> str:
    """Where a client connects to, without the password."""
    options = client.connection_pool.connection_kwargs
    place = options.get("path") or endpoint.host_port(options.get("host", "localhost"), options.get("port", 6379))
    return f"redis{'s' * is_secure(client)}://{place}/{options.get('db') or 0}"


def split(url: str) -> SplitResult:
    """The parts of a Redis URL.

    Raises: BadSetting: it is not one. A "/", "?" or "#" in the password would end the host, which would then be this
    one, or what follows an "@" in it; redis-py reads a database that is not a number as number 0.
    """
    try:
        place = urlsplit(url)
        place.port  # noqa: B018 - raises, too
    except ValueError:
        raise not_a_url(url) from None
    database = "" if place.scheme == "unix" else place.path.strip("/")  # there it is the path of a socket
    if url.count("@") > place.netloc.count("@") or place.fragment or not re.fullmatch("[0-9]{0,9}", database):
        raise not_a_url(url)
    return place


def not_a_url(url: str) -> BadSetting:
    """Without the text of the ValueError, which repeats a part of the URL: it may be of the password."""
    return BadSetting(
        f"redis_url {hide_password(url)!r} is not a Redis URL.",
        remedy="Write redis://:PASSWORD@HOST:PORT/0, or rediss:// for TLS; in PASSWORD, %2F for / and %40 for @.",
    )


def hide_password(url: str) -> str:
    """`url` without its password, for messages; whatever the password holds, it ends before the last "@".

    One that was meant to have a password and has no "@" after it may be nothing but password.
    """
    before, at, place = url.rpartition("@")
    scheme, colon, rest = (before if at else url).partition("://")
    if not at and rest.startswith(":"):
        return f"{scheme}://:..."
    return f"{scheme if colon else ''}{colon}{place}".partition("?")[0] if at else url.partition("?")[0]
