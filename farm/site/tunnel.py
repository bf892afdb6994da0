"""The tunnel that `farm connect` keeps open, as other commands of the same home find it.

`<home>/tunnel.json` (mode 0600, it holds the Redis password) says where its near end is; it is there in full or not at
all. Two locks beside it, since a command that asks must not block one that connects: `tunnel.keeper`, which makes sure
that there is one, is never touched by others; `tunnel.open` tells a tunnel that is open from one whose keeper was
killed.
"""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from farm.errors import BadSetting, Conflict, Unreachable
from farm.files import PRIVATE, Lock, write_whole

FILE = "tunnel.json"
KEEPER, OPEN = "tunnel.keeper", "tunnel.open"


def url(home: Path) -> str | None:
    """The Redis URL of the near end; None when this home is not connected to a head.

    Raises: Unreachable: it was connected, and the process that kept the tunnel open was killed. BadSetting: the file
    cannot be read; to use this machine's own farm instead would lead a submit astray.
    """
    path = home / FILE
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
        head, near = said["head"], said["url"]
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (ValueError, KeyError, TypeError):
        raise BadSetting(f"{path} is damaged.", remedy="Remove it; `farm connect` writes it again.") from None
    with Lock(home / OPEN) as is_open:
        if not is_open.try_share():
            return near
    raise Unreachable(
        f"the tunnel to {head} is closed.",
        remedy=f"Open it with: farm connect {head}; or remove {path} to use this machine's own farm.",
        page="docs/machines/laptop.md#through-ssh",
    )


def head(home: Path, url: str) -> str | None:
    """Where the tunnel of `home` leads, if `url` is its near end."""
    try:
        said = json.loads((home / FILE).read_text(encoding="utf-8"))
        return said["head"] if said["url"] == url else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


@contextmanager
def announce(home: Path, head: str, url: str) -> Iterator[None]:
    """Have the commands of this home use `url` meanwhile. Raises: Conflict: another tunnel is open here."""
    path = home / FILE
    with Lock(home / KEEPER) as keeper, Lock(home / OPEN) as is_open:
        if not keeper.try_take():
            raise Conflict(f"this home is connected already: {path}.", remedy="Stop that `farm connect`.")
        said = json.dumps({"head": head, "url": url, "pid": os.getpid()})
        try:
            write_whole(path, said.encode(), PRIVATE)
            is_open.take()  # somebody who asks holds it for a moment
            yield
        finally:
            path.unlink(missing_ok=True)
