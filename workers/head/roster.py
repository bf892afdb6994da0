"""Reports Ray's nodes to the queue for all to read, and carries out the drains that the queue asks for."""

import logging
import time
from collections.abc import Callable

from ray.exceptions import RayError

from farm.errors import first_line
from farm.queue.queue import Queue
from workers.head.dispatcher import RayNode, nodes
from workers.head.jobs import Jobs

LOOK_SECONDS = 1.0
SIGHT_SECONDS = 5.0  # between two tellings of the same nodes
KEEP_SECONDS = 15.0  # a sighting holds: three tellings, two of which may get lost

log = logging.getLogger("farm")


class Registrar:
    """turn() reports the nodes and carries out the drains; call it again and again."""

    def __init__(self, queue: Queue, jobs: Jobs, look: Callable[[], list[RayNode]] = nodes):
        self.queue, self.jobs, self._nodes = queue, jobs, look
        self.looks_at = self.tells_at = 0.0
        self.told: set[str] = set()
        self.drained: set[str] = set()
        self.asked: set[str] = set()  # jobs that were asked to stop

    def look(self) -> list[RayNode]:
        """The living nodes where a run may start. One that leaves can trust that none starts on a node not told of."""
        found = self._nodes()
        if {node.id for node in found} != self.told or time.monotonic() >= self.tells_at:
            self.queue.roster.sight([node.facts for node in found if node.units], KEEP_SECONDS)
            self.told = {node.id for node in found}
            self.tells_at = time.monotonic() + SIGHT_SECONDS
        return [node for node in found if node.id not in self.drained]

    def turn(self) -> None:
        """Tell the queue which nodes there are, and ask what runs on drained ones for a checkpoint and its lease."""
        if time.monotonic() < self.looks_at:
            return
        self.looks_at = time.monotonic() + LOOK_SECONDS
        try:
            self.look()
        except (RayError, ConnectionError) as error:
            log.warning("Ray does not say which nodes it has: %s", first_line(error))
        self.drained = {node.id for node in self.queue.roster.nodes() if node.drained is not None}
        if self.drained:
            self._drain()

    def _drain(self) -> None:
        running = {
            status.job: status for status in self.queue.listing.running() if status.job
        }  # others have no agent to ask yet
        self.asked &= running.keys()
        for job, status in running.items():
            if self.drained & set(status.nodes) and job not in self.asked and self._ask(job):
                log.info("%s: asked for a checkpoint, since its node is drained", status.run.id)

    def _ask(self, job: str) -> bool:
        if why := self.jobs.stop(job):
            log.warning("%s could not be asked to stop: %s; trying again", job, why)
            return False
        self.asked.add(job)
        return True
