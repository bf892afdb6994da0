"""Presence of dispatchers: the claims of one that is gone, if not yet handed on as jobs, are given back at once."""

import socket
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from farm.errors import FarmError
from farm.queue.queue import Queue

ABSENT_SECONDS = 10.0  # of silence, and a dispatcher is gone
ATTEND_SECONDS = 3.0


def new_name() -> str:
    """A name for a dispatcher, which it uses in its claims."""
    return f"dispatcher-{socket.gethostname()}-{uuid.uuid4().hex[:8]}"


@contextmanager
def present(queue: Queue) -> Iterator[str]:
    """Say that a dispatcher is there while the block runs, from a thread: its own may wait long for Ray. Yields its
    name."""
    name, over = new_name(), threading.Event()
    thread = threading.Thread(target=_attend, args=(queue, name, over), daemon=True)
    thread.start()
    try:
        yield name
    finally:
        over.set()
        thread.join(ATTEND_SECONDS)
        with suppress(FarmError):
            queue.roster.attend(name, 0)


def _attend(queue: Queue, name: str, over: threading.Event) -> None:
    while not over.is_set():
        with suppress(FarmError):  # a Redis that is away is told again
            queue.roster.attend(name, ABSENT_SECONDS)
        over.wait(ATTEND_SECONDS)
