"""Is a farm up here? `<home>/farm.json` says where; the process that wrote it must still be the one of that pid."""

import json
import os
import subprocess
import time
from pathlib import Path

from pydantic import Field, ValidationError

from farm.recipe import Frozen
from farm.settings import Settings

_SLACK_SECONDS = 5.0  # a process starts before it says so; the wall clock may be set in between


class Facts(Frozen):
    """A farm that serves from this machine, as it described itself when it was ready."""

    pid: int = Field(ge=1)
    redis: str = Field(description="URL without the password")
    dashboard: str = Field(description="URL of Ray's dashboard")
    units: dict[str, int] = Field(description="machine class -> runs that train at a time")
    storage: str
    started: float = Field(description="Unix seconds")
    log: str
    token_path: str | None = None


def path(settings: Settings) -> Path:
    """Where the facts are kept while a farm is up."""
    return settings.home / "farm.json"


def announce(settings: Settings, facts: Facts) -> None:
    """Say that this farm is up: atomically, readable by its owner only."""
    target = path(settings)
    target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    draft = target.with_name(f".{target.name}.{os.getpid()}")
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(facts.model_dump_json(indent=2) + "\n")
        file.flush()
        os.fsync(file.fileno())
    draft.replace(target)


def withdraw(settings: Settings, pid: int) -> None:
    """Say that the farm of `pid` is down. Another farm's facts stay."""
    said = _read(path(settings))
    if said is not None and said.pid == pid:
        path(settings).unlink(missing_ok=True)


def facts(settings: Settings) -> Facts | None:
    """The farm that is up at this home, or None: never said, its process gone, or its pid taken by another."""
    said = _read(path(settings))
    return said if said is not None and _is_alive(said.pid, said.started) else None


def _read(file: Path) -> Facts | None:
    try:
        return Facts.model_validate_json(file.read_text())
    except (OSError, ValidationError, json.JSONDecodeError, UnicodeDecodeError):
        return None


def _is_alive(pid: int, said_at: float) -> bool:
    """Whether `pid` runs, is ours, and began before it wrote its facts."""
    try:
        os.kill(pid, 0)
    except OSError:
        return False
    began = _began(pid)
    return began is not None and began <= said_at + _SLACK_SECONDS


def _began(pid: int) -> float | None:
    """When the process began, in Unix seconds; None if it is gone or a zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None if Path("/proc/self/stat").exists() else _began_by_ps(pid)
    uptime = float(Path("/proc/uptime").read_text().split()[0])
    ticks_per_second = os.sysconf("SC_CLK_TCK")
    return None if fields[0] == "Z" else time.time() - uptime + int(fields[19]) / ticks_per_second


def _began_by_ps(pid: int) -> float | None:
    """The same on systems without /proc, such as macOS."""
    command = ["ps", "-o", "lstart=", "-p", str(pid)]
    said = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"LC_ALL": "C"}, check=False)
    return time.mktime(time.strptime(said.stdout.strip())) if said.stdout.strip() else None
