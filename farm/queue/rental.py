"""A machine that the farm rents: its record, what it costs, and when it is to end. No cloud is asked here."""

from enum import StrEnum

from pydantic import Field

from farm.study.recipe import Frozen

LEAVE_SECONDS = 120.0  # before a limit: for what trains to save a checkpoint


class Stage(StrEnum):
    """How far a rented machine has come. From LAUNCHING to ENDING it may cost money."""

    WAITING = "waiting"
    LAUNCHING = "launching"
    BOOTING = "booting"
    JOINING = "joining"
    UP = "up"
    LEAVING = "leaving"
    ENDING = "ending"
    ENDED = "ended"


class Rental(Frozen):
    """The record of a machine for rent, from the moment it is asked for. Times are Unix seconds.

    It is written before the cloud is asked for anything, so that whoever reads it after a crash knows what to look for.
    """

    name: str = Field(description="in the cloud and in the farm; no other machine ever has it")
    keeper: str = Field(description="HOST:HOME of the farm that watches over it")
    cloud: str = Field(description="the engine that rents it: lambda or skypilot")
    machine: str = Field(description="the machine class that it must turn out to be")
    region: str | None = Field(None, description="the only one that will do; None: any")
    max_usd_per_hour: float = Field(ge=0, description="a dearer machine is never launched")
    hours: float = Field(gt=0, description="from launch to end, at most")
    usd: float | None = Field(None, gt=0, description="from launch to end, at most")
    idle_minutes: float = Field(gt=0, description="without a run, until it is ended")
    ssh_key: str = Field(description="its name in the cloud's account; empty where the engine has its own way in")
    ssh: str = Field(description="the command that gets in with the private part of that key; empty likewise")
    is_host_known: bool = Field(True, description="the machine is given a host key, and must show it")
    asked: float

    stage: Stage = Stage.WAITING
    note: str = Field("", description="what it waits for, or what failed last")
    type: str | None = Field(None, description="of instance, as the cloud calls it")
    place: str | None = Field(None, description="region of the launch")
    usd_per_hour: float | None = Field(None, description="price at the launch")
    launched: float | None = Field(None, description="just before the cloud was asked; it is paid for from then on")
    instance: str | None = Field(None, description="id in the cloud")
    address: str | None = None
    entered: float = Field(0.0, description="when this stage began")
    missing: int = Field(0, description="times in a row that the cloud did not list it")
    idle_since: float | None = None
    reason: str | None = Field(None, description="why it is ended")
    ended: float | None = None
    is_kept: bool = Field(False, description="it stays when the farm goes down")

    @property
    def is_over(self) -> bool:
        return self.stage is Stage.ENDED

    @property
    def is_coming(self) -> bool:
        """Whether it is wanted, and not up yet."""
        return self.stage in (Stage.WAITING, Stage.LAUNCHING, Stage.BOOTING, Stage.JOINING)

    @property
    def may_cost(self) -> bool:
        """Whether there may be a machine that is paid for."""
        return self.stage not in (Stage.WAITING, Stage.ENDED)

    def seconds(self, now: float) -> float:
        """Seconds that are paid for until `now`, at most."""
        return 0.0 if self.launched is None else max(0.0, (self.ended or now) - self.launched)

    def spent(self, now: float) -> float:
        """Dollars until `now`, at most."""
        return (self.usd_per_hour or 0.0) * self.seconds(now) / 3600

    @property
    def until(self) -> float | None:
        """When it reaches its first limit; None before it was launched."""
        if self.launched is None:
            return None
        hours = self.hours
        if self.usd is not None and self.usd_per_hour:
            hours = min(hours, self.usd / self.usd_per_hour)
        return self.launched + 3600 * hours

    def limit(self, now: float, early: float = 0.0) -> str | None:
        """The limit that it reaches within `early` seconds, in words."""
        if self.until is None or now < self.until - early:
            return None
        if self.usd is not None and self.spent(self.until) >= self.usd * 0.999999:
            return f"its limit of ${self.usd:,.2f} is reached"
        return f"its limit of {self.hours:g} h is reached"

    def on(self, stage: Stage, now: float, note: str = "", **changes: object) -> "Rental":
        """The record as it is after it came to `stage`."""
        entered = self.entered if stage is self.stage else now
        return self.model_copy(update={"stage": stage, "entered": entered, "note": note, "missing": 0} | changes)

    def ending(self, reason: str, now: float) -> "Rental":
        """The record as it is after it was decided that the machine ends: at once where none was ever asked for."""
        if self.stage is Stage.WAITING:
            return self.on(Stage.ENDED, now, reason=reason, ended=now)
        return self.on(Stage.ENDING, now, reason=self.reason or reason)


def describe(rentals: list[Rental], now: float) -> str:
    """What the machines among `rentals` that may cost money cost, in words; empty without any."""
    paid = [one for one in rentals if one.may_cost]
    if not paid:
        return ""
    rate, spent = sum(one.usd_per_hour or 0.0 for one in paid), sum(one.spent(now) for one in paid)
    what = "1 rented machine costs" if len(paid) == 1 else f"{len(paid)} rented machines cost"
    return f"{what} ${rate:,.2f}/h, ${spent:,.2f} so far: {', '.join(one.name for one in paid)}"
