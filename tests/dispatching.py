"""Dispatchers, what they claim, and dashboards that a test answers for."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import ray
from results import tiny_study

from farm.queue.queue import Queue
from farm.study.machine import BUILT_IN
from farm.study.study import Study
from workers.head.dispatcher import Dispatcher, RayNode
from workers.head.jobs import Jobs

KNOWN = BUILT_IN
VERSION = {"version": "4", "ray_version": ray.__version__, "ray_commit": "", "session_name": "s"}  # a dashboard's
LAPTOP = RayNode("laptop", 2, {"cpu-x1": 2, "cpu-x2": 1})


def of(queue: Queue, *nodes: RayNode) -> Dispatcher:
    for machine in KNOWN.values():
        queue.roster.register(machine, "here", 60)
    return Dispatcher(queue, jobs=None, look=lambda: nodes)


def put(queue: Queue, name: str, machine: str, init: tuple[int, ...] = (42,), priority: int = 0) -> None:
    """Queue a run of the baseline for each seed."""
    parsed = tiny_study(name, (machine,), init).model_dump(mode="json", exclude_unset=True)
    queue.put(Study.build(parsed | {"interventions": {}, "policy": {"priority": priority}}))


@contextmanager
def answering(handler: type[BaseHTTPRequestHandler], folder: Path, **options: Any) -> Iterator[Jobs]:
    """The jobs of a dashboard that answers as `handler` does."""
    token = folder / "token"
    token.write_text("secret")
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        serving = threading.Thread(target=server.serve_forever, args=(0.01,))
        serving.start()
        try:
            yield Jobs(f"http://127.0.0.1:{server.server_port}", token, **options)
        finally:
            server.shutdown()
            serving.join()
