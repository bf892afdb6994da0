"""The way to a Redis, ours or any other: a client that was found fit, and Redis' errors as the farm's own."""

import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from redis import Redis
from redis.backoff import EqualJitterBackoff
from redis.exceptions import AuthenticationError, InvalidResponse, RedisError, ResponseError
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError
from redis.retry import Retry

from farm.errors import BadSetting
from farm.site import answers
from farm.site.silence import NO_ANSWER, NOT_TLS, explain_silence
from farm.site.standing import check, replica
from farm.site.urls import address, hide_password, not_a_url, split

SOCKET_SECONDS = 15.0
RETRIES = 5  # 0.2 s doubling to 1 s, each halved at most: 2 to 3 s in all, less than the time between two heartbeats


def connect(url: str, authorities: Path | None = None) -> Redis:
    """A client for the server at `url`, which was found alive, new enough, and set to keep what it acknowledges.

    A rediss:// server must show a certificate for its host name, signed by one of `authorities`, a file in PEM form, or
    by one that this machine trusts.

    Raises: Unreachable: there is no answer. Refused: the password is wrong, or the certificate not to be trusted.
    BadSetting: not a Redis URL, a database that is not there, TLS on one side only, older than 6.2, or a configuration
    that may lose acknowledged writes.
    """
    if authorities is not None:
        _check_authorities(authorities)
    split(url)
    try:
        client = client_of(url, authorities=authorities)
        _check_options(client, url)
    except ValueError:
        raise not_a_url(url) from None
    try:
        with translate_errors(client):
            check(client)
    except BaseException:
        client.close()
        raise
    return client


@contextmanager
def translate_errors(client: Redis) -> Iterator[None]:
    """Redis' errors as the farm's, naming the server without its password.

    Raises: Unreachable, Refused, StorageFull, BadSetting, FarmError
    """
    try:
        yield
    except RedisError as error:
        if reason := answers.explain(error, address(client)):
            raise reason from None
        if isinstance(error, RedisConnectionError | RedisTimeoutError | InvalidResponse):
            raise explain_silence(client, error) from None
        if isinstance(error, ResponseError) and (reason := answers.other(error, address(client))):
            raise reason from error
        raise


def _check_authorities(file: Path) -> None:
    """Raises: BadSetting: no certificates in it."""
    try:
        ssl.create_default_context(cafile=file)
    except OSError as error:  # an SSLError is one
        reason = error.strerror if error.filename or isinstance(error, FileNotFoundError) else "no certificate in it"
        raise BadSetting(
            f"redis_ca {str(file)!r}: {reason}.", remedy="Set FARM_REDIS_CA to a file in PEM form."
        ) from None


def _check_options(client: Redis, url: str) -> None:
    """Raises: BadSetting: the part after "?" is not an option of a connection."""
    pool = client.connection_pool
    try:
        pool.connection_class(**pool.connection_kwargs)
    except TypeError:
        raise BadSetting(
            f"redis_url {hide_password(url)!r} has an unknown option after its '?'.", remedy="Leave it out."
        ) from None


class _RetryWhileAway(Retry):
    """Tries again while the server is away, but not when it is there and says no."""

    def call_with_retry(self, do: Any, fail: Any, is_retryable: Any = None, with_failure_count: bool = False) -> Any:
        return super().call_with_retry(do, fail, _is_away, with_failure_count)


def _is_away(error: Exception) -> bool:
    final = ("CERTIFICATE_VERIFY_FAILED", NO_ANSWER, *NOT_TLS)  # to wait once for SOCKET_SECONDS is enough
    return not isinstance(error, AuthenticationError) and not any(word in str(error) for word in final)


def client_of(url: str, retries: int = RETRIES, seconds: float | None = None, authorities: Path | None = None) -> Redis:
    """A client for `url`, whose server is not checked yet. Raises: ValueError: `url` is not a URL."""
    trusted = {"ssl_ca_certs": str(authorities)} if authorities and url.startswith("rediss:") else {}
    return Redis.from_url(
        url,
        decode_responses=True,
        encoding_errors="replace",  # what is no text is no value of ours: whoever reads it will say so
        socket_timeout=seconds or SOCKET_SECONDS,
        socket_connect_timeout=seconds or SOCKET_SECONDS,
        health_check_interval=30,
        retry=_RetryWhileAway(EqualJitterBackoff(cap=1.0, base=0.1), retries),
        protocol=2,  # with 3, a missing password is reported as a malformed HELLO
        **trusted,
    )


def doubts(client: Redis) -> list[str]:
    """The facts of the server that this user may not see, so that it may lose acknowledged writes; and that it is a
    replica.

    Raises: BadSetting: it surely does not keep that.
    """
    with translate_errors(client):
        return [*check(client), *replica(client)]
