"""Any cloud that SkyPilot knows, as an engine: it finds the cheapest place that has a machine, launches and ends it.

A cluster of SkyPilot has the name of the record, and SkyPilot launches a name once: a launch that is repeated goes on
with the cluster that there is. The machine joins by the task of that launch, so that SkyPilot counts it as idle as soon
as the task ends, which is at the record's limit at the latest, and then ends it itself: also if the head is gone.
"""

import json
import math
import os
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from farm.errors import FarmError, NotFound
from farm.files import PRIVATE, write_whole
from farm.queue.rental import Rental
from farm.record.result import Provenance
from farm.site import invitation
from farm.site.settings import make_home
from workers.rent import arrival, names
from workers.rent.engine import Agreed, Instance, Offer, Pace, Place, Software, Way, within_price
from workers.rent.sky_command import Sky, refusal
from workers.rent.sky_names import accelerators

PACE = Pace(look=60.0, capacity=120.0, launch=0.0, rest=120.0, settle=600.0)  # a command of `sky` takes some seconds
LOG, TASK, SENT = "sky.log", "sky.json", "sent"  # in the rental's folder; SENT is what the machine gets
THERE = "farm-sent"  # what SENT is called there
SHOWN = 5  # offers
HOPELESS_TRIES = 180  # to join, 20 s apart, of a machine whose farm does not answer


