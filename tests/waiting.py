"""Waiting for what other processes do, instead of sleeping for as long as it may take."""

import time
from collections.abc import Callable
from typing import TypeVar

Value = TypeVar("Value")


def wait_until(condition: Callable[[], Value], message: str, seconds: float = 60.0) -> Value:
    """Ask `condition` until it says something true, and return that; fail with `message` after `seconds`."""
    end = time.monotonic() + seconds
    while not (value := condition()):
        if time.monotonic() > end:
            raise AssertionError(f"not within {seconds:g} s: {message}")
        time.sleep(0.005)
    return value
