"""The Ray job of one attempt: it does the work under a lease, and closes the lease. It runs on the node that works.

The dispatcher opened the lease; the agent closes it, whatever happens. If it dies before that, the lease runs out and
the queue hands the run to another.

The work is done in a thread, since it may block for ever. The main thread waits for its end, or for a request to end
it, decides how the attempt has ended (`workers.attempt.ending`) and has that carried out (`workers.attempt.closing`).
"""

import argparse
import logging
import os
import signal
import sys
import traceback
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager, ExitStack, contextmanager

import ray
from redis import Redis

from farm.errors import Cancelled, FarmError, Hung, LeaseLost, StorageFull, StorageUnusable, WorkerDied, first_line
from farm.queue.queue import Queue
from farm.queue.values import Status
from farm.record.store import Store
from farm.site.session import session
from farm.site.settings import Settings
from farm.study.machine import MIXED
from farm.study.run import Lease, is_evaluating
from workers.attempt.asks import STOP_SECONDS, Asks
from workers.attempt.closing import LEAST_SECONDS, Closing, until_heard
from workers.attempt.ending import Broken, Done, Stopped, ending
from workers.attempt.evaluating import Evaluator
from workers.attempt.group import Also
from workers.attempt.heartbeat import keep
from workers.attempt.post import Post
from workers.attempt.training import Training
from workers.attempt.transcript import copy_to
from workers.node.environment import stand_apart


def main() -> int:
    """Serve the lease named on the command line. Exit code 0 unless the attempt failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    for flag in ("--run", "--worker", "--job", "--node"):
        parser.add_argument(flag, required=True)
    parser.add_argument("--epoch", type=int, required=True)
    parser.add_argument("--also", type=Also.read, action="append", default=[], help="CLASS@NODE@CPUS of a mixed group")
    words = parser.parse_args()
    asks = Asks()
    signal.signal(signal.SIGTERM, lambda *_: asks.drain())
    here = Settings.load()
    stand_apart(here.home)
    try:
        ray.init(logging_level=logging.WARNING)
    except SystemExit:  # of the handler that Ray has set meanwhile
        asks.drain()
    lease = Lease(run_id=words.run, epoch=words.epoch, deadline=0.0, worker=words.worker)
    with open_redis(here) as redis:
        agent = Agent(here, Queue(redis), lease, words.job, words.node, asks, words.also)
        code = agent.serve()
    if agent.is_done:  # else the work is stuck in Ray; and Ray ends the workers of a driver that is gone
        ray.shutdown()
    return code


@contextmanager
def open_redis(here: Settings) -> Iterator[Redis]:
    """A session with Redis, waited for: a node that is cut off from it would spend the run's attempts one by one.

    Raises: Unreachable: it stayed away. Refused, BadSetting
    """
    with ExitStack() as stack:
        yield until_heard(lambda: stack.enter_context(session(here)))


class Agent:
    """One attempt, from a lease to its end. `also`: the other places of a mixed group."""

    def __init__(
        self,
        here: Settings,
        queue: Queue,
        lease: Lease,
        job: str,
        node: str,
        asks: Asks | None = None,
        also: Sequence[Also] = (),
    ):
        self.asks = asks or Asks()
        self.store = Store(here.storage, here.home / "work")
        self.queue, self.lease, self.job = queue, lease, job
        self.nodes = [node, *(other.node for other in also)]
        does = Evaluator if is_evaluating(lease.run_id) else Training
        self.work: Evaluator | Training = does(Post(here, queue, self.store, lease, job, node, also, self.asks))
        self.closing = Closing(queue, lease, self.nodes, self.asks)
        self.is_done = True  # the work, as far as it has begun

    def serve(self) -> int:
        """Do the work under the lease and close it. Returns the exit code of the job."""
        signal.signal(signal.SIGTERM, lambda *_: self.asks.drain())  # first: once known, the job may be stopped
        with ExitStack() as around:  # of the work and of its closing
            done = None if self.asks.asked else self._await(self.asks.start(lambda: self._try_work(around)))
            end = self.closing.carry_out(ending(self.asks.asked, done), self.work)
        if self.is_done:
            self.work.leave()
        return end.code

    def _await(self, working: Future[Done]) -> Done | None:
        """The outcome of the work; None where its end was asked for, and it has none yet that is worth waiting
        for, or did not come to it in time. A lease that ran out instead would cost the run an attempt."""
        asks = self.asks
        asks.wait(lambda: working.done() or bool(asks.asked))
        if not working.done() and not self._is_hung() and self._is_told():
            asks.wait(lambda: working.done() or self._is_hung(), STOP_SECONDS)
        self.is_done = working.done()
        return working.result() if self.is_done else None

    def _is_told(self) -> bool:
        """Whether the work was told that its end is asked for, and may come to it in time. In a thread, since a
        storage may block it: then there is no saying."""
        telling = self.asks.start(lambda: self.work.tell(isinstance(self.asks.asked.stop, LeaseLost)))
        return telling.result() if self.asks.wait(telling.done, LEAST_SECONDS) else True

    def _is_hung(self) -> bool:
        return isinstance(self.asks.asked.stop, Hung)

    def _try_work(self, around: ExitStack) -> Done:
        """Do the work, and return its outcome."""
        try:
            return self._work(around)
        except FarmError as error:
            return Broken(error)
        except Exception as error:
            traceback.print_exc()
            return Broken(WorkerDied(f"{type(error).__name__}: {first_line(error)}"))

    def _work(self, around: ExitStack) -> Done:
        try:
            status = self._take_over()
        except (LeaseLost, Cancelled) as why:
            self.asks.stop(why)
            return Stopped()
        try:
            self._check_same()  # first: the check would make a folder where the storage is not mounted
            self.store.check()
            barred = self.work.occupy()
            self.store.copies.forget_stale()
        except (StorageUnusable, StorageFull) as error:
            return Broken(error, "node")
        if barred:
            return barred
        if self.work.log:
            around.enter_context(copy_to(self.work.log))
        around.enter_context(self._heart(status))
        return self.work.do(status)

    def _take_over(self) -> Status:
        """The first renewal, which says who trains where; and the run as it stood before.

        Raises: LeaseLost, Cancelled
        """
        status = until_heard(lambda: self.queue.listing.status(self.lease.run_id))
        self.work.take_over(status)
        nodes = MIXED.join(self.nodes)
        until_heard(lambda: self.queue.renew(self.lease, self.work.seen, job=self.job, node=nodes))
        return status

    def _check_same(self) -> None:
        """Make sure that the storage is the farm's: a folder where nothing is mounted can be written, too.

        Raises: StorageUnusable
        """
        head = until_heard(self.queue.roster.head)
        if head and self.store.marker() != head.marker:
            raise StorageUnusable(
                f"{self.store.uri} on this node is not the farm's storage, {head.storage} on {head.host}.",
                remedy="Mount that one, or set FARM_STORAGE to it, as on the head.",
            )

    def _heart(self, status: Status) -> AbstractContextManager[None]:
        work, hang_seconds = self.work, status.run.policy.hang_seconds
        return keep(self.queue, self.lease, work.newest_step, work.sign, hang_seconds, self.asks.stop)


def _exit(code: int) -> None:
    """End this process without taking it apart first: that takes 1.5 s, for which the next run waits; and work that is
    stuck would never let it."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    _exit(main())
