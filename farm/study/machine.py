"""A class of identical machines: what a Plan needs to know of it, and its price. And a mixed group of several."""

import re
from calendar import monthrange
from collections.abc import Mapping
from datetime import date as Day
from fractions import Fraction
from typing import Annotated, Any, Self

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from farm.errors import BadStudy, nearest
from farm.study.processor import InstructionSet
from farm.study.recipe import Frozen, Model, Positive, Precision, Unset, digest, identity

MOST_CHARACTERS = 64
NAME = re.compile(rf"[a-z0-9][a-z0-9._-]{{0,{MOST_CHARACTERS - 1}}}")
MIXED = "+"  # between the classes of a mixed group
RESOURCE = "farm:"  # before the name of a class: what Ray calls its units
MOST_PARTS = 4  # a longer name would not fit a run's id
_UNITS = {"B": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40, "KB": 10**3, "MB": 10**6, "GB": 10**9}


def is_name(text: object) -> bool:
    """Whether `text` may name a study, an arm or a machine: it becomes part of paths and keys."""
    return isinstance(text, str) and NAME.fullmatch(text) is not None


def slug(text: str) -> str:
    """The name that is nearest to `text`; empty where nothing of it can be in one."""
    return re.sub(r"[^a-z0-9._-]+", "-", text.lower()).strip("-._")[:MOST_CHARACTERS]


def parts(name: str) -> tuple[str, ...]:
    """The classes that a machine's name stands for: itself, or those of a mixed group, `1xa100+1xrtx3090`."""
    return tuple(name.split(MIXED))


def is_mixed(name: str) -> bool:
    """Whether a machine's name is that of a mixed group."""
    return MIXED in name


def resource(name: str) -> str:
    """The Ray custom resource that a node of this class offers, one unit per run at a time."""
    return f"{RESOURCE}{name}"


def units_in(resources: Mapping[str, float]) -> dict[str, float]:
    """The machine classes among what a Ray node offers, and how many units of each."""
    return {name.removeprefix(RESOURCE): n for name, n in resources.items() if name.startswith(RESOURCE)}


def _bytes(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]i?B|B)\s*", value)
    if not found or found[2] not in _UNITS:
        raise ValueError('must be bytes, or a size such as "40GiB"')
    return int(Fraction(found[1]) * _UNITS[found[2]])  # a float's product of 2.3 and 10**9 is one byte short


def last_day(text: str) -> Day:
    """The last day of a date that may leave out its day or month: 2026, 2026-04, 2026-04-30.

    Raises: ValueError
    """
    if not re.fullmatch(r"[0-9]{4}(-[0-9]{2}){0,2}", text):
        raise ValueError("must be a date such as 2026-11-20, 2026-11 or 2026")
    given = [int(part) for part in text.split("-")]
    year, month = given[0], given[1] if len(given) > 1 else 12
    try:
        return Day(year, month, given[2] if len(given) > 2 else monthrange(year, month)[1])
    except ValueError:
        raise ValueError("is not a day of the calendar") from None


def _as_text(value: Any) -> Any:
    return value.isoformat() if isinstance(value, Day) else value  # TOML has dates of its own


def _is_date(text: str) -> str:
    last_day(text)
    return text


Date = Annotated[str, BeforeValidator(_as_text), AfterValidator(_is_date)]


class Price(Frozen):
    """Dollars an hour of a whole machine, with the source and date of that price."""

    usd_per_hour: float = Field(ge=0)
    source: str | None = Field(None, min_length=1, max_length=80)
    date: Date | None = None

    def __str__(self) -> str:
        said = f"by {self.source or 'an unnamed source'}"
        return f"{said} of {self.date}" if self.date else said

    def age_days(self, today: Day) -> int | None:
        """Days since it was true, at least."""
        return (today - last_day(self.date)).days if self.date else None


