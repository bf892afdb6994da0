"""This machine joins a farm: it offers its class to the Ray at HEAD and trains what comes, until it is told to leave.

Ctrl-C, SIGTERM, `farm drain` and a cloud's notice all end in the same way: no run starts here any more, what trains
saves a checkpoint and goes back to the queue, and Ray on this machine stops when it is empty.

Ray reads its secret when it is imported, so this module runs in a process of its own, `python -m
workers.node.join`, whose environment `workers.head.embedded` has prepared.
"""

import argparse
import json
import logging
import os
import platform
import secrets
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from farm.errors import BadSetting, Conflict, FarmError, Unreachable, last_line
from farm.queue.node import Head, Node
from farm.queue.queue import Queue
from farm.site.process import end_with_parent
from farm.site.session import session
from farm.site.settings import Settings, make_home
from farm.study.machine import BUILT_IN, Machine, find_machine, is_name, layer, parts, without_hearsay
from farm.study.processor import cores
from workers.node import addresses, admission, hardware, spot
from workers.node.environment import OBJECT_STORE_BYTES, stand_apart
from workers.node.labels import JOIN_LABEL, own_price
from workers.ray_internals.processes import has_ended, raylet
from workers.ray_internals.variables import STOP_WAIT_SECONDS

TURN_SECONDS = 0.5
REGISTER_SECONDS = 10.0
PATIENCE_SECONDS = 60.0  # for a dispatcher to see this node
LEAVE_SECONDS = 60.0 + STOP_WAIT_SECONDS  # for its runs to let go: an agent may just be starting
RAY_STOP_SECONDS = 30.0

log = logging.getLogger("farm")


class Farewell:
    """Why this machine is to leave, as the first of these says: a signal, the cloud, `farm drain`."""

    def __init__(self) -> None:
        self.reason: str | None = None
        self.said = threading.Event()
        self.interrupted = False
        self.hurry = threading.Event()  # do not wait for what trains

    def say(self, reason: str) -> None:
        self.reason = self.reason or reason
        self.said.set()

    def listen(self) -> None:
        """Hear SIGTERM and Ctrl-C; a second one means at once."""
        signal.signal(signal.SIGTERM, lambda *_: self._on_signal("SIGTERM"))
        signal.signal(signal.SIGINT, lambda *_: self._on_signal("Ctrl-C"))

    def _on_signal(self, name: str) -> None:
        if self.said.is_set():
            self.hurry.set()
        self.interrupted = self.interrupted or name == "Ctrl-C"
        self.say(f"{name} on {platform.node()}")


def join(
    here: Settings,
    head: str,
    *,
    machine: str | None = None,
    units: int = 1,
    name: str | None = None,
    host: str | None = None,
    metadata: str = spot.SERVICE,
    farewell: Farewell,
) -> None:
    """Offer `units` runs at a time of class `machine` (default: what is detected) to the Ray at `head`, as node `name`.

    `host` is the address by which others reach this machine, `metadata` where the cloud's notices come from. Returns
    when this machine has left.

    Raises: BadSetting, BadStudy, Refused, Unreachable, Conflict: it may not join; says what mends it. FarmError: Ray
    on this machine ended by itself.
    """
    if not here.redis_url:
        raise BadSetting(
            "A joining machine needs the farm's shared Redis, and FARM_REDIS_URL is not set.",
            remedy="Set FARM_REDIS_URL=redis://:PASSWORD@HEAD:6380/0, as on the head.",
            page="docs/machines/join.md#joining",
        )
    place, name = admission.address(head), name or platform.node().lower()
    if not is_name(name):
        raise BadSetting(
            f"--name {name!r} is not a valid name.", remedy="Use at most 64 of a-z, 0-9, '.', '_' and '-'."
        )
    if host is not None:
        addresses.check_own(host)
    with session(here) as redis:
        queue = Queue(redis)
        offer = _offer(queue, here, machine, units)
        _admit(here, queue, place, offer, units)
        if farewell.said.is_set():
            return
        member = _Member(queue, offer, name)
        with member.enroll(host or platform.node()), _ray(here, place, member, units, host) as process:
            if cloud := spot.watch(farewell.say, farewell.said, metadata):
                log.info("%s's notices are watched: this machine leaves before it is taken away", cloud)
            _stay(here, member, process, farewell)


