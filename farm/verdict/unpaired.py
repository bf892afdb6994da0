"""Two sets of runs that share no seeds, and one run against a set."""

from typing import Any, NamedTuple

from farm.verdict import student
from farm.verdict.memory import remembered


class Means(NamedTuple):
    """The difference of two means, and the two parts of its squared standard error with their degrees of freedom."""

    delta: Any
    arm: Any  # variance of the arm's mean
    baseline: Any
    arm_df: int
    baseline_df: int

    @property
    def error(self) -> Any:
        return (self.arm + self.baseline) ** 0.5


def means(arm: Any, baseline: Any) -> Means:
    """Welch's statistic (1938, Biometrika 29:350): variances are not pooled. Samples lie along the last axis."""
    n, m = arm.shape[-1], baseline.shape[-1]
    return Means(arm.mean(-1) - baseline.mean(-1), arm.var(-1, ddof=1) / n, baseline.var(-1, ddof=1) / m, n - 1, m - 1)


def critical(found: Means, level: float) -> Any:
    """The value that |t| exceeds with chance `level` or less when nothing differs: the weighted t of Cochran & Cox.

    Experimental Designs (1950), section 4.14: each t has its own side's weight in the squared error. Welch's own
    degrees of freedom are too many with two or three runs on a side: two against ten are told apart in 12 % of studies
    instead of 5 % when the two are twice as noisy. Where a side has just two runs, even the weighted t is exceeded too
    often, and the t of one degree of freedom (Hsu 1938; Mickey & Brown 1966, Ann. Math. Stat. 37:639) replaces it.
    """
    if min(found.arm_df, found.baseline_df) < 2:
        return student.isf(level / 2, 1)
    one, other = student.isf(level / 2, found.arm_df), student.isf(level / 2, found.baseline_df)
    return (found.arm * one + found.baseline * other) / (found.arm + found.baseline)


def p_value(found: Means) -> float:
    """The level at which `critical` would be |t|."""
    from math import exp, log

    from scipy.optimize import brentq

    value = abs(float(found.delta)) / float(found.error)
    low, high = 1e-12, 1 - 1e-12
    if value >= critical(found, low):
        return low
    if value <= critical(found, high):
        return 1.0
    return exp(brentq(lambda x: float(critical(found, exp(x))) - value, log(low), log(high), xtol=1e-9))


def one_run_correlation(baseline: int, count: int) -> Any:
    """The correlation of the differences of `count` single runs to the mean of the same `baseline` runs."""
    import numpy as np

    return np.full((count, count), 1 / (baseline + 1)) + np.eye(count) * (1 - 1 / (baseline + 1))


@remembered
def one_run_resolves(sd: float, n: int, level: float = 0.05) -> float:
    """How far one further run of the baseline lies from the mean of its `n` at most, in all but `level` of cases.

    The half-width of a prediction interval: t SD sqrt(1 + 1/n) (Hahn & Meeker 1991, Statistical Intervals, eq. 4.1).
    """
    return float(student.isf(level / 2, n - 1)) * sd * (1 + 1 / n) ** 0.5
