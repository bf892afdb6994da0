"""The farm on this machine: up and down in the background, or in the foreground."""

import json
import os
import secrets
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import NoReturn

from farm import serving
from farm.errors import Unreachable
from farm.serving import Facts
from farm.settings import Settings

START_SECONDS = 120.0
STOP_SECONDS = 150.0  # what trains may take a minute to save a checkpoint


def foreground(here: Settings, **options: object) -> NoReturn:
    """Become the farm of `here`; `options` are those of serve.serve."""
    command = _command(options)
    os.execve(command[0], command, environment(here))


def environment(here: Settings) -> dict[str, str]:
    """What Ray's processes, and so the agents, inherit. It must be there before ray is imported.

    The Redis URL holds a password: it is inherited, never shown to Ray as part of a runtime environment.
    """
    own = {
        "FARM_HOME": str(here.home),
        "FARM_STORAGE": str(here.storage),
        "FARM_PYTHON": sys.executable,
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(_token(here.home)),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    }
    return os.environ | own | ({"FARM_REDIS_URL": here.redis_url} if here.redis_url else {})


def up(here: Settings, **options: object) -> Facts:
    """Start the farm of `here` unless it is up already, and wait until it serves. `options` are those of serve.serve.

    Raises: Unreachable: it did not start; says what its log says.
    """
    if facts := serving.facts(here):
        return facts
    here.home.mkdir(parents=True, exist_ok=True, mode=0o700)
    log_path = here.home / "serve.log"
    with log_path.open("ab") as log:
        process = subprocess.Popen(
            _command(options),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            cwd=here.home,
            env=environment(here),
        )
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        if facts := serving.facts(here):
            return facts
        time.sleep(0.1)
    _end(process)
    raise Unreachable(f"The farm did not start: {_last_line(log_path)}", remedy=f"See {log_path}.")


def down(here: Settings) -> bool:
    """Stop the farm of `here`: what trains saves a checkpoint and is queued again. False if none was up."""
    facts = serving.facts(here)
    if facts is None:
        return False
    os.kill(facts.pid, signal.SIGTERM)
    deadline = time.monotonic() + STOP_SECONDS
    while serving.facts(here) and time.monotonic() < deadline:
        time.sleep(0.1)
    if _is_alive(facts.pid, deadline):
        raise Unreachable(f"The farm (process {facts.pid}) did not stop.", remedy=f"See {facts.log}.")
    return True


def _command(options: dict[str, object]) -> list[str]:
    return [sys.executable, "-m", "workers.serve", "--options", json.dumps(options)]


def _token(home: Path) -> Path:
    """The secret that Ray's job API and dashboard ask for: made once, readable by its owner only."""
    path = home / "ray-token"
    home.mkdir(parents=True, exist_ok=True, mode=0o700)
    if not path.exists():
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(secrets.token_hex(32))
    return path


def _is_alive(pid: int, deadline: float) -> bool:
    """Whether `pid` still runs at `deadline`."""
    while time.monotonic() < deadline:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return False
        if _is_zombie(pid):
            return False
        time.sleep(0.1)
    return True


def _is_zombie(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return False


def _end(process: subprocess.Popen) -> None:
    process.terminate()
    try:
        process.wait(timeout=20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _last_line(path: Path) -> str:
    lines = [line for line in path.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1].strip() if lines else "it said nothing"
