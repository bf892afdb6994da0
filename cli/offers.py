"""The offer of this machine: `--machine CLASS=UNITS`, or a class for its hardware; and to whom: `--shared --host`."""

from collections.abc import Sequence

from farm.errors import BadSetting
from farm.site.settings import Settings
from farm.study.machine import BUILT_IN, find_machine


def units(offers: Sequence[str] | None, settings: Settings, cpus: int | None) -> dict[str, int] | None:
    """Machine class -> runs that train at a time, on `cpus`. None without `offers`: then the hardware decides.

    Raises: BadSetting: not CLASS or CLASS=UNITS, or more than this machine has room for. BadStudy: the class is not
    declared.
    """
    if not offers:
        return None
    counts = dict(split(offer) for offer in offers)
    from workers.node import hardware

    for name, count in counts.items():
        find_machine(name, BUILT_IN | settings.machines)
        hardware.offer(name, settings.machines, count, cpus)
    return counts


def where_shared(settings: Settings, shared: bool, host: str | None) -> str | None:
    """The address at which other machines are to reach this farm; None if it is for this machine alone.

    Raises: BadSetting: `host` without --shared, or an unusable one; no address is known, or no password.
    """
    if not shared:
        if host is not None:
            raise BadSetting(
                f"--host {host}: a farm that is not shared listens on loopback only.",
                remedy=f"Write --shared --host {host}.",
            )
        return None
    from workers.head.embedded import check_installed

    check_installed()
    from workers.head import sharing

    return sharing.address(settings, host)


def split(text: str) -> tuple[str, int]:
    """CLASS=UNITS, or CLASS for one unit.

    Raises: BadSetting
    """
    name, equals, count = text.partition("=")
    if equals and not (count.isascii() and count.isdigit() and int(count) > 0):
        raise BadSetting(
            f"--machine {text}: {count!r} is not a valid number of units.", remedy="Write --machine CLASS=UNITS."
        )
    return name, int(count) if equals else 1
