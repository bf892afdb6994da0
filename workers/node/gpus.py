"""The GPUs that this process may use: those that nvidia-smi lists and CUDA_VISIBLE_DEVICES shows to CUDA.

Ray sets that variable for training workers only; the head, a joined machine, agents and probes have the user's, as
`workers.node.environment` hands it on.
"""

import os
import re
import subprocess
import xml.etree.ElementTree as xml
from collections.abc import Iterable, Sequence
from functools import cache
from typing import NamedTuple

VISIBLE = "CUDA_VISIBLE_DEVICES"
FIELDS = "index,uuid,mig.mode.current,name,memory.total,driver_version,compute_cap"
_LISTED_CARD = re.compile(r"GPU \d+: .* \(UUID: (GPU-[^)]+)\)")
_LISTED_SLICE = re.compile(r"\s+MIG (\S+)\s+Device\s+(\d+): \(UUID: (MIG-[^)]+)\)")


class Gpu(NamedTuple):
    """One GPU as CUDA counts them: an NVIDIA card, or a MIG slice of one."""

    handle: str  # its name in CUDA_VISIBLE_DEVICES: the index of a card, the UUID of a slice
    name: str
    memory_bytes: int | None  # None: nvidia-smi does not tell
    driver: str
    compute_capability: float


class Slice(NamedTuple):
    """A MIG slice: a compute instance of a card."""

    uuid: str
    profile: str  # such as 3g.20gb
    place: str | None = None  # GI/CI: the numbers of its GPU instance and its compute instance
    memory_bytes: int | None = None


class Card(NamedTuple):
    """A card, and its slices if it is in MIG mode: then CUDA sees these and not the card."""

    uuid: str
    whole: Gpu
    is_sliced: bool
    slices: tuple[Slice, ...] = ()

    def gpus(self) -> list[Gpu]:
        return [self.as_gpu(part) for part in self.slices] if self.is_sliced else [self.whole]

    def as_gpu(self, part: Slice) -> Gpu:
        """`part` by the name that torch gives it."""
        name = f"{self.whole.name} MIG {part.profile}"
        return self.whole._replace(handle=part.uuid, name=name, memory_bytes=part.memory_bytes)


def gpus() -> tuple[Gpu, ...]:
    """The GPUs that CUDA shows to this process, in its order."""
    return visible(cards(), os.environ.get(VISIBLE))


def count_hidden() -> int:
    """How many GPUs this node has besides."""
    return sum(len(card.gpus()) for card in cards()) - len(gpus())


def cuda_variable() -> str | None:
    """CUDA_VISIBLE_DEVICES for Ray, which counts whatever is between commas; None if it need not be set."""
    found = gpus()
    if os.environ.get(VISIBLE) is None and not any(card.is_sliced for card in cards()):
        return None
    return ",".join(gpu.handle for gpu in found)


def visible(here: Sequence[Card], named: str | None) -> tuple[Gpu, ...]:
    """Which GPUs of the cards `here` CUDA enumerates if CUDA_VISIBLE_DEVICES is `named`, or if None, is not set.

    A list ends before its first entry that names nothing, and one that names something twice is empty. Of MIG slices a
    process gets one only, and no whole card beside it.
    """
    groups = [card.gpus() for card in here] if named is None else _match(here, named)
    found = [gpu for group in groups for gpu in group]
    slices = [gpu for gpu in found if gpu.handle.startswith("MIG-")]
    return tuple(slices[:1] or found)


def _match(here: Sequence[Card], named: str) -> list[list[Gpu]]:
    """The GPUs that each entry names. The first says what all are: UUIDs of cards, of slices, or indices."""
    prefix = next((prefix for prefix in ("GPU-", "MIG-") if named.startswith(prefix)), "")
    found: list[list[Gpu]] = []
    for entry in named.split(","):
        group = _entry(here, entry, prefix) if entry.startswith(prefix) else None
        if group is None:
            break
        if group and group in found:
            return []
        found.append(group)
    return found


