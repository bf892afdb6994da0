"""`make validate`: the verdicts tried on simulated studies whose truth is known; writes docs/validation.md.

`make test` runs the same cells on fewer studies. Everything is seeded: a cell gives the same figures on every machine.
"""

import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import pairwise, product
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy.stats import t

from farm.verdict import dunnett, paired, power, sequential, unpaired
from farm.verdict.inference import ALPHA
from farm.verdict.racing import WORTH

PAGE = Path(__file__).resolve().parent.parent / "docs" / "validation.md"
STUDIES = 20_000
ARMS = (1, 3, 8)
SEEDS = range(2, 11)

# SDs of a run: the baseline's, then the arms'.
VARIANCES: dict[str, Callable[[int], np.ndarray]] = {
    "equal": lambda k: np.ones(k + 1),
    "one arm x2": lambda k: np.r_[1, 2, np.ones(k - 1)],
    "one arm x4": lambda k: np.r_[1, 4, np.ones(k - 1)],
    "every second arm x4": lambda k: np.r_[1, np.where(np.arange(k) % 2, 1, 4)],
    "all arms x4": lambda k: np.r_[1, np.full(k, 4)],
    "baseline x4": lambda k: np.r_[4, np.ones(k)],
}
# Of one run nothing tells how noisy it is. The last is outside the promise, and shown for what it costs.
ONE_RUN = {"equal": 1.0, "arms x0.5": 0.5, "arms x2 (outside the promise)": 2.0}


class Seen(NamedTuple):
    """Simulated studies without any effect: what their tests said. Arrays are (studies, arms)."""

    delta: np.ndarray
    half: np.ndarray  # of the simultaneous 95 % intervals
    narrow: np.ndarray  # of those of the equivalence test

    @property
    def wrong(self) -> float:
        """Share of studies that call any arm better or worse; one less it is the simultaneous coverage."""
        return float((np.abs(self.delta) > self.half).any(-1).mean())

    @property
    def wrong_same(self) -> float:
        """Share of studies that call any arm `same` when all differ by just a margin that is wide for their noise."""
        return float((self.delta + self.narrow < 0).any(-1).mean())

    def found(self, effect: float) -> float:
        """Share of studies that find the first arm better or worse when it differs by `effect`."""
        return float((np.abs(self.delta[:, 0] + effect) > self.half[:, 0]).mean())


class Cell(NamedTuple):
    """One kind of study, and how often its verdicts are wrong or miss what is there."""

    kind: str
    seeds: str
    arms: int
    variances: str
    wrong: float
    wrong_same: float
    power: float | None  # at the effect for which the planner promises 80 %; equal variances only
    is_promised: bool = True


def pairs(n: int, sds: np.ndarray, studies: int, generator: np.random.Generator) -> Seen:
    """Arms and baseline on the same `n` seed pairs, judged as farm.verdict.inference judges one study."""
    runs = generator.standard_normal((studies, n, len(sds))) * sds
    differences, k = runs[..., 1:] - runs[..., :1], len(sds) - 1
    together, alone = paired.pool(differences), paired.own(differences)
    objects = paired.objects(differences)[:, None]

    def half(sides: int) -> np.ndarray:
        pooled = dunnett.critical_blocks(k, together.df, ALPHA, sides)[:, None] * together.error
        return np.where(objects, t.isf(ALPHA * paired.AFTER_A_LOOK / sides / k, n - 1) * alone.error, pooled)

    return Seen(together.delta, half(2), half(1))


def sets(n: int, m: int, sds: np.ndarray, studies: int, generator: np.random.Generator) -> Seen:
    """Arms of `n` runs against `m` of the baseline, no seeds shared."""
    k = len(sds) - 1
    baseline = generator.standard_normal((studies, 1, m)) * sds[0]
    arms = generator.standard_normal((studies, k, n)) * sds[1:, None]
    found = unpaired.means(arms, baseline)
    half = [unpaired.critical(found, level / k) * found.error for level in (ALPHA, 2 * ALPHA)]
    return Seen(found.delta, half[0], half[1])


