"""What a handful of seeds can say: floats in, floats out. scipy is imported only where its distributions are needed."""

from collections.abc import Sequence
from math import fsum, isnan, sqrt


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
    from scipy.stats import nct, t

    freedom = n_arm + n_baseline - 2
    shift = effect * sqrt(n_arm * n_baseline / (n_arm + n_baseline))
    edge = t.ppf(1 - alpha / 2, freedom)
    wrong_side = nct.cdf(-edge, freedom, shift)
    return float(nct.sf(edge, freedom, shift) + (0.0 if isnan(wrong_side) else wrong_side))  # NaN where below 1e-8


def detectable_effect(n_arm: int, n_baseline: int, alpha: float = 0.05, wanted_power: float = 0.8) -> float | None:
    """The smallest true difference, in SDs of one run, that this many independent runs find with `wanted_power`.

    Two-sided pooled t test at `alpha`, before any correction for several arms. None when there are fewer than three
    runs or an arm has none: then no test exists.
    """
    if n_arm < 1 or n_baseline < 1 or n_arm + n_baseline < 3:
        return None
    from scipy.optimize import brentq

    above = 1.0
    while power(above, n_arm, n_baseline, alpha) < wanted_power:
        above *= 2
    return float(brentq(lambda effect: power(effect, n_arm, n_baseline, alpha) - wanted_power, 0.0, above, xtol=1e-9))
