"""Keep a lease alive while work advances, or say that it is lost."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from farm.errors import Cancelled, FarmError, Hung, LeaseLost
from farm.queue import HEARTBEAT_SECONDS, Queue
from farm.run import Lease


@contextmanager
def keep(
    queue: Queue,
    lease: Lease,
    progress: Callable[[], int | None],
    hang_seconds: float,
    on_end: Callable[[FarmError], None],
    every_seconds: float = HEARTBEAT_SECONDS,
) -> Iterator[None]:
    """Renew `lease` every `every_seconds` from a thread of its own for as long as the block runs.

    `progress` is the newest finished step, or None while training has not begun. When it stands still for
    `hang_seconds` the lease is no longer renewed, so that a hung collective cannot keep a run for ever. `on_end` is
    called once, with Cancelled, LeaseLost or Hung, when the lease must not be used any longer. A Redis that is away,
    full or refuses is no reason to stop: the lease may still be ours when it has recovered.
    """
    over = threading.Event()
    beat = threading.Thread(
        target=_beat, args=(over, queue, lease, progress, hang_seconds, on_end, every_seconds), daemon=True
    )
    beat.start()
    try:
        yield
    finally:
        over.set()
        beat.join(timeout=every_seconds + 5)


def _beat(
    over: threading.Event,
    queue: Queue,
    lease: Lease,
    progress: Callable[[], int | None],
    hang_seconds: float,
    on_end: Callable[[FarmError], None],
    every_seconds: float,
) -> None:
    step, moved = None, time.monotonic()
    while not over.wait(every_seconds):
        newest = progress()
        if newest != step or newest is None:
            step, moved = newest, time.monotonic()
        if time.monotonic() - moved > hang_seconds:
            return on_end(Hung(f"No step for {hang_seconds:g} s after step {step}.", remedy="See policy.hang_seconds."))
        try:
            queue.renew(lease, step or 0)
        except (LeaseLost, Cancelled) as end:
            return on_end(end)
        except FarmError:
            continue
    return None
