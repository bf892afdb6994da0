"""What a node says of itself. tests/workers/node/test_gpus.py has what it says of its GPUs."""

import subprocess

import pytest

from farm.errors import BadSetting
from farm.study.machine import BUILT_IN, Machine
from farm.study.processor import cores, instruction_set
from workers.node import hardware
from workers.node.gpus import Gpu
from workers.node.hardware import ROOT, _class_name

A100 = "NVIDIA A100-SXM4-40GB", 40960
RTX = "NVIDIA GeForce RTX 3090", 24576
T4 = "Tesla T4", 15360
H100 = "NVIDIA H100 80GB HBM3", 81559
CARDS = {
    "1xh100m80": H100,
    "1xh100pciem80": ("NVIDIA H100 PCIe", 81559),
    "1xh100nvlm96": ("NVIDIA H100 NVL", 95830),
    "1xh200m144": ("NVIDIA H200", 143771),
    "1xa100m40": A100,
    "1xa100pciem40": ("NVIDIA A100-PCIE-40GB", 40960),
    "1xa100pciem80": ("NVIDIA A100 80GB PCIe", 81920),
    "1xa100pcie-3g.20gb": ("NVIDIA A100-PCIE-40GB MIG 3g.20gb", 19968),
    "1xv100m16": ("Tesla V100-SXM2-16GB", 16384),
    "1xv100pciem16": ("Tesla V100-PCIE-16GB", 16384),
    "1xt4m16": T4,
    "1xp100pciem16": ("Tesla P100-PCIE-16GB", 16280),
    "1xrtx3090": RTX,
    "1xrtx3090ti": ("NVIDIA GeForce RTX 3090 Ti", 24564),
    "1xrtx4090laptop": ("NVIDIA GeForce RTX 4090 Laptop GPU", 16376),
    "1xrtx4070tisuper": ("NVIDIA GeForce RTX 4070 Ti SUPER", 16376),
    "1xrtxa6000": ("NVIDIA RTX A6000", 49140),
    "1xrtx6000ada": ("NVIDIA RTX 6000 Ada Generation", 49140),
    "1xquadrortx6000m24": ("Quadro RTX 6000", 24576),
    "1xgpum16": ("NVIDIA Graphics", 16384),
}


def gpu(name: str, mebibytes: int) -> Gpu:
    return Gpu("0", name, mebibytes * 2**20, driver="550.90.07", compute_capability=8.0)


@pytest.mark.parametrize(
    ("card", "count", "name"),
    [(A100, 8, "8xa100m40"), (H100, 8, "8xh100m80"), *((card, 1, name) for name, card in CARDS.items())],
)
def test_a_node_is_named_after_its_accelerators(card, count, name):
    assert _class_name((gpu(*card),) * count) == name


def test_a_node_without_a_gpu_is_a_cpu():
    machine = hardware.detect()
    assert machine.name == "cpu"
    assert machine.is_cpu
    assert 2**28 < machine.memory < hardware.memory_bytes()


def test_an_embedded_farm_offers_a_worker_a_core_and_pairs_of_them():
    classes = {machine.name: (machine, units) for machine, units in hardware.local_classes()}
    single, units = classes["cpu-x1"]
    assert units == cores()
    assert (single.accelerators, single.threads) == (1, 1)
    assert classes["cpu-x2"][0].accelerators == 2


def test_hardware_says_what_it_trained_on():
    found = hardware.hardware(BUILT_IN["cpu-x1"], threads=1)
    assert found.accelerator == "cpu"
    assert found.cores == cores()
    assert found.cpu
    assert found.driver is None
    assert found.cuda is None


def test_provenance_names_the_commit_and_the_sources():
    found = hardware.provenance()
    head = subprocess.run(["git", "-C", str(ROOT), "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    assert found.commit == (head.stdout.strip() or None if head.returncode == 0 else None)
    assert found.code == hardware.code_digest()
    assert found.torch.startswith("2.")
    assert found.ray


def test_a_class_with_gpus_that_are_not_here_is_not_offered():
    with pytest.raises(BadSetting, match=r"--machine 8xa100m40 is 8 x A100-SXM4-40GB; this machine has 0 GPUs"):
        hardware.offer("8xa100m40", {})
    declared = Machine(name="rented", accelerator="T4", accelerators=2)
    with pytest.raises(BadSetting, match="--machine rented is 2 x T4"):
        hardware.offer("rented", {"rented": declared})


def test_a_class_that_is_declared_is_offered_as_declared_and_another_as_detected():
    declared = Machine(name="home", memory=2**30)
    assert hardware.offer("home", {"home": declared}).memory == 2**30
    assert hardware.offer("attic", {}).memory == hardware.detect().memory
    priced = hardware.offer("attic", {"attic": Machine(name="attic", usd_per_hour=2.0)})
    assert (priced.memory, priced.usd_per_hour) == (hardware.detect().memory, 2.0), "a price is no hardware"


def test_a_cpu_class_stays_one_on_a_node_with_gpus(monkeypatch):
    monkeypatch.setattr(hardware, "gpus", lambda: (gpu(*A100),) * 8)
    pair = hardware.offer("cpu-x2", {})
    assert pair.is_cpu
    assert (pair.accelerators, pair.threads) == (2, 1)


@pytest.mark.parametrize(
    ("name", "units", "cpus", "words"),
    [
        (
            "home",
            2,
            4,
            r"--machine home=2: one run of it takes all 4 cores, because the class sets no `threads`\. Offer 1, or",
        ),
        ("cpu-x1", 10**9, 4, r"--machine cpu-x1=1000000000: one run of it takes 1 of 4 cores\. Offer at most 4\.$"),
        ("cpu-x2", 3, 4, r"takes 2 of 4 cores\. Offer at most 2\.$"),
        ("cpu-x2", 2, 1, r"takes 1 of 1 cores\. Offer at most 1\.$"),
        ("cpu-x1", 10**9, None, rf"takes 1 of {cores()} cores"),
    ],
)
def test_more_runs_at_a_time_than_have_room_are_not_offered(name, units, cpus, words):
    with pytest.raises(BadSetting, match=words):
        hardware.offer(name, {"home": Machine(name="home")}, units, cpus)


@pytest.mark.parametrize(
    ("name", "units", "cpus"), [("home", 1, 4), ("cpu-x1", 4, 4), ("cpu-x2", 2, 5), ("cpu-x2", 1, 1)]
)
def test_as_many_runs_as_have_room_are_offered(name, units, cpus):
    assert hardware.offer(name, {"home": Machine(name="home")}, units, cpus).name == name


def test_a_cpu_class_is_offered_with_the_instructions_of_its_processor():
    has = instruction_set()
    assert hardware.detect().instruction_set == has
    assert {machine.instruction_set for machine, _ in hardware.local_classes()} == {has}
    assert hardware.offer("home", {"home": Machine(name="home")}).instruction_set == has
    assert hardware.hardware(BUILT_IN["cpu-x1"], threads=1).instruction_set == has