class SkyEngine:
    """The clouds that `command` may use, for the farm whose home is `home`."""

    name, title = "skypilot", "SkyPilot"

    def __init__(self, home: Path, software: Software, command: str, pace: Pace = PACE):
        self.home, self.pace, self.sky = home, pace, Sky(command)
        self._software = software
        self._launches: dict[str, subprocess.Popen[bytes]] = {}
        self._usd_per_hour: dict[tuple[str, str], float] = {}  # of a type in a region

    def agree(self, machine: str, most: float | None, region: str | None, way: Way) -> Agreed:
        wanted = accelerators(machine)
        self.sky.check()
        places = [region] if region else self.sky.clouds()
        found = [it for place in places for name, count in wanted.items() for it in self.sky.offers(name, count, place)]
        found.sort(key=lambda one: one.usd_per_hour)
        if not found:
            raise NotFound(
                f"SkyPilot knows no {machine} in {', '.join(places)} (as {_spelled(wanted)}).",
                remedy="Ask for another class, or let it use more clouds: sky check",
            )
        return Agreed(within_price(found, machine, most, found[0].type), {"ssh_key": "", "ssh": ""})

    def tell(self, offers: Sequence[Offer], region: str | None) -> list[str]:
        lines = [f"{it.type} at ${it.usd_per_hour:,.2f}/h in {_several(it.regions)}" for it in offers[:SHOWN]]
        more = f"; and {len(offers) - SHOWN} dearer ones" if len(offers) > SHOWN else ""
        return [*lines, f"by SkyPilot's price lists{more}; only a launch tells whether one is free"]

    def prepare(self, one: Rental) -> None:
        pass

    def keep(self) -> None:
        pass

    def instances(self) -> list[Instance]:
        return [self._priced(it) for it in self.sky.clusters()]

    def find(self, one: Rental) -> Place:
        """SkyPilot itself looks for the cheapest place within the limit, and goes on to the next where none is free."""
        self.sky.check()
        return Place(_spelled(accelerators(one.machine)), one.region or "the cheapest place", one.max_usd_per_hour)

    def launch(self, one: Rental) -> None:
        self._launches[one.name] = self._start(one)

    def is_launching(self, name: str) -> bool:
        launch = self._launches.get(name)
        if launch is None or launch.poll() == 0:
            return False
        if launch.returncode is None:
            return True
        del self._launches[name]
        raise self._refusal(name)

    def end(self, name: str, ids: Sequence[str]) -> None:
        self.sky.down(name)
        if launch := self._launches.pop(name, None):
            launch.kill()
            launch.wait()

    def bring(self, one: Rental, found: Instance) -> None:
        """The task of a launch makes it join. After a crash there is no launch here, so it is repeated."""
        if one.name not in self._launches:
            self.launch(one)
        launch = self._launches[one.name]
        if launch.wait():
            self._launches.pop(one.name, None)
            raise self._refusal(one.name)

    def forget(self) -> None:
        self._launches.clear()

    def _start(self, one: Rental) -> subprocess.Popen[bytes]:
        folder = arrival.folder_of(self.home, one.name)
        pack(folder, one, self.home, self._software())
        write_whole(folder / TASK, json.dumps(task(folder, one)).encode(), PRIVATE)
        with open(os.open(folder / LOG, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as log:
            return self.sky.launch(one.name, folder / TASK, max(1, math.ceil(one.idle_minutes)), log)

    def _refusal(self, name: str) -> Exception:
        said = (arrival.folder_of(self.home, name) / LOG).read_text(encoding="utf-8", errors="replace")
        return refusal(said)

    def _priced(self, it: Instance) -> Instance:
        """With the price that SkyPilot's list has; without one, its record says what it may cost at most."""
        key, machine = (it.type, it.region), names.machine(it.name)
        if machine and it.type and key not in self._usd_per_hour:
            with suppress(FarmError):
                offers = (self.sky.offers(name, count, it.region) for name, count in accelerators(machine).items())
                found = [one.usd_per_hour for some in offers for one in some if one.type == it.type]
                self._usd_per_hour |= {key: found[0]} if found else {}
        return it._replace(usd_per_hour=self._usd_per_hour.get(key))


def task(folder: Path, one: Rental) -> dict[str, Any]:
    """What SkyPilot is told; JSON is YAML. Nothing in it is secret: it keeps this in its database, and shows it."""
    resources: dict[str, Any] = {"accelerators": accelerators(one.machine), "max_hourly_cost": one.max_usd_per_hour}
    resources |= {"infra": one.region} if one.region else {}
    sent = {f"~/{THERE}": str(folder / SENT)}
    return {"name": one.name, "resources": resources, "file_mounts": sent, "run": f"bash ~/{THERE}/run.sh\n"}


def pack(folder: Path, one: Rental, home: Path, software: Provenance) -> None:
    """Lay out what the machine gets: farm's sources, the invitation, the person's script, and what to do with them."""
    sent = folder / SENT
    make_home(sent)
    sent.chmod(0o700)
    write_whole(sent / "sources.tar.gz", arrival.sources(), PRIVATE)
    write_whole(sent / arrival.INVITED, (home / invitation.FILE).read_bytes(), PRIVATE)
    if (folder / arrival.SETUP).exists():
        write_whole(sent / arrival.SETUP, (folder / arrival.SETUP).read_bytes(), PRIVATE)
    write_whole(sent / "run.sh", run(one, software, time.time()).encode(), PRIVATE)


def run(one: Rental, software: Provenance, now: float) -> str:
    """A script: all that the machine does, until it is told to leave, reaches its limit, or finds no farm for an hour.

    SkyPilot has a Ray of its own there, whose variables must not reach farm's.
    """
    seconds = max(60, math.ceil((one.until or now + 3600 * one.hours) - now))
    join = f"{arrival.VENV}/bin/farm join {THERE}/{arrival.INVITED} --name {one.name}"
    return f"""cd "$HOME" && chmod -R go= {THERE} || exit 1
for name in $(compgen -v RAY_) CUDA_VISIBLE_DEVICES; do unset "$name"; done
set -e
mkdir -p {arrival.SOURCES}
tar xzf {THERE}/sources.tar.gz -C {arrival.SOURCES}
if [ -e {THERE}/{arrival.SETUP} ]; then bash {THERE}/{arrival.SETUP}; fi
bash <<'END'
{arrival.install(software)}END
if [ -e {arrival.ENV} ]; then . ./{arrival.ENV}; fi
{arrival.labels(one, "SkyPilot")}
cat > farm-joining.sh <<'END'
for try in $(seq {HOPELESS_TRIES}); do
  if {join} ${{JOIN_HOST:+--host $JOIN_HOST}}; then exit 0; fi
  sleep 20
done
exit 1
END
exec timeout --kill-after=120 {seconds} bash farm-joining.sh >> farm-join.log 2>&1
"""


def _several(regions: Sequence[str]) -> str:
    """The first of them, and how many more there are."""
    return f"{regions[0]} and {len(regions) - 1} more" if len(regions) > 1 else "".join(regions)


def _spelled(wanted: dict[str, int]) -> str:
    return " or ".join(f"{name}:{count}" for name, count in wanted.items())
