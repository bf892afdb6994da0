"""The known flaws of redis-server and valkey-server versions that can hurt a farm."""

from typing import NamedTuple

Version = tuple[int, ...]


class Cve(NamedTuple):
    """A flaw, and the first version of each line of releases that is without it; later lines never had it."""

    id: str
    what: str
    mended: dict[str, tuple[Version, ...]]  # program -> versions, oldest line first

    def concerns(self, program: str, version: Version) -> bool:
        """Whether that version has the flaw. A line without a fix has it, if a later line needed one."""
        floors = self.mended[program]
        same = [floor for floor in floors if floor[:2] == version[:2]]
        return version < same[0] if same else version[:2] < floors[-1][:2]

    def remedy(self, program: str, version: Version) -> Version:
        """The version to update to: the next that is without it."""
        return next(floor for floor in self.mended[program] if floor > version)


KNOWN = (
    Cve(
        "CVE-2024-31228",
        "a user can crash it with a pattern",
        {"Redis": ((6, 2, 16), (7, 2, 6), (7, 4, 1)), "Valkey": ((7, 2, 7), (8, 0, 1))},
    ),
    Cve(
        "CVE-2024-46981",
        "a user who may run Lua can run any code",
        {"Redis": ((6, 2, 17), (7, 2, 7), (7, 4, 2)), "Valkey": ((7, 2, 8), (8, 0, 2))},
    ),
    Cve(
        "CVE-2025-32023",
        "a user who may write can run any code",
        {"Redis": ((6, 2, 19), (7, 2, 10), (7, 4, 5), (8, 0, 3)), "Valkey": ((7, 2, 10), (8, 0, 4), (8, 1, 3))},
    ),
    Cve(
        "CVE-2025-49844",
        "a user who may run Lua can run any code",
        {
            "Redis": ((6, 2, 20), (7, 2, 11), (7, 4, 6), (8, 0, 4), (8, 2, 2)),
            "Valkey": ((7, 2, 11), (8, 0, 6), (8, 1, 4)),
        },
    ),
)


def of(program: str, version: Version) -> list[Cve]:
    """The known flaws of `program` (Redis or Valkey) in that version."""
    return [cve for cve in KNOWN if cve.concerns(program, version)]
