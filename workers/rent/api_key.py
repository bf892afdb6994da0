"""The key of the cloud's account: from the environment, or a file that only its owner may read. It is never shown.

While the farm rents a machine, the key lies in the farm's home, with mode 600: whoever comes back after a crash must
be able to end the machine, and the variable of a shell is gone by then.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from farm.errors import BadSetting, NotFound
from farm.files import PRIVATE, read_private, write_whole
from workers.rent.lambda_cloud import KEYS_PAGE, URL
from workers.rent.lambda_cloud import VARIABLE as PLACE

VARIABLE, FILE_VARIABLE = "LAMBDA_API_KEY", "LAMBDA_API_KEY_FILE"
FILE = "~/.config/farm/lambda-api-key"
KEPT = "lambda-api-key"


class Access(NamedTuple):
    """A key, and the place that it is for."""

    key: str
    url: str


def find(home: Path, environ: Mapping[str, str] | None = None) -> Access:
    """The key of the environment, of the file that it names, of ~/.config/farm, or kept in `home`: the first of them.

    Raises: NotFound: there is none. Refused: others may read its file. BadSetting: it is not a key.
    """
    environ = os.environ if environ is None else environ
    url = environ.get(PLACE) or URL
    if key := environ.get(VARIABLE, "").strip():
        return Access(_checked(key, VARIABLE), url)
    if named := environ.get(FILE_VARIABLE):
        return _read(Path(named).expanduser(), url)
    for path in (Path(environ.get("HOME", "~")).expanduser() / FILE.removeprefix("~/"), home / KEPT):
        if path.exists():
            return _read(path, url)
    raise NotFound(
        "no API key of Lambda's cloud is known here.",
        remedy=f"Set {VARIABLE}, or write the key to {FILE} with mode 600; {KEYS_PAGE} makes one.",
        page="docs/machines/rent.md#before-the-first-one",
    )


def keep(home: Path, access: Access) -> None:
    """Keep it for whoever watches over what is rented."""
    write_whole(home / KEPT, f"{access.key}\n{access.url}\n".encode(), PRIVATE, lasting=True)


def kept(home: Path) -> Access:
    """The key that was kept. Raises: as `find`."""
    path = home / KEPT
    return _read(path, URL) if path.exists() else find(home)


def drop(home: Path) -> None:
    """Nothing is rented any more."""
    (home / KEPT).unlink(missing_ok=True)


def _read(path: Path, url: str) -> Access:
    """The first word of a file, and the place on a second line, if there is one, rather than `url`."""
    called = f"the API key in {path}"
    content = read_private(path, called=called, holds="an API key", remedy=f"Set {VARIABLE}.")
    key, _, place = content.decode(errors="replace").strip().partition("\n")
    return Access(_checked(key.strip(), str(path)), place.strip() or url)


def _checked(key: str, place: str) -> str:
    if key and key.isascii() and key.isprintable() and " " not in key:
        return key
    raise BadSetting(f"{place} does not hold an API key, which is one word.", remedy="Copy it again.")
