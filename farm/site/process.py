"""Tells whether a process still runs, although pids are reused; and lets a child end with its parent."""

import ctypes
import os
import signal
import subprocess
import sys
from pathlib import Path

BOOT = Path("/proc/sys/kernel/random/boot_id")
PR_SET_PDEATHSIG = 1  # linux/prctl.h

_libc = ctypes.CDLL(None)  # before any fork: a child may not load it


def is_alive(pid: int, who: str | None = None) -> bool:
    """Whether `pid` runs and is ours to signal; a zombie does not run. `who`: and is the process of that identity."""
    try:
        os.kill(pid, 0)
    except OSError:  # nobody has that pid, or another user
        return False
    found = identity(pid)
    return found is not None and (who is None or who == found)


def identity(pid: int) -> str | None:
    """An identity of the process `pid`, unlike that of any other that has or had that pid; None if it is gone or a
    zombie.

    Which boot of the machine, and when in it the process began. The time of day would not do: it may be set.
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:
        return None if Path("/proc/self/stat").exists() else _identity_by_ps(pid)
    boot = BOOT.read_text(encoding="utf-8").strip() if BOOT.exists() else "one"
    return None if fields[0] == "Z" else f"{boot} {fields[19]}"


def _identity_by_ps(pid: int) -> str | None:
    """The same on systems without /proc, such as macOS."""
    command = ["ps", "-o", "stat=", "-o", "lstart=", "-p", str(pid)]
    said = subprocess.run(
        command, capture_output=True, encoding="utf-8", errors="replace", env=os.environ | {"LC_ALL": "C"}, check=False
    )
    state, _, began = said.stdout.strip().partition(" ")
    return began.strip() if began and not state.startswith("Z") else None


def end_with_parent() -> None:
    """In a child that was forked: SIGTERM when its parent is gone, even by kill -9. On Linux only."""
    if sys.platform == "linux":
        _libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
