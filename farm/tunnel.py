"""The tunnel that `farm connect` keeps open, as other commands of the same home find it.

`<home>/tunnel.json` (mode 0600, it holds the Redis password) says where its near end is. Who keeps it open holds a lock
on the file, so that one whose keeper was killed is told from one that is open.
"""

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from farm.errors import Conflict, Unreachable

FILE = "tunnel.json"


def url(home: Path) -> str | None:
    """The Redis URL of the near end; None when nobody connected this home to a head.

    Raises: Unreachable: it was connected, and whoever kept the tunnel open is gone without a word.
    """
    try:
        with (home / FILE).open() as file:
            said = json.load(file)
            if _is_locked(file):
                return said["url"]
    except (OSError, ValueError):  # there is none, or it is being written just now
        return None
    raise Unreachable(
        f"the tunnel to {said['head']} is closed.",
        remedy=f"Open it with: farm connect {said['head']}; or remove {home / FILE} to use this machine's own farm.",
    )


def _is_locked(file: TextIO) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    return False


@contextmanager
def announced(home: Path, head: str, url: str) -> Iterator[None]:
    """Have the commands of this home use `url` meanwhile. Raises: Conflict: another tunnel is open here."""
    path = home / FILE
    with os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o600), "r+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Conflict(f"this home is connected already: {path}.", remedy="Stop that `farm connect`.") from None
        file.truncate()
        json.dump({"head": head, "url": url, "pid": os.getpid()}, file)
        file.flush()
        try:
            yield
        finally:
            path.unlink(missing_ok=True)
