"""Watches the parts of a farm that serves, from a thread that calls none of them, and restarts it if one is gone.

Without its GCS the thread that dispatches hangs inside Ray for ten minutes, and a Ray client that has lost its Ray
cannot be given another. So this process ends its Ray by the process table, gives back the leases that it opened, and
becomes a fresh one of itself: its pid, its Redis and its place in the home stay. A Ray that the farm did not start is
only watched: its head may come back, and what trains there waits for it.
"""

import json
import logging
import os
import platform
import shutil
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import urlsplit

import psutil

from farm.errors import FarmError, LeaseLost
from farm.queue.queue import Queue
from farm.site import serving
from farm.site.server import Server
from farm.site.serving import Facts, Health
from farm.site.settings import Settings, secrets_of_head
from farm.study.run import Lease
from workers.head import folders, parts
from workers.ray_internals.variables import TMPDIR

LOOK_SECONDS = 0.25  # a raylet's death ends the attempts on it: their leases are given back before that is a failure
TELL_SECONDS = 5.0
MOST_RESTARTS, WITHIN_SECONDS = 5, 600.0  # then something is wrong that another Ray would not mend
SAVE_SECONDS = 15.0  # for what trains to save a checkpoint, where Ray can still be left
AGAIN_SECONDS = 5.0
CONNECT_SECONDS = 1.0

log = logging.getLogger("farm")


