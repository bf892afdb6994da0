"""Lambda's cloud as an engine: its API launches and ends, and ssh lets a machine join."""

from collections.abc import Sequence
from pathlib import Path

from farm.errors import NoCapacity
from farm.queue.rental import Rental
from workers.rent import api_key, arrival, host_key
from workers.rent.account import affordable, choose_key
from workers.rent.engine import Agreed, Instance, Offer, Pace, Place, Software, Way
from workers.rent.lambda_cloud import SECONDS, Lambda
from workers.rent.types import types_of

PACE = Pace()  # Lambda allows one request a second, and asks for 12 s between launches


class LambdaEngine:
    """The account whose key is kept in `home`; it is read anew each time, so that another key counts at once."""

    name, title = "lambda", "Lambda"

    def __init__(self, home: Path, software: Software, pace: Pace = PACE, seconds: float = SECONDS):
        self.home, self.pace = home, pace
        self._software, self._seconds = software, seconds
        self._found: api_key.Access | None = None  # by `agree`

    def agree(self, machine: str, most: float | None, region: str | None, way: Way) -> Agreed:
        types_of(machine)
        self._found = api_key.find(self.home)
        account = Lambda(*self._found)
        offers = affordable(account.offers(), machine, most)
        key = choose_key(account.ssh_keys(), way.ssh_key, way.identity, Path("~/.ssh").expanduser())
        return Agreed(offers, {"ssh_key": key.name, "ssh": f"{way.ssh} -i {key.file} -o IdentitiesOnly=yes"})

    def tell(self, offers: Sequence[Offer], region: str | None) -> list[str]:
        lines = [
            f"{it.type} at ${it.usd_per_hour:,.2f}/h, free in {', '.join(it.regions) or 'no region now'}"
            for it in offers
        ]
        if region and not any(region in it.regions for it in offers):
            unsure = "farm waits, but cannot tell whether Lambda has such a region"
            lines.append(f"nothing of it is free in {region} now; {unsure}")
        return lines

    def prepare(self, one: Rental) -> None:
        self.keep()
        if one.is_host_known:
            host_key.make(arrival.folder_of(self.home, one.name), one.name)

    def keep(self) -> None:
        api_key.keep(self.home, self._found or api_key.find(self.home))

    def instances(self) -> list[Instance]:
        return self._account().instances()

    def find(self, one: Rental) -> Place:
        offers = affordable(self._account().offers(), one.machine, one.max_usd_per_hour)
        free = [(it, region) for it in offers for region in it.regions if one.region in (None, region)]
        if free:
            offer, region = free[0]
            return Place(offer.type, region, offer.usd_per_hour)
        where = f"in {one.region}" if one.region else "in any region"
        elsewhere = sorted({region for it in offers for region in it.regions})
        more = f"; there is in {', '.join(elsewhere)}" if elsewhere else ""
        raise NoCapacity(f"no {one.machine} is free {where}{more}; looking every {self.pace.capacity:g} s or so")

    def launch(self, one: Rental) -> str:
        told = host_key.user_data(arrival.folder_of(self.home, one.name)) if one.is_host_known else None
        return self._account().launch(one.type or "", one.place or "", one.name, one.ssh_key, told)

    def is_launching(self, name: str) -> bool:
        return False

    def end(self, name: str, ids: Sequence[str]) -> None:
        if ids:
            self._account().end([*ids])

    def bring(self, one: Rental, found: Instance) -> None:
        arrival.bring(one, Lambda.user, found.address or "", self.home, self._software())

    def forget(self) -> None:
        api_key.drop(self.home)

    def _account(self) -> Lambda:
        return Lambda(*api_key.kept(self.home), seconds=self._seconds)
