"""A sign that work without steps advances: a file that is touched from time to time."""

import time
from contextlib import suppress
from pathlib import Path

PULSE_SECONDS = 0.2


class Pulse:
    """Touches `path`, at most a few times a second."""

    def __init__(self, path: Path):
        self._path, self._beaten = path, 0.0

    def beat(self) -> None:
        """Work has advanced."""
        if time.monotonic() - self._beaten >= PULSE_SECONDS:
            self._beaten = time.monotonic()
            with suppress(OSError):
                self._path.touch()
