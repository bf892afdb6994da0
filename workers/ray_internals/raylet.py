"""The process that is a Ray node, to whoever started it."""

from contextlib import suppress

import psutil


def raylet(parent: int) -> psutil.Process | None:
    """The raylet that the process `parent` started; None before it has, or when `parent` is gone."""
    with suppress(psutil.NoSuchProcess):
        return next((child for child in psutil.Process(parent).children() if child.name() == "raylet"), None)
    return None


def has_ended(process: psutil.Process) -> bool:
    """Whether it runs no more, buried or not."""
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True
