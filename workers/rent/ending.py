"""Ends what a farm rents from the process of a command, where the farm itself is not up."""

import time

from farm.errors import Unreachable
from farm.queue.queue import Queue
from farm.queue.rental import describe
from farm.site.settings import Settings
from workers.node import hardware
from workers.rent import watching


def end_all(settings: Settings, queue: Queue, reason: str, name: str | None = None) -> None:
    """End every machine that is not to be kept, or the one called `name`.

    Raises: Unreachable: some may still cost money.
    """
    left = watching.close(watching.of(settings, queue, hardware.provenance), reason, name)
    if left:
        note = next((one.note for one in left if one.note), "the cloud has not said that it ends them").rstrip(".")
        raise Unreachable(f"{describe(left, time.time())}; not ended: {note}.", remedy="Again: farm down")
