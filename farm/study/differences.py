"""The differences between two nested tables."""

from collections.abc import Iterator, Mapping
from typing import Any


def differences(first: Mapping[str, Any], second: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any, Any]]:
    """The keys to each place, with a dot between them, and what either has there, None where it has nothing.

    As deep as both have tables, in the order of `first`.
    """
    for key in [*first, *(key for key in second if key not in first)]:
        one, other, here = first.get(key), second.get(key), f"{path}{key}"
        if isinstance(one, dict) and isinstance(other, dict):
            yield from differences(one, other, f"{here}.")
        elif one != other:
            yield here, one, other
