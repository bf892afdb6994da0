"""Keep a lease alive while work advances, or say that it is lost."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from farm.errors import Cancelled, FarmError, Hung, LeaseLost
from farm.queue.queue import HEARTBEAT_SECONDS, Queue
from farm.study.run import Lease


@contextmanager
def keep(
    queue: Queue,
    lease: Lease,
    step: Callable[[], int],
    sign: Callable[[], object | None],
    hang_seconds: float,
    on_end: Callable[[Cancelled | LeaseLost | Hung], None],
    every_seconds: float = HEARTBEAT_SECONDS,
) -> Iterator[None]:
    """Renew `lease` every `every_seconds` from a thread of its own for as long as the block runs.

    `step` is what the queue is told. `sign` changes while work advances, and is None where nothing can hang. When it
    stands still for `hang_seconds` the lease is no longer renewed, so that a hung collective cannot keep a run for
    ever. `on_end` is called once, with Cancelled, LeaseLost or Hung, when the lease must not be used any longer.

    A Redis that is away, full or refuses is no reason to stop: the lease may still be ours when it has recovered. Nor
    is a storage that cannot be looked at, but what is not seen to advance stands still.
    """
    over = threading.Event()
    beat = threading.Thread(
        target=_beat, args=(over, queue, lease, step, sign, hang_seconds, on_end, every_seconds), daemon=True
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
    step: Callable[[], int],
    sign: Callable[[], object | None],
    hang_seconds: float,
    on_end: Callable[[Cancelled | LeaseLost | Hung], None],
    every_seconds: float,
) -> None:
    reached, last, moved = 0, None, time.monotonic()
    while not over.wait(every_seconds):
        with suppress(OSError):
            reached, newest = step(), sign()
            if newest != last or newest is None:
                last, moved = newest, time.monotonic()
        if time.monotonic() - moved > hang_seconds:
            what = f"Nothing has moved for {hang_seconds:g} s at step {reached}."
            return on_end(Hung(what, remedy="See policy.hang_seconds."))
        try:
            queue.renew(lease, reached)
        except (LeaseLost, Cancelled) as end:
            return on_end(end)
        except FarmError:
            continue
    return None
