"""A farm in the foreground: Redis, Ray with its dashboard, and the dispatcher, until told to stop.

Ray reads RAY_AUTH_MODE when it is imported, so this module runs in a process of its own, `python -m
workers.head.serve`, whose environment `workers.head.embedded` has prepared.
"""

import argparse
import functools
import json
import logging
import os
import platform
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import ray
from ray.exceptions import RayError

from farm.errors import BadSetting, Conflict, FarmError, Unreachable, first_line
from farm.files import Lock
from farm.queue import clerk
from farm.queue.node import Head
from farm.queue.queue import Queue
from farm.queue.rental import describe as describe_rented
from farm.record.store import Store
from farm.site import serving
from farm.site.client import doubts
from farm.site.process import identity
from farm.site.serving import Facts
from farm.site.session import revive, session
from farm.site.settings import NOTIFY_URLS, Settings, make_home
from farm.site.standing import describe, flaws
from farm.site.urls import address, hide_password
from farm.study.machine import Machine, layer
from workers.head import autoscale, clusterfile, folders, ray_head, sharing
from workers.head.autoscale import Autoscaler
from workers.head.clusterfile import Fleet
from workers.head.dispatcher import Dispatcher, nodes
from workers.head.index import Indexed, check_own
from workers.head.jobs import Answering, Jobs, job_id
from workers.head.keeper import Keeper
from workers.head.notifier import notifying
from workers.head.presence import present
from workers.head.roster import Registrar
from workers.node import hardware
from workers.node.environment import stand_apart
from workers.ray_internals import own_node
from workers.ray_internals.variables import STOP_WAIT_SECONDS, TOKEN_PATH
from workers.rent import watching
from workers.rent.landlord import Landlord

TURN_SECONDS = 0.25
AGAIN_SECONDS = 5.0  # after a Redis that is full or refuses, or a Ray that does not answer
REGISTER_SECONDS = 10.0
MEMBER_SECONDS = 45.0  # for a machine that joined to stop its Ray: it is given 30 s

