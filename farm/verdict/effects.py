"""Main effects and two-factor interactions of the interventions of a study, by least squares over all of its arms.

An intervention is a factor with two levels, -1 without and +1 with it, and an effect is the mean loss with it less the
mean loss without (Box, Hunter & Hunter 2005, chapter 5). Seed pairs are blocks. Interactions of three interventions or
more are counted as noise. What a design cannot tell apart is an alias, and is said to be one.
"""

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any, Literal, NamedTuple

from farm.study.recipe import Frozen, Seeds
from farm.verdict import dunnett
from farm.verdict.inference import ALPHA, Losses
from farm.verdict.paired import ROUNDING

ZERO = 1e-9  # relative: below it a column is in the span of those before
FEWEST = 3  # contrasts that Lenth's method takes

Term = tuple[str, ...]  # one intervention, or two


class Effect(Frozen):
    """The effect of an intervention, or of two together, on the score, in its unit, averaged over all others."""

    of: tuple[str, ...]
    aliases: tuple[str, ...]  # terms that the arms cannot tell from it; "-" before one of the opposite sign
    size: float  # mean loss with less mean loss without; of an interaction, half of what one adds to the other's
    ci_low: float | None = None  # 95 %, simultaneous over the effects of the machine
    ci_high: float | None = None
    p: float | None = None  # adjusted likewise


class Effects(Frozen):
    """All effects on one machine, the largest first."""

    effects: tuple[Effect, ...]
    method: Literal["least-squares", "lenth", "none"]
    df: float | None  # of the noise
    noise: float | None  # SD of one run, or Lenth's pseudo standard error of an effect


class _Design(NamedTuple):
    """The terms that the arms tell apart: their columns, and what each is aliased with."""

    terms: list[Term]
    aliases: dict[Term, tuple[str, ...]]
    columns: Any  # (runs, 1 + other blocks + terms)
    blocks: int


def estimate(arms: Mapping[str, Sequence[str]], losses: Mapping[str, Losses], order: Sequence[str] = ()) -> Effects:
    """The effects of the interventions in `arms` (arm -> its interventions) on the `losses` of the same arms.

    `order`: of the interventions, in which two together are named; else that in which the arms name them first.

    Intervals are simultaneous: the largest |t| of several estimates (Tukey 1953; for orthogonal ones the studentized
    maximum modulus). Where no run is left over to tell the noise, Lenth's (1989, Technometrics 31:469) pseudo standard
    error stands for it, which takes most effects to be nothing; with fewer than three effects there is no interval.
    """
    import numpy as np

    runs = [(arm, seeds, loss) for arm, of in losses.items() for seeds, loss in of.items()]
    if not runs:
        return Effects(effects=(), method="none", df=None, noise=None)
    design = _design(arms, [(arm, seeds) for arm, seeds, _ in runs], order)
    y = np.array([loss for *_, loss in runs])
    fitted, *_ = np.linalg.lstsq(design.columns, y, rcond=None)
    sizes = 2 * fitted[design.blocks :]
    df = len(runs) - design.columns.shape[1]
    if df > 0:
        left = y - design.columns @ fitted
        noise = max(float(left @ left / df) ** 0.5, ROUNDING * float(abs(y).max()))
        covariance = 4 * np.linalg.inv(design.columns.T @ design.columns)[design.blocks :, design.blocks :]
        errors = np.sqrt(np.diagonal(covariance))
        found = _test(design, sizes, noise * errors, covariance / np.outer(errors, errors), df)
        return Effects(effects=found, method="least-squares", df=df, noise=noise)
    if len(sizes) >= FEWEST and (pse := pseudo_error(sizes)) > 0:
        count = len(sizes)
        found = _test(design, sizes, np.full(count, pse), np.eye(count), count / 3)
        return Effects(effects=found, method="lenth", df=count / 3, noise=pse)
    return Effects(effects=_order(_plain(design, sizes)), method="none", df=None, noise=None)


def pseudo_error(sizes: Any) -> float:
    """Lenth's pseudo standard error of an effect (1989, equation 2), from effects of which most are nothing."""
    import numpy as np

    magnitudes = np.abs(np.asarray(sizes))
    first = 1.5 * np.median(magnitudes)
    kept = magnitudes[magnitudes < 2.5 * first]
    return 1.5 * float(np.median(kept)) if len(kept) else 0.0


def _test(design: _Design, sizes: Any, errors: Any, correlation: Any, df: float) -> tuple[Effect, ...]:
    edge = dunnett.critical(correlation, df, ALPHA) if len(sizes) else 0.0
    p = dunnett.p_values([size / error for size, error in zip(sizes, errors, strict=True)], correlation, df)
    return _order(
        [
            effect.model_copy(
                update={"ci_low": effect.size - edge * error, "ci_high": effect.size + edge * error, "p": chance}
            )
            for effect, error, chance in zip(_plain(design, sizes), map(float, errors), p, strict=True)
        ]
    )


def _plain(design: _Design, sizes: Any) -> list[Effect]:
    return [
        Effect(of=term, aliases=design.aliases[term], size=float(size))
        for term, size in zip(design.terms, sizes, strict=True)
    ]


def _order(found: Sequence[Effect]) -> tuple[Effect, ...]:
    return tuple(sorted(found, key=lambda effect: -abs(effect.size)))


def _design(arms: Mapping[str, Sequence[str]], runs: Sequence[tuple[str, Seeds]], order: Sequence[str]) -> _Design:
    """Single interventions first, then pairs, each column kept that those before it do not span."""
    import numpy as np

    there = dict.fromkeys(name for arm, _ in runs for name in arms[arm])
    factors = list(dict.fromkeys([*(name for name in order if name in there), *there]))
    blocks = list(dict.fromkeys(seeds for _, seeds in runs))
    signs = {name: np.array([1.0 if name in arms[arm] else -1.0 for arm, _ in runs]) for name in factors}
    first = np.array([[seeds == block for block in blocks] for _, seeds in runs], dtype=float)
    together = [pair for pair in combinations(factors, 2) if any({*pair} <= {*arms[arm]} for arm, _ in runs)]
    kept, columns, aliases = list[Term](), first, dict[Term, list[str]]()
    for term in [*((name,) for name in factors), *together]:
        column = np.prod([signs[name] for name in term], axis=0)
        weights, *_ = np.linalg.lstsq(columns, column, rcond=None)
        if np.linalg.norm(column - columns @ weights) > ZERO * len(runs):
            kept.append(term)
            aliases[term] = []
            columns = np.column_stack([columns, column])
            continue
        for other, weight in zip(kept, weights[len(blocks) :], strict=True):
            if abs(weight) > ZERO * len(runs):
                aliases[other].append(("-" if weight < 0 else "") + ":".join(term))
    return _Design(kept, {term: tuple(others) for term, others in aliases.items()}, columns, len(blocks))
