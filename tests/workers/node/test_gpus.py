"""Which GPUs are offered: those that CUDA_VISIBLE_DEVICES shows. A tool that prints what nvidia-smi does stands in for
it, since there is no GPU here; how torch reads the variable is asked of torch."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from farm.errors import BadSetting
from farm.site.settings import Settings
from farm.study.machine import Machine
from workers.head.serve import _classes
from workers.node import gpus, hardware
from workers.node.environment import environment
from workers.node.gpus import VISIBLE, cards, parse, visible, with_slices

TWINS = ("GPU-8932f937-d72c-4106-c12f-20bd9faed9f6", "GPU-8932a001-1d2b-7a5e-93a0-5c1f0f3b2f11")
QUERY = f"""\
0, {TWINS[0]}, [N/A], NVIDIA GeForce RTX 3090, 24576, 550.90.07, 8.6
1, {TWINS[1]}, [N/A], NVIDIA GeForce RTX 4090, 24564, 550.90.07, 8.9
2, GPU-5c89852c-d268-c3f3-1b07-005d5ae1dc3f, [N/A], Tesla T4, 15360, 550.90.07, 7.5
"""
CARD, OTHER = "GPU-fcf41002-68b6-5900-d7d1-74026173bb44", "GPU-0b2f1e9a-5a17-44c0-a1c5-0a7fd3a0c9de"
BIG, SMALL = "MIG-e07a497d-1bb6-5a42-b670-1c33bf55ab6e", "MIG-c6d4f1ef-42e4-5de3-91c7-45d71c87eb3f"
SLICED_QUERY = f"""\
0, {OTHER}, Disabled, NVIDIA A100-SXM4-40GB, 40960, 535.129.03, 8.0
1, {CARD}, Enabled, NVIDIA A100-SXM4-40GB, 40960, 535.129.03, 8.0
"""
LIST = f"""\
GPU 0: NVIDIA A100-SXM4-40GB (UUID: {OTHER})
GPU 1: NVIDIA A100-SXM4-40GB (UUID: {CARD})
  MIG 3g.20gb     Device  0: (UUID: {BIG})
  MIG 1g.5gb+me   Device  1: (UUID: {SMALL})
"""


def slice_xml(index: int, instance: int, memory: str) -> str:
    return f"""
        <mig_device>
            <index>{index}</index>
            <gpu_instance_id>{instance}</gpu_instance_id>
            <compute_instance_id>0</compute_instance_id>
            <device_attributes><shared><multiprocessor_count>42</multiprocessor_count></shared></device_attributes>
            <fb_memory_usage><total>{memory}</total><reserved>0 MiB</reserved><used>19 MiB</used></fb_memory_usage>
        </mig_device>"""


XML = f"""<?xml version="1.0" ?>
<!DOCTYPE nvidia_smi_log SYSTEM "nvsmi_device_v12.dtd">
<nvidia_smi_log>
    <driver_version>535.129.03</driver_version>
    <attached_gpus>2</attached_gpus>
    <gpu id="00000000:15:00.0">
        <mig_mode><current_mig>Disabled</current_mig><pending_mig>Disabled</pending_mig></mig_mode>
        <mig_devices>None</mig_devices>
        <uuid>{OTHER}</uuid>
        <fb_memory_usage><total>40960 MiB</total></fb_memory_usage>
    </gpu>
    <gpu id="00000000:10:00.0">
        <mig_mode><current_mig>Enabled</current_mig><pending_mig>Enabled</pending_mig></mig_mode>
        <mig_devices>{slice_xml(0, 1, "20096 MiB")}{slice_xml(1, 13, "4864 MiB")}</mig_devices>
        <uuid>{CARD}</uuid>
        <fb_memory_usage><total>40960 MiB</total></fb_memory_usage>
    </gpu>
</nvidia_smi_log>
"""

Driver = Callable[..., None]


@pytest.fixture
def driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Installs an nvidia-smi that says this, and sets CUDA_VISIBLE_DEVICES."""

    def install(query: str, named: str | None, listed: str = "", described: str = "") -> None:
        for name, text in (("query", query), ("list", listed), ("xml", described)):
            (tmp_path / name).write_text(text)
        tool = tmp_path / "nvidia-smi"
        tool.write_text(
            f'#!/bin/sh\ncase "$1" in --query-gpu=*) exec cat {tmp_path}/query;; -L) exec cat {tmp_path}/list;;'
            f" -q) exec cat {tmp_path}/xml;; esac\n"
        )
        tool.chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
        monkeypatch.delenv(VISIBLE, raising=False)
        if named is not None:
            monkeypatch.setenv(VISIBLE, named)
        cards.cache_clear()

    yield install
    cards.cache_clear()


