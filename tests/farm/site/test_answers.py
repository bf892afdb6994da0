"""Redis as services have it, each a real one: what it forbids, refuses or lacks has a line, and nothing ends for it."""

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from redis import Redis
from redis.exceptions import ResponseError
from redis_servers import KEPT, OLD_SERVER, Serve, redis_servers
from results import tiny_study
from waiting import wait_until

from farm.errors import BadSetting, FarmError, Refused, StorageFull, Unreachable, Unreadable
from farm.queue.queue import Queue
from farm.site.client import connect, doubts, translate_errors
from farm.study.run import State

UNSEEN = "cannot be seen there, so it may lose acknowledged writes unnoticed"


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    with redis_servers(tmp_path) as start:
        yield start


def plain(url: str) -> Redis:
    """A client that asks nothing beforehand."""
    return Redis.from_url(url, decode_responses=True, protocol=2)


def refusal(client: Redis, ask: Callable[[Redis], object]) -> FarmError:
    with pytest.raises(FarmError) as caught, translate_errors(client):
        ask(client)
    return caught.value


def works(url: str) -> None:
    """A run goes through the queue, and a lease that runs out is ended."""
    with connect(url) as client:
        queue = Queue(client)
        queue.put(tiny_study(init=(42,)))
        claim = queue.claim("cpu", "worker", 0.01)
        assert claim is not None
        wait_until(lambda: claim.run.id in queue.sweep(), "the lease expires")
        again = queue.claim("cpu", "worker", 60)
        assert again is not None
        assert again.lease.epoch == 2
        queue.renew(again.lease, 3)
        queue.release(again.lease, "drained")
        assert queue.listing.counts()[State.QUEUED] == 3


@pytest.mark.parametrize(
    ("forbidden", "unseen"),
    [
        (("CONFIG",), "appendfsync, maxmemory-policy"),
        (("INFO",), "its version"),
        (("CONFIG", "INFO"), "its version, appendonly, appendfsync, maxmemory-policy"),
    ],
)
def test_a_service_without_config_or_info_is_used_and_what_it_hides_is_said(
    forbidden: tuple[str, ...], unseen: str, serve: Serve
) -> None:
    url = serve(*KEPT, *(f'rename-command {name} ""' for name in forbidden))
    works(url)
    with connect(url) as client:
        assert doubts(client) == [f"{unseen} {UNSEEN}"]


def test_a_user_who_may_ask_neither_is_told_the_same(serve: Serve) -> None:
    url = serve(*KEPT, "user farm on >pw ~* &* +@all -info -config")
    theirs = url.replace("//", "//farm:pw@")
    works(theirs)
    with connect(theirs) as client:
        assert doubts(client) == [f"its version, appendonly, appendfsync, maxmemory-policy {UNSEEN}"]


def test_what_is_seen_to_be_wrong_is_refused_though_the_rest_is_hidden(serve: Serve) -> None:
    with pytest.raises(BadSetting, match="has no append-only file"):
        connect(serve("appendonly no", 'rename-command CONFIG ""'))
    with pytest.raises(BadSetting, match="has no append-only file"):
        connect(serve("appendonly no", 'rename-command INFO ""', folder="other"))


def test_q3_without_info_a_lease_has_its_length_once_more_and_a_renewed_one_lives(serve: Serve) -> None:
    with connect(serve(*KEPT, 'rename-command INFO ""')) as client:
        queue = Queue(client)
        queue.put(tiny_study(init=(42,)))
        claim = queue.claim("cpu", "worker", 0.3)
        assert claim is not None
        wait_until(lambda: client.hget(f"farm:run:{claim.run.id}", "late") or queue.sweep(), "it is seen to be late")
        queue.renew(claim.lease, 1, seconds=0.3)
        assert queue.sweep() == [], "as after a start, when it could not renew before"
        wait_until(lambda: queue.sweep() == [claim.run.id], "it is late again, for its own length")


def test_protected_mode_names_the_password_that_it_wants(serve: Serve) -> None:
    """It sees a client that does not come from 127.0.0.1. By a server of 6.2: Valkey 9 lets this one in."""
    port = urlsplit(serve(*KEPT, "protected-mode yes", bind="", binary=OLD_SERVER)).port
    with from_elsewhere(port) as near, pytest.raises(Refused, match=r"in protected mode: .*Set requirepass"):
        connect(f"redis://127.0.0.1:{near}/0")


