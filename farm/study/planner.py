"""Recipe x Machine -> Plan: how one node does a step, never what the step computes."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Self

from pydantic import Field, model_validator

from farm.errors import DoesNotFit
from farm.study.machine import Machine, Mixed, check_hardware, probe_key
from farm.study.memory import bytes_needed
from farm.study.recipe import Frozen, Recipe
from farm.study.speed import BASES, Speed, declared_speed

USABLE = 0.9  # of the memory: what the driver, the allocator's rounding and the other tenants leave
EVEN_ENOUGH = 1.1  # a mixed group may wait so much longer for its slowest rank, if that saves smaller microbatches

NO_SPEEDS: Mapping[str, Speed] = MappingProxyType({})


class Plan(Frozen):
    """world x microbatch x accumulation == batch, exactly; with shares, microbatch x sum(shares) == batch."""

    machine: str
    world: int = Field(ge=1, description="worker processes, one per accelerator")
    microbatch: int = Field(ge=1, description="sequences per forward pass")
    accumulation: int = Field(ge=1, description="forward passes per worker and step; with shares, the largest of them")
    bytes_needed: int = Field(description="estimate per accelerator at this microbatch")
    basis: str = Field(description="what set the microbatch: 'formula', 'probe', 'declared' or 'canonical'")
    shares: tuple[int, ...] | None = Field(None, description="forward passes by rank where they differ: a mixed group")
    shares_basis: str | None = Field(
        None, description="behind them: 'measured', ..., 'assumed' (speed.Basis), or 'equal'"
    )

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        if self.shares and (len(self.shares) != self.world or max(self.shares) != self.accumulation):
            raise ValueError(f"shares {self.shares} are not of {self.world} workers, {self.accumulation} at most")
        return self

    @property
    def microbatches(self) -> int:
        """Forward passes of one step, over all workers."""
        return sum(self.shares) if self.shares else self.world * self.accumulation

    @property
    def batch(self) -> int:
        return self.microbatches * self.microbatch

    def share(self, rank: int) -> int:
        """How many microbatches of a step `rank` trains."""
        return self.shares[rank] if self.shares else self.accumulation

    def first(self, rank: int) -> int:
        """The first of them. Ranks hold consecutive runs of microbatches, in order."""
        return sum(self.shares[:rank]) if self.shares else rank * self.accumulation

    def __str__(self) -> str:
        each = f"({'+'.join(map(str, self.shares))})" if self.shares else self.accumulation
        return f"{self.world} x {self.microbatch} x {each}"


def plan(recipe: Recipe, machine: Machine, speeds: Mapping[str, Speed] = NO_SPEEDS) -> Plan:
    """Split one optimiser step of `recipe` over the accelerators of `machine`.

    world * microbatch * accumulation == recipe.train.batch, exactly; the largest microbatch that fits, which leaves
    the least accumulation. A mixed group has shares in proportion to the `speeds` of its classes.

    Raises: DoesNotFit: the batch does not divide, one sequence needs more memory than an accelerator has, the
    hardware lacks the precision, or the canonical tree does not split over this many workers. BadStudy: nothing but the
    price of the machine is known.
    """
    if isinstance(machine, Mixed):
        return _mixed_plan(recipe, machine, speeds)
    check_precision(recipe, machine)
    batch, world = recipe.train.batch, machine.accelerators
    if batch % world:
        raise DoesNotFit(
            f"train.batch = {batch} does not divide over the {world} accelerators of machine {machine.name!r}"
            f" ({batch} = {world} x {batch // world} + {batch % world}).",
            remedy=f"Use batch {' or '.join(map(str, _near(batch, world)))}, or another machine.",
        )
    microbatch, basis = _microbatch(recipe, machine, batch // world)
    accumulation = batch // (world * microbatch)
    if recipe.train.reduction == "canonical":
        _check_tree(world, accumulation, machine)
    return Plan(
        machine=machine.name,
        world=world,
        microbatch=microbatch,
        accumulation=accumulation,
        bytes_needed=bytes_needed(recipe, machine, microbatch, accumulation),
        basis=basis,
    )


def _mixed_plan(recipe: Recipe, machine: Mixed, speeds: Mapping[str, Speed]) -> Plan:
    """The largest microbatch that every class takes and that is fine enough to share out.

    Raises: DoesNotFit
    """
    for part in machine.parts:
        check_precision(recipe, part)
    rates, shares_basis = _rates(machine, speeds)
    batch, canonical = recipe.train.batch, recipe.train.canonical_microbatch
    sizes = [canonical] if canonical else [size for size in range(batch // len(rates), 0, -1) if batch % size == 0]
    splits = {size: deal(batch // size, rates) for size in sizes if batch // size >= len(rates)}
    fitting = {size: shares for size, shares in splits.items() if _all_take(recipe, machine, size, shares)}
    if not fitting:
        raise DoesNotFit(
            f"batch {batch} in microbatches of {sizes[-1] if sizes else 1} gives no share to each of the {len(rates)}"
            f" accelerators of {machine.name!r} that {_gib(machine.memory)} would hold.",
            remedy="Raise train.batch, use a smaller model, or use other machines.",
            page="docs/machines/groups.md",
        )
    slowest = {size: max(size * n / rate for n, rate in zip(fitting[size], rates, strict=True)) for size in fitting}
    size = max(size for size in fitting if slowest[size] <= EVEN_ENOUGH * min(slowest.values()))
    shares = fitting[size]
    return Plan(
        machine=machine.name,
        world=len(rates),
        microbatch=size,
        accumulation=max(shares),
        bytes_needed=_mixed_bytes(recipe, machine, size, shares),
        basis="canonical" if canonical else min(_limits(recipe, machine), default=(0, "formula"))[1],
        shares=shares,
        shares_basis=shares_basis,
    )


def _limits(recipe: Recipe, machine: Mixed) -> list[tuple[int, str]]:
    """The known largest microbatch of each class that has one."""
    known = [_known_limit(recipe, part) for part in machine.parts]
    return [(limit, basis) for limit, basis in known if limit is not None]


def _all_take(recipe: Recipe, machine: Mixed, size: int, shares: tuple[int, ...]) -> bool:
    """Whether every class holds microbatches of `size`: as measured or declared there, else by the formula."""
    needed = _mixed_bytes(recipe, machine, size, shares)
    known = [(_known_limit(recipe, part)[0], part) for part in machine.parts]
    return all(size <= limit if limit is not None else needed <= USABLE * part.memory for limit, part in known)


def _mixed_bytes(recipe: Recipe, machine: Mixed, microbatch: int, shares: tuple[int, ...]) -> int:
    """bytes_needed of the busiest rank; a range that is no subtree of the canonical tree has two nodes a level."""
    return bytes_needed(recipe, machine, microbatch, max(shares) ** 2)


def deal(count: int, rates: Sequence[float]) -> tuple[int, ...]:
    """`count` things shared out in proportion to `rates`, at least one to each, by largest remainder."""
    exact = [count * rate / sum(rates) for rate in rates]
    shares = [max(1, int(part)) for part in exact]
    while left := count - sum(shares):
        step = 1 if left > 0 else -1
        may = [rank for rank, share in enumerate(shares) if share + step >= 1]
        shares[max(may, key=lambda rank: step * (exact[rank] - shares[rank]))] += step
    return tuple(shares)


def _rates(machine: Mixed, speeds: Mapping[str, Speed]) -> tuple[list[float], str]:
    """Tokens per second of each accelerator, in the order of ranks, and what says so: the weakest word of any class.

    They are all alike as soon as nothing is known of one class.
    """
    if not all(part.name in speeds for part in machine.parts):
        return [1.0] * machine.accelerators, "equal"
    told = [speeds[part.name] for part in machine.parts]
    rates = [
        speed.tokens_per_second / part.accelerators
        for part, speed in zip(machine.parts, told, strict=True)
        for _ in range(part.accelerators)
    ]
    return rates, max((speed.basis for speed in told), key=BASES.index)


def carry_on(before: Plan, fresh: Plan, machine: Machine) -> Plan:
    """The plan of a run that goes on from an attempt with the plan `before`; beginning now, it would get `fresh`.

    It keeps the old one: another microbatch has other dropout masks and other bits, so what was probed in between must
    not change it. Only another number of workers, or a smaller microbatch that a person declared, does.
    """
    is_allowed = machine.microbatch is None or before.microbatch <= machine.microbatch
    return before if before.world == fresh.world and before.batch == fresh.batch and is_allowed else fresh


def hours(recipe: Recipe, machine: Machine, tokens_per_second: float | None = None) -> float | None:
    """Expected wall-clock hours, or None when nothing is known of the machine's speed.

    `tokens_per_second` is what this recipe is expected to reach there; without it, what the machine's declared speed
    comes to.
    """
    if tokens_per_second is None and (said := declared_speed(recipe, machine)):
        tokens_per_second = said.tokens_per_second
    return recipe.steps * recipe.tokens_per_step / tokens_per_second / 3600 if tokens_per_second else None


def check_precision(recipe: Recipe, machine: Machine) -> None:
    """Raises: DoesNotFit: the hardware lacks the precision of `recipe`. BadStudy: it is not known."""
    check_hardware(machine)
    precision = recipe.train.precision
    if precision == "bf16" and not machine.bf16:
        raise DoesNotFit(
            f"train.precision = 'bf16', but machine {machine.name!r} ({machine.accelerator}) has no bf16.",
            remedy="Use fp16 or fp32, or another machine.",
        )
    if machine.is_cpu and precision in ("fp16", "tf32"):
        raise DoesNotFit(
            f"train.precision = {precision!r}, but machine {machine.name!r} is a CPU, which trains in fp32 or bf16.",
            remedy='Write train.precision = "fp32", or choose a GPU machine.',
        )


def _microbatch(recipe: Recipe, machine: Machine, share: int) -> tuple[int, str]:
    """The largest divisor of `share` (sequences per worker) that fits, and what says that it fits."""
    canonical = recipe.train.canonical_microbatch
    if canonical is not None and share % canonical:
        raise DoesNotFit(
            f"canonical_microbatch = {canonical} does not divide the {share} sequences per worker of machine"
            f" {machine.name!r} (batch {recipe.train.batch} over {machine.accelerators}).",
            remedy="Choose a divisor of it.",
        )
    limit, basis = _known_limit(recipe, machine)
    candidates = [canonical] if canonical else [n for n in range(share, 0, -1) if share % n == 0]
    for microbatch in candidates:
        if microbatch <= limit if limit is not None else _fits(recipe, machine, microbatch):
            return microbatch, "canonical" if canonical else basis
    smallest = candidates[-1]
    raise DoesNotFit(
        f"{recipe.model.parameters:,} parameters at context {recipe.model.context} and {recipe.train.precision} need"
        f" {_gib(bytes_needed(recipe, machine, smallest))} per accelerator at microbatch {smallest};"
        f" machine {machine.name!r} has {_gib(machine.memory)}, of which {USABLE:.0%} are usable"
        + (f", and its largest known microbatch is {limit}." if limit is not None else "."),
        remedy="Add a larger machine or lower model.context, model.layers or model.width.",
    )


def _known_limit(recipe: Recipe, machine: Machine) -> tuple[int | None, str]:
    """The largest microbatch that was declared for this machine or measured on it, and which of the two."""
    measured = machine.probes.get(probe_key(recipe.model, recipe.train.precision))
    limits = [(machine.microbatch, "declared"), (measured, "probe")]
    return min(((n, why) for n, why in limits if n is not None), default=(None, "formula"))


def _near(batch: int, world: int) -> list[int]:
    """The multiples of `world` on either side of `batch`."""
    below = batch - batch % world
    return [n for n in (below, below + world) if n]


def _fits(recipe: Recipe, machine: Machine, microbatch: int) -> bool:
    share = recipe.train.batch // machine.accelerators
    return bytes_needed(recipe, machine, microbatch, share // microbatch) <= USABLE * machine.memory


def _check_tree(world: int, accumulation: int, machine: Machine) -> None:
    """The canonical tree is binary and aligned: each worker must hold one whole subtree."""
    if world & (world - 1) or (world > 1 and accumulation & (accumulation - 1)):
        raise DoesNotFit(
            f"canonical reduction needs a power of two of workers and of microbatches per worker; machine"
            f" {machine.name!r} would have {world} x {accumulation}.",
            remedy="Change train.batch or train.canonical_microbatch, or use reduction = 'fast'.",
            page="docs/method.md#exact-to-the-bit",
        )


def _gib(count: int) -> str:
    return f"{count / 2**30:.1f} GiB"