def _offer(queue: Queue, here: Settings, name: str | None, units: int) -> Machine:
    """The class that this machine is, or the class `name`, which must be declared and must fit here `units` times.

    Raises: BadStudy: it is not declared. BadSetting: it has GPUs that are not here, or so many runs have no room.
    """
    studies = queue.studies.all().values()  # what one of them says of a price is for itself alone
    declared = {key: without_hearsay(value) for study in studies for key, value in study.machines.items()}
    told = {key: value for key, value in queue.roster.machines().items() if key not in BUILT_IN}
    classes, price = layer(told, declared, here.machines), own_price()
    if name is None:
        found = hardware.detect()
        return layer({found.name: found}, classes)[found.name].with_price(price)
    find_machine(name, BUILT_IN | classes)
    return hardware.offer(name, classes, units).with_price(price)


def _admit(here: Settings, queue: Queue, place: str, machine: Machine, units: int) -> None:
    """Look at everything that must be right, and say so."""
    memory = _gib(hardware.memory_bytes())
    log.info("%s: %s; %d cores, %s", platform.node(), hardware.describe(), cores(), memory)
    known = layer(BUILT_IN, {machine.name: machine})[machine.name]
    price = "".join(f", ${price.usd_per_hour:,.2f}/h {price}" for price in known.prices)
    each = f"{machine.accelerators} x {machine.accelerator} with {_gib(machine.memory)}{price}"
    log.info("class %s: %s; %d run%s at a time", machine.name, each, units, "s" * (units > 1))
    head = _find_head(queue)
    admission.check_software(head, hardware.provenance())
    log.info("software: Python %s, Ray %s, torch and farm as on %s", head.software.python, head.software.ray, head.host)
    free = admission.check_storage(here, head)
    log.info("storage %s: the head's, writable; %s free", here.storage, _gib(free))
    admission.check_head(place, head)
    log.info("head %s: a Ray that accepts this machine's token", place)
    if machine.name not in _wanted_classes(queue):
        log.info('no study has runs for %s yet: add machines = ["%s"] in one', machine.name, machine.name)


def _wanted_classes(queue: Queue) -> set[str]:
    """The machine classes that studies have runs for, in mixed groups too."""
    groups = {name for study in queue.studies.all().values() for arm in study.arms() for name in arm.machines}
    return {part for name in groups for part in parts(name)}


def _gib(size: float) -> str:
    return f"{size / 2**30:,.0f} GiB"


def _find_head(queue: Queue) -> Head:
    head = queue.roster.head()
    if head is None:
        raise Unreachable(
            "no farm has used this Redis yet, so there is nothing to join.",
            remedy="Start it first, on the head: farm serve --attach HEAD:6379; or is FARM_REDIS_URL another farm's?",
            page=admission.PAGE,
        )
    return head


class _Member:
    """This machine in the farm's books, under a name of its own for as long as it stays."""

    def __init__(self, queue: Queue, machine: Machine, name: str):
        self.queue, self.machine, self.name = queue, machine, name
        self.token = secrets.token_hex(8)
        self.over, self.gone = threading.Event(), threading.Event()

    @contextmanager
    def enroll(self, facts: str) -> Iterator[None]:
        """Hold the name to the end, and keep the class registered until it is said to be over.

        Raises: Conflict: another machine has the name.
        """
        self.facts = f"{facts}, process {os.getpid()}"
        self._tell()
        keeper = threading.Thread(target=self._keep_telling, daemon=True)
        keeper.start()
        try:
            yield
        finally:
            self.offer_nothing()
            self.gone.set()
            keeper.join()
            with suppress(Unreachable):
                self.queue.roster.leave(self.machine.name, self.name, self.token)

    def offer_nothing(self) -> None:
        """From now on no run is to count on this machine."""
        self.over.set()
        with suppress(Unreachable):
            self.queue.roster.leave(self.machine.name, self.name)

    def node(self) -> Node | None:
        """This machine's Ray node, once a dispatcher has seen it."""
        return next((node for node in self.queue.roster.nodes() if node.joined == self.token), None)

    def _tell(self) -> None:
        self.queue.roster.enroll(self.name, self.token, self.facts, 3 * REGISTER_SECONDS)
        if not self.over.is_set():
            self.queue.roster.register(self.machine, self.name, 3 * REGISTER_SECONDS)

    def _keep_telling(self) -> None:
        while not self.gone.wait(REGISTER_SECONDS):
            try:
                self._tell()
            except Unreachable:
                continue
            except Conflict as taken:  # while Redis was away for longer than the name lasts
                log.warning("%s", taken)


