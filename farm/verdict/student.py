"""Student's t: the functions of scipy.special that scipy.stats.t calls. Importing all of scipy.stats takes a second."""

from typing import Any


def sf(x: Any, df: Any) -> Any:
    """The chance that t is above `x`."""
    from scipy.special import stdtr

    return stdtr(df, -x)


def cdf(x: Any, df: Any) -> Any:
    from scipy.special import stdtr

    return stdtr(df, x)


def ppf(chance: Any, df: Any) -> Any:
    """The value that t is below with that chance."""
    from scipy.special import stdtrit

    return stdtrit(df, chance)


def isf(chance: Any, df: Any) -> Any:
    """The value that t is above with that chance."""
    return -ppf(chance, df)
