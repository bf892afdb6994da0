"""What a handful of seeds can say: floats in, floats out. Plain Python: scipy would be two thirds of the client."""

from collections.abc import Callable, Sequence
from functools import lru_cache
from math import erfc, exp, fsum, lgamma, log, sqrt


def mean(values: Sequence[float]) -> float:
    """The arithmetic mean of at least one value, correctly rounded in the sum."""
    return fsum(values) / len(values)


def sd(values: Sequence[float]) -> float | None:
    """The sample standard deviation, divided by n - 1; None for fewer than two values."""
    if len(values) < 2:
        return None
    centre = mean(values)
    return sqrt(fsum((value - centre) ** 2 for value in values) / (len(values) - 1))


def power(effect: float, n_arm: int, n_baseline: int, alpha: float = 0.05) -> float:
    """The chance that a two-sided pooled t test at `alpha` sees a true difference of `effect` SDs.

    n_arm + n_baseline must be at least 3: two runs leave no degree of freedom to estimate the noise from.
    """
    freedom = n_arm + n_baseline - 2
    shift = effect * sqrt(n_arm * n_baseline / (n_arm + n_baseline))
    edge = t_edge(alpha / 2, freedom)
    return t_above(edge, freedom, shift) + t_above(edge, freedom, -shift)


@lru_cache
def detectable_effect(n_arm: int, n_baseline: int, alpha: float = 0.05, wanted_power: float = 0.8) -> float | None:
    """The smallest true difference, in SDs of one run, that this many independent runs find with `wanted_power`.

    Two-sided pooled t test at `alpha`, before any correction for several arms. None when there are fewer than three
    runs or an arm has none: then no test exists.
    """
    if n_arm < 1 or n_baseline < 1 or n_arm + n_baseline < 3:
        return None
    return _root(lambda effect: power(effect, n_arm, n_baseline, alpha) - wanted_power)


def t_above(edge: float, freedom: int, shift: float = 0.0) -> float:
    """The chance that (Z + shift) / S exceeds `edge`, where Z is standard normal and freedom * S**2 chi-squared.

    That is Student's t, the non-central one where `shift` is not 0. It is an integral over u = log S by the trapezoidal
    rule, whose error falls exponentially with the step where the integrand is analytic and dies away at both ends.
    """
    half = freedom / 2
    scale = log(2) + half * log(half) - lgamma(half)
    step = min(0.1, 0.25 / sqrt(freedom))
    first, last = -1 - 40 / freedom, 0.5 * log(1 + 80 / freedom) + 6 / sqrt(freedom)
    return step * fsum(
        exp(scale + freedom * u - half * exp(2 * u)) * _normal_below(shift - edge * exp(u))
        for u in (first + i * step for i in range(int((last - first) / step) + 1))
    )


@lru_cache
def t_edge(chance: float, freedom: int) -> float:
    """What Student's t of `freedom` degrees exceeds with this chance, at most 0.5."""
    return _root(lambda edge: chance - t_above(edge, freedom))


def _normal_below(z: float) -> float:
    return erfc(-z / sqrt(2)) / 2


def _root(rising: Callable[[float], float]) -> float:
    """Where a function that rises from below 0 at 0 is 0, by bisection."""
    low, high = 0.0, 1.0
    while rising(high) < 0:
        low, high = high, 2 * high
    while high - low > 1e-12 * high:
        middle = (low + high) / 2
        low, high = (middle, high) if rising(middle) < 0 else (low, middle)
    return high