class Machine(Frozen):
    """A machine class. `accelerators` workers train one run together; `memory` is bytes per accelerator."""

    name: str
    accelerator: str = Field("cpu", description="as the driver names it; 'cpu' for none")
    accelerators: int = Field(1, ge=1, le=1024, description="how many train one run together")
    memory: Annotated[int, BeforeValidator(_bytes)] = Field(
        2**32, ge=1, description="memory of each accelerator: bytes, or a size with its unit"
    )
    bf16: bool = Field(True, description="whether its hardware computes in bf16")
    instruction_set: Annotated[InstructionSet | None, Unset] = Field(
        None, description="instruction set of the CPU, as its node reports it; unset: unknown"
    )
    usd_per_hour: Annotated[float | None, Unset] = Field(None, ge=0, description="dollars an hour of the whole machine")
    price_source: Annotated[str | None, Unset] = Field(
        None, min_length=1, max_length=80, description="where the price comes from"
    )
    price_date: Annotated[Date | None, Unset] = Field(
        None, description="date of the price: 2026-11-20, 2026-11 or 2026"
    )
    tokens_per_second: Annotated[Positive | None, Unset] = Field(
        None, description="speed of the whole machine on the 163M baseline; in fp16 on GPUs, fp32 on CPUs"
    )
    microbatch: Annotated[int | None, Unset] = Field(
        None, ge=1, description="largest microbatch to use here, in place of the estimate"
    )
    threads: Annotated[int | None, Unset] = Field(
        None, ge=1, description="torch threads per worker; default: all cores, shared"
    )
    probes: dict[str, int] = Field({}, description="measured largest microbatch, by probe_key")

    @model_validator(mode="after")
    def _price_is_whole(self) -> Self:
        if self.usd_per_hour is None and (self.price_source or self.price_date):
            raise ValueError("price_source and price_date belong to a usd_per_hour in the same table")
        return self

    @property
    def is_price_alone(self) -> bool:
        """Whether it says what it costs or how fast it is, and of its hardware nothing."""
        said = {field for field in self.model_fields_set - {"name", "probes"} if getattr(self, field) is not None}
        return bool(said) and said <= set(HEARSAY)

    @property
    def is_cpu(self) -> bool:
        return self.accelerator == "cpu"

    @property
    def prices(self) -> tuple[Price, ...]:
        """Its price; those of its classes for a mixed group; empty where none is known."""
        if self.usd_per_hour is None:
            return ()
        return (Price(usd_per_hour=self.usd_per_hour, source=self.price_source, date=self.price_date),)

    def with_price(self, price: Price | None) -> "Machine":
        """The same at another price; as it is when that is unknown."""
        if price is None:
            return self
        said = dict(zip(PRICE, (price.usd_per_hour, price.source, price.date), strict=True))
        return self.model_copy(update=said)

    @property
    def resource(self) -> str:
        """As `resource` of its name."""
        return resource(self.name)


class Mixed(Machine):
    """Machines of unlike classes, one of each, that train one run together. The first leads: rank 0 is there."""

    parts: tuple[Machine, ...]

    @property
    def prices(self) -> tuple[Price, ...]:
        return tuple(dict.fromkeys(price for part in self.parts for price in part.prices))


def mix(together: tuple[Machine, ...]) -> Mixed:
    """The group of these machines. It has the price of all, the memory of the least, and no speed until it was seen.

    Raises: BadStudy: CPUs and GPUs, which have no way of adding gradients in common.
    """
    name = MIXED.join(part.name for part in together)
    if len({part.is_cpu for part in together}) > 1:
        raise BadStudy(
            f"machines: {name!r} mixes CPUs with GPUs.", remedy="Mix machines of one kind.", field="machines"
        )
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


def probe_key(model: Model, precision: Precision) -> str:
    """The key of `Machine.probes`: one measurement per model and precision."""
    return f"{digest(identity(model))[:16]}:{precision}"


