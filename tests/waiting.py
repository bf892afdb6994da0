"""Waiting for what other processes do, instead of sleeping for as long as it may take."""

import time
from collections.abc import Callable
from typing import TypeVar

Value = TypeVar("Value")
PAUSE_SECONDS = 0.005, 0.1  # at first, and at most: what is waited for has the same cores as whoever asks
LATE = 1 / 50  # of the time waited so far: how much later it may be noticed


def wait_until(condition: Callable[[], Value], message: str, seconds: float = 60.0) -> Value:
    """Ask `condition` until it says something true, and return that; fail with `message` after `seconds`."""
    began, (least, most) = time.monotonic(), PAUSE_SECONDS
    while not (value := condition()):
        waited = time.monotonic() - began
        if waited > seconds:
            raise AssertionError(f"not within {seconds:g} s: {message}")
        time.sleep(min(most, max(least, waited * LATE)))
    return value
