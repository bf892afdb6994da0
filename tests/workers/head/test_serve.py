"""The farm's own loop, when what it stands on fails for a while. tests/walk/ has all of a farm that is up."""

import threading

import pytest
from results import tiny_study
from waiting import wait_until

from farm.queue.node import Head
from farm.queue.queue import Queue
from farm.record.store import Store
from farm.site.client import connect
from farm.site.server import Server
from farm.site.settings import Settings
from farm.study.machine import Machine
from workers.head import serve
from workers.head.index import Indexed
from workers.head.keeper import Keeper
from workers.node import hardware


@pytest.mark.parametrize(("fails", "says"), [("ray", "Ray has not been started"), ("redis", "cannot write")])
def test_what_fails_for_a_while_ends_no_farm(fails: str, says: str, tmp_path, caplog, monkeypatch) -> None:
    """Here nobody has started a Ray; and a Redis is full."""
    monkeypatch.setattr(serve, "REGISTER_SECONDS", 0.0)  # so that every turn writes
    classes = [(Machine(name="cpu"), 1)] if fails == "redis" else []
    server, stop = Server(tmp_path), threading.Event()
    url = server.start()
    try:
        with connect(url) as redis:
            here = Settings(home=tmp_path, storage=tmp_path, redis_url=url)
            queue = Queue(redis)
            queue.put(tiny_study())
            store = Store(tmp_path)
            software = hardware.provenance()
            head = Head(host="here", ray="ray", software=software, sources="/", storage=store.uri, marker=store.mark())
            indexed = Indexed(queue, store, head)
            indexed.begin()
            if fails == "redis":
                redis.config_set("maxmemory", "1")
            words = (here, queue, None, indexed, head.marker, "me", classes, None, Keeper(here, {}), None, stop)
            loop = threading.Thread(target=serve._dispatch, args=words)
            loop.start()
            try:
                wait_until(lambda: "trying again" in caplog.text, "it says what fails", 30)
                assert loop.is_alive()
                assert says in caplog.text
            finally:
                stop.set()
                loop.join()
    finally:
        server.stop()


@pytest.mark.parametrize("units", [None, {"cpu": 1}])
def test_a_class_has_the_memory_that_is_found_and_what_farm_toml_says_beyond(units, tmp_path) -> None:
    declared = {"cpu": Machine(name="cpu", memory=1, threads=3)}
    here = Settings(home=tmp_path, storage=tmp_path, machines=declared)
    (machine,) = [machine for machine, _ in serve._classes(here, units, None) if machine.name == "cpu"]
    assert machine.threads == 3
    assert machine.memory > 2**30