LISTS = [
    ("0", [0]),
    ("1,0", [1, 0]),
    (" 2 , 1", [2, 1]),
    ("", []),
    ("-1", []),
    ("NoDevFiles", []),
    ("0,-1,1", [0]),
    ("0,3,1", [0]),
    ("7", []),
    ("0,,1", [0]),
    ("1gpu,0", [1, 0]),
    ("0,1,0", []),
    (f"0,{TWINS[1]}", [0]),
    (TWINS[1], [1]),
    (f"{TWINS[1]},{TWINS[0]}", [1, 0]),
    ("GPU-5c", [2]),
    ("GPU-8932f937,GPU-5c", [0, 2]),
    ("GPU-8932,GPU-5c", []),
    ("GPU-5c,GPU-8932", [2]),
    ("GPU-5c,1", [2]),
    ("GPU-5c,GPU-5c8", []),
    ("GPU-ffffffff", []),
    ("MIG-GPU-5c/1/0", []),
]


@pytest.mark.parametrize(("named", "shown"), LISTS)
def test_what_a_list_shows(named: str, shown: list[int]) -> None:
    found = visible(parse(QUERY), named)
    assert [int(gpu.handle) for gpu in found] == shown


@pytest.mark.parametrize("named", [named for named, _ in LISTS if not named.startswith("MIG-")])
def test_a_list_shows_what_it_shows_to_torch(named: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VISIBLE, named)
    here = parse(QUERY)
    read = torch.cuda._parse_visible_devices()
    if named.startswith("GPU-"):
        read = torch.cuda._transform_uuid_to_ordinals(read, [card.uuid for card in here])
    ordinals = read[: next((at for at, index in enumerate(read) if index >= len(here)), None)]
    assert [int(gpu.handle) for gpu in visible(here, named)] == ordinals


@pytest.mark.parametrize(
    ("named", "shown"),
    [
        (None, [BIG]),  # CUDA shows one slice, and then no whole card
        ("0", ["0"]),
        ("1", [BIG]),
        ("0,1", [BIG]),
        (CARD, [BIG]),
        (SMALL, [SMALL]),
        (f"{SMALL},{BIG}", [SMALL]),
        ("MIG-c6d4", [SMALL]),
        (f"MIG-{CARD}/13/0", [SMALL]),
        (f"MIG-{CARD}/1/0", [BIG]),
        ("MIG-GPU-fcf41002/13/0", [SMALL]),
        (f"MIG-{CARD}/13/1", []),
        (f"MIG-{OTHER}/1/0", []),
        ("MIG-ffff", []),
        ("", []),
    ],
)
def test_of_a_sliced_card_one_slice_is_shown(named: str | None, shown: list[str]) -> None:
    here = with_slices(parse(SLICED_QUERY), LIST, XML)
    assert [gpu.handle for gpu in visible(here, named)] == shown


def test_slices_as_drivers_before_470_name_them() -> None:
    old = LIST.replace(BIG, f"MIG-{CARD}/1/0").replace(SMALL, f"MIG-{CARD}/13/0")
    here = with_slices(parse(SLICED_QUERY), old, XML)
    (gpu,) = visible(here, f"MIG-{CARD}/13/0")
    assert (gpu.name, gpu.memory_bytes) == ("NVIDIA A100-SXM4-40GB MIG 1g.5gb+me", 4864 * 2**20)


def test_a_slice_is_offered_with_its_own_memory(driver: Driver) -> None:
    driver(SLICED_QUERY, SMALL, LIST, XML)
    machine = hardware.detect()
    assert (machine.name, machine.accelerators, machine.memory) == ("1xa100-1g.5gb-me", 1, 4864 * 2**20)
    assert machine.accelerator == "NVIDIA A100-SXM4-40GB MIG 1g.5gb+me"
    assert hardware.hardware(machine, 1).memory_bytes == machine.memory


def test_a_card_in_mig_mode_without_slices_is_none(driver: Driver) -> None:
    driver(SLICED_QUERY.splitlines()[1], None, LIST.splitlines()[1], XML)
    assert hardware.detect().is_cpu


