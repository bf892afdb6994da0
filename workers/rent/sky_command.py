"""SkyPilot by its command line, `sky`, which lives apart from farm: the two need other versions of some packages.

What it prints as JSON is read field by field, those that are needed and no other, so that a new field breaks nothing.
"""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import IO, Any, NamedTuple

from farm.errors import FarmError, NoCapacity, NotFound, Refused, Unreachable, last_line
from farm.site.process import end_with_parent
from workers.rent.engine import Instance, Offer

SECONDS = 600.0  # for an answer
STARTS = 3  # tries, where SkyPilot's server does not start: SkyPilot gives it 60 s, and it goes on starting after those
INSTALL = "Install it apart from farm: uv tool install 'skypilot[aws]', with your clouds for aws."
PAGE = "docs/machines/rent.md#by-skypilot"
LOCAL = ("kubernetes", "slurm", "ssh")  # what SkyPilot calls clouds, and nobody pays for by the hour
STATUSES = {"UP": "active", "INIT": "booting", "PENDING": "booting"}
_COLOURS = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]")
_ERROR = re.compile(r"(?:[a-z_]+\.)*([A-Z]\w*(?:Error|Exception|Cancelled)): (.*)")
_NOTHING_FREE = re.compile(r"ResourcesUnavailable|Failed to (acquire|provision)|insufficient-capacity", re.I)
_AWAY = re.compile(r"API server|connection|timed? ?out|proxy", re.I)
_NO_SERVER = re.compile(r"Failed to start SkyPilot API server|API server process exited unexpectedly")
_WARNED = re.compile(r"^W \d\d-\d\d [^\]]*\] (.*)$", re.M)
_DENIED = re.compile(r"invalid-api-key|credential|permission|unauthori[sz]ed|access ?denied|forbidden", re.I)


class Sky(NamedTuple):
    """The command, as settings name it."""

    command: str

    def check(self) -> None:
        """Raises: NotFound: there is no such command."""
        if shutil.which(self.command) is None:
            raise NotFound(f"SkyPilot is not installed here: no command {self.command!r}.", remedy=INSTALL, page=PAGE)

    def clouds(self) -> list[str]:
        """The clouds that it may use, whose credentials it tries, in lower case.

        Raises: NotFound: none.
        """
        said = self._json("check", "-o", "json")
        found = self._read(lambda: sorted({cloud.lower() for clouds in said.values() for cloud in clouds}))
        if paid := [cloud for cloud in found if cloud not in LOCAL]:
            return paid
        raise NotFound("SkyPilot may use no cloud here.", remedy="See what it lacks: sky check", page=PAGE)

    def offers(self, accelerator: str, count: int, infra: str) -> list[Offer]:
        """What a cloud, or a region of it as CLOUD/REGION, offers with so many of an accelerator, as it was listed
        lately; cheapest first. Whether one is free only a launch tells."""
        regions = () if "/" in infra else ("--all-regions",)  # SkyPilot refuses it with a region
        said = self._json("gpus", "list", f"{accelerator}:{count}", "--infra", infra, *regions, "-o", "json")
        listed = self._read(lambda: [_offered(row) for row in said.get(accelerator, [])])
        by_type: dict[tuple[str, float], list[str]] = {}
        for type, usd_per_hour, region in (one for one in listed if one is not None):
            by_type.setdefault((type, usd_per_hour), []).append(region)
        offers = [Offer(type, usd, tuple(sorted(set(regions)))) for (type, usd), regions in by_type.items()]
        return sorted(offers, key=lambda one: one.usd_per_hour)

    def clusters(self) -> list[Instance]:
        """Its clusters, as their clouds say that they are."""
        without = ("--no-show-managed-jobs", "--no-show-services", "--no-show-pools")
        said = self._json("status", "--refresh", "-o", "json", *without)
        return self._read(lambda: [_cluster(one) for one in said])

    def launch(self, name: str, task: Path, idle_minutes: int, log: IO[bytes]) -> subprocess.Popen[bytes]:
        """Launch the cluster `name`, or use the one of that name, and submit the task; it writes to `log`."""
        self.check()
        words = ["launch", "-y", "-d", "-c", name, "--down", "-i", str(idle_minutes), str(task)]
        return subprocess.Popen(
            [self.command, *words],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            preexec_fn=end_with_parent,
        )

    def down(self, name: str) -> None:
        """End a cluster, and its launch; returns when its cloud has. One that is gone is no error."""
        self._run("down", "-y", name)

    def _json(self, *words: str) -> Any:
        said = _COLOURS.sub("", self._run(*words))
        lines = said.splitlines()
        start = next((at for at, line in enumerate(lines) if line.startswith(("{", "["))), len(lines))
        return self._read(lambda: json.loads("\n".join(lines[start:])))

    def _run(self, *words: str) -> str:
        """What it prints. Where it found no server nothing has happened, so it is tried again."""
        self.check()
        for _ in range(STARTS):
            done = self._answer(*words)
            if not done.returncode:
                return done.stdout
            said = f"{done.stdout}\n{done.stderr}"
            if not _NO_SERVER.search(said):
                break
        raise refusal(said)

    def _answer(self, *words: str) -> subprocess.CompletedProcess[str]:
        try:
            return subprocess.run(
                [self.command, *words],
                capture_output=True,
                encoding="utf-8",
                errors="replace",
                stdin=subprocess.DEVNULL,
                timeout=SECONDS,
                check=False,
                preexec_fn=end_with_parent,
            )
        except subprocess.TimeoutExpired:
            raise Unreachable(
                f"SkyPilot did not answer `sky {words[0]}` within {SECONDS:g} s.", remedy="Try it by hand.", page=PAGE
            ) from None

    def _read(self, read: Any) -> Any:
        try:
            return read()
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise Unreachable(
                f"SkyPilot does not answer as version 0.14 does: {last_line(repr(error))}.",
                remedy="Install one that does.",
                page=PAGE,
            ) from None