@contextmanager
def _ray(here: Settings, place: str, member: _Member, units: int, host: str | None) -> Iterator[subprocess.Popen]:
    """A Ray node of this machine, attached to the head at `place`. It ends with this process, however that ends."""
    make_home(here.home)
    command = [
        str(Path(sys.executable).with_name("ray")),
        "start",
        f"--address={place}",
        f"--node-name={member.name}",
        f"--resources={json.dumps({member.machine.resource: units})}",
        f"--labels=farm-machine={member.machine.name},{JOIN_LABEL}={member.token}",
        f"--object-store-memory={OBJECT_STORE_BYTES}",
        "--dashboard-agent-listen-port=0",  # the default is one port for all the Rays of a machine
        "--block",
        "--disable-usage-stats",
        *([f"--node-ip-address={host}"] if host else []),
    ]
    with _log(here).open("ab") as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,  # Ctrl-C is for this process, which drains first
            preexec_fn=end_with_parent,  # no run trains on an unwatched machine
        )
    try:
        yield process
    finally:
        _end(process)


def _log(here: Settings) -> Path:
    return here.home / "ray.log"


def _end(process: subprocess.Popen) -> None:
    process.terminate()
    try:
        process.wait(RAY_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()  # Ray's reaper ends what it has left behind
        process.wait()


class _RayProcess:
    """Whether the Ray of a `ray start --block` still runs; that command itself outlives a `ray stop`."""

    def __init__(self, process: subprocess.Popen):
        self.process = process
        self.raylet: psutil.Process | None = None

    def ending(self) -> str | None:
        """How it ended; None if it has not."""
        if self.process.poll() is not None:
            return f"ended with exit code {self.process.returncode}"
        self.raylet = self.raylet or raylet(self.process.pid)
        return "was stopped from outside" if self.raylet and has_ended(self.raylet) else None


def _stay(here: Settings, member: _Member, process: subprocess.Popen, farewell: Farewell) -> None:
    """Until there is a reason to leave; then leave.

    Raises: FarmError: Ray ended by itself.
    """
    seen: Node | None = None
    began, warned = time.monotonic(), False
    ray = _RayProcess(process)
    while not farewell.said.wait(TURN_SECONDS):
        if ended := ray.ending():
            said = last_line(_log(here).read_text(encoding="utf-8", errors="replace"))
            raise FarmError(f"Ray on this machine {ended}: {said}", remedy=f"See {_log(here)}.")
        with suppress(Unreachable):
            node = member.node()
            if node and seen is None:
                seen = node
                log.info("joined as %s, class %s; Ctrl-C leaves", node, member.machine.name)
            if node and node.drained is not None:
                farewell.say(node.drained)
        if seen is None and not warned and time.monotonic() - began > PATIENCE_SECONDS:
            log.warning("no dispatcher serves this Ray yet: is `farm serve --attach` up on the head?")
            warned = True
    _leave(member, seen, farewell)


def _leave(member: _Member, seen: Node | None, farewell: Farewell) -> None:
    """Let no run start here any more, and wait until those that train have let go."""
    log.info("leaving: %s; no run starts here any more", farewell.reason)
    member.offer_nothing()
    left: set[str] | None = set()  # None: empty
    deadline = time.monotonic() + LEAVE_SECONDS
    while left is not None and not farewell.hurry.is_set() and time.monotonic() < deadline:
        try:
            left = _still_running(member, seen, farewell, left)
        except Unreachable as error:
            log.warning("%s Trying again; Ctrl-C leaves at once", error)
        farewell.hurry.wait(TURN_SECONDS if left is not None else 0)
    if left is None:
        log.info("empty; stopping Ray")
    else:
        what = ", ".join(sorted(left)) or "runs that may train here"
        log.warning("leaving without waiting for %s: the queue reassigns them when their leases expire", what)


def _still_running(member: _Member, seen: Node | None, farewell: Farewell, before: set[str]) -> set[str] | None:
    """The runs that still train here, or None when the node is empty; says what came and went since `before`.

    Raises: Unreachable
    """
    node = member.node() or seen
    if node is None:  # no dispatcher has seen it, so none has started anything
        return None
    member.queue.roster.drain(node.id, farewell.reason or "it leaves")
    runs = {status.run.id for status in member.queue.listing.running() if node.id in status.nodes}
    for run_id in sorted(runs - before):
        log.info("%s: asked for a checkpoint; Ctrl-C leaves at once", run_id)
    for run_id in sorted(before - runs):
        log.info("%s was released: %s", run_id, member.queue.listing.status(run_id).state)
    return runs or None


def main() -> int:
    """`farm join` in this process. 130 after Ctrl-C, 0 after any other reason to leave."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--head", required=True)
    parser.add_argument("--options", type=json.loads, default={})
    words = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    farewell = Farewell()
    farewell.listen()
    try:
        here = Settings.load()
        stand_apart(here.home)
        join(here, words.head, **words.options, farewell=farewell)
    except FarmError as error:
        sys.stderr.write(f"error: {error}\n")
        return error.exit_code
    log.info("left")
    return 130 if farewell.interrupted else 0


if __name__ == "__main__":
    sys.exit(main())
