"""The distributions behind the verdicts, from scipy.special alone: to import scipy.stats takes longer than a table.

Student's t, chi-square and F are the calls that scipy.stats makes. The largest of several t's is its multivariate t. Of
t's that are all correlated alike, that is an integral over two numbers (Dunnett 1955, JASA 50:1096, section 3), done by
quadrature to 1e-8; of others, the difference to that is Genz & Bretz's (1999, J. Stat. Comput. Simul. 63:361), over one
lattice for both, good to about 1e-5. The studentized range is integrated likewise. Tests compare each with scipy.stats.
"""

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

POINTS = 2_048  # of the lattice
NODES = 128  # of a quadrature, over the noise and over what all share
WIDTH = 8.5  # SDs of a normal beyond which nothing is left: 2e-17
STEPS = 150  # to a root, at most; ten suffice where it is not steep
FAR = 1e-14  # chance that a mean square is left out on either side


def t_sf(x: Any, df: Any) -> Any:
    """The chance that Student's t is above `x`."""
    from scipy.special import stdtr

    return stdtr(df, -x)


def t_cdf(x: Any, df: Any) -> Any:
    from scipy.special import stdtr

    return stdtr(df, x)


def t_ppf(chance: Any, df: Any) -> Any:
    from scipy.special import stdtrit

    return stdtrit(df, chance)


def t_isf(chance: Any, df: Any) -> Any:
    """What Student's t is above with that chance."""
    return -t_ppf(chance, df)


def chi2_isf(chance: Any, df: Any) -> Any:
    from scipy.special import chdtri

    return chdtri(df, chance)


def f_sf(x: Any, above: Any, below: Any) -> Any:
    """The chance that F with degrees of freedom `above` and `below` the line is above `x`."""
    from scipy.special import fdtrc

    return fdtrc(above, below, x)


def one_way_p(groups: Sequence[Any]) -> Any:
    """The p value of a one-way analysis of variance (Fisher 1925, section 41); values lie along the last axis."""
    import numpy as np

    groups = [np.asarray(group, float) for group in groups]
    counts = [group.shape[-1] for group in groups]
    means = [group.mean(-1) for group in groups]
    centre = sum(n * mean for n, mean in zip(counts, means, strict=True)) / sum(counts)
    between = sum(n * (mean - centre) ** 2 for n, mean in zip(counts, means, strict=True))
    within = sum(((group - mean[..., None]) ** 2).sum(-1) for group, mean in zip(groups, means, strict=True))
    above, below = len(groups) - 1, sum(counts) - len(groups)
    return f_sf(between / above / (within / below), above, below)


def largest_t_below(edge: float, correlation: Any, df: float, sides: int = 2) -> float:
    """The chance that several t's with one common variance are all within -edge and edge; with one side, below it."""
    import numpy as np

    count = len(correlation)
    apart = correlation[~np.eye(count, dtype=bool)]
    common = min(max(float(apart.mean()), -0.99 if count == 2 else 0.0), 0.99) if count > 1 else 0.0
    found = _alike_below(edge, common, count, df, sides)
    if count > 1 and float(abs(apart - common).max()) > 1e-9:
        alike = np.full((count, count), common) + np.eye(count) * (1 - common)
        found += _over_lattice(edge, correlation, df, sides) - _over_lattice(edge, alike, df, sides)
    return found


def studentized_range_isf(chance: float, count: int, df: float) -> float:
    """What the range of `count` means, over their own standard error, exceeds with that chance (Tukey 1953)."""
    high = 8.0
    while _range_above(high, count, df) > chance:
        high *= 2
    return root(lambda q: _range_above(q, count, df) - chance, 0.0, high)


def root(f: Callable[[float], float], low: float, high: float, within: float = 1e-10) -> float:
    """Where `f`, which changes its sign between `low` and `high`, is 0.

    By false position after Anderson & Bjorck (1973, BIT 13:253), and every third time by halves, for what is steep.
    """
    one, other = f(low), f(high)
    assert one * other <= 0, "no change of sign"
    for step in range(STEPS):
        if other == 0 or abs(high - low) <= within * max(1.0, abs(high)):
            break
        middle = (low + high) / 2 if step % 3 == 2 else high - other * (high - low) / (other - one)
        here = f(middle)
        if here * other < 0:
            low, one = high, other
        else:
            left = 1 - here / other
            one *= left if left > 0 else 0.5
        high, other = middle, here
    return high


