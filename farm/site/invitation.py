"""The file that a shared farm gives to a machine that joins it: where its Ray, Redis and storage are, and both secrets.

It is a file of mode 0600, which travels by scp or through a pipe of ssh. On a command line, or in a variable that is
typed, everybody on the machine and the shell's history would see it.
"""

import json
import sys
from pathlib import Path

from pydantic import Field, ValidationError

from farm.errors import BadSetting
from farm.files import PRIVATE, read_private, write_whole
from farm.study.recipe import Frozen

FILE = "invitation.json"
AGAIN = "Copy it again from the head, where `farm status` says how."


class Invitation(Frozen):
    """All that `farm join` needs to know of a farm."""

    head: str = Field(description="host name of the machine that shares it")
    ray: str = Field(description="HOST:PORT of its Ray")
    token: str = Field(description="what its Ray asks for")
    redis: str = Field(description="URL, with its password")
    storage: str = Field(description="as it is called there")


def write(path: Path, invitation: Invitation) -> None:
    """Put it at `path`, in full or not at all, readable by its owner only."""
    write_whole(path, f"{invitation.model_dump_json(indent=2)}\n".encode(), PRIVATE)


def is_one(word: str) -> bool:
    """Whether `word`, which may be the HOST:PORT of a head, names an invitation: a file, or "-" for standard input."""
    return word == "-" or "/" in word or word.endswith(".json") or Path(word).is_file()


def read(word: str) -> Invitation:
    """The invitation in a file that only its owner may read, or on standard input.

    Raises: NotFound. Refused: others may read the file. BadSetting: it is not an invitation.
    """
    try:
        return Invitation.model_validate(json.loads(sys.stdin.read() if word == "-" else _private(Path(word))))
    except (ValueError, ValidationError):
        place = "standard input" if word == "-" else word
        raise BadSetting(f"{place} is not an invitation to a farm.", remedy=AGAIN) from None


def _private(path: Path) -> str:
    called = f"the invitation {path}"
    return read_private(path, called=called, holds="the farm's secrets", remedy=AGAIN).decode()
