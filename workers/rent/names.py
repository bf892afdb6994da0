"""The names of rented machines: by them a farm finds its own in the cloud, and a launch whose answer was lost."""

import platform
import re
import secrets
from hashlib import sha256
from pathlib import Path


def mark(storage: str) -> str:
    """The beginning of the names of all that a farm rents. `storage` is the marker of its storage, which outlives its
    Redis."""
    return f"farm-{sha256(storage.encode()).hexdigest()[:8]}-"


def new(storage: str, machine: str) -> str:
    """A name that no other machine ever had."""
    return f"{mark(storage)}{machine}-{secrets.token_hex(4)}"


def machine(name: str) -> str | None:
    """The machine class in a name that `new` made."""
    match = re.fullmatch(r"farm-[0-9a-f]{8}-(.+)-[0-9a-f]{4,8}", name)
    return match and match[1]


def keeper(home: Path) -> str:
    """The farm of this home, as a record names who watches over it."""
    return f"{platform.node()}:{home}"
