"""The reason why no Redis answers: nothing listens, the other end hung up, or only one end speaks TLS."""

import socket
import ssl
from contextlib import suppress

from redis import Redis
from redis.exceptions import InvalidResponse, ResponseError

from farm.errors import BadSetting, FarmError, Refused, Unreachable
from farm.site import answers
from farm.site.urls import address, is_secure

PAGE = "docs/machines/security.md#the-url-of-redis"
NO_ANSWER = "Timeout connecting"  # to the call, or to the greeting of TLS
HUNG_UP = ("closed by server", "reset by peer", "Broken pipe")
NOT_TLS = ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "record layer failure")  # as OpenSSL says
GREETING_SECONDS = 3.0  # for a TLS handshake, after plain words were refused


def explain_silence(client: Redis, error: Exception) -> FarmError:
    """The error for a server that did not answer `client` and failed with `error`."""
    return (
        _mismatch(client, error)
        or _greeting_error(client, error)
        or Unreachable(
            f"no Redis answers at {address(client)}: {words_of(error)}.",
            remedy="Is it running, and FARM_REDIS_URL right?",
            page=PAGE,
            silent=words_of(error),
        )
    )


def _mismatch(client: Redis, error: Exception) -> FarmError | None:
    """The error where only one end speaks TLS, or its certificate is refused; None if that is not the cause."""
    place, said = address(client), str(error)
    if "CERTIFICATE_VERIFY_FAILED" in said:
        reason = said.partition("certificate verify failed: ")[2].partition(" (_ssl")[0].rstrip(".") or said
        if "mismatch" in reason or "not valid for" in reason:
            return Refused(
                f"the certificate of {place} is for a different host: {reason}.",
                remedy="Write the name that it was made for in FARM_REDIS_URL.",
                page=PAGE,
            )
        return Refused(
            f"the certificate of {place} is not trusted here: {reason}.",
            remedy="Set FARM_REDIS_CA to the file of the authority that signed it.",
            page=PAGE,
        )
    if any(word in said for word in NOT_TLS) or (
        is_secure(client) and said.startswith(NO_ANSWER) and _speaks_plainly(client)
    ):
        return BadSetting(
            f"{place} does not speak TLS.",
            remedy="Write redis:// in FARM_REDIS_URL, or give that server a certificate.",
            page=PAGE,
        )
    if _is_hung_up(error) and not is_secure(client) and _speaks_tls(client):
        return BadSetting(f"{place} speaks TLS only.", remedy="Write rediss:// in FARM_REDIS_URL.")
    return None


def _greeting_error(client: Redis, error: Exception) -> FarmError | None:
    """Why a server hung up, if it tells every caller: the client may lose that answer when it sends more."""
    if not _is_hung_up(error) or is_secure(client):
        return None
    with suppress(OSError), _connect(client) as line:
        said = line.recv(4096).decode(errors="replace")
        return answers.explain(ResponseError(said[1:].strip()), address(client)) if said.startswith("-") else None
    return None


def _is_hung_up(error: Exception) -> bool:
    said = str(error)
    return isinstance(error, InvalidResponse) or any(word in said for word in HUNG_UP)


def _speaks_tls(client: Redis) -> bool:
    """Whether a server that refused plain text shakes hands by TLS. No secret is sent, whichever it is."""
    anybody = ssl.create_default_context()
    anybody.check_hostname, anybody.verify_mode = False, ssl.CERT_NONE
    with suppress(OSError), _connect(client) as line, anybody.wrap_socket(line):
        return True
    return False


def _speaks_plainly(client: Redis) -> bool:
    """Whether a server that does not shake hands answers a PING, even with "no password"."""
    with suppress(OSError), _connect(client) as line:
        line.sendall(b"PING\r\n")
        return line.recv(1) in (b"+", b"-")
    return False


def _connect(client: Redis) -> socket.socket:
    """Raises: OSError"""
    options = client.connection_pool.connection_kwargs
    if path := options.get("path"):
        raise OSError(f"{path} is not an address")  # or it would call whoever has Redis' own port here
    return socket.create_connection((options.get("host"), options.get("port", 6379)), timeout=GREETING_SECONDS)


def words_of(error: Exception) -> str:
    """Its words, without the full stop: a sentence goes on after them."""
    return str(error).rstrip(".")
