"""A farm that other machines join: the address where they reach it, and the invitation in its home."""

import ipaddress
import platform
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from farm.errors import BadSetting, FarmError
from farm.site import invitation
from farm.site.invitation import Invitation
from farm.site.session import listen
from farm.site.settings import Settings
from farm.site.urls import hide_password, split
from workers.node import addresses


def address(here: Settings, host: str | None) -> str:
    """The address at which the farm of `here` is to be shared: `host`, or what `addresses.shared_address` finds.

    Raises: BadSetting: there is none, or its Redis asks for no password, or no other machine can reach that.
    """
    if here.redis_url is not None:
        place = split(here.redis_url)
        if not place.password:
            raise BadSetting(
                f"a shared farm needs a Redis with a password, and {hide_password(here.redis_url)} is used"
                " without one.",
                remedy="Set one there and in FARM_REDIS_URL, or unset that and let the farm start its own.",
                page="docs/machines/security.md#the-url-of-redis",
            )
        if place.scheme == "unix" or _is_loopback(place.hostname or ""):
            raise BadSetting(
                f"no other machine can reach the Redis at {hide_password(here.redis_url)}.",
                remedy="Use an address that others can reach, or unset FARM_REDIS_URL and let the farm start its own.",
            )
    return addresses.shared_address(host)


def _is_loopback(host: str) -> bool:
    with suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost"


@contextmanager
def invite(here: Settings, host: str, ray: str, token: Path, storage: str) -> Iterator[Invitation]:
    """Let other machines reach Redis at `host`, and keep the invitation in the home; afterwards neither is there.

    Raises: BadSetting: another program has Redis' port there.
    """
    path = here.home / invitation.FILE
    there = Invitation(
        head=platform.node(),
        ray=ray,
        token=token.read_text(encoding="utf-8").strip(),
        redis=reopen(here, host),
        storage=storage,
    )
    try:
        invitation.write(path, there)
        yield there
    finally:
        path.unlink(missing_ok=True)
        with suppress(FarmError):  # a Redis that has died listens nowhere
            if here.redis_url is None:
                listen(here, None)


def reopen(here: Settings, host: str) -> str:
    """The URL of Redis for other machines. Ours is made to listen at `host`, as it must be again after a revival."""
    return here.redis_url or listen(here, host)