log = logging.getLogger("farm")


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
    with Lock(home / "serve.lock") as alone:
        if not alone.try_take():
            raise Conflict(f"a farm of {home} is up, starting or stopping.", remedy="See: farm status")
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
        queue = Queue(redis)
        queue.scripts.install()
        check_own(queue, store)  # Ray takes seconds to start, and a mistake in a variable is to be said before
        folder = None if attach else stack.enter_context(folders.hold())
        ours = functools.partial(ray_head.start, here.home, offered, cpus, shared, dashboard_port)
        dashboard = stack.enter_context(ours(folder) if folder else ray_head.attach(attach or ""))
        stack.enter_context(ray_head.targets(here.home))
        for doubt in [*doubts(redis), *flaws(redis)]:
            log.warning("Redis: %s", doubt)
        head = _head(store)
        indexed = Indexed(queue, store, head)
        indexed.begin()
        queue.roster.publish(head)
        stack.enter_context(notifying(here, queue, head.marker))
        place = address(redis)
        if shared:
            opened = sharing.invite(here, shared, head.ray, token_path, head.storage)
            place = hide_password(stack.enter_context(opened).redis)
        facts = Facts(
            pid=os.getpid(),
            process=identity(os.getpid()) or "",
            redis=place,
            server=describe(redis),
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
        renting = None if attach else stack.enter_context(_landlords(here, queue, head))
        ready(facts)
        serving.announce(here, facts)
        stack.enter_context(keeper.watching(queue, folder, facts, head.ray))
        try:
            with _autoscaler(queue, fleet) as autoscaler:
                _dispatch(here, queue, jobs, indexed, head.marker, name, classes, autoscaler, keeper, shared, stop)
            if attach:
                log.info("the Ray at %s goes on without this dispatcher, and so do its runs", attach)
            else:
                members = _dismiss(queue)
                _drain(queue, jobs)
                _see_off(members)
            if renting:
                _end_rented(renting)
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


@contextmanager
def _landlords(here: Settings, queue: Queue, head: Head) -> Iterator[list[Landlord]]:
    """Those who look after the machines that this farm rents, whatever the dispatcher waits for."""
    stop, renting = threading.Event(), watching.of(here, queue, lambda: head.software)
    threads = [
        threading.Thread(target=watching.watch, args=(one, stop), name=f"landlord by {one.engine.name}", daemon=True)
        for one in renting
    ]
    for thread in threads:
        thread.start()
    try:
        yield renting
    finally:
        stop.set()
        for thread in threads:
            thread.join(AGAIN_SECONDS)


def _end_rented(renting: list[Landlord]) -> None:
    """L4: nothing goes on costing money without a farm that watches over it, unless a person said so."""
    try:
        left = watching.close(renting, f"farm down on {platform.node()}")
    except FarmError as error:
        log.error("the rented machines were not ended, and cost money: %s", error)
        return
    if left:
        log.error("%s; not ended yet. See: farm rent --list", describe_rented(left, time.time()))


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
    classes = layer(here.machines, {machine.name: machine for machine, _ in local})
    if units is None:
        return [(classes[machine.name], count) for machine, count in local]
    return [(hardware.offer(name, classes), count) for name, count in units.items()]


def _register(queue: Queue, classes: list[tuple[Machine, int]]) -> None:
    for machine, _ in classes:
        queue.roster.register(machine, platform.node(), 3 * REGISTER_SECONDS)


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
    roster = Registrar(queue, jobs)
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
                    sharing.reopen(here, shared)
            roster.turn()
            indexed.turn()
            for job in dispatcher.turn():
                log.info("started %s", job)
            if autoscaler:
                autoscaler.turn(dispatcher.over_budget)
        except Unreachable as error:
            log.warning("%s; trying again", error)
            _revive(here, shared)
        except (FarmError, RayError, ConnectionError) as error:
            log.warning("%s; trying again", first_line(error))
            stop.wait(AGAIN_SECONDS)


@contextmanager
def _autoscaler(queue: Queue, fleet: Fleet | None) -> Iterator[Autoscaler | None]:
    """The link to the autoscaler of `fleet`, if there is one; afterwards nothing is asked of it any more."""
    if fleet:
        autoscale.check_version()
    autoscaler = Autoscaler(queue, fleet) if fleet else None
    try:
        yield autoscaler
    finally:
        if autoscaler:
            autoscaler.rest()


def _revive(here: Settings, shared: str | None) -> None:
    """See to it that our own Redis runs; one that cannot be started is tried again at the next turn."""
    try:
        revive(here)
        if shared:
            sharing.reopen(here, shared)
    except (FarmError, OSError) as error:
        log.warning("%s", error)


def _dismiss(queue: Queue) -> set[str]:
    """Tell the machines that joined to leave; their Ray ids."""
    try:
        members = {node.id for node in queue.roster.nodes() if node.joined}
        for member in members:
            queue.roster.drain(member, f"farm down on {platform.node()}")
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
        asked = [status.job or job_id(status.run.id, status.epoch) for status in queue.listing.running()]
        with ThreadPoolExecutor(max(1, len(asked))) as pool:  # a dashboard that does not answer is waited for once
            for job, why in zip(asked, pool.map(jobs.stop, asked), strict=True):
                if why:
                    log.warning("%s could not be asked to stop: %s", job, why)
        deadline, dispatcher = time.monotonic() + STOP_WAIT_SECONDS, Dispatcher(queue, jobs)
        while time.monotonic() < deadline and queue.listing.running():
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
        here = Settings.load()
        os.environ.pop(NOTIFY_URLS, None)  # before there is a Ray that would inherit it
        stand_apart(here.home)
        if words.leave:
            return _leave(here)
        keeper = Keeper(here, options, words.ended)
        serve(here, **keeper.now(options), ready=listen, stop=stop, keeper=keeper)
    except FarmError as error:
        log.error("%s", error)
        if keeper and (words.ended or isinstance(error, ray_head.TooSlow)) and not stop.is_set():
            keeper.once_more()
        return error.exit_code
    return 130 if interrupted.is_set() else 0


if __name__ == "__main__":
    sys.exit(main())
