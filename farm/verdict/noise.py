"""The noise ladder: by how much the loss of one run varies when one thing changes and all else stays as it is.

The rungs are a rerun, other hardware, another train seed, another init seed, and both seeds at once. The noise of a
plain rerun is part of every rung, for two runs never differ by less. Each SD is that of runs around the mean of their
arm on their machine, pooled over arms and machines, which are taken to be equally noisy.

A rung is the mean square within cells: of a balanced design REML's estimate of the residual, of any other unbiased. Its
interval comes from the chi-square distributions of mean squares: exact for one arm, close for several. REML itself is
left out for unbalanced designs: with as few levels as studies have it puts many components at 0, where its Wald
intervals do not cover.
"""

from collections.abc import Hashable, Iterable, Mapping, Sequence
from itertools import combinations
from typing import Any, Literal, NamedTuple

from farm.stats import mean, sd
from farm.study.recipe import Frozen, Seeds
from farm.verdict import student
from farm.verdict.inference import ALPHA
from farm.verdict.memory import remembered

Name = Literal["rerun", "hardware", "train seed", "init seed", "both seeds"]
SeedsRung = Literal["train seed", "init seed", "both seeds"]
Survives = Literal["yes", "no", "cannot be told"]
Columns = Mapping[Any, Mapping[Hashable, float]]  # stratum, its arm first -> level -> loss
ROUNDING = 1e-15  # of a loss: what agrees more closely is alike


class Observation(NamedTuple):
    """One run of an evaluation that may be compared with the others."""

    arm: str
    machine: str
    seeds: Seeds
    rerun: int
    loss: float


class Rung(Frozen):
    """The SD of what one run is worth, in the unit of the evaluation, when only this changes."""

    rung: Name
    sd: float | None = None  # None: see `why`
    ci_low: float | None = None  # 95 %; None where all runs agree to within rounding: no interval describes that
    ci_high: float | None = None
    df: float | None = None  # effective: arms that share seeds are not independent of each other
    runs: int = 0  # that the SD comes from
    why: str | None = None  # why there is no SD, or what it holds besides


class HardwareEffect(Frozen):
    """Two machine classes, over the runs with the same recipe and seeds on both."""

    machines: tuple[str, str]
    pairs: int
    difference: float  # mean loss on the second less mean loss on the first
    ci_low: float | None = None  # 95 %, over the pairs
    ci_high: float | None = None
    interaction_p: float | None = None  # that the arms differ in the machine's effect by chance alone
    survives: Survives = "cannot be told"  # whether the arms' order on one machine is their order on the other


class Noise(Frozen):
    """All rungs, from the bottom up, and every two machine classes that have runs in common."""

    rungs: tuple[Rung, ...]
    hardware: tuple[HardwareEffect, ...]


def ladder(runs: Iterable[Observation]) -> Noise:
    """Estimate each rung from the runs of one evaluation. Never a number that the design cannot give."""
    runs = list(runs)
    cells = _cells(runs)
    return Noise(rungs=(_rerun(runs), _hardware(cells), *_seeds(cells)), hardware=tuple(_pairs(cells)))


def _cells(runs: Iterable[Observation]) -> list[Observation]:
    """Of each arm, machine and seeds the first run."""
    first: dict[tuple[str, str, Seeds], float] = {}
    for run in sorted(runs, key=lambda run: run.rerun):
        first.setdefault((run.arm, run.machine, run.seeds), run.loss)
    return [Observation(arm, machine, seeds, 0, loss) for (arm, machine, seeds), loss in first.items()]


@remembered
def hardware(runs: Sequence[Observation]) -> tuple[HardwareEffect, ...]:
    """Every two machine classes that have runs of one arm and seeds in common; of repetitions the first counts."""
    return tuple(_pairs(_cells(runs)))


