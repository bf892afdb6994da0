"""A farm in the foreground: Redis, Ray with its dashboard, and the dispatcher, until told to stop.

Ray reads RAY_AUTH_MODE when it is imported, so this module runs in a process of its own, `python -m
workers.head.serve`, whose environment `workers.head.embedded` has prepared.
"""

import argparse
import fcntl
import functools
import hashlib
import json
import logging
import os
import platform
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError

from farm.errors import BadSetting, Conflict, FarmError, Unreachable, first_line, last_line
from farm.queue import clerk
from farm.queue.node import Head
from farm.queue.queue import Queue
from farm.record.store import Store
from farm.site import serving, settings
from farm.site.process import identity
from farm.site.server import LOOPBACK, address, doubts, flaws, make_home, named, revive, session, shown
from farm.site.serving import Facts
from farm.site.settings import Settings
from farm.study.machine import Machine, layered
from workers.head import autoscale, clusterfile, folders, sharing
from workers.head.autoscale import Autoscaler
from workers.head.clusterfile import Fleet
from workers.head.dispatcher import Dispatcher, nodes
from workers.head.index import Indexed
from workers.head.jobs import Answering, Jobs, job_id
from workers.head.keeper import Keeper
from workers.head.presence import present
from workers.head.roster import Roster
from workers.node import hardware
from workers.node.admission import PORT
from workers.node.environment import OBJECT_STORE_BYTES, stand_apart
from workers.ray_internals import own_node
from workers.ray_internals.phrases import TOO_SLOW
from workers.ray_internals.variables import GCS_PORT, STOP_WAIT_SECONDS, TMPDIR, TOKEN_PATH

TURN_SECONDS = 0.25
AGAIN_SECONDS = 5.0  # after a Redis that is full or refuses, or a Ray that does not answer
REGISTER_SECONDS = 10.0
MEMBER_SECONDS = 45.0  # for a machine that joined to stop its Ray: it is given 30 s
TARGETS = "prometheus-targets.json"

log = logging.getLogger("farm")


class TooSlow(Unreachable):
    """This machine had too much to do to start Ray in time."""


def serve(
    here: Settings,
    *,
    units: dict[str, int] | None = None,
    cpus: int | None = None,
    shared: str | None = None,
    dashboard_port: int | None = None,
    attach: str | None = None,
    autoscaling_config: str | None = None,
    ready: Callable[[Facts], None] = lambda facts: None,
    stop: threading.Event,
    keeper: Keeper,
) -> None:
    """Run the farm of `here` until `stop` is set, then drain what trains and stop all that was started.

    `units` are runs at a time per machine class (default: what this node can do), `cpus` the cores they share.
    `shared` is the address of this machine at which others may join; without it Redis and Ray listen on loopback only.
    `attach` is the address of a Ray that runs already; then this node offers nothing and only dispatches.
    `autoscaling_config` is the file that this Ray's autoscaler was started with: what waits becomes its demand.
    `keeper` watches over all that is started, and begins again in this process' place when a part of Ray fails.

    Raises: Conflict: another farm holds this home. Unreachable: Redis or Ray did not start. BadSetting
    """
    with _alone(here.home):
        _serve(here, units, cpus, shared, dashboard_port, attach, autoscaling_config, ready, stop, keeper)


@contextmanager
def _alone(home: Path) -> Iterator[None]:
    """Hold `home`, so that no two farms that start at once share it: the second would be up, and nobody could stop it.

    Raises: Conflict
    """
    make_home(home)
    with (home / "serve.lock").open("w", encoding="utf-8") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Conflict(f"a farm of {home} is up, starting or stopping.", remedy="See: farm status") from None
        yield


