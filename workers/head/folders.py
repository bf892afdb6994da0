"""The folders of the farm's own Rays, below the one for temporary files. A lock in each tells whether it is in use.

A Ray's sockets, logs and session lie there. Every process of that Ray has RAY_TMPDIR set to it, which is how what it
has left is found, whoever started it.
"""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from farm.files import Lock, lock
from workers.ray_internals.processes import SESSION_LOGS
from workers.ray_internals.variables import TMPDIR

PREFIX = "farm-ray-"
LOCK = "lock"
KILL_SECONDS = 5.0


@contextmanager
def hold() -> Iterator[Path]:
    """A new folder. Afterwards neither it nor any process of its Ray is there, nor the folder of a farm that died."""
    sweep()
    folder = Path(tempfile.mkdtemp(prefix=PREFIX))
    with lock(folder / LOCK):
        try:
            yield folder
        finally:
            end(folder)
            shutil.rmtree(folder, ignore_errors=True)


def sweep() -> None:
    """Remove what farms have left that were killed: their locks are free."""
    for path in Path(tempfile.gettempdir()).glob(f"{PREFIX}*/{LOCK}"):
        with suppress(OSError), Lock(path) as one:  # another user's cannot be opened
            if one.try_take():
                end(path.parent)
                shutil.rmtree(path.parent, ignore_errors=True)


def end(folder: Path) -> None:
    """Kill every process of the Ray in `folder`, as often as it takes: one may just have started another."""
    for _ in range(3):
        victims = list(_of(folder))
        if not victims:
            return
        for process in victims:
            with suppress(psutil.Error):
                process.kill()
        psutil.wait_procs(victims, timeout=KILL_SECONDS)


def _of(folder: Path) -> Iterator[psutil.Process]:
    """The processes that run with RAY_TMPDIR set to `folder`, but for this one."""
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            is_ours = process.pid != os.getpid() and process.uids().real == os.getuid()
            if is_ours and process.environ().get(TMPDIR) == str(folder):
                yield process


def agents(folder: Path) -> list[psutil.Process]:
    """The agents of the attempts that run in the Ray of `folder`."""
    return [process for process in _of(folder) if "workers.attempt.agent" in _words(process)]


def _words(process: psutil.Process) -> list[str]:
    with suppress(psutil.Error):
        words = process.cmdline()
        return [] if words and words[0].endswith("sh") else words
    return []


def keep_logs(folder: Path, home: Path) -> Path:
    """Copy the logs of the Ray in `folder` to `home`, in place of those kept before; where they are then."""
    kept = home / "ray-logs"
    shutil.rmtree(kept, ignore_errors=True)
    for logs in folder.glob(SESSION_LOGS):
        if not logs.parent.is_symlink():
            with suppress(shutil.Error, OSError):  # what still writes there may remove files
                shutil.copytree(logs, kept, ignore_dangling_symlinks=True, dirs_exist_ok=True)
    return kept
