"""This machine joins a farm: it offers its class to the Ray at HEAD and trains what comes, until Ctrl-C."""

import json
import platform
import subprocess
import sys
import threading
from pathlib import Path

from farm.errors import BadSetting, Unreachable
from farm.machine import Machine
from farm.queue import Queue
from farm.server import session
from farm.settings import Settings
from farm.store import Store
from workers import hardware
from workers.environment import environment

REGISTER_SECONDS = 10.0


def join(here: Settings, head: str, name: str | None = None, units: int = 1) -> int:
    """Offer `units` runs at a time of class `name` (default: what is detected) to the Ray at `head`, host:port.

    Returns when Ray on this node has ended: the exit code of `ray start`.

    Raises: BadSetting: no shared Redis is set. StorageFull and others: the storage cannot be written from here.
    """
    if not here.redis_url:
        raise BadSetting(
            "A joining machine needs the farm's shared Redis, and FARM_REDIS_URL is not set.",
            remedy="Set FARM_REDIS_URL=redis://:PASSWORD@HEAD:6380/0, as on the head.",
        )
    Store(here.storage).check()
    machine = hardware.offer(name, here.machines) if name else hardware.detect()
    with session(here) as redis:
        over = threading.Event()
        _register(Queue(redis), machine)
        keeper = threading.Thread(target=_keep_registered, args=(Queue(redis), machine, over), daemon=True)
        keeper.start()
        try:
            return _ray(here, head, machine, units)
        finally:
            over.set()
            keeper.join()


def _register(queue: Queue, machine: Machine) -> None:
    queue.register(machine, platform.node(), 3 * REGISTER_SECONDS)


def _keep_registered(queue: Queue, machine: Machine, over: threading.Event) -> None:
    while not over.wait(REGISTER_SECONDS):
        try:
            _register(queue, machine)
        except Unreachable:
            continue


def _ray(here: Settings, head: str, machine: Machine, units: int) -> int:
    command = [
        str(Path(sys.executable).with_name("ray")),
        "start",
        f"--address={head}",
        f"--resources={json.dumps({machine.resource: units})}",
        f"--labels=farm-machine={machine.name}",
        "--block",
        "--disable-usage-stats",
    ]
    process = subprocess.Popen(command, env=environment(here))
    try:
        return process.wait()
    except KeyboardInterrupt:
        process.terminate()
        return process.wait()
