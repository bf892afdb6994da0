"""Energy: a series integrated, what NVML and RAPL say, and what a run makes of its attempts.

An object with its functions stands in for NVML's library, since no GPU is here; RAPL's files are made as the kernel
lays them out.
"""

import math
import time
from pathlib import Path

import numpy as np
import pytest
from results import tiny_study
from scipy.integrate import trapezoid
from waiting import wait_until

from farm.record import energy
from farm.record.energy import Integral, Used, kwh
from farm.record.store import Store
from farm.study.run import Attempt
from workers.attempt.meter import Metered, Nvml, Rapl, meter
from workers.node.gpus import Gpu


class Driver:
    """What pynvml's functions say of two GPUs: 100 W and 300 W."""

    class NVMLError(Exception):
        pass

    def __init__(self, has_counter: bool):
        self.has_counter, self.millijoules = has_counter, {0: 5_000_000, 1: 7_000_000}

    def nvmlInit(self) -> None:
        pass

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        return index

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: int) -> int:
        if not self.has_counter:
            raise self.NVMLError("Not Supported")
        return self.millijoules[handle]

    def nvmlDeviceGetPowerUsage(self, handle: int) -> int:
        return {0: 100_000, 1: 300_000}[handle]


def cards(*handles: str) -> tuple[Gpu, ...]:
    return tuple(Gpu(handle, "RTX 3090", 24 * 2**30, "550", 8.6) for handle in handles)


def test_power_is_integrated_over_the_times_it_was_read_at() -> None:
    """A GPU that warms up and idles, read at uneven times: the trapezoid of numpy, and within 1 % of the truth."""
    times = np.cumsum(np.random.default_rng(0).uniform(0.5, 1.5, 600))
    watts = 250 + 100 * np.tanh(times / 60) - 200 * (times > 500)
    integral = Integral()
    for at, power in zip(times, watts, strict=True):
        integral.add(at, power)
    assert integral.joules == pytest.approx(float(trapezoid(watts, times)))
    fine = np.linspace(times[0], times[-1], 200_000)
    truth = float(trapezoid(250 + 100 * np.tanh(fine / 60) - 200 * (fine > 500), fine))
    assert integral.joules == pytest.approx(truth, rel=0.01)


def test_a_gpu_with_a_counter_is_read_from_where_it_stood() -> None:
    driver = Driver(has_counter=True)
    nvml = Nvml(driver, cards("0", "1"))
    driver.millijoules = {0: 5_002_500, 1: 7_001_000}
    assert nvml.joules() == pytest.approx(3.5)


def test_a_gpu_without_one_has_its_power_integrated() -> None:
    nvml = Nvml(Driver(has_counter=False), cards("1"))
    began = time.monotonic()
    assert nvml.joules() == 0.0
    time.sleep(0.05)
    read = nvml.joules()
    assert 0.05 * 300 <= read <= (time.monotonic() - began) * 300


def test_a_mig_slice_has_no_meter_since_the_card_s_is_not_its_own() -> None:
    assert meter(cards("MIG-7b2e"), has_the_node=True) is None


def package(root: Path, name: str, microjoules: int) -> Path:
    zone = root / name
    zone.mkdir()
    (zone / "energy_uj").write_text(f"{microjoules}\n", encoding="ascii")
    (zone / "max_energy_range_uj").write_text("262143328850\n", encoding="ascii")
    return zone


def test_rapl_adds_the_packages_and_survives_a_counter_that_begins_anew(tmp_path: Path) -> None:
    one, two = package(tmp_path, "intel-rapl:0", 262_143_000_000), package(tmp_path, "intel-rapl:1", 5_000_000)
    package(tmp_path, "intel-rapl:0:0", 1)  # a part of the first
    rapl = Rapl(tmp_path)
    (one / "energy_uj").write_text("671150\n", encoding="ascii")
    (two / "energy_uj").write_text("8000000\n", encoding="ascii")
    assert rapl.joules() == pytest.approx(1.0 + 3.0)
    with pytest.raises(ValueError, match="no package"):
        Rapl(one)


def test_a_part_of_a_node_has_no_meter() -> None:
    assert meter((), has_the_node=False) is None


def test_what_was_read_is_in_the_attempt_s_folder_also_of_one_that_is_killed(tmp_path: Path) -> None:
    root = tmp_path / "powercap"
    root.mkdir()
    zone, path = package(root, "intel-rapl:0", 0), tmp_path / "energy-0"
    metered = Metered(Rapl(root), path, sample_seconds=0.01)
    with metered:
        wait_until(path.exists, "the first line is there")
        (zone / "energy_uj").write_text("2500000\n", encoding="ascii")
    used = energy.last(path.read_bytes())
    assert used is not None
    assert (used.joules, used.meter) == (2.5, "rapl")
    assert energy.last(path.read_bytes() + b'{"seconds": 99.0, "jou') == used, "cut off in mid-line"
    assert energy.last(b"") is None
    assert energy.last(b'{"seconds": 1.0, "joules": NaN, "meter": "rapl"}\n') is None


def test_a_meter_that_fails_leaves_no_figure_and_training_alone(tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    root = tmp_path / "powercap"
    root.mkdir()
    zone, path = package(root, "intel-rapl:0", 0), tmp_path / "energy-0"
    with Metered(Rapl(root), path, sample_seconds=0.01):
        wait_until(path.exists, "the first line is there")
        (zone / "energy_uj").unlink()
        wait_until(lambda: not path.exists(), "it is removed")
    assert "The energy is no longer known" in capfd.readouterr().out


def test_without_a_meter_nothing_is_written(tmp_path: Path) -> None:
    with Metered(None, tmp_path / "energy-0"):
        pass
    assert not (tmp_path / "energy-0").exists()


def attempt(store: Store, epoch: int, step: int, *nodes: float) -> Attempt:
    """An attempt on record that did `step` steps, and whose nodes used so many joules."""
    (run, *_) = tiny_study().runs()
    made = Attempt(run_id=run.id, epoch=epoch, worker="w", started=0.0, ended=9.0, outcome="failed", step=step)
    folder = store.runs.begin(run, made)
    for node, joules in enumerate(nodes):
        line = Used(seconds=9.0, joules=joules, meter="nvml").model_dump_json()
        (folder / energy.file(node)).write_text(line + "\n", encoding="utf-8")
    return made


def test_retries_are_added_up_and_one_that_is_not_known_makes_all_unknown(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.check()
    first, second = attempt(store, 1, 4, 1.8e6), attempt(store, 2, 9, 5.4e6)
    assert kwh([store.runs.energy_used(first, 1), store.runs.energy_used(second, 1)]) == pytest.approx(2.0)
    silent, idle = attempt(store, 3, 5), attempt(store, 4, 0)
    assert kwh([store.runs.energy_used(first, 1), store.runs.energy_used(silent, 1)]) is None
    assert kwh([store.runs.energy_used(first, 1), store.runs.energy_used(idle, 1)]) == pytest.approx(0.5), (
        "it never trained"
    )
    assert kwh([]) is None


def test_of_a_mixed_group_every_node_must_have_told(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.check()
    assert kwh([store.runs.energy_used(attempt(store, 1, 5, 1.8e6, 3.6e6), 2)]) == pytest.approx(1.5)
    assert store.runs.energy_used(attempt(store, 2, 5, 1.8e6), 2) is None
    assert math.isclose(energy.JOULES_PER_KWH, 3.6e6)