def test_a_slice_of_unknown_memory_is_offered_only_as_somebody_declares_it(driver: Driver, tmp_path: Path) -> None:
    driver(SLICED_QUERY, BIG, LIST, described="")
    says = rf"nvidia-smi does not say how much memory NVIDIA A100-SXM4-40GB MIG 3g.20gb \({BIG}\) has\. Declare"
    here = Settings(home=tmp_path, storage=tmp_path)
    for offered in (hardware.detect, hardware.local_classes, lambda: _classes(here, None, None)):
        with pytest.raises(BadSetting, match=says):
            offered()
    slice_ = Machine(name="slice", accelerator="A100 MIG 3g.20gb", accelerators=1, memory=20 * 10**9)
    declared = here.model_copy(update={"machines": {"slice": slice_}})
    assert _classes(declared, {"slice": 1}, None) == [(slice_, 1)]
    assert hardware.hardware(slice_, 1).memory_bytes == slice_.memory
    assert hardware.describe() == (
        f"1 x NVIDIA A100-SXM4-40GB MIG 3g.20gb, of unknown memory to use and 2 hidden (CUDA_VISIBLE_DEVICES={BIG})"
    )


def test_what_the_driver_prints_becomes_bytes() -> None:
    gpu = parse(SLICED_QUERY)[0].whole
    assert (gpu.memory_bytes, gpu.driver, gpu.compute_capability) == (40 * 2**30, "535.129.03", 8.0)


def test_facts_that_a_driver_withholds_are_unknown() -> None:
    (card,) = parse("0, GPU-1, [N/A], NVIDIA GB10, [N/A], 580.95.05, [N/A]\nNo devices were found\n")
    assert (card.whole.memory_bytes, card.whole.compute_capability) == (None, 0.0)


@pytest.mark.parametrize(
    ("named", "name", "accelerator"),
    [
        (None, "3xrtx3090", "NVIDIA GeForce RTX 3090"),
        ("1,0", "2xrtx4090", "NVIDIA GeForce RTX 4090"),
        ("GPU-8932a", "1xrtx4090", "NVIDIA GeForce RTX 4090"),
        ("2", "1xt4m16", "Tesla T4"),
        ("", "cpu", "cpu"),
        ("-1", "cpu", "cpu"),
    ],
)
def test_what_is_visible_is_offered(driver: Driver, named: str | None, name: str, accelerator: str) -> None:
    driver(QUERY, named)
    machine = hardware.detect()
    assert (machine.name, machine.accelerator) == (name, accelerator)
    assert (name == "cpu") == (hardware.local_classes()[0][0].name == "cpu-x1")
    assert hardware.hardware(machine, 1).accelerator == accelerator


def test_a_class_of_hidden_cards_is_not_offered(driver: Driver) -> None:
    declared = {"home": Machine(name="home", accelerator="RTX 3090", accelerators=2)}
    driver(QUERY, "0,1")
    assert hardware.offer("home", declared).accelerators == 2
    driver(QUERY, "1")
    says = "this machine has 1 GPU to use and 2 hidden (CUDA_VISIBLE_DEVICES=1). Leave --machine out"
    with pytest.raises(BadSetting, match=re.escape(says)):
        hardware.offer("home", declared)
    assert (
        hardware.describe() == "1 x NVIDIA GeForce RTX 4090, 24 GiB each to use and 2 hidden (CUDA_VISIBLE_DEVICES=1)"
    )
    driver(QUERY, "")
    with pytest.raises(BadSetting, match="this machine has 0 GPUs to use and 3 hidden"):
        hardware.offer("home", declared)
    assert hardware.offer("cpu-x1", {}).is_cpu


@pytest.mark.parametrize(
    ("named", "listed", "told"),
    [
        (None, False, None),
        ("0,-1,1", False, "0"),  # Ray would count three
        ("-1", False, ""),  # and here one
        ("GPU-8932a,GPU-5c", False, "1,2"),
        (None, True, BIG),
        ("0", True, "0"),
    ],
)
def test_ray_is_told_what_is_visible(
    driver: Driver, tmp_path: Path, named: str | None, listed: bool, told: str | None
) -> None:
    driver(SLICED_QUERY if listed else QUERY, named, LIST, XML)
    variables = environment(Settings(home=tmp_path, storage=tmp_path))
    assert variables.get(VISIBLE) == told
    assert variables["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID", "an index is nvidia-smi's"


def test_who_reads_what_ray_was_told_sees_the_same(
    driver: Driver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Agents and probes inherit it."""
    driver(QUERY, "GPU-8932a,GPU-5c,7")
    before = gpus.gpus()
    monkeypatch.setenv(VISIBLE, environment(Settings(home=tmp_path, storage=tmp_path))[VISIBLE])
    assert gpus.gpus() == before
    assert [gpu.handle for gpu in before] == ["1", "2"]


def test_without_a_driver_there_is_no_gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    cards.cache_clear()
    assert gpus.gpus() == ()
    cards.cache_clear()
