"""What a new study trains on: the corpus that was named, else the best that lies in this folder, else a known one."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from cli.data.source import data_of
from cli.init.size import FINEWEB, is_enough
from farm.errors import BadCorpus
from farm.study.machine import Machine

if TYPE_CHECKING:
    from model.corpus.nearby import Corpus, Nearby

BUILTIN = "builtin:python-reference"
SHOWN = 8  # other corpora
MAKE = "for text of your own: farm data prepare TEXT tokens, then farm init --force"


class Taken(NamedTuple):
    """A corpus, why it is this one, and in words what else is there."""

    corpus: "Corpus"
    why: str
    others: list[str]


Ask = Callable[["Nearby", str], str | None]  # the nearby corpora and the default, in words -> what the person named


def take(named: str | None, field: str, machines: Sequence[Machine], cache: Path, ask: Ask | None = None) -> Taken:
    """The corpus that was `named`, or by `ask`; else the best in this folder; else FineWeb for GPUs, as the published
    runs, and Python's language reference for CPUs, as the demo. Nothing is fetched.

    Raises: BadCorpus, NotFound: no study could train on what was named, and what to do about it.
    """
    from model.corpus.nearby import nearby

    if named is not None:
        return _named(named, field, cache)
    there = nearby(Path.cwd())
    fallback = BUILTIN if all(machine.is_cpu for machine in machines) else FINEWEB
    if ask and (answer := ask(there, str(there.candidates[0].place) if there.candidates else fallback)):
        return _named(answer, field, cache)
    return _best(there, field, fallback, cache)


def _named(source: str, field: str, cache: Path) -> Taken:
    from model.corpus.nearby import examine

    data = data_of(source, "gpt2", field, None)
    return Taken(examine(data.source, cache, field), "as asked", [])


def _best(there: "Nearby", field: str, fallback: str, cache: Path) -> Taken:
    """The first corpus of this folder that a study can train on, and the others."""
    from model.corpus.nearby import examine

    taken, others = None, []
    for one in there.candidates:
        told = f"{one.place}: {one.told}"
        if taken is None:
            try:
                corpus = examine(str(one.place), cache, field)
            except BadCorpus as error:
                others.append(str(error))
                continue
            if is_enough(corpus):
                taken = Taken(corpus, _where(one.is_prepared), others)
                continue
            told += ", too few tokens"
        others.append(told)
    others += [f"{place}: text that is named after no split; farm data prepare {place} tokens" for place in there.raw]
    if len(others) > SHOWN:
        others[SHOWN:] = [f"{len(others) - SHOWN:,} more"]
    if taken:
        return taken
    whose = "what farm demo trains on" if fallback == BUILTIN else "what the published runs trained on"
    return Taken(examine(fallback, cache), f"{whose}, since no corpus lies in this folder; {MAKE}", others)


def _where(is_prepared: bool) -> str:
    return "the tokens that farm data prepare made" if is_prepared else "the best that lies in this folder"
