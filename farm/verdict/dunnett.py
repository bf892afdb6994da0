"""Many arms against one baseline: the distribution of the largest |t|, after Dunnett (1955, JASA 50:1096, section 3).

It is scipy's multivariate t over the rectangle |t_i| <= c. The integral is a quasi-Monte Carlo one (Genz & Bretz 1999),
seeded here, good to about 1e-4.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from farm.verdict import student

MOST = 40  # arms. Beyond, the integral takes seconds, and Bonferroni's bound stands for it
POINTS = 5_000  # of the quasi-Monte Carlo integral
NODES = (1.0, 1.3, 1.7, 2.3, 3.2, 4.5, 7.0, 12.0, 25.0, 80.0, 1000.0)  # degrees of freedom that are tabulated


def p_values(t: Sequence[float], correlation: Any, df: float) -> list[float]:
    """The chance that any of several true nulls has a statistic beyond |t_i|, for each i."""
    return [_beyond(abs(value), correlation, df) for value in t]


def critical(correlation: Any, df: float, level: float, sides: int = 2) -> float:
    """The value that the largest |t| of several true nulls exceeds with chance `level`; one-sided, the largest t."""
    count = len(correlation)
    least, most = float(student.isf(level / sides, df)), float(student.isf(level / sides / count, df))
    if count == 1 or count > MOST:
        return most
    from scipy.optimize import brentq

    return float(brentq(lambda c: _beyond(c, correlation, df, sides) - level, least * 0.99, most * 1.01, xtol=1e-4))


def is_beyond(c: float, correlation: Any, df: float, level: float) -> bool:
    """Whether the largest |t| of several true nulls exceeds `c` with a chance above `level`.

    As `critical` > c, which takes eight integrals; this takes one, and none where the bounds of one t and of all of
    them together (Bonferroni) decide.
    """

    alone = 2 * float(student.sf(c, df))
    if c <= 0 or alone > level:
        return True
    return alone * len(correlation) > level and _beyond(c, correlation, df) > level


def blocks(count: int) -> Any:
    """The correlation of `count` complete arms with one baseline: one half."""
    import numpy as np

    return np.full((count, count), 0.5) + np.eye(count) / 2


def critical_blocks(count: int, df: Any, level: float, sides: int = 2) -> Any:
    """`critical` for complete blocks at many degrees of freedom at once, from a table of eleven."""
    import numpy as np

    return np.exp(np.interp(1 / np.maximum(df, 1.0), *_table(count, level, sides)))


@lru_cache(maxsize=256)
def _table(count: int, level: float, sides: int) -> tuple[Any, Any]:
    """Log critical values over 1 / df, from which a fine grid is filled in by cubic splines."""
    import numpy as np
    from scipy.interpolate import CubicSpline

    x = 1 / np.array(NODES[::-1])
    y = np.log([critical(blocks(count), df, level, sides) for df in NODES[::-1]])
    fine = np.linspace(x[0], 1, 500)
    return fine, CubicSpline(x, y)(fine)


def _beyond(c: float, correlation: Any, df: float, sides: int = 2) -> float:
    count, alone = len(correlation), float(sides * student.sf(c, df))
    if count == 1 or count > MOST or count * alone < 1e-4:  # below what the integral resolves the bound is as good
        return min(1.0, count * alone)
    import numpy as np

    inside = _inside(c, np.asarray(correlation, dtype=np.float64).tobytes(), df, sides)
    return min(max(1 - inside, alone), count * alone, 1.0)


@lru_cache(maxsize=1024)
def _inside(c: float, correlation: bytes, df: float, sides: int) -> float:
    """The chance that no |t|, or one-sided no t, is beyond `c`. Kept for who looks at the same results again."""
    import numpy as np
    from scipy.stats import multivariate_t

    flat = np.frombuffer(correlation)
    count = round(flat.size**0.5)
    edge = np.full(count, c)
    below = -edge if sides == 2 else np.full(count, -np.inf)
    return float(
        multivariate_t.cdf(
            edge,
            shape=flat.reshape(count, count),
            df=df,
            lower_limit=below,
            maxpts=POINTS,
            random_state=np.random.default_rng(0),
        )
    )