def refusal(said: str) -> FarmError:
    """What `sky` printed before it failed, as an error of the farm."""
    text = _COLOURS.sub("", said)
    errors = [match for line in text.splitlines() if (match := _ERROR.fullmatch(line.strip()))]
    told = (errors[-1][2] if errors else last_line(text)).strip().rstrip(".")
    if _NOTHING_FREE.search(text):
        warned = _WARNED.findall(text)  # what the cloud said: that nothing is free, or perhaps that a quota is spent
        return NoCapacity(f"SkyPilot: {told}{f' ({warned[-1]})' if warned else ''}.", page=PAGE)
    if _DENIED.search(told):
        return Refused(f"SkyPilot: {told}.", remedy="See: sky check", page=PAGE)
    if _NO_SERVER.search(told):
        return Unreachable(f"SkyPilot: {told}.", remedy="Start it by hand: sky api start", page=PAGE)
    is_away = errors and _AWAY.search(errors[-1][0])
    return (Unreachable if is_away else FarmError)(f"SkyPilot: {told}.", page=PAGE)


def _offered(row: dict[str, Any]) -> tuple[str, float, str] | None:
    """Type, price and region; None without a price or a whole machine of the type."""
    if row["price"] is None or not row["instance_type"]:
        return None
    cloud = row["cloud"].lower()
    return f"{cloud} {row['instance_type']}", float(row["price"]), f"{cloud}/{row['region']}"


def _cluster(said: dict[str, Any]) -> Instance:
    """Its name is its id, and what ssh calls it. `resources_str_full` is `1x(gpus=A100:8, cpus=124, gpu_8x_a100)`."""
    cloud, region = (said.get("cloud") or "").lower(), said.get("region") or ""
    parts = (said.get("resources_str_full") or "").partition("(")[2].rstrip(")").split(", ")
    type = next((part for part in parts if part and "=" not in part), "")
    return Instance(
        id=said["name"],
        name=said["name"],
        status=STATUSES.get(said["status"], "unhealthy"),
        address=said["name"],
        type=f"{cloud} {type}".strip(),
        region=f"{cloud}/{region}".strip("/"),
        usd_per_hour=None,
    )