def _entry(here: Sequence[Card], entry: str, prefix: str) -> list[Gpu] | None:
    """The GPUs that an entry stands for: of a card in MIG mode, its slices. None if it names nothing."""
    if prefix == "MIG-":
        return _slice(here, entry)
    if prefix == "GPU-":
        found = [card for card in here if card.uuid.startswith(entry)]
        return found[0].gpus() if len(found) == 1 else None
    number = re.match(r"\+?[0-9]+", entry.strip())  # as C's strtoul: 1gpu is 1
    index = int(number[0]) if number else len(here)
    return here[index].gpus() if index < len(here) else None


def _slice(here: Iterable[Card], entry: str) -> list[Gpu] | None:
    """By MIG-UUID, its beginning, or as older drivers name it, MIG-GPU-UUID/GI/CI."""
    card_uuid, _, place = entry.removeprefix("MIG-").partition("/")
    found = [
        card.as_gpu(part)
        for card in here
        for part in card.slices
        if part.uuid.startswith(entry) or (place and card.uuid.startswith(card_uuid) and part.place == place)
    ]
    return found if len(found) == 1 else None


@cache
def cards() -> tuple[Card, ...]:
    """All cards of this node, whatever CUDA_VISIBLE_DEVICES says."""
    found = parse(_ask(f"--query-gpu={FIELDS}", "--format=csv,noheader,nounits"))
    return with_slices(found, _ask("-L"), _ask("-q", "-x")) if any(card.is_sliced for card in found) else found


def _ask(*words: str) -> str:
    try:
        return subprocess.run(
            ["nvidia-smi", *words], capture_output=True, encoding="utf-8", errors="replace", timeout=30, check=True
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return ""


def parse(query: str) -> tuple[Card, ...]:
    """The cards in what `nvidia-smi --query-gpu=FIELDS` says."""
    lines = [[part.strip() for part in line.split(",")] for line in query.splitlines()]
    return tuple(_card(*parts) for parts in lines if len(parts) == len(FIELDS.split(",")))


def _card(index: str, uuid: str, mig: str, name: str, memory: str, driver: str, capability: str) -> Card:
    gpu = Gpu(index, name, _mebibytes(memory), driver, _number(capability) or 0.0)
    return Card(uuid, gpu, is_sliced=mig == "Enabled")


def with_slices(found: tuple[Card, ...], listed: str, described: str) -> tuple[Card, ...]:
    """`found` with their MIG slices: `nvidia-smi -L` lists them, and its XML says where each is and how large."""
    slices: dict[str, list[Slice]] = {}
    facts = _facts(described)
    card = ""
    for line in listed.splitlines():
        if match := _LISTED_CARD.match(line):
            card = match[1]
        elif match := _LISTED_SLICE.match(line):
            profile, device, uuid = match.groups()
            slices.setdefault(card, []).append(Slice(uuid, profile, *facts.get((card, device), (None, None))))
    return tuple(card._replace(slices=tuple(slices.get(card.uuid, ()))) for card in found)


def _facts(described: str) -> dict[tuple[str, str], tuple[str, int | None]]:
    """(UUID of a card, number of a slice on it) -> GI/CI and memory."""
    try:
        root = xml.fromstring(described)
    except xml.ParseError:
        return {}
    return {
        (card.findtext("uuid", ""), part.findtext("index", "")): (
            f"{part.findtext('gpu_instance_id')}/{part.findtext('compute_instance_id')}",
            _mebibytes(part.findtext("fb_memory_usage/total", "")),
        )
        for card in root.iter("gpu")
        for part in card.iter("mig_device")
    }


def _mebibytes(text: str) -> int | None:
    number = _number(text.removesuffix("MiB"))
    return None if number is None else int(number) * 2**20


def _number(text: str) -> float | None:
    """None for [N/A], [Insufficient Permissions] and the like."""
    try:
        return float(text)
    except ValueError:
        return None