def _alike_below(edge: float, correlation: float, count: int, df: float, sides: int) -> float:
    """As `largest_t_below`: given the noise and what all share, the t's are independent. Below 0 there are two, which
    what they share pulls apart.
    """
    from scipy.special import ndtr

    noise, of_noise = _noise(df)
    shared, of_shared = _normal()
    own = (1 - abs(correlation)) ** 0.5
    middle = abs(correlation) ** 0.5 * shared[:, None]
    inside = ndtr((edge * noise + middle) / own)
    if sides == 2:
        inside = inside - ndtr((-edge * noise + middle) / own)
    together = inside**count if correlation >= 0 else inside * inside[::-1]
    return float(of_shared @ together @ of_noise)


def _range_above(edge: float, count: int, df: float) -> float:
    from scipy.special import ndtr

    noise, of_noise = _noise(df)
    most, of_most = _normal()
    within = ndtr(most)[:, None] - ndtr(most[:, None] - edge * noise)
    return 1 - float(count * of_most @ within ** (count - 1) @ of_noise)


def _over_lattice(edge: float, correlation: Any, df: float, sides: int) -> float:
    """As `largest_t_below`, for any correlation: one t after the other, given those before it."""
    import numpy as np
    from scipy.special import gammaincinv, ndtr, ndtri

    root, points = np.linalg.cholesky(correlation), _lattice(len(correlation))
    above = edge * np.sqrt(2 * gammaincinv(df / 2, points[0]) / df)
    before, chance = np.empty((len(correlation), POINTS)), np.ones(POINTS)
    for i, row in enumerate(root):
        middle = row[:i] @ before[:i]
        most = ndtr((above - middle) / row[i])
        least = ndtr((-above - middle) / row[i]) if sides == 2 else 0.0
        chance *= most - least
        if i + 1 < len(root):
            before[i] = ndtri(np.clip(least + points[i + 1] * (most - least), 1e-300, 1 - 1e-16))
    return float(chance.mean())


@cache
def _lattice(count: int) -> Any:
    """(count, points) in (0, 1): Richtmyer's, by roots of primes, folded so that both ends meet."""
    import numpy as np

    primes = [n for n in range(2, 8 * count + 8) if all(n % d for d in range(2, int(n**0.5) + 1))][:count]
    at = np.outer(np.sqrt(primes) % 1, np.arange(1, POINTS + 1)) + 0.5
    return np.clip(np.abs(2 * (at % 1) - 1), 1e-12, 1 - 1e-12)


@cache
def _noise(df: float) -> tuple[Any, Any]:
    """Nodes and weights over the root of a mean square with `df` degrees of freedom."""
    import numpy as np
    from scipy.special import gammainccinv, gammaincinv

    low, high = (float(of(df / 2, FAR)) * 2 / df for of in (gammaincinv, gammainccinv))
    nodes, weights = _between(low**0.5, high**0.5)
    density = (df - 1) * np.log(nodes) - df * (nodes**2 - 1) / 2
    weights = weights * np.exp(density - density.max())
    return nodes, weights / weights.sum()


@cache
def _normal() -> tuple[Any, Any]:
    """Nodes and weights over a normal."""
    import numpy as np

    nodes, weights = _between(-WIDTH, WIDTH)
    weights = weights * np.exp(-(nodes**2) / 2)
    return nodes, weights / weights.sum()


def _between(low: float, high: float) -> tuple[Any, Any]:
    nodes, weights = _gauss()
    return low + (high - low) * (nodes + 1) / 2, weights * (high - low) / 2


@cache
def _gauss() -> tuple[Any, Any]:
    import numpy as np

    return np.polynomial.legendre.leggauss(NODES)