def _serve(
    here: Settings,
    units: dict[str, int] | None,
    cpus: int | None,
    shared: str | None,
    dashboard_port: int | None,
    attach: str | None,
    autoscaling_config: str | None,
    ready: Callable[[Facts], None],
    stop: threading.Event,
    keeper: Keeper,
) -> None:
    store = Store(here.storage)
    store.check()
    classes = _classes(here, units, attach)
    fleet = clusterfile.fleet(clusterfile.load(Path(autoscaling_config))) if autoscaling_config else None
    offered = {machine.name: count for machine, count in classes}
    token_path = Path(os.environ[TOKEN_PATH])
    with ExitStack() as stack:
        redis = stack.enter_context(session(here))
        folder = None if attach else stack.enter_context(folders.held())
        ours = functools.partial(_ray, here.home, offered, cpus, shared, dashboard_port)
        dashboard = stack.enter_context(ours(folder) if folder else _attached(attach or ""))
        stack.enter_context(_targets(here.home))
        queue = Queue(redis)
        queue.install()
        for doubt in [*doubts(redis), *flaws(redis)]:
            log.warning("Redis: %s", doubt)
        head = _head(store)
        indexed = Indexed(queue, store, head)
        indexed.begin()
        queue.publish(head)
        place = address(redis)
        if shared:
            opened = sharing.opened(here, shared, head.ray, token_path, head.storage)
            place = shown(stack.enter_context(opened).redis)
        facts = Facts(
            pid=os.getpid(),
            process=identity(os.getpid()) or "",
            redis=place,
            server=named(redis),
            dashboard=dashboard,
            units=offered,
            storage=str(here.storage),
            started=time.time(),
            log=str(here.home / "serve.log"),
            token_path=str(token_path),
            shared=shared,
        )
        jobs = Jobs(dashboard, token_path, answering=Answering(dashboard, own_node.cluster_id()))
        name = keeper.dispatcher = stack.enter_context(present(queue))
        _register(queue, classes)
        stack.enter_context(_clerk(queue))
        ready(facts)
        serving.announce(here, facts)
        stack.enter_context(keeper.watching(queue, folder, facts, head.ray))
        try:
            with _scaled(queue, fleet) as autoscaler:
                _dispatch(here, queue, jobs, indexed, head.marker, name, classes, autoscaler, keeper, shared, stop)
            if attach:
                log.info("the Ray at %s goes on without this dispatcher, and so do its runs", attach)
            else:
                members = _dismissed(queue)
                _drain(queue, jobs)
                _see_off(members)
        finally:
            keeper.rest()  # from now on the parts end because they are told to
            serving.withdraw(here, facts.pid)


