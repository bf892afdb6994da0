"""The farm on this machine: up and down in the background, or in the foreground."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import NoReturn

from farm.errors import BadSetting, Conflict, FarmError, Refused, Unreachable, last_line
from farm.site import serving
from farm.site.process import is_alive
from farm.site.serving import Facts
from farm.site.settings import Settings, make_home, secrets_of_head
from workers.head.messenger import services
from workers.node.environment import PACKAGES, ROOT, environment, keep_secret, others_token, token
from workers.ray_internals.variables import AT_ONCE, TOKEN

START_SECONDS = 180.0  # Ray waits 30 s for itself, on a busy machine more than once
STOP_SECONDS = 150.0  # what trains may take a minute to save a checkpoint
AGAIN_SECONDS = 1.0  # after another farm of this home was in the way
REASONS: dict[int, type[FarmError]] = {kind.exit_code: kind for kind in (FarmError, BadSetting, Refused)}


def foreground(here: Settings, **options: object) -> NoReturn:
    """Become the farm of `here`; `options` are those of serve.serve. A Ray to attach to has a secret of its own."""
    check_installed()
    services(here.notify.urls)  # that each is understood, and that apprise is there
    command, is_ours = _command(options), not options.get("attach")
    variables = environment(here, token(here.home) if is_ours else others_token(), is_ours=is_ours)
    os.execve(command[0], command, variables | secrets_of_head(here))


def member(here: Settings, head: str, secret: str | None = None, **options: object) -> NoReturn:
    """Become a machine that trains for the farm whose head is `head`; `options` are those of join.join.

    `secret` is what its Ray asks for; without it, that is in a file which this environment names.
    """
    check_installed()
    command = [sys.executable, "-m", "workers.node.join", f"--head={head}", "--options", json.dumps(options)]
    variables = environment(here, keep_secret(here.home, secret) if secret else others_token(), is_ours=False)
    if secret:
        variables.pop(TOKEN, None)  # it would go before the file
    os.execve(command[0], command, variables)


def check_installed() -> None:
    """Make sure that this is more than the light client, and that nothing on PYTHONPATH stands before its packages.

    Raises: BadSetting
    """
    for name in PACKAGES:
        place = Path(import_module(name).__file__ or "").resolve()
        if place.parent.parent != ROOT:
            raise BadSetting(f"{place} hides farm's own package {name!r}.", remedy="Take its folder out of PYTHONPATH.")
    missing = [name for name in ("torch", "ray", "tiktoken", "safetensors") if find_spec(name) is None]
    if missing:
        raise BadSetting(
            f"this machine cannot train: {', '.join(missing)} not installed.",
            remedy="In the checkout: pip install '.[node]'.",
        )


def up(here: Settings, **options: object) -> Facts:
    """Start the farm of `here` unless it is up already, and wait until it serves. `options` are those of serve.serve.

    Another process may start it first, and one that is just stopping is waited for. Ctrl-C stops what
    was started.

    Raises: BadSetting, Refused, Unreachable, FarmError: it did not start; says what its log says.
    """
    if facts := serving.facts(here):
        return facts
    check_installed()
    services(here.notify.urls)  # that each is understood, and that apprise is there
    make_home(here.home)
    log = here.home / "serve.log"
    process = _start(here, options, log)
    deadline = time.monotonic() + START_SECONDS
    try:
        while time.monotonic() < deadline and process.poll() in (None, Conflict.exit_code):
            if facts := serving.facts(here):
                return facts
            if process.poll() is None:
                time.sleep(0.1)
            else:
                time.sleep(AGAIN_SECONDS)
                process = _start(here, options, log)
    except KeyboardInterrupt:
        _end(process)  # or it would be up a moment later, unknown to the user who typed Ctrl-C
        raise
    _end(process)
    reason = REASONS.get(process.returncode, Unreachable)
    said = last_line(log.read_text(encoding="utf-8", errors="replace"))
    said = re.sub(r"^[\d-]+ [\d:,]+ [A-Z]+ ", "", said)  # without when and how loud
    raise reason(f"The farm did not start: {said}", remedy=f"See {log}.")


def _start(here: Settings, options: dict[str, object], log_path: Path) -> subprocess.Popen:
    with log_path.open("ab") as log:
        return subprocess.Popen(
            _command(options),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            env=environment(here, token(here.home)) | AT_ONCE | secrets_of_head(here),
        )


def down(here: Settings) -> bool:
    """Stop the farm of `here`: what trains saves a checkpoint and is queued again. False if none was up."""
    facts = serving.facts(here)
    if facts is None:
        return False
    os.kill(facts.pid, signal.SIGTERM)
    deadline = time.monotonic() + STOP_SECONDS
    while is_alive(facts.pid, facts.process):
        if time.monotonic() > deadline:
            raise Unreachable(f"The farm (process {facts.pid}) did not stop.", remedy=f"See {facts.log}.")
        time.sleep(0.1)
    return True


def _command(options: dict[str, object]) -> list[str]:
    return [sys.executable, "-m", "workers.head.serve", "--options", json.dumps(options)]


def _end(process: subprocess.Popen) -> None:
    process.terminate()
    try:
        process.wait(timeout=20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
