"""What a mean difference says without any distribution: a bootstrap interval and a test by flipped signs.

They are scipy.stats.bootstrap and scipy.stats.permutation_test for the mean of one sample, draw by draw: to import
these takes longer than all that a table does. Tests compare them with scipy's.
"""

from typing import Any

CLOSE = 100  # units in the last place within which two means are the same


def bootstrap_mean(sample: Any, count: int, generator: Any, level: float = 0.95) -> tuple[float, float]:
    """Both ends of the bias-corrected and accelerated interval (Efron 1987, JASA 82:171) of the mean."""
    import numpy as np
    from scipy.special import ndtr, ndtri

    n, seen = len(sample), sample.mean()
    drawn = sample[generator.integers(0, n, (count, n))].mean(-1)
    bias = ndtri(((drawn < seen).sum() + (drawn <= seen).sum()) / (2 * count))
    without = (sample.sum() - sample) / (n - 1)
    left = (n - 1) * (without.mean() - without)
    skew = (left**3).sum() / n**3 / 6 / ((left**2).sum() / n**2) ** 1.5
    edges = bias + np.array([-1, 1]) * -ndtri((1 - level) / 2)
    low, high = np.quantile(drawn, ndtr(bias + edges / (1 - skew * edges)))
    return float(low), float(high)


def sign_flips_p(sample: Any, most: int, generator: Any) -> float:
    """The chance of a mean as far from 0, were each sign as likely (Fisher 1935, Design of Experiments, section 21).

    Over all flips, if there are at most `most`; else over as many at random and the one that was seen.
    """
    import numpy as np

    n, seen = len(sample), sample.mean()
    is_exact = 2**n <= most
    if is_exact:
        flipped = (np.arange(2**n)[:, None] >> np.arange(n) & 1).astype(bool)
    else:
        flipped = generator.permuted(np.tile(np.arange(2), (most, n, 1)), axis=-1)[..., 0].astype(bool)
    means = np.where(flipped, -sample, sample).mean(-1)
    room = abs(seen) * CLOSE * np.finfo(float).eps
    tails = min(int((means <= seen + room).sum()), int((means >= seen - room).sum()))
    return min(1.0, 2 * (tails + (not is_exact)) / (len(means) + (not is_exact)))