@contextmanager
def _clerk(queue: Queue) -> Iterator[None]:
    """Someone who does for submitters what they ask for, whatever the dispatcher waits for."""
    stop = threading.Event()
    thread = threading.Thread(target=clerk.listen, args=(queue, stop), name="clerk", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(AGAIN_SECONDS)


def _head(store: Store) -> Head:
    return Head(
        host=platform.node(),
        ray=ray.get_runtime_context().gcs_address,
        software=hardware.provenance(),
        sources=str(hardware.ROOT),
        storage=store.uri,
        marker=store.mark(),
    )


def _classes(here: Settings, units: dict[str, int] | None, attach: str | None) -> list[tuple[Machine, int]]:
    try:
        local = [] if attach else hardware.local_classes()
    except BadSetting:  # a GPU of unknown memory, of which a declared class says more
        if units is None:
            raise
        local = []
    classes = layered(here.machines, {machine.name: machine for machine, _ in local})
    if units is None:
        return [(classes[machine.name], count) for machine, count in local]
    return [(hardware.offer(name, classes), count) for name, count in units.items()]


@contextmanager
def _attached(place: str) -> Iterator[str]:
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
def _ray(
    home: Path, units: dict[str, int], cpus: int | None, shared: str | None, dashboard_port: int | None, folder: Path
) -> Iterator[str]:
    """A Ray head of our own in `folder`, at the address `shared` or on loopback. Yields the dashboard's URL.

    Raises: Unreachable: it did not start; its logs are in `home`.
    """
    os.environ[TMPDIR] = str(folder)  # inherited by all that Ray starts: there it finds this Ray and no other
    start: dict[str, Any] = {
        "num_cpus": cpus or hardware.cores(),
        "resources": {f"farm:{name}": float(count) for name, count in units.items()},
        "labels": {"farm-machine": next(iter(units), "none")},
        "include_dashboard": True,
        "dashboard_host": LOOPBACK,
        "dashboard_port": dashboard_port,
        "object_store_memory": OBJECT_STORE_BYTES,
    }
    if shared:
        start["_node_ip_address"] = shared
        os.environ[GCS_PORT] = str(_gcs_port())
    elif sys.platform == "linux":
        start["_node_ip_address"] = _loopback(str(folder))
    own_node.free_the_agents_port()
    try:
        context = ray.init("local", log_to_driver=False, logging_level=logging.WARNING, **start)
        own_node.announce()
    except Exception as error:  # a bare one where it waited for too long
        kept = folders.keep_logs(folder, home)
        kind = TooSlow if TOO_SLOW in str(error) else Unreachable
        raise kind(f"Ray did not start: {_reason(error)}", remedy=f"Its logs are under {kept}.") from error
    try:
        yield f"http://{context.dashboard_url}"
    finally:
        own_node.shut_down()


def _reason(error: Exception) -> str:
    """What Ray says went wrong: its first line, or where that announces a log, the last line of the log."""
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


@contextmanager
def _targets(home: Path) -> Iterator[None]:
    """Keep a link in `home` to Ray's list of what Prometheus may scrape, whose folder has another name every time."""
    link = home / TARGETS
    link.unlink(missing_ok=True)
    link.symlink_to(own_node.prometheus_targets())
    try:
        yield
    finally:
        link.unlink(missing_ok=True)


def _loopback(seed: str) -> str:
    """A loopback address of this farm's own, since Ray's agents listen on fixed ports and another Ray may run here.

    Not 127.0.0.1, which Ray replaces by the machine's outward address.
    """
    first, second, third = hashlib.sha256(seed.encode()).digest()[:3]
    return f"127.{first % 200 + 20}.{second}.{third % 254 + 1}"


def _register(queue: Queue, classes: list[tuple[Machine, int]]) -> None:
    for machine, _ in classes:
        queue.register(machine, platform.node(), 3 * REGISTER_SECONDS)


def _dispatch(
    here: Settings,
    queue: Queue,
    jobs: Jobs,
    indexed: Indexed,
    marker: str,
    name: str,
    classes: list[tuple[Machine, int]],
    autoscaler: Autoscaler | None,
    keeper: Keeper,
    shared: str | None,
    stop: threading.Event,
) -> None:
    """Until `stop` is set. `shared` is where other machines reach Redis."""
    roster = Roster(queue, jobs)
    dispatcher = Dispatcher(queue, jobs, roster.look, here.machines, marker, name)
    registered = time.monotonic()
    while not stop.wait(TURN_SECONDS):
        if keeper.is_restarting.is_set():
            continue
        try:
            if time.monotonic() - registered > REGISTER_SECONDS:
                _register(queue, classes)
                registered = time.monotonic()
                if shared:  # a command may have revived Redis before this process missed it
                    sharing.reopened(here, shared)
            roster.turn()
            indexed.turn()
            for job in dispatcher.turn():
                log.info("started %s", job)
            if autoscaler:
                autoscaler.turn(dispatcher.over_budget)
        except Unreachable as error:
            log.warning("%s; trying again", error)
            _revived(here, shared)
        except (FarmError, RayError, ConnectionError) as error:
            log.warning("%s; trying again", first_line(error))
            stop.wait(AGAIN_SECONDS)


@contextmanager
def _scaled(queue: Queue, fleet: Fleet | None) -> Iterator[Autoscaler | None]:
    """What speaks to the autoscaler of `fleet`, if there is one; afterwards nothing is asked of it any more."""
    if fleet:
        autoscale.check_version()
    autoscaler = Autoscaler(queue, fleet) if fleet else None
    try:
        yield autoscaler
    finally:
        if autoscaler:
            autoscaler.rest()


def _revived(here: Settings, shared: str | None) -> None:
    """See to it that our own Redis runs; one that cannot be started is tried again at the next turn."""
    try:
        revive(here)
        if shared:
            sharing.reopened(here, shared)
    except (FarmError, OSError) as error:
        log.warning("%s", error)


def _dismissed(queue: Queue) -> set[str]:
    """Tell the machines that joined to leave; their Ray ids."""
    try:
        members = {node.id for node in queue.roster() if node.joined}
        for member in members:
            queue.drain(member, f"farm down on {platform.node()}")
    except FarmError as error:
        log.warning("the machines that joined were not told to leave: %s", error)
        return set()
    return members


def _see_off(members: set[str]) -> None:
    """Wait until the Ray of each machine that joined has stopped: without a head it would try for ten minutes."""
    deadline = time.monotonic() + MEMBER_SECONDS
    with suppress(RayError, RuntimeError, OSError):
        while members & {node.id for node in nodes()} and time.monotonic() < deadline:
            time.sleep(TURN_SECONDS)


def _drain(queue: Queue, jobs: Jobs) -> None:
    """Ask every running attempt for a checkpoint and its lease, and wait for them."""
    try:
        asked = [status.job or job_id(status.run.id, status.epoch) for status in queue.running()]
        with ThreadPoolExecutor(max(1, len(asked))) as pool:  # a dashboard that does not answer is waited for once
            for job, why in zip(asked, pool.map(jobs.stop, asked), strict=True):
                if why:
                    log.warning("%s could not be asked to stop: %s", job, why)
        deadline, dispatcher = time.monotonic() + STOP_WAIT_SECONDS, Dispatcher(queue, jobs)
        while time.monotonic() < deadline and queue.running():
            dispatcher.bury()
            time.sleep(TURN_SECONDS)
    except (FarmError, RayError, RuntimeError, OSError) as error:
        log.warning("not drained: %s; the runs go on when their leases run out", error)


def _leave(here: Settings) -> int:
    """Stop what a process has left that could not wait for its Ray: Redis ends with whoever holds it last."""
    with _alone(here.home), session(here):
        pass
    serving.withdraw(here, os.getpid())
    return 0


def main() -> int:
    """The farm of FARM_HOME in this process, for workers.head.embedded."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--options", type=json.loads, default={})
    parser.add_argument("--ended", type=json.loads, default=[], help="when the Rays before this one ended")
    parser.add_argument("--leave", action="store_true", help="only tidy up after a Ray that could not be stopped")
    words = parser.parse_args()
    options = words.options
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    stop, interrupted = threading.Event(), threading.Event()
    keeper: Keeper | None = None

    def interrupt(*_: object) -> None:
        interrupted.set()
        stop.set()

    def listen(facts: Facts) -> None:
        signal.signal(signal.SIGTERM, lambda *_: stop.set())  # only now: Ray sets its own while it starts
        signal.signal(signal.SIGINT, interrupt)
        offered = ", ".join(f"{name} x {count}" for name, count in facts.units.items())
        log.info("up: %s; dashboard %s; storage %s", offered or "no machine class", facts.dashboard, facts.storage)
        if facts.shared:
            log.info("shared at %s: `farm status` has the lines to type on other machines", facts.shared)

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # until Ray has its own
    try:
        here = settings.load()
        stand_apart(here.home)
        if words.leave:
            return _leave(here)
        keeper = Keeper(here, options, words.ended)
        serve(here, **keeper.now(options), ready=listen, stop=stop, keeper=keeper)
    except FarmError as error:
        log.error("%s", error)
        if keeper and (words.ended or isinstance(error, TooSlow)) and not stop.is_set():
            keeper.once_more()
        return error.exit_code
    return 130 if interrupted.is_set() else 0


if __name__ == "__main__":
    sys.exit(main())
