"""The processes of a Ray that the farm started, and which of them have failed, as the process table shows.

Nothing here calls Ray, whose client waits for ten minutes for a part that is gone.
"""

from collections.abc import Callable, Mapping
from contextlib import suppress

import psutil

from workers.ray_internals.processes import OF_THE_HEAD, OF_THE_RAYLET

STOPPED_LOOKS = 20  # in a row: a debugger may stop a process for a moment, and a machine that sleeps stops all
PARTS = (*OF_THE_HEAD, *OF_THE_RAYLET)
SAVERS = ("GCS", "raylet")  # without one of these, what trains cannot be asked for a checkpoint


def census(head: psutil.Process) -> dict[str, psutil.Process]:
    """The parts of the Ray that the process `head` started, by name, as far as they are there."""
    found = _find(OF_THE_HEAD, head)
    return found | (_find(OF_THE_RAYLET, found["raylet"]) if "raylet" in found else {})


def _find(kinds: Mapping[str, tuple[str, ...]], parent: psutil.Process) -> dict[str, psutil.Process]:
    found = {}
    with suppress(psutil.Error):
        for child in parent.children():
            words = command(child)
            if name := next((name for name, marks in kinds.items() if any(mark in words for mark in marks)), None):
                found[name] = child
    return found


def command(process: psutil.Process) -> str:
    """The command line of a process; nothing where it may not be seen or is gone."""
    with suppress(psutil.Error):
        return " ".join(process.cmdline())
    return ""


class Watch:
    """look() says what fails of the processes that `find` returns by name; those once found are not looked for again
    unless one of them ends."""

    def __init__(self, names: tuple[str, ...], find: Callable[[], dict[str, psutil.Process]]):
        self._names, self._find = names, find
        self._known = find()
        self._stopped: dict[str, int] = {}  # part -> looks in a row at which it stood still

    def look(self) -> dict[str, str]:
        """Part -> what is wrong with it."""
        if any(_state(self._known.get(name)) is None for name in self._names):
            self._known |= self._find()  # Ray may have started it again
        return {name: wrong for name in self._names if (wrong := self._wrong(name))}

    def _wrong(self, name: str) -> str | None:
        process = self._known.get(name)
        state = _state(process)
        still = self._stopped[name] = self._stopped.get(name, 0) + 1 if state == psutil.STATUS_STOPPED else 0
        if process is None:
            return f"the {name} is not there"
        if state is None:
            return f"the {name} (process {process.pid}) has ended"
        return f"the {name} (process {process.pid}) is stopped" if still >= STOPPED_LOOKS else None


def _state(process: psutil.Process | None) -> str | None:
    """None for one that runs no more, buried or not."""
    try:
        state = process.status() if process and process.is_running() else None
    except psutil.NoSuchProcess:
        return None
    return None if state == psutil.STATUS_ZOMBIE else state
