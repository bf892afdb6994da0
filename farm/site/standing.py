"""The software and settings of a server, and whether it keeps what it acknowledges, as far as this user may ask."""

import re
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from redis import Redis
from redis.exceptions import ResponseError

from farm.errors import BadSetting
from farm.site import cves
from farm.site.urls import address

OLDEST = (6, 2)


def software(client: Redis) -> tuple[str, tuple[int, ...]] | None:
    """The program that answers, and its version; None where the server does not tell this user."""
    said = _ask(lambda: client.info("server"))
    for program, field in (("Valkey", "valkey_version"), ("Redis", "redis_version")):
        if field in said:
            return program, version_in(str(said[field]))
    return None


def describe(client: Redis) -> str:
    """The program that answers, as people call it: "Valkey 9.1.2"."""
    program, version = software(client) or ("Redis", ())
    return f"{program} {spell_version(version)}".strip()


def flaws(client: Redis) -> list[str]:
    """The known faults of the server's version, each with the remedy."""
    told = software(client)
    if told is None:
        return []
    program, version = told
    return [
        f"{program} {spell_version(version)} has {cve.id}, fixed in {spell_version(cve.remedy(program, version))}:"
        f" {cve.what}. Update it, unless its packager has fixed that version"
        for cve in cves.of(program, version)
    ]


def check(client: Redis) -> list[str]:
    """The facts that cannot be seen. A submitter's credential may not look, and need not; services forbid INFO or
    CONFIG.
    """
    client.ping()
    server, kept = _ask(lambda: client.info("server")), _ask(lambda: client.info("persistence"))
    if "cluster" in (server.get("redis_mode"), server.get("server_mode")):  # Redis' word for it, and Valkey's
        raise BadSetting(
            f"Redis at {address(client)} is a node of a Redis Cluster, and the farm keeps its keys together.",
            remedy="Set FARM_REDIS_URL to a server with cluster-enabled no.",
        )
    unseen = [] if "redis_version" in server else ["its version"]
    version = version_in(str(server.get("redis_version", spell_version(OLDEST))))
    if version < OLDEST:
        _refuse(client, f"is version {spell_version(version)}", f"The farm needs {spell_version(OLDEST)} or newer.")
    wanted = {"appendonly": "yes", "appendfsync": "always", "maxmemory-policy": "noeviction"}
    settings = _settings(client, wanted)
    if "aof_enabled" in kept:
        settings["appendonly"] = "yes" if kept["aof_enabled"] else "no"
    for key, value in wanted.items():
        found = settings.get(key)
        if found is None:
            unseen.append(key)
        elif found != value:
            fact = "has no append-only file" if key == "appendonly" else f"has {key} {found}"
            _refuse(client, fact, f"CONFIG SET {key} {value}, and in its redis.conf.")
    if not unseen:
        return []
    return [f"{', '.join(unseen)} cannot be seen there, so it may lose acknowledged writes unnoticed"]


def _settings(client: Redis, keys: Iterable[str]) -> dict[str, str]:
    """The CONFIG values of `keys`, as far as this user may ask: a server that refuses one refuses all."""
    found: dict[str, str] = {}
    for key in keys:
        told = _ask(partial(client.config_get, key))
        if not told:
            break
        found |= told
    return found


def replica(client: Redis) -> list[str]:
    if _ask(lambda: client.info("replication")).get("role") != "slave":
        return []
    return ["it is a replica, which accepts no writes: set FARM_REDIS_URL to the primary"]


def _ask(ask: Callable[[], dict[Any, Any]]) -> dict[Any, Any]:
    """The server's own facts; empty where this user may not ask."""
    try:
        return ask()
    except ResponseError:  # renamed, forbidden to this user, or never there
        return {}


def _refuse(client: Redis, fact: str, remedy: str) -> None:
    raise BadSetting(f"Redis at {address(client)} {fact}, so it may lose acknowledged writes.", remedy=remedy)


def version_in(text: str) -> tuple[int, ...]:
    """The version that `text` names, as numbers."""
    return tuple(int(part) for part in re.findall(r"\d+", text)[:3])


def spell_version(version: tuple[int, ...]) -> str:
    """A version as people write it."""
    return ".".join(map(str, version))