def seeds_rung(*sides: Iterable[Any]) -> SeedsRung | None:
    """The rung of the noise that these sets of runs, given by their blocks, show: which seeds change within a set.

    None where nothing changes, or where the seeds of a run are not known.
    """
    blocks = [list(side) for side in sides]
    if any(not isinstance(block, Seeds) for side in blocks for block in side):
        return None
    init, train = (any(len({getattr(block, of) for block in side}) > 1 for side in blocks) for of in ("init", "train"))
    return "both seeds" if init and train else "init seed" if init else "train seed" if train else None


# --- rungs -----------------------------------------------------------------------------------------------------------


def _rerun(runs: Sequence[Observation]) -> Rung:
    # Reruns of different cells have nothing in common: a level of their own each.
    columns = _table(runs, lambda run: (run.arm, run.machine, run.seeds), lambda run: (run, id(run)))
    return _rung("rerun", columns) or Rung(rung="rerun", why="no data: no run was repeated with the same seeds")


def _hardware(cells: Sequence[Observation]) -> Rung:
    """Half the variance of twins' differences, around the mean of their arm and machines where arms have several."""
    twins = _twins(cells)
    if not twins:
        return Rung(rung="hardware", why="no data: no seeds were trained on two machine classes")
    machines = {machine for pair in twins for machine in pair}
    reference = max(sorted(machines), key=lambda one: sum(len(of) for pair, of in twins.items() if one in pair))
    columns: dict[Any, dict[Hashable, float]] = {}
    for pair, of in twins.items():
        for (arm, seeds), (left, right) in of.items() if reference in pair else ():
            sign = 1 if pair[0] == reference else -1
            columns.setdefault((arm, pair), {})[seeds] = sign * (right - left) / 2**0.5
    if found := _rung("hardware", columns, scale=_scale(cells)):
        return found.model_copy(update={"runs": 2 * found.runs})
    together: dict[Any, dict[Hashable, float]] = {}
    for (arm, pair), column in columns.items():
        together.setdefault(pair, {}).update({(arm, seeds): value for seeds, value in column.items()})
    if found := _rung("hardware", together, scale=_scale(cells)):
        why = "confounded with arms that react differently to the machine: each arm has one pair of twins"
        return found.model_copy(update={"runs": 2 * found.runs, "why": why})
    return Rung(rung="hardware", why="no data: a single pair of twins shows no noise")


def _seeds(cells: Sequence[Observation]) -> list[Rung]:
    one = {
        "train seed": _table(cells, lambda run: (run.arm, run.machine, run.seeds.init), lambda run: run.seeds.train),
        "init seed": _table(cells, lambda run: (run.arm, run.machine, run.seeds.train), lambda run: run.seeds.init),
    }
    apart = _unlike({run.seeds for run in cells})
    together = _table(
        [run for run in cells if run.seeds in apart], lambda run: (run.arm, run.machine), lambda run: run.seeds
    )
    both = _rung("both seeds", together)
    found: list[Rung] = []
    for name, columns in one.items():
        why = "no data: it never changes within an arm on a machine"
        if both:
            why = "confounded: it never changes while the other seed stays; see both seeds"
        found.append(_rung(name, columns) or Rung(rung=name, why=why))  # type: ignore[arg-type]
    return [*found, both or Rung(rung="both seeds", why="no data: the two seeds never change together")]


def _unlike(pairs: set[Seeds]) -> set[Seeds]:
    """Seed pairs of which no two have a seed in common, so that their losses are independent."""
    inits, trains, kept = set[int](), set[int](), set[Seeds]()
    for seeds in sorted(pairs, key=lambda seeds: (seeds.init, seeds.train)):
        if seeds.init not in inits and seeds.train not in trains:
            inits.add(seeds.init)
            trains.add(seeds.train)
            kept.add(seeds)
    return kept


def _table(runs: Iterable[Observation], stratum: Any, level: Any) -> dict[Any, dict[Hashable, float]]:
    columns: dict[Any, dict[Hashable, float]] = {}
    for run in runs:
        columns.setdefault(stratum(run), {})[level(run)] = run.loss
    return columns


def _scale(cells: Sequence[Observation]) -> float:
    return max(abs(run.loss) for run in cells)


