"""Values in Redis that cannot be read: every reader skips them, and each is named with its remedy."""

import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import Any, TypeVar

from pydantic import ValidationError

from farm.errors import Unreadable, first_line, in_plain_words
from farm.queue.scripts import Scripts
from farm.queue.spelling import (
    FIELDS,
    StatusRow,
    pairs,
    read_imported,
    read_machine,
    read_node,
    read_references,
    read_score,
    read_status,
    read_study,
)
from farm.study.recipe import Frozen

UNREADABLE = (Unreadable, ValueError, TypeError, KeyError, AttributeError)  # ways in which a value is none of ours
Said = TypeVar("Said")


class Flaw(Frozen):
    """A value in Redis that cannot be read; every reader skips it."""

    what: str
    why: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.what}: {self.why.removesuffix('.')}. {self.remedy}"


def find_flaws(scripts: Scripts, *, of_ended: bool = True) -> list[Flaw]:
    """The values that cannot be read and are skipped, each with its remedy. `of_ended`: also the runs that are final,
    with their results and scores, which takes a second for every 2,000 of them, and studies of such runs alone.
    """
    found = [_aside(name, place) for name, place in pairs(scripts.call("aside"))]
    runs = scripts.at_once("statuses", "all" if of_ended else "open", "", FIELDS)
    busy = {StatusRow(*json.loads(text)).study for text in runs}
    kept: tuple[tuple[str, Callable[[str], object], Callable[[str, Exception], Flaw]], ...] = (
        ("studies", read_study, spoilt_study),
        ("imported", read_imported, spoilt_import),
        ("references", read_references, spoilt_references),
    )
    for which, read, spoilt in kept:
        for name, text in pairs(scripts.call("kept", which, "")):
            if of_ended or name in busy:
                found += [spoilt(name, error) for error in faults(read, text)]
    for text in runs:
        found += [spoilt_run(StatusRow(*json.loads(text)).id, error) for error in faults(read_status, text)]
    for run_id, texts in scripts.pages("scores", "all", "") if of_ended else ():
        found += [spoilt_score(run_id, error) for text in texts for error in faults(read_score, text)]
    for name, facts, probes, _ in scripts.call("machines"):
        found += [spoilt_machine(name, error) for error in faults(lambda pair: read_machine(*pair), (facts, probes))]
    for answer in scripts.call("roster"):
        found += [spoilt_node(error) for error in faults(read_node, answer)]
    return found


def readable(read: Callable[[Any], Said], said: Iterable[Any]) -> Iterator[Said]:
    """Yield those of Redis's replies that can be read; `find_flaws` names the rest."""
    for one in said:
        with suppress(*UNREADABLE):
            yield read(one)


def faults(read: Callable[[Any], object], said: Any) -> list[Exception]:
    try:
        read(said)
    except UNREADABLE as error:
        return [error]
    return []


def why(error: Exception) -> str:
    """Explain `error` in one line: of a model, the first field at fault."""
    if isinstance(error, ValidationError):
        fault = error.errors()[0]
        return f"{'.'.join(map(str, fault['loc'])) or 'it'}: {in_plain_words(fault['msg'])}"
    return f"{type(error).__name__}: {first_line(error)}"


def spoilt_study(name: str, error: Exception) -> Flaw:
    again = f"or drop it and submit its file again: farm forget {name}"
    return _flaw(f"study {name!r}", error, f"Bring it back from the storage: farm reindex; {again}")


def spoilt_import(name: str, error: Exception) -> Flaw:
    return _flaw(f"what was imported into {name!r}", error, "Import it again, or run: farm reindex")


def spoilt_references(name: str, error: Exception) -> Flaw:
    return _flaw(f"a reference model of {name!r}", error, "Bring them back from the storage: farm reindex")


def spoilt_run(run_id: str, error: Exception) -> Flaw:
    return _flaw(f"run {run_id}", error, f"Drop it with: farm forget {run_id}; then submit its study again.")


def spoilt_score(run_id: str, error: Exception) -> Flaw:
    return _flaw(f"a score of {run_id}", error, "Bring it back from its directory: farm reindex.")


def spoilt_machine(name: str, error: Exception) -> Flaw:
    return _flaw(f"machine class {name!r}", error, "A node that offers it rewrites it within 10 s.")


def spoilt_node(error: Exception) -> Flaw:
    return _flaw("a node", error, "A dispatcher rewrites it within 5 s: is one up?")


def _aside(name: str, place: str) -> Flaw:
    remedy = f"Lists are rebuilt from the runs, lost runs by farm reindex. Then remove it: redis-cli DEL {place}"
    return Flaw(what=f"key {name}", why=f"had the wrong type and was moved to {place}", remedy=remedy)


def _flaw(what: str, error: Exception, remedy: str) -> Flaw:
    """A flaw with its remedy. A record of a newer farm is not spoilt, and has a remedy of its own."""
    newer = error.remedy if isinstance(error, Unreadable) else None
    return Flaw(what=what, why=error.message if isinstance(error, Unreadable) else why(error), remedy=newer or remedy)
