"""Questions to Ray's global control store, without becoming a node or a driver of that Ray."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from ray._raylet import GcsClient  # type: ignore[attr-defined]

STDERR = 2  # its file descriptor


def connect(place: str) -> None:
    """Say hello to the head at `place`, with this process's secret.

    Raises: AuthenticationError: of ray.exceptions, the secret is another. RayError, OSError
    """
    with _without_rays_log():
        GcsClient(address=place)


@contextmanager
def _without_rays_log() -> Iterator[None]:
    """Let Ray's C++ write nothing to stderr: it also logs what it raises, and has no switch for that."""
    sys.stderr.flush()
    kept = os.dup(STDERR)
    with open(os.devnull, "w", encoding="utf-8") as nowhere:
        os.dup2(nowhere.fileno(), STDERR)
    try:
        yield
    finally:
        os.dup2(kept, STDERR)
        os.close(kept)
