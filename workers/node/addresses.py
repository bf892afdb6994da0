"""The addresses of this machine, and the one by which others reach it."""

import ipaddress
import platform
import socket
from collections.abc import Iterator
from typing import NamedTuple

import psutil

from farm.errors import BadSetting

FAMILIES = (socket.AF_INET, socket.AF_INET6)


class Address(NamedTuple):
    """One address of one interface."""

    host: str
    interface: str

    def __str__(self) -> str:
        return f"{self.host} ({self.interface})"


def shared_address(host: str | None) -> str:
    """The address of this machine at which others are to reach a shared farm: `host`, else its only outward one.

    Raises: BadSetting: `host` is not its own, or loopback; or there is none, several, or a public one. Says which.
    """
    if host is not None:
        number = check_own(host)
        if ipaddress.ip_address(number).is_loopback:
            raise BadSetting(f"--host {host}: no other machine can reach a loopback address.", remedy=_remedy())
        return number
    found = [address for address in outward() if ":" not in address.host] or outward()
    if len(found) != 1:
        count = f"has {len(found)} addresses" if found else "has no address but loopback"
        raise BadSetting(
            f"{platform.node()} {count}, so --shared needs to be told which one other machines use.",
            remedy=_remedy(),
        )
    if ipaddress.ip_address(found[0].host).is_global:
        raise BadSetting(
            f"{found[0]} is a public address, and neither Redis nor Ray encrypts what it sends.",
            remedy=f"Put the machines into one VPN and pass its --host; or, behind a firewall, --host {found[0].host}.",
            page="docs/machines/security.md#secrets-and-ports",
        )
    return found[0].host


def check_own(host: str) -> str:
    """Make sure that `host` is an address of this machine: Ray would start with another, and end half a minute later.

    Returns the address, where `host` is a name.

    Raises: BadSetting
    """
    try:
        family, _, _, _, place = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.bind(place)
        is_any = ipaddress.ip_address(place[0]).is_unspecified
        reason = "that means every address" if is_any else None
    except OSError as error:
        reason = error.strerror or str(error)
    if reason:
        others = f", or pass one of {_list()}" if outward() else ""
        raise BadSetting(
            f"--host {host!r} is not an address of {platform.node()}: {reason}.",
            remedy=f"Leave it out{others}; other machines must reach it.",
        )
    return str(place[0])


def outward() -> list[Address]:
    """Those that others may reach this machine by: of interfaces that are up, without a container's bridges."""
    return sorted(_outward())


def _outward() -> Iterator[Address]:
    states = psutil.net_if_stats()
    for interface, entries in psutil.net_if_addrs().items():
        if not (interface in states and states[interface].isup) or _is_bridge(interface):
            continue
        for entry in entries:
            if entry.family in FAMILIES and _reaches(entry.address):
                yield Address(entry.address, interface)


def _is_bridge(interface: str) -> bool:
    return interface.startswith(("docker", "br-", "virbr", "lxcbr", "cni", "veth"))


def _reaches(host: str) -> bool:
    address = ipaddress.ip_address(host.partition("%")[0])
    return not (address.is_loopback or address.is_link_local or address.is_unspecified)


def _remedy() -> str:
    listed = _list()
    return f"Pass --host with one of {listed}." if listed else "Connect this machine to a network or a VPN first."


def _list() -> str:
    return ", ".join(map(str, outward()))
