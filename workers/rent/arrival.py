"""Makes a machine that the cloud has just started a node of this farm, over ssh: farm's sources, its packages, the
invitation, `farm join`. Every step may be repeated.

What is secret (the invitation, the person's setup script) travels on standard input, never on a command line.
"""

import io
import json
import shlex
import subprocess
import tarfile
import time
from pathlib import Path

from farm.errors import BadSetting, Refused, Unreachable, last_line
from farm.queue.rental import Rental
from farm.record.result import Provenance
from farm.site import invitation
from farm.site.process import end_with_parent
from workers.node.environment import PACKAGES, ROOT
from workers.node.labels import DATE_LABEL, SOURCE_LABEL, USD_LABEL
from workers.ray_internals.variables import LABELS
from workers.rent import host_key

SETUP = "setup"  # the person's script, in the rental's folder
BESIDES = ("pyproject.toml", "README.md", "LICENSE", "examples")  # what the build of the package needs
STEP_SECONDS = 1800.0  # torch is gigabytes
SOURCES, VENV, INVITED, ENV = "farm", "farm-venv", "farm-invitation.json", "farm-env"
OPTIONS = {"BatchMode": "yes", "ConnectTimeout": "15", "ServerAliveInterval": "15", "ServerAliveCountMax": "4"}


def folder_of(home: Path, name: str) -> Path:
    """Where the host key of a rental is, and the script that sets it up; for its owner only."""
    return home / "rented" / name


def check_sources() -> None:
    """Make sure that this machine has the sources to send. Raises: BadSetting"""
    if missing := [name for name in (*PACKAGES, *BESIDES) if not (ROOT / name).exists()]:
        raise BadSetting(
            f"a rented machine is sent this farm's sources, and {ROOT} has no {missing[0]}.",
            remedy="Run farm from a checkout: git clone, then pip install -e '.[node]' there.",
        )


def bring(rental: Rental, user: str, address: str, home: Path, software: Provenance) -> None:
    """Let the machine at `address` join the farm whose invitation is in `home`, with the same `software`.

    Returns when `farm join` was started there; the roster says when it has joined.

    Raises: Unreachable, Refused: a step failed, and may be tried again.
    """
    folder = folder_of(home, rental.name)
    way = _way(rental, folder, f"{user}@{address}")
    _step(way, "sending farm", f"mkdir -p {SOURCES} && tar xzf - -C {SOURCES}", sources())
    if (folder / SETUP).exists():
        _step(way, "the script of --setup", "bash -s", (folder / SETUP).read_bytes())
    _step(way, "installing farm", "bash -s", install(software).encode())
    _step(way, "sending the invitation", f"umask 077 && cat > {INVITED}", (home / invitation.FILE).read_bytes())
    _step(way, "starting farm join", "bash -s", start(rental).encode())


def install(software: Provenance) -> str:
    """A script: the Python, Ray and torch of the head, and the farm that was sent. uv has every patch release."""
    torch = software.torch.partition("+")[0]
    return f"""set -e
export PATH="$HOME/.local/bin:$PATH"
command -v uv > /dev/null || curl -LsSf https://astral.sh/uv/install.sh | sh
test -x {VENV}/bin/python || uv venv --quiet --python {software.python} {VENV}
uv pip install --quiet --python {VENV}/bin/python --reinstall-package farm ./{SOURCES}'[node]' \\
  'torch=={torch}' 'ray=={software.ray}'
"""


def start(rental: Rental) -> str:
    """A script: `farm join` in the background, tried again until it was told to leave. ENV is the person's to write."""
    join = f"{VENV}/bin/farm join {INVITED} --name {rental.name}"
    return f"""set -e
if [ -e {ENV} ]; then . ./{ENV}; fi
{labels(rental, "Lambda")}
nohup flock -n farm-join.lock sh -c 'until {join} ${{JOIN_HOST:+--host $JOIN_HOST}}; do sleep 10; done' \\
  >> farm-join.log 2>&1 < /dev/null &
"""


def labels(rental: Rental, source: str) -> str:
    """A line of a script: the price, of that source, as the node is to tell it."""
    told = {
        USD_LABEL: f"{rental.usd_per_hour or 0:.2f}",
        SOURCE_LABEL: source,
        DATE_LABEL: time.strftime("%Y-%m-%d", time.gmtime(rental.launched)),
    }
    return f"export {LABELS}={shlex.quote(json.dumps(told))}"


def _way(rental: Rental, folder: Path, to: str) -> list[str]:
    """The ssh command, but for the command there."""
    known = {"HostKeyAlias": rental.name, "UserKnownHostsFile": str(folder / host_key.KNOWN)}
    known["StrictHostKeyChecking"] = "yes" if rental.is_host_known else "accept-new"
    options = [word for key, value in (OPTIONS | known).items() for word in ("-o", f"{key}={value}")]
    return [*shlex.split(rental.ssh), *options, to]


def _step(way: list[str], what: str, command: str, given: bytes) -> None:
    """Run a command there, with `given` as its standard input.

    Raises: Refused: ssh does not let us in, or the machine is another. Unreachable: it cannot be reached, or the
    command failed.
    """
    try:
        done = subprocess.run(
            [*way, command],
            input=given,
            capture_output=True,
            timeout=STEP_SECONDS,
            check=False,
            preexec_fn=end_with_parent,
        )
    except subprocess.TimeoutExpired:
        raise Unreachable(f"{what} did not end within {STEP_SECONDS:g} s.") from None
    if done.returncode == 0:
        return
    said = last_line(done.stderr.decode(errors="replace") or done.stdout.decode(errors="replace"))
    if "Host key verification failed" in said:
        raise Refused(
            "ssh: the machine does not show the host key that it was given.",
            remedy="If its image ignores cloud-init's ssh_keys, rent with --trust-first-contact.",
            page="docs/machines/rent.md#what-goes-over-the-wire",
        )
    if done.returncode == 255:
        raise Unreachable(f"ssh: {said.removeprefix('ssh: ').rstrip('.')}.")
    raise Unreachable(f"{what} failed on the machine: {said.rstrip('.')}.")


def sources() -> bytes:
    """The checkout's packages, and what builds them, as a .tar.gz."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz", compresslevel=6) as archive:
        for name in (*PACKAGES, *BESIDES):
            archive.add(ROOT / name, name, filter=_without_caches)
    return packed.getvalue()


def _without_caches(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    return None if "__pycache__" in member.name else member