def single(m: int, k: int, sd: float, studies: int, generator: np.random.Generator) -> Seen:
    """Arms of one run each against `m` of the baseline."""
    baseline = generator.standard_normal((studies, m))
    delta = sd * generator.standard_normal((studies, k)) - baseline.mean(1, keepdims=True)
    error = baseline.std(1, ddof=1, keepdims=True) * (1 + 1 / m) ** 0.5 * np.ones((1, k))
    edges = [dunnett.critical(unpaired.one_run_correlation(m, k), m - 1, ALPHA, sides) for sides in (2, 1)]
    return Seen(delta, edges[0] * error, edges[1] * error)


def cells(studies: int = STUDIES, arms: Sequence[int] = ARMS, seeds: Sequence[int] = SEEDS) -> Iterator[Cell]:
    """Every kind of study: paired, unpaired and single runs, with 1 to 10 seeds, equal and unequal variances."""
    for k, n in product(arms, seeds):
        for name, of in VARIANCES.items():
            if k == 1 and name == "every second arm x4":
                continue
            pair = partial(pairs, n, of(k), studies)
            effect = None if name != "equal" else (power.smallest_effect(n, k) or 0) * 2**0.5
            yield _cell("paired", f"{n}", k, name, pair, effect)
            for m in sorted({n, 10}):
                effect = None if name != "equal" else power.smallest_of_sets(n, m, k)
                yield _cell("unpaired", f"{n} and {m}", k, name, partial(sets, n, m, of(k), studies), effect)
    for k, m in product(arms, seeds):
        for name, sd in ONE_RUN.items():
            effect = None if name != "equal" else power.smallest_of_one(m, k)
            cell = _cell("one run", f"1 and {m}", k, name, partial(single, m, k, sd, studies), effect)
            yield cell._replace(is_promised=sd <= 1)


class Race(NamedTuple):
    """One kind of study under `farm resolve`, with a look after every step, and a fixed one of as many runs."""

    arms: int
    variances: str
    pairs: int  # that all arms have at the first look
    wrong: float
    wrong_same: float
    effect: float | None  # of the first arm, in SDs of a difference; equal variances only
    power: float | None
    runs: float | None  # that the race took, on average
    fixed: float | None  # power of the table without looks, with as many runs spread over all arms


class Ran(NamedTuple):
    """Simulated races. Arrays are (studies, arms)."""

    p: np.ndarray  # adjusted for all arms and all looks
    same: np.ndarray  # of the equivalence test
    pairs: np.ndarray


RACE_STUDIES = 4_000
RACED = 19  # pairs at most, six stages from three
RACE_EFFECTS = (1.0, 2.0, 4.0)


def race(differences: np.ndarray, first: int, runs: int, margin: float | None = None) -> Ran:
    """`differences` are (studies, pairs, arms). Every study is looked at after each step, and its open arms go on as
    farm.verdict.racing has them do, until all are resolved or `runs` runs were added to it; a pair is taken for two."""
    studies, most, k = differences.shape
    seen = sequential.look_at(np.moveaxis(differences, 1, 2), first)
    stages = sequential.list_stages(first, most)
    sd = seen.error * np.sqrt([stage.pairs for stage in stages])
    at, left = np.zeros((studies, k), int), np.full(studies, runs)
    weighed = np.minimum.accumulate(seen.p / seen.share, -1)
    alike = np.ones_like(weighed)
    if margin is not None:
        alike = np.minimum.accumulate(t.sf((margin - np.abs(seen.delta)) / seen.error, seen.df) / seen.share, -1)
    while True:
        p, same = (_holm(np.take_along_axis(one, at[..., None], -1)[..., 0]) for one in (weighed, alike))
        is_open = (p >= ALPHA) & (same >= ALPHA) & (at < len(stages) - 1)
        worth, cost = np.zeros((studies, k)), np.zeros((studies, k), int)
        for place, (stage, after) in enumerate(pairwise(stages)):
            here = at == place
            odds = sequential.chance(seen.delta[..., place], sd[..., place], after, ALPHA / k, margin)
            cost[here] = 2 * (after.pairs - stage.pairs)
            worth[here] = (odds / (2 * (after.pairs - stage.pairs)))[here]
        worth = np.where(is_open & (cost <= left[:, None]), worth, -1.0)
        best = worth.max(-1, keepdims=True)
        goes_on = (worth >= WORTH * best) & (worth >= 0)
        for arm in np.argsort(-worth, -1).T:  # the best first, as far as the runs go
            own, rows = goes_on[np.arange(studies), arm], np.arange(studies)
            own &= cost[rows, arm] <= left
            left = left - np.where(own, cost[rows, arm], 0)
            at[rows, arm] += own
            goes_on[rows, arm] &= own
        if not goes_on.any():
            counts = np.array([stage.pairs for stage in stages])
            return Ran(p, same, counts[at])


