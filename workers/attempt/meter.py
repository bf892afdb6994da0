"""Meters of a node's energy, and the thread that reads one while an attempt trains.

On a GPU it is NVML, the driver's own interface: the counter of energy that Volta and later have, else the power drawn,
integrated. On a CPU it is RAPL, where the kernel lets this user read it (most let only root), and only for a run that
has the whole node, since it counts the package. Where there is no meter nothing is written: no figure is invented.
"""

import re
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from farm.record.energy import Integral, Used
from workers.node.gpus import Gpu

SAMPLE_SECONDS = 1.0  # NVML averages the power over about as long
WRITE_SECONDS = 10.0
POWERCAP = Path("/sys/class/powercap")
_PACKAGE = re.compile(r"intel-rapl:\d+")  # AMD's, too; intel-rapl:0:0 is a part of one


class Nvml:
    """Some GPUs of this node. `library` is pynvml, of the package nvidia-ml-py."""

    name = "nvml"

    def __init__(self, library: Any, gpus: Sequence[Gpu]):
        """Raises: NVMLError: there is no driver, or no such GPU."""
        library.nvmlInit()
        self._library = library
        self._handles = [library.nvmlDeviceGetHandleByIndex(int(gpu.handle)) for gpu in gpus]
        self._first = [self._counter(handle) for handle in self._handles]
        self._integrals = [Integral() for _ in self._handles]

    def joules(self) -> float:
        """Used since the meter was made."""
        return sum(map(self._of_one, self._handles, self._first, self._integrals))

    def _of_one(self, handle: Any, first: int | None, integral: Integral) -> float:
        if first is not None:
            return (self._library.nvmlDeviceGetTotalEnergyConsumption(handle) - first) / 1000
        return integral.add(time.monotonic(), self._library.nvmlDeviceGetPowerUsage(handle) / 1000)

    def _counter(self, handle: Any) -> int | None:
        """Millijoules since the driver was loaded; None on a GPU without the counter."""
        try:
            return self._library.nvmlDeviceGetTotalEnergyConsumption(handle)
        except self._library.NVMLError:
            return None


class Rapl:
    """The CPU packages of this node, by the kernel's counters in microjoules, which start from 0 when they are full."""

    name = "rapl"

    def __init__(self, root: Path = POWERCAP):
        """Raises: OSError: they cannot be read. ValueError: there are none."""
        self._zones = [zone for zone in sorted(root.iterdir()) if _PACKAGE.fullmatch(zone.name)]
        if not self._zones:
            raise ValueError("no package")
        self._most = [_number(zone / "max_energy_range_uj") for zone in self._zones]
        self._before = [_number(zone / "energy_uj") for zone in self._zones]
        self._joules = 0.0

    def joules(self) -> float:
        """Used since the meter was made; asked at least once in the minutes that a counter takes to fill."""
        now = [_number(zone / "energy_uj") for zone in self._zones]
        for after, before, most in zip(now, self._before, self._most, strict=True):
            self._joules += ((after - before) if after >= before else (after + most - before)) / 1e6
        self._before = now
        return self._joules


def _number(path: Path) -> int:
    return int(path.read_text(encoding="ascii"))


def meter(gpus: Sequence[Gpu], *, has_the_node: bool) -> Nvml | Rapl | None:
    """The energy meter of a run that trains on `gpus`, or without any on the CPUs of the whole node, or of a part.

    A MIG slice has none: NVML tells what the whole card draws.
    """
    if gpus:
        import pynvml

        with suppress(pynvml.NVMLError, ValueError):
            return Nvml(pynvml, gpus)
    elif has_the_node:
        with suppress(OSError, ValueError):
            return Rapl()
    return None


class Metered:
    """Reads a meter while `with` lasts, and keeps what it says in the file `path`.

    A meter that fails has said its last: the file then keeps no further line, and is removed, for it would say too
    little.
    """

    def __init__(
        self,
        meter: Nvml | Rapl | None,
        path: Path,
        sample_seconds: float = SAMPLE_SECONDS,
        clock: Callable = time.monotonic,
    ):
        self._meter, self._path, self._sample_seconds, self._clock = meter, path, sample_seconds, clock
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._read, daemon=True)

    def __enter__(self) -> Self:
        if self._meter:
            self._began = self._clock()
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._over.set()
        if self._meter:
            self._thread.join(timeout=10)

    def _read(self) -> None:
        try:
            self._write()
            while not self._over.wait(self._sample_seconds):
                assert self._meter
                self._meter.joules()
                if self._clock() - self._written >= WRITE_SECONDS:
                    self._write()
            self._write()
        except Exception as error:  # the driver's, the file system's: training does not end for it
            print(f"The energy is no longer known: {error}")
            with suppress(OSError):
                self._path.unlink(missing_ok=True)

    def _write(self) -> None:
        assert self._meter
        self._written = self._clock()
        used = Used(seconds=self._written - self._began, joules=self._meter.joules(), meter=self._meter.name)
        with self._path.open("a", encoding="utf-8") as file:
            file.write(used.model_dump_json() + "\n")
