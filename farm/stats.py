"""Means and spreads, summed without rounding errors, and even choices. What they are worth is said in farm.verdict."""

from collections.abc import Sequence
from math import fsum, sqrt
from typing import TypeVar

One = TypeVar("One")


def mean(values: Sequence[float]) -> float:
    """The arithmetic mean of at least one value, correctly rounded in the sum."""
    return fsum(values) / len(values)


def sd(values: Sequence[float]) -> float | None:
    """The sample standard deviation, divided by n - 1; None for fewer than two values."""
    if len(values) < 2:
        return None
    centre = mean(values)
    return sqrt(fsum((value - centre) ** 2 for value in values) / (len(values) - 1))


def thin_out(items: Sequence[One], count: int) -> list[One]:
    """At most `count` (2 or more) of the items, at even distances: the first and the last are among them."""
    if len(items) <= count:
        return list(items)
    return [items[round(place * (len(items) - 1) / (count - 1))] for place in range(count)]