def _holm(p: np.ndarray) -> np.ndarray:
    """`inference.holm` of every row."""
    order, k = np.argsort(p, -1), p.shape[-1]
    ranked = np.minimum(np.take_along_axis(p, order, -1) * np.arange(k, 0, -1), 1.0)
    adjusted = np.empty_like(p)
    np.put_along_axis(adjusted, order, np.maximum.accumulate(ranked, -1), -1)
    return adjusted


def races(studies: int = RACE_STUDIES, arms: Sequence[int] = ARMS, first: Sequence[int] = (3, 5)) -> Iterator[Race]:
    """Studies under `farm resolve`: without any effect, with all arms at the margin, and with one known effect."""
    for k, n, name in product(arms, first, ("equal", "one arm x4", "baseline x4")):
        generator = np.random.default_rng([ord(letter) for letter in f"race {k} {n} {name}"])
        sds, runs = VARIANCES[name](k), 12 * k
        draws = generator.standard_normal((studies, RACED, k + 1)) * sds
        differences = draws[..., 1:] - draws[..., :1]
        null = race(differences, n, runs)
        margin = 3.0 * float(np.hypot(sds[0], sds[1:].min()))
        at_margin = race(differences + margin, n, runs, margin)
        wrong, same = (null.p < ALPHA).any(-1).mean(), (at_margin.same < ALPHA).any(-1).mean()
        if name != "equal":
            yield Race(k, name, n, float(wrong), float(same), None, None, None, None)
            continue
        for effect in RACE_EFFECTS:
            shifted = differences.copy()
            shifted[..., 0] += effect * 2**0.5
            ran = race(shifted, n, runs)
            took = 2 * float((ran.pairs - n).sum(-1).mean())
            as_many = n + round(took / 2 / k)
            fixed = pairs(as_many, sds, studies, generator).found(effect * 2**0.5)
            found = float((ran.p[:, 0] < ALPHA).mean())
            yield Race(k, name, n, float(wrong), float(same), effect, found, took, fixed)


def lost(one: Race, studies: int) -> list[str]:
    """The promises that a race does not hold, beyond what chance explains."""
    most = allowed(ALPHA, studies)
    found = [f"wrong in {one.wrong:.2%} of studies"] if one.wrong > most else []
    return found + ([f"`same` is wrong in {one.wrong_same:.2%} of studies"] if one.wrong_same > most else [])


def _cell(
    kind: str, seeds: str, k: int, name: str, studies: Callable[[np.random.Generator], Seen], effect: float | None
) -> Cell:
    seed = [ord(letter) for letter in f"{kind} {seeds} {k} {name}"]
    seen = studies(np.random.default_rng(seed))
    found = None if effect is None else seen.found(effect)
    return Cell(kind, seeds, k, name, seen.wrong, seen.wrong_same, found)


def allowed(share: float, studies: int) -> float:
    """The largest share of so many studies that a true `share` shows, but for one cell in some thousand."""
    return share + 3.3 * (share * (1 - share) / studies) ** 0.5


def broken(cell: Cell, studies: int) -> list[str]:
    """The promises that a cell does not hold, beyond what chance explains."""
    if not cell.is_promised:
        return []
    most = allowed(ALPHA, studies)
    found = [f"wrong in {cell.wrong:.2%} of studies"] if cell.wrong > most else []
    found += [f"`same` is wrong in {cell.wrong_same:.2%} of studies"] if cell.wrong_same > most else []
    if cell.power is not None and abs(cell.power - power.POWER) > 0.05:
        found.append(f"power {cell.power:.1%}")
    return found


