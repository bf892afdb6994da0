"""The refusals of Redis: for each answer its meaning, and the remedy."""

import re
from typing import NamedTuple

from redis.exceptions import AuthenticationError, RedisError, ResponseError

from farm.errors import BadSetting, FarmError, Refused, StorageFull, Unreachable, Unreadable


class _Answer(NamedTuple):
    """`pattern` finds it in what Redis says, code first; `fact` follows the server's address."""

    pattern: str
    kind: type[FarmError]
    fact: str
    remedy: str
    page: str = ""


MANAGED = "docs/machines/README.md#a-managed-redis"
_CREDENTIALS = _Answer(
    "",
    Refused,
    "refused the credentials",
    "Check the user and the password in FARM_REDIS_URL.",
    "docs/machines/security.md#the-url-of-redis",
)
_ANSWERS = (
    _Answer(
        r"\bDENIED\b|protected mode",
        Refused,
        "is in protected mode: it has no password, so it accepts no client from another machine",
        "Set requirepass in its redis.conf, and the same password in FARM_REDIS_URL.",
    ),
    _Answer(
        r"max number of clients",
        Unreachable,
        "has as many clients as it accepts",
        "Raise maxclients there; `redis-cli CLIENT LIST` shows who they are.",
    ),
    _Answer(r"\bLOADING\b", Unreachable, "is loading its data after a start", "Wait."),
    _Answer(
        r"\bMISCONF\b",
        StorageFull,
        "cannot write to its disk",
        "Its log says why: is the disk full, or its folder not writable?",
    ),
    _Answer(
        r"\bOOM\b|command not allowed when used memory",
        StorageFull,
        "cannot write: it has used its maxmemory",
        "Raise maxmemory there, or free some.",
    ),
    _Answer(
        r"\bREADONLY\b|read only replica",
        Unreachable,
        "is not accepting writes",
        "It is a replica: set FARM_REDIS_URL to the primary.",
    ),
    _Answer(
        r"\bMASTERDOWN\b",
        Unreachable,
        "is a replica whose primary is gone",
        "Set FARM_REDIS_URL to the primary, and start that.",
    ),
    _Answer(
        r"\bNOREPLICAS\b",
        Unreachable,
        "is not accepting writes, since too few replicas follow it",
        "Start them, or set min-replicas-to-write 0 there.",
    ),
    _Answer(
        r"\bBUSY\b", Unreachable, "is not accepting writes", "It runs a long script: wait, or `redis-cli SCRIPT KILL`."
    ),
    _Answer(
        r"\b(MOVED|ASK|CROSSSLOT|TRYAGAIN|CLUSTERDOWN)\b|non local key",
        BadSetting,
        "is a node of a Redis Cluster",
        "The farm needs all keys on one server: set FARM_REDIS_URL to one with cluster-enabled no.",
        MANAGED,
    ),
    _Answer(
        r"\bNOPERM\b|The user executing the script|has no permissions|ACL failure in script",
        Refused,
        "does not let this user do that",
        "Ask for a credential with that permission.",
        "docs/machines/security.md#who-may-only-submit",
    ),
    _Answer(
        r"(?i)unknown (redis )?command|unknown subcommand|command is not allowed|not supported|disabled",
        BadSetting,
        "lacks a command that the farm needs",
        "Set FARM_REDIS_URL to a Redis where no command of the farm's scripts is renamed or forbidden.",
        MANAGED,
    ),
    _Answer(
        r"DB index|SELECT is not allowed",
        BadSetting,
        "has no such database",
        "End FARM_REDIS_URL with the number of one that it has, such as /0.",
    ),
    _Answer(
        r"\bWRONGTYPE\b",
        Unreadable,
        "holds something else under the farm's keys",
        "`farm up` or `farm serve` puts it aside; or give the farm a database of its own, such as /1 at the end of"
        " FARM_REDIS_URL.",
    ),
)
_IN_A_SCRIPT = re.compile(r".*user_script: ?\d*:? ?|\d+: (?=The user executing)", re.DOTALL)
_WHERE = re.compile(r" script: \S* ?on @user_script:\d+\.?$")  # as Redis 7 and Valkey end it
_OUR_FAULT = re.compile(r"attempt to |malformed|Error compiling script")  # a script that went wrong by itself


def explain(error: RedisError, place: str) -> FarmError | None:
    """The farm's error for what the Redis at `place` answered; None if it answered nothing, or a script is at fault."""
    if not isinstance(error, ResponseError) and error.status_code is None:
        return None  # the connection's word, not the server's
    said = full_text(error)
    if isinstance(error, AuthenticationError):
        found: _Answer | None = _CREDENTIALS
    else:
        found = next((one for one in _ANSWERS if re.search(one.pattern, said)), None)
    if found is None:
        return None
    text = _IN_A_SCRIPT.sub("", _WHERE.sub("", said)).lstrip("-").rstrip(".")
    return found.kind(f"Redis at {place} {found.fact}: {text}.", remedy=found.remedy, page=found.page)


def other(error: RedisError, place: str) -> FarmError | None:
    """The same for an unforeseen answer."""
    if _OUR_FAULT.search(str(error)):
        return None
    return FarmError(
        f"Redis at {place} refused: {full_text(error).rstrip('.')}.", remedy="See its log, and `farm doctor`."
    )


def full_text(error: RedisError) -> str:
    """The reply of Redis, with the code in front that the client takes off."""
    code = error.status_code if error.status_code not in (None, "ERR") else None
    return f"{code} {error}" if code else str(error)
