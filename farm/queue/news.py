"""What happened that a person may want to hear of, and what each service has been told already.

At least once: a service is remembered to have been told only after it took the message, so a dispatcher that dies in
between makes its successor say it again. Rather that than silence about a failure: the other order would lose what was
not sent when it died. Of several dispatchers one tells a service at a time, and what was told is kept across restarts.
"""

from collections.abc import Collection, Mapping
from typing import NamedTuple

from farm.queue.scripts import Scripts
from farm.queue.spelling import milliseconds, pairs, read_seconds


class Ended(NamedTuple):
    """A run that failed for good, `at` Unix seconds by Redis' clock."""

    run_id: str
    epoch: int
    at: float


class Endings(NamedTuple):
    """How far a study is."""

    study: str
    number: int  # higher whenever it is done again
    at: float  # when its last run ended, by Redis' clock
    is_done: bool  # every run is final, and so is all that scores their models
    failed: tuple[Ended, ...]  # of the runs that it submitted first


class Record(NamedTuple):
    """Whether it is for the caller to tell a service, and what that was told: by name, each with its number then."""

    is_ours: bool
    told: dict[str, int]


class News:
    """The record of what services were told. A service is any name that tells it from others, without its secret."""

    def __init__(self, scripts: Scripts):
        self._scripts = scripts
        self._endings: tuple[str, list[Endings]] = "", []  # the mark of the last answer, and what it said

    def endings(self) -> list[Endings]:
        """How far each study is, at one instant. The runs are gone over only if one has moved since the last time."""
        before, known = self._endings
        mark, *found = self._scripts.call("endings", before)
        self._endings = mark, known if mark == before else [_read(*one) for one in found]
        return self._endings[1]

    def begin(self, service: str, token: str, seconds: float) -> Record:
        """Be the one who tells `service`, or go on to be, for `seconds`, unless another dispatcher is."""
        said, told = self._scripts.call("announcing", service, token, milliseconds(seconds))
        return Record(said == "ok", {name: int(number) for name, number in pairs(told)})

    def stop(self, service: str, token: str) -> None:
        """Leave `service` to others at once."""
        self._scripts.call("announcing", service, token, 0)

    def told(self, service: str, facts: Mapping[str, int], forget: Collection[str] = ()) -> None:
        """`service` has been told these facts; those to `forget` are news when they come again."""
        spelled = [part for fact in facts.items() for part in fact]
        self._scripts.call("announced", service, len(facts), *spelled, *forget)


def _read(study: str, number: str, at: str, is_done: str, failed: list[str]) -> Endings:
    runs = zip(failed[::3], failed[1::3], failed[2::3], strict=True)
    ended = tuple(Ended(run_id, int(epoch), read_seconds(at)) for run_id, epoch, at in runs)
    return Endings(study, int(number), read_seconds(at), is_done == "1", ended)