# Speeds are those of the published battery where it ran them: 3.18 h on 8 x A100 40 GB, 40.6 h on one RTX 3090. The
# first it paid at $11.84/h, Lambda's list price of that month; the others are of Lambda's list of 2025 (docs/log.md).
_LAMBDA = "Lambda's on-demand list"
_OWN = "assumption (your own machine, electricity not counted)"
BUILT_IN = {
    machine.name: machine
    for machine in (
        Machine(
            name="8xa100m40",
            accelerator="A100-SXM4-40GB",
            accelerators=8,
            memory="40GiB",  # type: ignore[arg-type]
            usd_per_hour=11.84,
            price_source=_LAMBDA,
            price_date="2026-04",
            tokens_per_second=284_800,
        ),
        Machine(
            name="8xa100m80",
            accelerator="A100-SXM4-80GB",
            accelerators=8,
            memory=80 * 2**30,
            usd_per_hour=14.32,
            price_source=_LAMBDA,
            price_date="2025",
        ),
        Machine(
            name="8xh100m80",
            accelerator="H100-SXM5-80GB",
            accelerators=8,
            memory=80 * 2**30,
            usd_per_hour=23.92,
            price_source=_LAMBDA,
            price_date="2025",
        ),
        Machine(
            name="1xrtx3090",
            accelerator="RTX 3090",
            memory=24 * 2**30,
            usd_per_hour=0.0,
            price_source=_OWN,
            tokens_per_second=22_300,
        ),
        Machine(name="cpu", accelerator="cpu", usd_per_hour=0.0, price_source=_OWN),
        Machine(name="cpu-x1", threads=1, usd_per_hour=0.0, price_source=_OWN),
        Machine(name="cpu-x2", accelerators=2, threads=1, usd_per_hour=0.0, price_source=_OWN),
    )
}


PRICE = ("usd_per_hour", "price_source", "price_date")  # one thing: a price without them is somebody else's
HEARSAY = (*PRICE, "tokens_per_second")  # what is true of the class somewhere, and may not be here
# A node's price and what it cannot find out about itself; and what a person who declares a class rarely knows.
OPEN = ("tokens_per_second", "microbatch", "threads", "instruction_set")


def layer(*tables: Mapping[str, Machine]) -> dict[str, Machine]:
    """Several tables of machine classes as one: a later one wins, and earlier ones fill its gaps.

    A price comes with its source and its date, or not at all. A table with a price alone adds it to what is known.
    """
    result: dict[str, Machine] = {}
    for name, machine in (pair for table in tables for pair in table.items()):
        below = result.get(name)
        if below and machine.is_price_alone:
            machine = below.model_copy(update={field: getattr(machine, field) for field in HEARSAY})
        said = {field: getattr(below, field) for field in OPEN if below and getattr(machine, field) is None}
        if below and machine.usd_per_hour is None:
            said |= {field: getattr(below, field) for field in PRICE}
        result[name] = machine.model_copy(update=said)
    return result


def without_hearsay(machine: Machine) -> Machine:
    """The facts that define the class, without prices and speeds reported by others."""
    return machine.model_copy(update=dict.fromkeys(HEARSAY))


def find_machine(name: str, known: dict[str, Machine]) -> Machine:
    """The machine class called `name`.

    Raises: BadStudy: it is neither declared nor registered.
    """
    if name in known:
        return known[name]
    raise BadStudy(
        f"machines: unknown machine class {name!r}{nearest(name, known)}",
        remedy=f"Known: {', '.join(sorted(known))}. Declare it as [machines.{name}] in the study or in farm.toml.",
        field="machines",
    )


def check_hardware(machine: Machine) -> None:
    """Raises: BadStudy: nothing but its price is known."""
    if machine.is_price_alone:
        raise BadStudy(
            f"machines: the hardware of {machine.name!r} is unknown: no node of it has joined, and its table has only a"
            " price.",
            remedy=f"Let a node join, or add accelerator, accelerators and memory to [machines.{machine.name}].",
            field="machines",
        )


def declare(name: str, table: Any, source: str) -> Any:
    """A [machines.NAME] table with its name, over the built-in class of that name if there is one.

    Its price is by `source` unless it says otherwise; where it has none it stays open, for whoever knows one.
    """
    if not isinstance(table, dict):
        return table
    below = without_hearsay(BUILT_IN[name]).model_dump(exclude={"name"}) if name in BUILT_IN else {}
    own = table | {"name": name}
    if own.get("usd_per_hour") is not None and own.get("price_source") is None:
        own["price_source"] = source
    return below | own
