"""Waiting for other processes, with an end."""

import time
from collections.abc import Callable

PATIENCE_SECONDS = 180.0


def wait_for(
    condition: Callable[[], bool], what: str, *, pause: float = 0.1, patience: float = PATIENCE_SECONDS
) -> None:
    """Raises: TimeoutError: `condition` has not become true within `patience` seconds."""
    until = time.monotonic() + patience
    while not condition():
        if time.monotonic() > until:
            raise TimeoutError(f"waited {patience:g} s: {what}")
        time.sleep(pause)
