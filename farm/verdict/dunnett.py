"""Many arms against one baseline: the distribution of the largest |t|, Dunnett's (1955, JASA 50:1096, section 3)."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from farm.verdict.distributions import largest_t_below, root, t_isf, t_sf

MOST = 40  # arms. Beyond, Bonferroni's bound stands for the integral, which is good to 1e-4 there where arms lack seeds
DEGREE = 12  # of the polynomial in 1 / df that stands for critical values of many degrees of freedom: good to 1e-6


def p_values(t: Sequence[float], correlation: Any, df: float) -> list[float]:
    """The chance that any of several true nulls has a statistic beyond |t_i|, for each i."""
    return [_beyond(abs(value), correlation, df) for value in t]


def critical(correlation: Any, df: float, level: float, sides: int = 2) -> float:
    """What the largest |t| of several true nulls exceeds with chance `level`; with one side, the largest t."""
    count = len(correlation)
    least, most = float(t_isf(level / sides, df)), float(t_isf(level / sides / count, df))
    if count == 1 or count > MOST:
        return most
    return root(lambda c: _beyond(c, correlation, df, sides) - level, least * 0.99, most * 1.01, 1e-7)


def blocks(count: int) -> Any:
    """The correlation of `count` complete arms with one baseline: one half."""
    import numpy as np

    return np.full((count, count), 0.5) + np.eye(count) / 2


def critical_blocks(count: int, df: Any, level: float, sides: int = 2) -> Any:
    """`critical` for complete blocks at many degrees of freedom at once, of which none is below 1."""
    import numpy as np

    return np.exp(_in_blocks(count, level, sides)(1 / np.maximum(df, 1.0)))


@lru_cache(maxsize=256)
def _in_blocks(count: int, level: float, sides: int) -> Any:
    """The logarithm of the critical value, as a polynomial in 1 / df."""
    import numpy as np

    correlation = blocks(count)
    values = np.vectorize(lambda x: np.log(critical(correlation, 1 / max(x, 1e-6), level, sides)))
    return np.polynomial.Chebyshev.interpolate(values, DEGREE, (0, 1))


def _beyond(c: float, correlation: Any, df: float, sides: int = 2) -> float:
    count, alone = len(correlation), float(sides * t_sf(c, df))
    if count == 1 or count > MOST or count * alone < 1e-4:  # so small a chance is the bound's, but for a part in 1,000
        return min(1.0, count * alone)
    return min(max(1 - largest_t_below(c, correlation, df, sides), alone), count * alone, 1.0)