def _rung(name: Name, columns: Columns, scale: float | None = None) -> Rung | None:
    """None where no column has two levels."""
    columns = {stratum: column for stratum, column in columns.items() if len(column) > 1}
    if not columns:
        return None
    count = sum(map(len, columns.values()))
    seen = pool(columns, len({stratum[0] for stratum in columns}))
    largest = scale or max(abs(loss) for column in columns.values() for loss in column.values())
    if seen.variance**0.5 <= ROUNDING * largest:
        return Rung(rung=name, sd=0.0, df=seen.df, runs=count)
    low, high = interval(seen)
    return Rung(rung=name, sd=seen.variance**0.5, ci_low=low, ci_high=high, df=seen.df, runs=count)


class Pooled(NamedTuple):
    """A variance as the sum of two independent mean squares, each times its weight, with their degrees of freedom."""

    parts: tuple[tuple[float, float], ...]

    @property
    def variance(self) -> float:
        return sum(part for part, _ in self.parts)

    @property
    def df(self) -> float:
        """Satterthwaite's (1946, Biometrics Bull. 2:110) effective ones; all there are if nothing varies."""
        error = sum(part**2 / df for part, df in self.parts)
        return self.variance**2 / error if error else sum(df for _, df in self.parts)


def pool(columns: Columns, apart: int | None = None) -> Pooled:
    """The variance within columns, whose levels (arms with the same seeds) may be correlated.

    With `a` columns of the same `r` levels it is MS1 / a + MS2 (a - 1) / a, of the levels' means, with r - 1 degrees of
    freedom, and of what is left, with (r - 1) (a - 1) (Burdick & Graybill 1992, Confidence Intervals on Variance
    Components, section 5.2). For other layouts a = 1 + T / D, where D sums the columns' degrees of freedom and T is
    tr(P_i P_j) over all pairs of columns, P being what centres a column; columns without common levels have a = 1.
    Of the columns, only `apart` are independent beside what the levels do to all: an arm's on two machines are not.
    """
    import numpy as np

    levels = {level: at for at, level in enumerate({level: None for column in columns.values() for level in column})}
    there = np.zeros((len(columns), len(levels)))
    losses = np.zeros_like(there)
    for at, column in enumerate(columns.values()):
        begin = next(iter(column.values()))  # so that losses alike to the last bit have differences of exactly 0
        for level, loss in column.items():
            there[at, levels[level]], losses[at, levels[level]] = 1.0, loss - begin
    sizes = there.sum(1)
    left = (losses - (losses.sum(1) / sizes)[:, None]) * there
    degrees = float((sizes - 1).sum())
    variance = float((left**2).sum()) / degrees
    traces = _traces(there)
    others = float(traces.sum() - np.trace(traces))
    if others < 1e-9:
        return Pooled(((variance, degrees),))
    count = 1 + others / degrees
    products = left @ left.T
    correlation = float(products.sum() - np.trace(products)) / others / variance if variance else 0.0
    between = min(1.0, max(0.0, (1 + (count - 1) * correlation) / count))
    first = degrees / count
    rest = min(degrees - first, first * max(1, (apart or len(columns)) - 1))
    return Pooled(((variance * between, first), (variance * (1 - between), rest)))


def _traces(there: Any) -> Any:
    """tr(P_i P_j) of each two columns: P centres the levels that are there, and drops the others."""
    import numpy as np

    sizes, shared = there.sum(1), there @ there.T
    return shared - shared / sizes[:, None] - shared / sizes[None, :] + shared**2 / np.outer(sizes, sizes)


def interval(found: Pooled) -> tuple[float, float]:
    """95 %, of an SD: Graybill & Wang's (1980, JASA 75:869) for a sum of mean squares, chi-square's own for one."""
    from scipy.stats import chi2

    below = above = 0.0
    for part, df in found.parts:
        below += ((1 - df / float(chi2.isf(ALPHA / 2, df))) * part) ** 2
        above += ((df / float(chi2.isf(1 - ALPHA / 2, df)) - 1) * part) ** 2
    return max(0.0, found.variance - below**0.5) ** 0.5, (found.variance + above**0.5) ** 0.5


