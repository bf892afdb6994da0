"""Is a farm up here? `<home>/farm.json` says where; the process that wrote it must still be the one of that pid."""

import json
import time
from pathlib import Path

from pydantic import Field, ValidationError

from farm.files import PRIVATE, write_whole
from farm.site.process import is_alive
from farm.site.settings import Settings
from farm.study.recipe import Frozen

SILENT_SECONDS = 30.0  # it looks all the time and says so every 5 s


class Facts(Frozen):
    """A farm that serves from this machine, as it described itself when it was ready."""

    pid: int = Field(ge=1)
    process: str = Field(description="farm.site.process.identity of it")
    redis: str = Field(description="URL without the password")
    server: str | None = Field(None, description="the program that answers there, such as Valkey 9.1.2")
    dashboard: str = Field(description="URL of Ray's dashboard")
    units: dict[str, int] = Field(description="machine class -> runs that train at a time")
    storage: str
    started: float = Field(description="Unix seconds")
    log: str
    token_path: str | None = None
    shared: str | None = Field(None, description="address of this machine at which others may join")


class Health(Frozen):
    """The failing parts of a farm that serves, as its watching thread last saw them."""

    pid: int = Field(ge=1)
    looked: float = Field(description="Unix seconds")
    missing: tuple[str, ...] = Field(description="a part and what is wrong with it, each")
    doing: str | None = Field(None, description="what is done about it")


def path(settings: Settings) -> Path:
    """Where the facts are kept while a farm is up."""
    return settings.home / "farm.json"


def announce(settings: Settings, facts: Facts) -> None:
    """Say that this farm is up: atomically, readable by its owner only."""
    _write(path(settings), facts)


def report(settings: Settings, health: Health) -> None:
    """Say how a farm is."""
    _write(_health(settings), health)


def well(settings: Settings) -> None:
    """Nothing is known to fail, or the watching has ended."""
    _health(settings).unlink(missing_ok=True)


def missing(settings: Settings, facts: Facts) -> list[str]:
    """The failing parts of the farm `facts`, a sentence each, and the action taken."""
    try:
        health = Health.model_validate_json(_health(settings).read_text(encoding="utf-8"))
    except (OSError, ValidationError, UnicodeDecodeError):
        return []
    if health.pid != facts.pid:
        return []
    silent = time.time() - health.looked
    if silent > SILENT_SECONDS and health.doing is None:
        return [f"process {facts.pid}, which serves the farm, has not checked its parts for {silent:.0f} s"]
    return [*health.missing, *([health.doing] if health.doing else [])]


def _health(settings: Settings) -> Path:
    return settings.home / "health.json"


def _write(target: Path, said: Frozen) -> None:
    target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    write_whole(target, f"{said.model_dump_json(indent=2)}\n".encode(), PRIVATE, lasting=True)


def withdraw(settings: Settings, pid: int) -> None:
    """Say that the farm of `pid` is down. Another farm's facts stay."""
    said = _read(path(settings))
    if said is not None and said.pid == pid:
        path(settings).unlink(missing_ok=True)


def facts(settings: Settings) -> Facts | None:
    """The farm that is up at this home, or None: never announced, its process gone, or its pid taken by another."""
    said = _read(path(settings))
    return said if said is not None and is_alive(said.pid, said.process) else None


def _read(file: Path) -> Facts | None:
    try:
        return Facts.model_validate_json(file.read_text(encoding="utf-8"))
    except (OSError, ValidationError, json.JSONDecodeError, UnicodeDecodeError):
        return None
