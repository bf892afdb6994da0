"""Does a process still run? A pid alone does not tell: it is given again, to whoever comes next."""

import os
import subprocess
import time
from pathlib import Path

_SLACK_SECONDS = 5.0  # a process starts before it says so; the wall clock may be set in between


def is_alive(pid: int, said_at: float | None = None) -> bool:
    """Whether `pid` runs and is ours to signal; a zombie does not run.

    `said_at` is a moment, in Unix seconds, when the process that is meant was there: one that began later is another.
    """
    try:
        os.kill(pid, 0)
    except OSError:  # nobody has that pid, or another user
        return False
    began = _began(pid)
    return began is not None and (said_at is None or began <= said_at + _SLACK_SECONDS)


def _began(pid: int) -> float | None:
    """When the process began, in Unix seconds; None if it is gone or a zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None if Path("/proc/self/stat").exists() else _began_by_ps(pid)
    uptime = float(Path("/proc/uptime").read_text().split()[0])
    ticks_per_second = os.sysconf("SC_CLK_TCK")
    return None if fields[0] == "Z" else time.time() - uptime + int(fields[19]) / ticks_per_second


def _began_by_ps(pid: int) -> float | None:
    """The same on systems without /proc, such as macOS."""
    command = ["ps", "-o", "stat=", "-o", "lstart=", "-p", str(pid)]
    said = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"LC_ALL": "C"}, check=False)
    state, _, began = said.stdout.strip().partition(" ")
    return time.mktime(time.strptime(began.strip())) if began and not state.startswith("Z") else None
