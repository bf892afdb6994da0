"""Paired differences: an arm's loss less the baseline's, one for each pair of seeds that both have trained.

Arrays are (..., blocks, arms), NaN where an arm lacks a block; the same ones are lacking all along the leading axes.
Those are simulated studies: the code that judges one study is the code that `make validate` runs on thousands.
"""

from typing import Any, NamedTuple

ROUNDING = 2e-15  # relative to a loss: a standard error below it is the rounding of the losses themselves
OBJECTS = 0.1  # p of the test of equal variances below which variances are not pooled
AFTER_A_LOOK = 0.8  # of the level is left for the arms' own variances, since the data chose them (docs/log.md)
DOUBTED_FROM = 4  # pairs: fewer say too little of a variance for a test to say anything


class Differences(NamedTuple):
    """Of each arm the mean difference and its standard error; `df` is of all arms, or one for each."""

    n: Any  # (arms,)
    delta: Any  # (..., arms)
    error: Any  # (..., arms)
    df: Any  # (...) pooled, (arms,) own
    correlation: Any  # (arms, arms), of the estimates


def pool(differences: Any) -> Differences:
    """Standard errors from the variance of all arms' differences together, but none below what an arm's own say.

    The degrees of freedom are Box's (1954, Ann. Math. Stat. 25:290, theorem 3.1) for a sum of correlated sums of
    squares, with the covariances that the differences show, which is Greenhouse & Geisser's estimate (1959,
    Psychometrika 24:95). The (blocks - 1) x arms of the textbook hold only where the baseline is as noisy as the arms:
    where it is the louder one, Dunnett's test with these calls something better or worse in up to 26 % of studies
    without any effect. Correlations of the estimates are those of equal variances: one half times the shared blocks
    over the root of both counts.
    """
    import numpy as np

    has = _has(differences)
    n, common = has.sum(0), has.T.astype(float) @ has
    delta, left = _centre(differences, has)
    cross = np.swapaxes(left, -1, -2) @ left
    squares = np.diagonal(cross, axis1=-2, axis2=-1)
    weight = common * (1 - 1 / n[:, None] - 1 / n[None, :] + common / np.outer(n, n))
    usable = weight > 1e-9
    spread = np.where(usable, cross**2 / np.where(usable, weight, 1.0), 0.0).sum((-1, -2))
    total = squares.sum(-1)
    df = np.divide(total**2, spread, out=np.ones_like(total), where=spread > 0)
    variance = total / (n - 1).sum()
    own = squares / np.maximum(n - 1, 1)
    error = np.sqrt(np.maximum(variance[..., None], own) / n)
    correlation = 0.5 * common / np.sqrt(np.outer(n, n))
    np.fill_diagonal(correlation, 1.0)
    return Differences(n, delta, error, np.maximum(df, 1.0), correlation)


def own(differences: Any) -> Differences:
    """Each arm by its own differences alone: Student's paired t, exact whatever the variances of the others are."""
    import numpy as np

    has = _has(differences)
    n = has.sum(0)
    delta, left = _centre(differences, has)
    error = np.sqrt((left**2).sum(-2) / np.maximum(n - 1, 1) / n)
    return Differences(n, delta, error, n - 1, np.eye(len(n)))


def objects(differences: Any) -> Any:
    """Whether a test of equal variances objects to pooling: Levene's, by deviations from the median.

    Brown & Forsythe 1974, JASA 69:364. The arms share the baseline's runs, so it is approximate here; it guards what
    `pool` cannot, several loud arms among quiet ones, and `make validate` shows what both together hold.
    """
    import numpy as np

    has = _has(differences)
    told = np.flatnonzero(has.sum(0) >= DOUBTED_FROM)
    if len(told) < 2:
        return np.zeros(differences.shape[:-2], bool)
    from scipy.stats import levene

    arms = [differences[..., has[:, arm], arm] for arm in told]
    spread = np.array([np.ptp(arm, axis=-1) for arm in arms]).max(0)
    with np.errstate(all="ignore"):
        p = levene(*arms, center="median", axis=-1).pvalue
    return (np.nan_to_num(p, nan=1.0) < OBJECTS) & (spread > 1e-12)


def _has(differences: Any) -> Any:
    import numpy as np

    return ~np.isnan(differences[(0,) * (differences.ndim - 2)])


def _centre(differences: Any, has: Any) -> tuple[Any, Any]:
    import numpy as np

    filled = np.where(has, differences, 0.0)
    delta = filled.sum(-2) / has.sum(0)
    return delta, np.where(has, filled - delta[..., None, :], 0.0)
