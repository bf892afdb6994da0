"""The Ray of a farm: one that it starts itself, or one that is running already."""

import hashlib
import logging
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray

from farm.errors import Unreachable, first_line, last_line
from farm.site.urls import LOOPBACK
from farm.study.machine import resource
from farm.study.processor import cores
from workers.head import folders
from workers.node.admission import PORT
from workers.node.environment import OBJECT_STORE_BYTES
from workers.ray_internals import own_node
from workers.ray_internals.phrases import TOO_SLOW
from workers.ray_internals.variables import GCS_PORT, TMPDIR

TARGETS = "prometheus-targets.json"


class TooSlow(Unreachable):
    """This machine had too much to do to start Ray in time."""


@contextmanager
def start(
    home: Path, units: dict[str, int], cpus: int | None, shared: str | None, dashboard_port: int | None, folder: Path
) -> Iterator[str]:
    """A Ray head of our own in `folder`, at the address `shared` or on loopback. Yields the dashboard's URL.

    Raises: Unreachable: it did not start; its logs are in `home`.
    """
    os.environ[TMPDIR] = str(folder)  # inherited by all that Ray starts: there it finds this Ray and no other
    options: dict[str, Any] = {
        "num_cpus": cpus or cores(),
        "resources": {resource(name): float(count) for name, count in units.items()},
        "labels": {"farm-machine": next(iter(units), "none")},
        "include_dashboard": True,
        "dashboard_host": LOOPBACK,
        "dashboard_port": dashboard_port,
        "object_store_memory": OBJECT_STORE_BYTES,
    }
    if shared:
        options["_node_ip_address"] = shared
        os.environ[GCS_PORT] = str(_gcs_port())
    elif sys.platform == "linux":
        options["_node_ip_address"] = _loopback(str(folder))
    own_node.free_the_agents_port()
    try:
        context = ray.init("local", log_to_driver=False, logging_level=logging.WARNING, **options)
        own_node.announce()
    except Exception as error:  # a bare one where it waited for too long
        kept = folders.keep_logs(folder, home)
        kind = TooSlow if TOO_SLOW in str(error) else Unreachable
        said = _reason(error).rstrip(".")
        raise kind(f"Ray did not start: {said}.", remedy=f"Its logs are under {kept}.") from error
    try:
        yield f"http://{context.dashboard_url}"
    finally:
        own_node.shut_down()


def _reason(error: Exception) -> str:
    """Ray's own words for what went wrong: its first line, or where that announces a log, the last line of the log."""
    said = first_line(error)
    return last_line(str(error)) if said.rstrip().endswith(":") else said


def _gcs_port() -> int:
    """Ray's usual port, so that an invitation outlives a restart; 0, which is any, where another Ray has it."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as gRPC does
        try:
            probe.bind(("", PORT))
        except OSError:
            return 0
    return PORT


def _loopback(seed: str) -> str:
    """A loopback address of this farm's own, since Ray's agents listen on fixed ports and another Ray may run here.

    Not 127.0.0.1, which Ray replaces by the machine's outward address.
    """
    first, second, third = hashlib.sha256(seed.encode()).digest()[:3]
    return f"127.{first % 200 + 20}.{second}.{third % 254 + 1}"


@contextmanager
def attach(place: str) -> Iterator[str]:
    """The Ray at `place`, which somebody else started. Yields the dashboard's URL."""
    try:
        context = ray.init(place, log_to_driver=False, logging_level=logging.WARNING)
    except Exception as error:
        raise Unreachable(
            f"no Ray answers at {place}: {first_line(error)}", remedy="Is it up, and the token the right one?"
        ) from error
    try:
        yield f"http://{context.dashboard_url}"
    finally:
        own_node.shut_down()


@contextmanager
def targets(home: Path) -> Iterator[None]:
    """Keep a link in `home` to Ray's list of what Prometheus may scrape, whose folder has another name every time."""
    link = home / TARGETS
    link.unlink(missing_ok=True)
    link.symlink_to(own_node.prometheus_targets())
    try:
        yield
    finally:
        link.unlink(missing_ok=True)
