"""The checks before a machine joins: head, secret, software, storage. Each refusal names its remedy."""

import os
import platform
import shlex
import shutil
import socket
import sys
from pathlib import Path

from ray.exceptions import AuthenticationError, RayError

from farm.errors import BadSetting, Conflict, FarmError, Refused, Unreachable, first_line
from farm.queue.node import Head
from farm.record.layout import MARKER
from farm.record.result import Provenance
from farm.record.store import Store
from farm.site.settings import Settings
from farm.study import endpoint
from workers.node import hardware
from workers.node.environment import PACKAGES, others_token
from workers.ray_internals import gcs
from workers.ray_internals.variables import TOKEN

PAGE = "docs/machines/join.md#what-can-go-wrong"
PORT = 6379  # of Ray's head
SECONDS = 5.0  # for the head to answer
# The greeting of HTTP/2, which gRPC speaks: a server of it answers with a frame of type 4, anything else does not.
HTTP2_HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
HTTP2_SETTINGS = 4


def address(head: str) -> str:
    """`head` as host:port.

    Raises: BadSetting
    """
    try:
        return endpoint.host_port(*endpoint.split(head, PORT))
    except ValueError:
        raise BadSetting(
            f"HEAD {head!r} is not a host:port address.",
            remedy=f"Write HOST:PORT, such as 10.0.0.5:{PORT} or [fd00::5]:{PORT}; or name an invitation.",
        ) from None


def check_head(place: str, published: Head) -> None:
    """Make sure that the head of a Ray listens at `place` and takes this machine's secret.

    Raises: BadSetting: there is no secret. Unreachable, Refused
    """
    hint = f"The head calls its own Ray {published.ray} (on {published.host}): is HEAD right, and the port open?"
    _check_secret(published)
    _check_listens(place, hint)
    try:
        gcs.connect(place)
    except AuthenticationError:
        raise Refused(
            f"the Ray at {place} refused this machine's token.",
            remedy=f"Copy the head's token file (scp) and set RAY_AUTH_TOKEN_PATH to it; it is {others_token()} now.",
            page=PAGE,
        ) from None
    except (RayError, OSError) as error:
        said = first_line(error).rstrip(".")
        raise Unreachable(f"the server at {place} is not a Ray head: {said}.", remedy=hint, page=PAGE) from None


def _check_secret(published: Head) -> None:
    if not os.environ.get(TOKEN) and not others_token().is_file():
        raise BadSetting(
            f"there is no token for the head's Ray: {others_token()} is not there.",
            remedy=f"Copy the head's ({published.host}) and set RAY_AUTH_TOKEN_PATH to it.",
            page=PAGE,
        )


def _check_listens(place: str, hint: str) -> None:
    try:
        with socket.create_connection(endpoint.split(place), timeout=SECONDS) as peer:
            peer.sendall(HTTP2_HELLO)
            answer = peer.recv(4)
    except TimeoutError:
        raise Unreachable(f"{place} did not answer within {SECONDS:g} s.", remedy=hint, page=PAGE) from None
    except OSError as error:
        raise Unreachable(f"nothing answers at {place}: {error.strerror or error}.", remedy=hint, page=PAGE) from None
    if answer[3:] != bytes([HTTP2_SETTINGS]):
        raise Unreachable(f"the server at {place} is not a Ray head.", remedy=hint, page=PAGE)


def check_software(published: Head, own: Provenance) -> None:
    """Make sure that runs of this machine compare with those of others, and that its processes understand the head's.

    Raises: Conflict: says what differs, and the command that mends it.
    """
    theirs = published.software
    unlike = [
        f"{name} {mine} (head: {wanted})"
        for name, mine, wanted in (
            ("Python", own.python, theirs.python),
            ("Ray", own.ray, theirs.ray),
            ("torch", _public(own.torch), _public(theirs.torch)),
            ("farm", _name(own), _name(theirs)),
        )
        if mine != wanted
    ]
    if unlike:
        raise Conflict(f"this machine has {', '.join(unlike)}.", remedy=f"Run: {_mending(published, own)}", page=PAGE)


def _name(software: Provenance) -> str:
    """farm's version, and which sources exactly: two checkouts of one version may train differently."""
    return f"{software.farm} {software.code[:8]}"


def _public(version: str) -> str:
    """A version without what it was built for: 2.13.0+cpu and 2.13.0+cu130 are one torch."""
    return version.partition("+")[0]


def _mending(published: Head, own: Provenance) -> str:
    """The shell command that makes this machine's software the head's."""
    theirs, commands = published.software, []
    python = sys.executable
    pins = f"'torch=={_public(theirs.torch)}' 'ray[default,train]=={theirs.ray}'"
    if own.code != theirs.code or own.farm != theirs.farm:
        commands += _fetch(published, own)
    if own.python != theirs.python:
        python = str(Path.home() / f"venv-{theirs.python}" / "bin" / "python")
        commands.append(f"uv venv --python {theirs.python} {Path(python).parent.parent}")
        commands.append(f"uv pip install --python {python} '{_installable()}' {pins}")
    elif (own.ray, _public(own.torch)) != (theirs.ray, _public(theirs.torch)):
        commands.append(f"{python} -m pip install {pins}")
    return " && ".join(commands)


def _fetch(published: Head, own: Provenance) -> list[str]:
    """From the head's commit where that brings its sources: not where they were edited there, nor where this is that
    commit already. What was edited here a checkout would carry along, so it is set aside."""
    commit, root = published.software.commit, shlex.quote(str(hardware.ROOT))
    is_brought = commit and not published.software.dirty and (own.dirty or own.commit != commit)
    if is_brought and (hardware.ROOT / ".git").exists():
        aside = [] if own.dirty is False else [f"git -C {root} stash --include-untracked"]
        return [*aside, f"git -C {root} fetch", f"git -C {root} checkout {commit}"]
    folders = " ".join(shlex.quote(f"{published.host}:{published.sources}/{package}") for package in PACKAGES)
    return [f"rsync -a --delete {folders} {root}/"]  # in full: not every shell expands {a,b}


def _installable() -> str:
    return f"{hardware.ROOT}[node]" if (hardware.ROOT / "pyproject.toml").exists() else "farm[node]"


def check_storage(here: Settings, published: Head) -> int:
    """Make sure that the storage is the head's, and can be written from here. Returns the bytes that are free.

    Raises: BadSetting: it is another one. StorageFull. FarmError: it cannot be written.
    """
    store = Store(here.storage, here.home / "work")
    theirs = f"{published.storage} on {published.host}"
    mend = "Set FARM_STORAGE to the head's." if store.bucket else "Mount the head's here, and set FARM_STORAGE to it."
    try:
        found = store.marker()
    except OSError as error:
        raise FarmError(
            f"the storage {here.storage} cannot be read: {error.strerror}.", remedy=mend, page=PAGE
        ) from None
    if not (store.bucket or store.is_local):
        raise BadSetting(
            f"the storage {here.storage} is not on {platform.node()}.", remedy=f"{mend} It is {theirs}.", page=PAGE
        )
    if found is None:
        raise BadSetting(
            f"the storage {here.storage} on {platform.node()} is not the farm's, which is {theirs}: no {MARKER} in it.",
            remedy=mend,
            page=PAGE,
        )
    if found != published.marker:
        raise BadSetting(
            f"the storage {here.storage} on {platform.node()} is another farm's: its {MARKER} says {found},"
            f" that of {theirs} {published.marker}.",
            remedy=mend,
            page=PAGE,
        )
    store.check()
    return shutil.disk_usage(here.home if store.bucket else store.root).free
