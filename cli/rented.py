"""What is rented, as `farm rent --list`, `farm machines`, `farm status` and `farm down` show it."""

import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from cli import render
from cli.render import Column, Sheet
from farm.errors import FarmError, NotFound
from farm.queue.queue import Queue
from farm.queue.rental import Rental
from farm.site.settings import Settings

ASK_SECONDS = 30.0  # for the cloud to answer
GLANCE_SECONDS = 5.0  # for the cloud to answer a command that shows other things besides
COLUMNS = (
    Column("name", "rented"),
    Column("machine", "machine", render.text),
    Column("stage", "stage"),
    Column("region", "region", render.text),
    Column("usd_per_hour", "$/h", render.dollars, is_number=True),
    Column("hours", "hours", render.or_unknown(lambda value: f"{value:,.2f}"), is_number=True),
    Column("usd", "$ so far", render.dollars, is_number=True),
    Column("until", "ends in, at the latest", render.duration),
    Column("note", "", render.text, is_prose=True),
)


def sheet(rentals: Sequence[Rental], strays: Sequence[Any] = ()) -> Sheet:
    """A row for each machine, and for each of the `strays`, instances that only their name says to be this farm's."""
    return Sheet("farm.rented/1", COLUMNS, [*map(_row, rentals), *map(_stray_row, strays)])


def _row(one: Rental) -> dict[str, Any]:
    now = time.time()
    return {
        "name": one.name,
        "machine": one.machine,
        "stage": str(one.stage),
        "region": one.place or one.region,
        "usd_per_hour": one.usd_per_hour,
        "hours": one.seconds(now) / 3600,
        "usd": one.spent(now),
        "until": max(0.0, one.until - now) if one.until and not one.is_over else None,
        "note": one.note or one.reason or "",
        "record": one,
    }


def _stray_row(it: Any) -> dict[str, Any]:
    return {
        "name": it.name,
        "machine": None,
        "stage": it.status,
        "region": it.region,
        "usd_per_hour": it.usd_per_hour,
        "hours": None,
        "usd": None,
        "until": None,
        "note": f"this farm has no record of it ({it.type}, {it.id}); farm rent --end {it.name}",
        "record": None,
    }


def stray(it: Any) -> str:
    """One of the `strays`, in words."""
    costs = "money" if it.usd_per_hour is None else f"${it.usd_per_hour:,.2f}/h"
    return f"{it.name} costs {costs}, and this farm has no record of it: farm rent --end {it.name}"


def accounts(
    settings: Settings, rentals: Sequence[Rental], seconds: float = ASK_SECONDS, *, quick: bool = False
) -> list[Any]:
    """The engines that this machine may ask: Lambda with a key, and SkyPilot where settings or records name it, unless
    it is to be `quick`: a command of SkyPilot takes some seconds."""
    from workers.node import hardware
    from workers.rent import api_key
    from workers.rent.lambda_engine import LambdaEngine
    from workers.rent.sky_engine import SkyEngine

    found: list[Any] = []
    with suppress(NotFound):
        api_key.find(settings.home)
        found.append(LambdaEngine(settings.home, hardware.provenance, seconds=seconds))
    if not quick and SkyEngine.name in (settings.rent.engine, *(one.cloud for one in rentals)):
        found.append(SkyEngine(settings.home, hardware.provenance, settings.rent.sky))
    return found


def strays(
    settings: Settings, queue: Queue, rentals: Sequence[Rental], seconds: float = ASK_SECONDS, *, quick: bool = False
) -> list[Any]:
    """The instances that cost money and carry this farm's mark, and that it has no record of. None without a key.

    Raises: FarmError: the cloud does not say.
    """
    return [it for one in accounts(settings, rentals, seconds, quick=quick) for it in marked(one, queue, rentals)]


def marked(engine: Any, queue: Queue, rentals: Sequence[Rental]) -> list[Any]:
    """As `strays`, of one engine."""
    from workers.rent.names import mark

    head = queue.roster.head()
    if head is None:
        return []
    names, start = {one.name for one in rentals}, mark(head.marker)
    found = engine.instances()
    return [it for it in found if it.name.startswith(start) and it.name not in names and not it.is_over]


def glance(settings: Settings, queue: Queue) -> tuple[list[Rental], list[Any], str | None]:
    """The records of what is not over, the strays, and why these are not known if they are not."""
    rentals = queue.roster.rentals()
    live = [one for one in rentals if not one.is_over]
    try:
        return live, strays(settings, queue, rentals, GLANCE_SECONDS, quick=True), None
    except FarmError as error:
        return live, [], f"whether other machines cost money is not known: {error}"