@contextmanager
def from_elsewhere(port: int | None) -> Iterator[int]:
    """A port through which a server sees its clients come from 127.0.0.2."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=forward, args=(listener, port), daemon=True).start()
        yield listener.getsockname()[1]


def forward(listener: socket.socket, port: int) -> None:
    with suppress(OSError):
        while True:
            client, _ = listener.accept()
            with client, socket.create_connection(("127.0.0.1", port), source_address=("127.0.0.2", 0)) as server:
                while said := server.recv(4096):  # it speaks first, and hangs up
                    client.sendall(said)


def test_a_node_of_a_cluster_is_refused_before_and_whatever_it_answers(serve: Serve) -> None:
    hidden = serve(*KEPT, "cluster-enabled yes", 'rename-command INFO ""')
    url = serve(*KEPT, "cluster-enabled yes", folder="other")
    with pytest.raises(BadSetting, match=r"is a node of a Redis Cluster.*cluster-enabled no"):
        connect(url)
    with connect(hidden) as client:
        with pytest.raises(BadSetting, match=r"is a node of a Redis Cluster: CLUSTERDOWN .*cluster-enabled no"):
            Queue(client).put(tiny_study())
        halves(client, plain(url))
        said = {str(refusal(client, lambda client, key=key: client.get(key))) for key in ("farm:0", "farm:1")}
        assert any("is a node of a Redis Cluster: MOVED " in text for text in said)


def halves(one: Redis, other: Redis) -> None:
    """Two nodes of a cluster: the second has every slot."""
    port = other.connection_pool.connection_kwargs["port"]
    one.execute_command("CLUSTER", "MEET", "127.0.0.1", port)
    other.execute_command("CLUSTER", "ADDSLOTS", *range(16384))
    wait_until(lambda: one.execute_command("CLUSTER INFO")["cluster_state"] == "ok", "they have met", 30)


def test_all_other_answers_have_their_line(serve: Serve, tmp_path: Path) -> None:
    url = serve("maxclients 3", "save 3600 1", "dbfilename dump", 'rename-command TIME ""')
    with plain(url) as client:
        client.ping()
        (tmp_path / "redis" / "dump").mkdir()  # where its file would be
        cases: list[tuple[Callable[[Redis], object], type[FarmError], str]] = [
            (lambda client: client.time(), BadSetting, "lacks a command that the farm needs: unknown command"),
            (lambda client: client.eval("return redis.call('TIME')", 0), BadSetting, "lacks a command"),
            (lambda client: client.lpush("text", 1), Unreadable, "holds something else under the farm's keys"),
            (lambda client: client.execute_command("GETRANGE", "text", "a", "b"), FarmError, "refused: "),
        ]
        client.set("text", "1")
        for ask, kind, words in cases:
            error = refusal(client, ask)
            assert type(error) is kind
            assert words in str(error)
        client.bgsave()
        wait_until(lambda: client.info("persistence")["rdb_last_bgsave_status"] == "err", "it cannot save")
        assert str(refusal(client, write)).startswith(f"Redis at {url} cannot write to its disk: MISCONF ")
        assert isinstance(refusal(client, script), StorageFull)
        client.config_set("stop-writes-on-bgsave-error", "no")
        client.config_set("min-replicas-to-write", 1)
        assert "set min-replicas-to-write 0" in str(refusal(client, write))
        assert "set min-replicas-to-write 0" in str(refusal(client, script))
        client.config_set("min-replicas-to-write", 0)
        client.slaveof("127.0.0.1", 1)
        assert "set FARM_REDIS_URL to the primary" in str(refusal(client, write))
        client.config_set("replica-serve-stale-data", "no")
        error = refusal(client, lambda client: client.get("text"))
        assert isinstance(error, Unreachable)
        assert "is a replica whose primary is gone: MASTERDOWN" in str(error)
        more = [socket.create_connection(("127.0.0.1", urlsplit(url).port)) for _ in range(2)]
        with more[0], more[1], plain(url) as late:
            assert "has as many clients as it accepts: max number of clients reached" in str(refusal(late, Redis.ping))


def write(client: Redis) -> object:
    return client.set("key", "value")


def script(client: Redis) -> object:
    return client.eval("return redis.call('SET', KEYS[1], 1)", 1, "key")


def test_a_replica_is_a_doubt_since_it_can_be_read(serve: Serve) -> None:
    with connect(serve(*KEPT)) as client:
        client.slaveof("127.0.0.1", 1)
        assert doubts(client) == ["it is a replica, which accepts no writes: set FARM_REDIS_URL to the primary"]


def test_a_redis_that_loads_says_so(serve: Serve) -> None:
    """By a server of 6.2: one of Valkey 9 answers nothing at all for as long as it is slowed down like this."""
    with plain(serve(*KEPT, binary=OLD_SERVER)) as client:
        with client.pipeline(transaction=False) as pipe:
            for number in range(3000):
                pipe.set(number, "x")
            pipe.execute()
        client.shutdown(nosave=True)
    url = serve(*KEPT, "key-load-delay 1000", binary=OLD_SERVER)
    with plain(url) as client:
        error = refusal(client, Redis.ping)
    assert isinstance(error, Unreachable)
    assert str(error).startswith(f"Redis at {url} is loading its data after a start: LOADING ")


def test_a_fault_of_a_script_stays_one_of_the_farm(redis: Redis) -> None:
    with pytest.raises(ResponseError, match="attempt to concatenate"), translate_errors(redis):
        redis.eval("return 'a' .. nil", 0)