class Keeper:
    """Of the farm of `here`, which was started with `options`. `ended`: when the Rays before this one ended."""

    def __init__(self, here: Settings, options: dict[str, Any], ended: Sequence[float] = ()):
        self.here, self.options = here, options
        self.ended = [when for when in ended if when > time.time() - WITHIN_SECONDS]
        self.dispatcher = ""  # whose leases are to be given back
        self.is_restarting = threading.Event()
        self._over = threading.Event()
        self._told_to_stop, self._bell = os.pipe()

    def now(self, options: dict[str, Any]) -> dict[str, Any]:
        """`options` for a Ray in place of one that failed: at its dashboard's port, unless another has that by now."""
        port = options.pop("_port", None)
        return options | ({"dashboard_port": port if _is_free(port) else None} if port else {})

    @contextmanager
    def watching(self, queue: Queue, folder: Path | None, facts: Facts, head: str) -> Iterator[None]:
        """While the block runs, and rest() was not called: what fails is said in `farm status`, and our own Ray, whose
        folder is `folder`, is replaced. `head` is the address of a Ray that the farm did not start."""
        os.set_blocking(self._told_to_stop, False)
        os.set_blocking(self._bell, False)
        before = signal.set_wakeup_fd(self._bell, warn_on_full_buffer=False)  # heard while the main thread hangs
        threading.Thread(target=self._watch, args=(queue, folder, facts, head), daemon=True).start()
        try:
            yield
        finally:
            self.rest()
            signal.set_wakeup_fd(before)

    def rest(self) -> None:
        """Watch no more."""
        self._over.set()
        serving.well(self.here)

    def once_more(self) -> None:
        """After a Ray that did not start: try again, unless that has failed too often."""
        if len(self.ended) < MOST_RESTARTS:
            time.sleep(AGAIN_SECONDS)
            self._become()

    def _watch(self, queue: Queue, folder: Path | None, facts: Facts, head: str) -> None:
        ours = psutil.Process()
        ray = parts.Watch(parts.PARTS, lambda: parts.census(ours)) if folder else None
        told_at, said = 0.0, None
        while not self._over.wait(LOOK_SECONDS):
            wrong = ray.look() if ray else _away(head, facts)
            everything = (*wrong.values(), *self._redis())
            if wrong and folder and not self._over.is_set():
                self._tell(everything, "Ray on this machine is being started again")
                self._replace(queue, folder, facts, wrong)
            if everything != said or time.monotonic() - told_at > TELL_SECONDS:
                for what in set(everything) - set(said or ()):
                    log.warning("%s", what)
                self._tell(everything)
                told_at, said = time.monotonic(), everything

    def _tell(self, missing: tuple[str, ...], doing: str | None = None) -> None:
        if not self._over.is_set():
            with suppress(OSError):
                serving.report(self.here, Health(pid=os.getpid(), looked=time.time(), missing=missing, doing=doing))

    def _redis(self) -> list[str]:
        """The faults of our own Redis. The dispatcher revives one that has ended."""
        if self.here.redis_url:
            return []
        pid = Server(self.here.home / "redis").pid
        with suppress(psutil.Error):
            if pid and psutil.Process(pid).status() == psutil.STATUS_STOPPED:
                return [f"Redis (process {pid}) is stopped: kill -CONT {pid}"]
            if pid:
                return []
        return ["Redis has ended; it is started again"]

    def _replace(self, queue: Queue, folder: Path, facts: Facts, wrong: dict[str, str]) -> NoReturn:
        """End our Ray, give back what trained there, and begin again in a fresh process."""
        reason = "; ".join(wrong.values())
        log.warning("%s: Ray on this machine is started again", reason)
        self.is_restarting.set()  # the dispatcher claims nothing more, if it still listens
        if not wrong.keys() & set(parts.SAVERS):
            _ask_to_save(folder)
        folders.end(folder)
        folders.keep_logs(folder, self.here.home)
        shutil.rmtree(folder, ignore_errors=True)
        self._give_back(queue, f"{reason} on {platform.node()}")
        self.ended.append(time.time())
        if self._is_told_to_stop():
            self._become("--leave")
        if len(self.ended) > MOST_RESTARTS:
            log.error(
                "Ray has failed %d times within %g s, the last time since %s.", len(self.ended), WITHIN_SECONDS, reason
            )
            self._become("--leave")
        self.options = self.options | {"_port": urlsplit(facts.dashboard).port}
        self._become()

    def _give_back(self, queue: Queue, reason: str) -> None:
        """Q7: no attempt is counted. A Redis that is away now lets the leases run out."""
        try:
            for status in queue.listing.running():
                if status.worker == self.dispatcher:
                    with suppress(LeaseLost):
                        queue.release(
                            Lease(run_id=status.id, epoch=status.epoch, deadline=0.0, worker=status.worker), reason
                        )
        except FarmError as error:
            log.warning("not given back: %s; the runs go on when their leases run out", error)

    def _is_told_to_stop(self) -> bool:
        """Whether a signal came, of which the main thread may not know: it hangs."""
        with suppress(BlockingIOError):
            return bool({signal.SIGTERM, signal.SIGINT} & set(os.read(self._told_to_stop, 1000)))
        return False

    def _become(self, *more: str) -> NoReturn:
        os.environ.pop(TMPDIR, None)
        os.environ.update(secrets_of_head(self.here))
        words = ["--options", json.dumps(self.options), "--ended", json.dumps(self.ended), *more]
        sys.stdout.flush()
        sys.stderr.flush()
        os.execv(sys.executable, [sys.executable, "-m", "workers.head.serve", *words])


def _ask_to_save(folder: Path) -> None:
    """Have what trains save a checkpoint and give its lease back, for as long as it is worth."""
    agents = folders.agents(folder)
    for agent in agents:
        with suppress(psutil.Error):
            agent.terminate()
    psutil.wait_procs(agents, timeout=SAVE_SECONDS)


def _away(head: str, facts: Facts) -> dict[str, str]:
    """The parts of a Ray not started here that do not answer. All of it may be on another machine."""
    place = urlsplit(facts.dashboard)
    host, _, port = head.rpartition(":")
    known = {"GCS": (host, int(port)), "dashboard": (place.hostname or "", place.port or 0)}
    return {name: f"no {name} answers at {at[0]}:{at[1]}" for name, at in known.items() if not _listens(at)}


def _listens(place: tuple[str, int]) -> bool:
    with suppress(OSError), socket.create_connection(place, timeout=CONNECT_SECONDS):
        return True
    return False


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
