"""A class of identical machines: what a Plan and a price need to know of it. And a mixed group of several."""

import re
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from farm.errors import BadStudy
from farm.processor import InstructionSet
from farm.recipe import Frozen, Positive, Precision

NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
MIXED = "+"  # between the classes of a mixed group
MOST_PARTS = 4  # a longer name would not fit a run's id
_UNITS = {"B": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40, "KB": 10**3, "MB": 10**6, "GB": 10**9}


def is_name(text: object) -> bool:
    """Whether `text` may name a study, an arm or a machine: it becomes part of paths and keys."""
    return isinstance(text, str) and NAME.fullmatch(text) is not None


def parts(name: str) -> tuple[str, ...]:
    """The classes that a machine's name stands for: itself, or those of a mixed group, `1xa100+1xrtx3090`."""
    return tuple(name.split(MIXED))


def is_mixed(name: str) -> bool:
    """Whether a machine's name is that of a mixed group."""
    return MIXED in name


def _bytes(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]i?B|B)\s*", value)
    if not found or found[2] not in _UNITS:
        raise ValueError('must be bytes, or a size such as "40GiB"')
    return int(float(found[1]) * _UNITS[found[2]])


class Machine(Frozen):
    """A machine class. `accelerators` workers train one run together; `memory` is bytes per accelerator."""

    name: str
    accelerator: str = Field("cpu", description="as the driver names it; 'cpu' for none")
    accelerators: int = Field(1, ge=1, le=1024)
    memory: Annotated[int, BeforeValidator(_bytes)] = Field(2**32, ge=1)
    bf16: bool = True
    instruction_set: InstructionSet | None = Field(None, description="of the CPU, as its node says; None: unknown")
    usd_per_hour: float | None = Field(None, ge=0)
    tokens_per_second: Positive | None = Field(None, description="of the 163M baseline, whole machine")
    microbatch: int | None = Field(None, ge=1, description="largest to use here, when a person knows better")
    threads: int | None = Field(None, ge=1, description="torch threads per worker; default: all cores, shared")
    probes: dict[str, int] = Field({}, description="measured largest microbatch, by probe_key")

    @property
    def is_cpu(self) -> bool:
        return self.accelerator == "cpu"

    @property
    def resource(self) -> str:
        """The Ray custom resource that a node of this class offers, one unit per run at a time."""
        return f"farm:{self.name}"


class Mixed(Machine):
    """Machines of unlike classes, one of each, that train one run together. The first leads: rank 0 is there."""

    parts: tuple[Machine, ...]


def mixed(together: tuple[Machine, ...]) -> Mixed:
    """The group of these machines. It has the price of all, the memory of the least, and no speed until it was seen.

    Raises: BadStudy: CPUs and GPUs, which have no way of adding gradients in common.
    """
    name = MIXED.join(part.name for part in together)
    if len({part.is_cpu for part in together}) > 1:
        raise BadStudy(f"machines: {name!r} mixes CPUs with GPUs.", remedy="Mix one kind.", field="machines")
    prices = [part.usd_per_hour for part in together]
    limits = [part.microbatch for part in together if part.microbatch is not None]
    return Mixed(
        name=name,
        accelerator=" + ".join(dict.fromkeys(part.accelerator for part in together)),
        accelerators=sum(part.accelerators for part in together),
        memory=min(part.memory for part in together),
        bf16=all(part.bf16 for part in together),
        usd_per_hour=None if None in prices else sum(price for price in prices if price is not None),
        microbatch=min(limits, default=None),
        parts=together,
    )


def probe_key(model_digest: str, precision: Precision) -> str:
    """The key of `Machine.probes`: one measurement per model and precision."""
    return f"{model_digest[:16]}:{precision}"


# Prices and speeds are those of the published battery where it ran them: 3.18 h at $11.84/h on 8 x A100 40 GB, 40.6 h
# on one RTX 3090. The others are list prices of the same vendor, their speed unknown until something ran there.
BUILT_IN = {
    machine.name: machine
    for machine in (
        Machine(
            name="8xa100m40",
            accelerator="A100-SXM4-40GB",
            accelerators=8,
            memory="40GiB",  # type: ignore[arg-type]
            usd_per_hour=11.84,
            tokens_per_second=284_800,
        ),
        Machine(name="8xa100m80", accelerator="A100-SXM4-80GB", accelerators=8, memory=80 * 2**30, usd_per_hour=14.32),
        Machine(name="8xh100m80", accelerator="H100-SXM5-80GB", accelerators=8, memory=80 * 2**30, usd_per_hour=23.92),
        Machine(
            name="1xrtx3090", accelerator="RTX 3090", memory=24 * 2**30, usd_per_hour=0.0, tokens_per_second=22_300
        ),
        Machine(name="cpu", usd_per_hour=0.0),
        Machine(name="cpu-x1", threads=1, usd_per_hour=0.0),
        Machine(name="cpu-x2", accelerators=2, threads=1, usd_per_hour=0.0),
    )
}


# What a node cannot find out about itself, and what a person who declares a class rarely knows.
OPEN = ("usd_per_hour", "tokens_per_second", "microbatch", "threads", "instruction_set")


def layered(*tables: Mapping[str, Machine]) -> dict[str, Machine]:
    """Several tables of machine classes as one: a later one wins, but what it leaves open an earlier one may say."""
    result: dict[str, Machine] = {}
    for name, machine in (pair for table in tables for pair in table.items()):
        below = result.get(name)
        said = {field: getattr(below, field) for field in OPEN if below and getattr(machine, field) is None}
        result[name] = machine.model_copy(update=said)
    return result


def find(name: str, known: dict[str, Machine]) -> Machine:
    """The machine class called `name`.

    Raises: BadStudy: nobody declared or registered it.
    """
    if name in known:
        return known[name]
    raise BadStudy(
        f"machines: unknown machine class {name!r}.",
        remedy=f"Known: {', '.join(sorted(known))}. Declare it as [machines.{name}] in the study or in farm.toml.",
        field="machines",
    )
