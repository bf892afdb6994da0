"""The version of everything that farm writes: values in Redis, records, run directories. A newer one is reported."""

import re

from farm.errors import Unreadable

SCHEMA = 1
_FIRST = re.compile(r'\A\{\s*"schema":\s*(\d+)\s*,')


def stamp(text: str) -> str:
    """A JSON object with the version before its first key."""
    return f'{{"schema":{SCHEMA},{text.lstrip()[1:]}'


def unstamp(text: str) -> str:
    """The JSON object without its version.

    Raises: Unreadable: a newer farm wrote it.
    """
    found = _FIRST.match(text)
    if found is None:
        return text
    check(int(found[1]))
    return "{" + text[found.end() :]


def check(version: object) -> None:
    """Raises: Unreadable: a newer farm wrote it, or it is not a version."""
    if not isinstance(version, int):
        raise Unreadable(f"its schema is {version!r}, which is not a number.")
    if version > SCHEMA:
        raise Unreadable(
            f"a newer farm wrote it (schema {version}; this one reads up to {SCHEMA}).",
            remedy="Update farm on this machine.",
        )
