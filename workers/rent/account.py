"""What a rental needs of the account and of this machine, checked before anything is paid for."""

import ipaddress
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from farm.errors import BadSetting, Guard, NotFound, last_line, nearest
from workers.rent.engine import Offer, within_price
from workers.rent.lambda_cloud import SSH_PAGE
from workers.rent.types import types_of


class Key(NamedTuple):
    """A pair: its name in the account, and the file of its private part here."""

    name: str
    file: Path


def choose_key(account: dict[str, str], named: str | None, identity: Path | None, folder: Path) -> Key:
    """The SSH key to launch with: that `named` in the account, with the private part `identity`; either is found by
    the other among the keys in `folder`.

    Raises: NotFound: the account has none, or none of that name. BadSetting: the two are no pair, or not to be found.
    """
    if not account:
        raise NotFound(
            "the account at Lambda has no SSH key, so nobody could log in to a machine.",
            remedy=f"Add the public part of yours at {SSH_PAGE}.",
        )
    if named is not None and named not in account:
        raise NotFound(
            f"the account at Lambda has no SSH key {named!r}{nearest(named, account, listed=True)}",
            remedy=f"Add it at {SSH_PAGE}, or name another by --ssh-key.",
        )
    wanted = {_body(public): name for name, public in account.items() if named in (None, name)}
    files = [identity] if identity else [file.with_suffix("") for file in sorted(folder.glob("*.pub"))]
    for file in files:
        if file.is_file() and (public := _public_part(file, is_wanted=bool(identity))) in wanted:
            return Key(wanted[public], file.absolute())
    names = ", ".join(wanted.values())
    if identity:
        raise BadSetting(
            f"{identity} is not the private part of a key that the account at Lambda has ({names}).",
            remedy=f"Name the pair by --ssh-key and --identity, or add its public part at {SSH_PAGE}.",
        )
    raise BadSetting(
        f"the private part of {names} is not in {folder}, or needs a passphrase that nobody types at night.",
        remedy="Name its file: --identity FILE",
        page="docs/machines/rent.md#before-the-first-one",
    )


def _body(public: str) -> str:
    """The key itself, without the comment behind it."""
    return " ".join(public.split()[:2])


def _public_part(file: Path, is_wanted: bool) -> str | None:
    """Raises: BadSetting: it `is_wanted`, and cannot be used without somebody who types."""
    command = ["ssh-keygen", "-y", "-P", "", "-f", str(file)]
    done = subprocess.run(
        command, capture_output=True, encoding="utf-8", errors="replace", stdin=subprocess.DEVNULL, check=False
    )
    if done.returncode == 0:
        return _body(done.stdout)
    if is_wanted:
        said = last_line(done.stderr)
        raise BadSetting(f"{file} is not a private key that can be used without a passphrase: {said}.")
    return None


def affordable(offers: list[Offer], machine: str, most: float | None) -> list[Offer]:
    """Those that are a machine of the class, at `most` so many dollars an hour, cheapest first.

    Raises: BadSetting: the class is unknown. NotFound: none is offered now. Guard: all are dearer.
    """
    types = types_of(machine)
    found = [offer for offer in offers if offer.type in types]
    if not found:
        raise NotFound(
            f"Lambda does not offer {machine} to this account (as {', '.join(types)}).", remedy="Ask for another class."
        )
    return within_price(found, machine, most, "Lambda")


def check_reachable(shared: str, has_setup: bool) -> None:
    """Make sure that a machine in the cloud can reach a farm that is shared at that address.

    Raises: Guard: it is inside a network that the machine does not enter by itself.
    """
    with suppress(ValueError):
        if has_setup or ipaddress.ip_address(shared).is_global:
            return
        raise Guard(
            f"this farm is shared at {shared}, which a machine in the cloud cannot reach by itself.",
            remedy="Name a script that lets it into your VPN: --setup FILE.",
            page="docs/machines/rent.md#before-the-first-one",
        )
