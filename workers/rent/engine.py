"""What a landlord needs of whoever rents machines to the farm: the interface of an engine, and what it tells.

An engine keeps nothing that would be lost in a crash: what it must know again is in the record (`farm.queue.rental`),
at the cloud under the record's name, or in the farm's home.
"""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from farm.errors import Guard
from farm.queue.rental import Rental
from farm.record.result import Provenance

Software = Callable[[], Provenance]  # of the farm; asked only when a machine is set up, as it reads all sources

OVER = ("terminated", "preempted")


class Pace(NamedTuple):
    """How often a landlord asks, in seconds."""

    look: float = 15.0  # at what there is, while anything is; with jitter
    capacity: float = 30.0  # for capacity
    launch: float = 12.0  # between launches
    rest: float = 60.0  # after the answer that it was asked too often, or none
    settle: float = 180.0  # for a launched machine to be listed


class Offer(NamedTuple):
    """A type of machine at its price, and the regions where one is free now, or where it is offered."""

    type: str
    usd_per_hour: float
    regions: tuple[str, ...]


def within_price(offers: Sequence[Offer], machine: str, most: float | None, at: str) -> list[Offer]:
    """Those that cost at most `most` dollars an hour, of one or more `offers`, the cheapest first.

    Raises: Guard: the cheapest, `at` some place or of some type, is dearer.
    """
    usd = offers[0].usd_per_hour
    if most is not None and usd > most:
        raise Guard(
            f"{machine} costs ${usd:,.2f}/h at {at}, more than ${most:,.2f}/h.",
            remedy=f"Allow it: --max-usd-per-hour {math.ceil(round(100 * usd, 6)) / 100:.2f}",
        )
    return [offer for offer in offers if most is None or offer.usd_per_hour <= most]


class Place(NamedTuple):
    """What is to be launched, and where. The price is the highest that it can be."""

    type: str
    region: str
    usd_per_hour: float


class Way(NamedTuple):
    """How a person wants to get into a machine, as they typed it."""

    ssh: str = "ssh"
    ssh_key: str | None = None
    identity: Path | None = None


class Agreed(NamedTuple):
    """What may be launched, cheapest first, and what the record says of the way in."""

    offers: list[Offer]
    record: dict[str, Any]


class Instance(NamedTuple):
    """A machine that there is. `status` is active, booting, unhealthy, terminating, or one of OVER."""

    id: str
    name: str
    status: str
    address: str | None
    type: str
    region: str
    usd_per_hour: float | None

    @property
    def is_over(self) -> bool:
        """Whether it is gone, and no longer paid for."""
        return self.status in OVER

    @property
    def is_paid_for(self) -> bool:
        """Whether somebody has to be told to end it."""
        return not self.is_over and self.status != "terminating"


class Engine(Protocol):
    """A way to rent machines. Each method but `forget` may raise Unreachable, Refused or TooOften: nobody knows."""

    name: str
    title: str  # for people
    pace: Pace

    def agree(self, machine: str, most: float | None, region: str | None, way: Way) -> Agreed:
        """Find out what machines of a class may be launched, at `most` so many dollars an hour, before any is wanted.

        Raises: BadSetting, NotFound: something is missing, here or in the account. Guard: all are dearer.
        """

    def tell(self, offers: Sequence[Offer], region: str | None) -> list[str]:
        """What was agreed to, in lines for people."""

    def prepare(self, one: Rental) -> None:
        """Lay down here what the machine of a record will need, before that is put."""

    def keep(self) -> None:
        """Keep what it takes to end machines, now that a record is put: the last one may just have been forgotten."""

    def instances(self) -> list[Instance]:
        """Every machine that there is: of this farm, and perhaps of others."""

    def find(self, one: Rental) -> Place:
        """What to launch for a record now.

        Raises: NoCapacity: nothing is free. Guard: all are dearer than the record allows.
        """

    def launch(self, one: Rental) -> str | None:
        """Launch what the record says; its id, or None if that is under way.

        Raises: NoCapacity, FarmError: nothing was launched.
        """

    def is_launching(self, name: str) -> bool:
        """Whether a launch of this name, which answered None here, is still under way.

        Raises: NoCapacity, FarmError: it failed, and is forgotten.
        """

    def end(self, name: str, ids: Sequence[str]) -> None:
        """Have machines of this name ended, and a launch of it that is under way. What is gone is no error."""

    def bring(self, one: Rental, found: Instance) -> None:
        """Let a machine join, which may take many minutes. It may be repeated.

        Raises: FarmError: a step failed, and may be tried again.
        """

    def forget(self) -> None:
        """Nothing is rented any more: what was kept to end it may go."""
