"""A cloud, and a farm's landlord with a clock that the tests set."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from lambda_server import LambdaCloud, lambda_cloud
from redis import Redis

from farm.queue.node import Node
from farm.queue.queue import Queue
from farm.queue.rental import Rental, Stage
from workers.node import hardware
from workers.rent import api_key, landlord, names
from workers.rent.api_key import Access
from workers.rent.engine import Instance, Pace
from workers.rent.lambda_cloud import Lambda
from workers.rent.lambda_engine import LambdaEngine
from workers.rent.landlord import Landlord

PACE = Pace(look=10.0, capacity=20.0, launch=12.0, rest=60.0, settle=180.0)


class Brought(LambdaEngine):
    """Lambda's, but for the ssh that would let a machine join."""

    def __init__(self, renting: "Renting"):
        super().__init__(renting.home, hardware.provenance, PACE, seconds=5.0)
        self._renting = renting

    def bring(self, one: Rental, found: Instance) -> None:
        if self._renting.broken:
            raise self._renting.broken.pop(0)
        self._renting.brought.append((one.name, Lambda.user, found.address or ""))


class Renting:
    """`brought` are the machines that were let join; `broken` is what the next arrival fails with."""

    def __init__(self, queue: Queue, home: Path, cloud: LambdaCloud):
        self.queue, self.home, self.cloud = queue, home, cloud
        self.now = 1_000_000.0
        self.brought: list[tuple[str, str, str]] = []
        self.broken: list[Exception] = []
        api_key.keep(home, Access(cloud.key, cloud.url))
        self.landlord = self.fresh()

    def fresh(self) -> Landlord:
        """One that knows nothing but the records, as after a crash."""
        engine = Brought(self)
        self.landlord = Landlord(self.queue, self.home, engine, lambda: self.now)
        return self.landlord

    def want(self, name: str = "farm-12345678-8xa100m40-0001", **changes: object) -> str:
        wanted = {"machine": "8xa100m40", "max_usd_per_hour": 12.0, "hours": 10.0, "idle_minutes": 10.0}
        self.queue.roster.rent(
            Rental(
                name=name,
                keeper=names.keeper(self.home),
                cloud="lambda",
                ssh_key="mine",
                ssh="ssh",
                is_host_known=False,
                asked=self.now,
                **wanted | changes,
            )
        )
        return name

    def one(self) -> Rental:
        (one,) = self.queue.roster.rentals()
        return one

    def turn(self, seconds: float = 15.0) -> Rental:
        """Let so much time pass, and have the landlord look."""
        self.now += seconds
        self.landlord.turn()
        return self.one()

    def until(self, stage: Stage, turns: int = 60) -> Rental:
        for _ in range(turns):
            if (one := self.turn()).stage is stage:
                return one
        raise AssertionError(f"still {one.stage}: {one.note}")

    def join(self, units: str = "8xa100m40") -> None:
        """The machine says that it is here."""
        name = self.one().name
        node = Node(id=f"ray-{name}", name=name, host=name, address="10.0.0.9", units={units: 1}, joined="token")
        self.queue.roster.sight([node], 3600)

    def up(self, **changes: object) -> Rental:
        """A machine that has joined."""
        self.cloud.capacity["gpu_8x_a100"] = ["us-east-1"]
        self.want(**changes)
        self.until(Stage.BOOTING)
        self.cloud.boot()
        self.until(Stage.JOINING)
        self.join()
        return self.until(Stage.UP)


@pytest.fixture
def cloud() -> Iterator[LambdaCloud]:
    with lambda_cloud() as cloud:
        cloud.keys["mine"] = "ssh-ed25519 AAAA me"
        yield cloud


@pytest.fixture
def renting(redis: Redis, tmp_path: Path, cloud: LambdaCloud, monkeypatch: pytest.MonkeyPatch) -> Renting:
    monkeypatch.setattr(landlord.random, "uniform", lambda *_: 1.0)
    return Renting(Queue(redis), tmp_path, cloud)
