"""A script in a process of its own, with a folder for the Ray that it starts."""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from farm.settings import Settings
from workers.environment import environment, token


def ran(script: str, home: Path) -> subprocess.CompletedProcess[str]:
    """Run `script` as on a node of the farm at `home`; its argv[1] is Ray's _temp_dir."""
    own = tempfile.mkdtemp(prefix="ray-")  # short: sockets are made below it
    try:
        return subprocess.run(
            [sys.executable, "-c", script, own],
            env=environment(Settings(home=home, storage=home), token(home)),
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
    finally:
        shutil.rmtree(own, ignore_errors=True)
