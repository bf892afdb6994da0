"""The environment variables of a farm's node, which its Ray, the agents and their workers inherit.

Ray reads some of it when it is imported, so it must be there before. It is the node's environment and not the jobs'
runtime environment for two reasons: Ray shows the latter to everybody, passwords included, and a job that has one
cannot use the worker processes that Ray keeps ready. (Having those preload torch costs more than it saves: a run has
eight Ray processes, of which one or two need it.)
"""

import os
import secrets
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from farm.errors import BadSetting
from farm.files import PRIVATE, lock, write_whole
from farm.site.settings import NOTIFY_URLS, Settings, make_home, to_environment
from workers.node import gpus
from workers.ray_internals.variables import METRICS_ROOT, OTHER_HEADS, OTHERS, RAY, TOKEN_PATH

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("cli", "farm", "model", "workers")

# Of whoever rents machines, and whom the head tells (secrets_of_head); Ray would hand both to all that trains.
SECRETS = ("LAMBDA_API_KEY", NOTIFY_URLS)
OBJECT_STORE_BYTES = 100 * 2**20  # nothing of farm's travels through Ray's object store
# Below the folder of a Ray node: /ray/session_2026-11-25_18-51-10_123456_1234567/sockets/plasma_store
SOCKET_BYTES = 68
MOST_BYTES = 103 if sys.platform == "darwin" else 107  # of a Unix socket's path


def environment(here: Settings, token: Path | None = None, *, is_ours: bool = True) -> dict[str, str]:
    """This process's environment with the farm's laid over it, for a process that is, or starts, a Ray node.

    `token` is the file with Ray's secret. `is_ours`: the whole Ray is, and not only a node of it.
    """
    own = {"FARM_PYTHON": sys.executable, "PYTHONSAFEPATH": "1", "PYTHONPATH": _python_path()}
    own |= {"TMPDIR": str(short_folder())}  # Ray's own, unless RAY_TMPDIR is set, and that of its dashboard's processes
    own |= dict.fromkeys(("no_proxy", "NO_PROXY"), _no_proxy())
    own |= {METRICS_ROOT: str(here.home / "metrics")}  # what Ray writes for Grafana, at a path that stays
    own |= {TOKEN_PATH: str(token)} if token else {}
    own |= {} if (shown := gpus.cuda_variable()) is None else {gpus.VISIBLE: shown}
    return _without(os.environ, OTHERS + OTHER_HEADS * is_ours + SECRETS) | RAY | own | to_environment(here)


def _no_proxy() -> str:
    """The hosts that this shell keeps from its proxy, and this machine's own besides: Ray asks every cloud's metadata
    service which cloud it is in."""
    own = ["localhost", "127.0.0.1", "127.0.0.0/8", "::1", "169.254.169.254", "metadata.google.internal"]
    told = os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or ""
    return ",".join(dict.fromkeys([*filter(None, told.split(",")), *own]))


def _without(variables: Mapping[str, str], names: tuple[str, ...]) -> dict[str, str]:
    starts = tuple(name for name in names if name.endswith("_"))
    return {key: value for key, value in variables.items() if key not in names and not key.startswith(starts)}


def _python_path() -> str:
    """PYTHONPATH without what is relative, and so another folder for each process; a checkout's packages come first."""
    inherited = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if os.path.isabs(path)]
    checkout = [str(ROOT)] if (ROOT / "pyproject.toml").exists() else []
    return os.pathsep.join(dict.fromkeys(checkout + inherited))


def stand_apart(home: Path) -> None:
    """Make an empty folder this process's working folder: Ray lets its workers import from that of their driver.

    In a clone of nanoGPT that would be a model.py before our `model`.
    """
    folder = home / "empty"
    make_home(folder)
    os.chdir(folder)


def short_folder() -> Path:
    """The folder for temporary files, or /tmp where Ray's sockets below it would have names that are too long.

    Raises: BadSetting: names TMPDIR.
    """
    room, asked = MOST_BYTES - SOCKET_BYTES - len("/farm-ray-12345678"), Path(tempfile.gettempdir())
    for folder in (asked, Path("/tmp")):
        if len(os.fsencode(folder)) <= room and os.access(folder, os.W_OK | os.X_OK):
            return folder
    raise BadSetting(
        f"TMPDIR is {asked}, and /tmp cannot be written: Ray's sockets have no room below a path of more than"
        f" {room} bytes.",
        remedy="Set TMPDIR to a shorter folder that can be written.",
    )


def token(home: Path) -> Path:
    """The secret that Ray's job API and dashboard ask for: made once, readable by its owner only.

    Raises: BadSetting: the home cannot be made.
    """
    path = home / "ray-token"
    make_home(home)
    if not path.exists() or not path.stat().st_size:  # empty: who made it was killed
        with lock(path):
            if not path.stat().st_size:  # else another was first
                path.write_text(secrets.token_hex(32), encoding="utf-8")
    return path


def keep_secret(home: Path, secret: str) -> Path:
    """A file in `home` with the secret of a head that invited this machine, readable by its owner only."""
    path = home / "head-token"
    make_home(home)
    write_whole(path, secret.encode(), PRIVATE)
    return path


def others_token() -> Path:
    """The file with the secret of a Ray that the farm did not start."""
    return Path(os.environ.get(TOKEN_PATH, "~/.ray/auth_token")).expanduser()