def page(found: Sequence[Cell], raced: Sequence[Race], studies: int) -> str:
    """docs/validation.md"""
    faults = [(cell, fault) for cell in found for fault in broken(cell, studies)]
    promised = [cell for cell in found if cell.is_promised]
    powers = [cell.power for cell in promised if cell.power is not None]
    lines = [HEAD.format(studies=studies, cells=len(found), most=allowed(ALPHA, studies))]
    lines.append(
        f"Worst of all cells within the promise: {max(cell.wrong for cell in promised):.1%} of studies wrong,"
        f" `same` wrong in {max(cell.wrong_same for cell in promised):.1%}, power {min(powers):.0%} to"
        f" {max(powers):.0%} where 80 % is promised. "
        + ("Every promise is kept.\n" if not faults else f"{len(faults)} promises are broken, below.\n")
    )
    lines += [f"* {cell.kind}, {cell.seeds} seeds, {cell.arms} arms, {cell.variances}: {why}" for cell, why in faults]
    for kind in dict.fromkeys(cell.kind for cell in found):
        lines += [f"\n## {TITLES[kind]}\n", "| seeds | arms | variances | wrong | covered | `same` wrong | power |"]
        lines.append("|---|---:|---|---:|---:|---:|---:|")
        for cell in found:
            if cell.kind == kind:
                shown = "" if cell.power is None else f"{cell.power:.1%}"
                lines.append(
                    f"| {cell.seeds} | {cell.arms} | {cell.variances} | {cell.wrong:.1%} | {1 - cell.wrong:.1%}"
                    f" | {cell.wrong_same:.1%} | {shown} |"
                )
    lines += [
        RACES.format(studies=RACE_STUDIES),
        "| pairs | arms | variances | wrong | `same` wrong | effect | power | runs added | fixed |",
    ]
    lines.append("|---:|---:|---|---:|---:|---:|---:|---:|---:|")
    for one in raced:
        shown = ["", "", "", ""]
        if one.effect is not None:
            shown = [f"{one.effect:g}", f"{one.power:.1%}", f"{one.runs:.1f}", f"{one.fixed:.1%}"]
        lines.append(
            f"| {one.pairs} | {one.arms} | {one.variances} | {one.wrong:.1%} | {one.wrong_same:.1%}"
            f" | {' | '.join(shown)} |"
        )
    return "\n".join(lines) + "\n"


RACES = """
## `farm resolve`: studies that grow until they are resolved

{studies:,} studies of each kind. A look after every step; the open arms with the best chance for their cost go on,
until all are resolved or 12 runs an arm were added. *Pairs*: at the first look. *Wrong* and *`same` wrong*: as above,
by any of the looks. *Effect*: the true one of the first arm, in SDs of a difference of two runs; the other arms have
none. *Power*: how often it is found. *Fixed*: how often the table finds it without looks when as many runs are spread
over all arms.
"""
TITLES = {
    "paired": "Paired: arms and baseline on the same seed pairs",
    "unpaired": "Unpaired: no seeds shared, runs of the arm and of the baseline",
    "one run": "One run of each arm, and runs of the baseline",
}
HEAD = """# The verdicts on studies whose truth is known

<!-- Made by `make validate`. Do not edit. -->

{cells} kinds of study, {studies:,} simulated studies of each, seeded. *Wrong*: studies without any effect that call at
least one arm better or worse; at most 5 % is promised, and {most:.2%} is what chance allows one cell. *Covered*: all
intervals of a study at once hold the true differences; 95 % is promised, and at few seeds more is given, since nothing
less protects against unequal variances. *`same` wrong*: studies that call an arm `same` although every arm differs by
the margin. *Power*: how often an effect is found for which `farm plan` promises 80 %.

The variances are of single runs: `x4` is four times the SD of the others.
"""


def main() -> None:
    """Write the page; exit code 1 if a promise is broken."""
    found = []
    for cell in cells():
        found.append(cell)
        faults = broken(cell, STUDIES)
        sys.stderr.write(f"{cell.kind}, {cell.seeds} seeds, {cell.arms} arms, {cell.variances}: {faults or 'ok'}\n")
    raced = []
    for one in races():
        raced.append(one)
        sys.stderr.write(
            f"resolve, {one.pairs} pairs, {one.arms} arms, {one.variances}: {lost(one, RACE_STUDIES) or 'ok'}\n"
        )
    PAGE.write_text(page(found, raced, STUDIES), encoding="utf-8")
    sys.exit(any(broken(cell, STUDIES) for cell in found) or any(lost(one, RACE_STUDIES) for one in raced))


if __name__ == "__main__":
    main()