# --- hardware --------------------------------------------------------------------------------------------------------


def _twins(cells: Sequence[Observation]) -> dict[tuple[str, str], dict[tuple[str, Seeds], tuple[float, float]]]:
    """(machine, machine) -> (arm, seeds) -> both losses."""
    by_machine: dict[str, dict[tuple[str, Seeds], float]] = {}
    for run in cells:
        by_machine.setdefault(run.machine, {})[run.arm, run.seeds] = run.loss
    found = {}
    for left, right in combinations(sorted(by_machine), 2):
        one, other = by_machine[left], by_machine[right]
        if common := {key: (loss, other[key]) for key, loss in one.items() if key in other}:
            found[left, right] = common
    return found


def _pairs(cells: Sequence[Observation]) -> Iterable[HardwareEffect]:
    for machines, twins in _twins(cells).items():
        differences = [right - left for left, right in twins.values()]
        low, high = _mean_interval(differences)
        yield HardwareEffect(
            machines=machines,
            pairs=len(twins),
            difference=mean(differences),
            ci_low=low,
            ci_high=high,
            interaction_p=_interaction(twins),
            survives=_survives(twins),
        )


def _mean_interval(values: Sequence[float]) -> tuple[float | None, float | None]:
    """Student's t. Twins are taken to be independent: hardware changes rounding, and training amplifies it."""
    n, spread = len(values), sd(values)
    if spread is None:
        return None, None
    center, half = mean(values), float(student.isf(ALPHA / 2, n - 1)) * spread / n**0.5
    return center - half, center + half


def _interaction(twins: Mapping[tuple[str, Seeds], tuple[float, float]]) -> float | None:
    """Arms as the groups of a one-way analysis of variance of the twins' differences (Fisher 1925, section 41)."""
    import numpy as np

    groups: dict[str, list[float]] = {}
    for (arm, _), (left, right) in twins.items():
        groups.setdefault(arm, []).append(right - left)
    if len(groups) < 2 or all(len(group) < 2 for group in groups.values()):
        return None
    if all(np.ptp(group) == 0 for group in groups.values()):
        return None  # no noise to compare the arms' differences with
    from scipy.stats import f_oneway

    return float(f_oneway(*groups.values()).pvalue)


def _survives(twins: Mapping[tuple[str, Seeds], tuple[float, float]]) -> Survives:
    """Whether every two arms differ on both machines, in one direction, beyond what noise does.

    Tukey's (1953) honest significant difference on each machine at half the level, with seed pairs as blocks. `no`
    where two arms have changed places beyond it on both; anything less cannot be told.
    """
    import numpy as np

    arms = sorted({arm for arm, _ in twins})
    blocks = [seeds for seeds in {seeds for _, seeds in twins} if all((arm, seeds) in twins for arm in arms)]
    if len(arms) < 2 or len(blocks) < 2:
        return "cannot be told"
    df = (len(arms) - 1) * (len(blocks) - 1)
    y = np.array([[twins[arm, seeds] for seeds in blocks] for arm in arms])  # (arms, blocks, machines)
    means = y.mean(1)
    left = y - means[:, None] - y.mean(0) + y.mean((0, 1))
    error = np.sqrt((left**2).sum((0, 1)) / df / len(blocks))
    error = np.maximum(error, ROUNDING * float(abs(y).max()))
    statistics = [(means[i] - means[j]) / error for i, j in combinations(range(len(arms)), 2)]
    swapped = [float(abs(pair).min()) for pair in statistics if pair[0] * pair[1] < 0]
    if swapped and _is_apart(max(swapped), len(arms), df):
        return "no"
    least = min(float(abs(pair).min()) for pair in statistics)
    return "yes" if not swapped and _is_apart(least, len(arms), df) else "cannot be told"


def _is_apart(statistic: float, arms: int, df: int) -> bool:
    from scipy.stats import studentized_range

    return float(studentized_range.sf(statistic, arms, df)) < ALPHA / 2
