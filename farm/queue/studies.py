"""Facts about studies beside their runs: their files, imported losses, reference models, and what they spent."""

import hashlib
import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Literal, NoReturn

from farm.errors import NotFound, Unreadable, nearest
from farm.queue.scripts import Scripts
from farm.queue.spelling import milliseconds, read_imported, read_references, read_study
from farm.queue.unreadable import (
    UNREADABLE,
    Flaw,
    Said,
    readable,
    spoilt_import,
    spoilt_references,
    spoilt_study,
)
from farm.record.imported import Imported
from farm.record.reference import References
from farm.study.recipe import canonical_json
from farm.study.run import Policy
from farm.study.schema import stamp
from farm.study.study import Study


class Studies:
    """The studies of a farm, by name."""

    def __init__(self, scripts: Scripts):
        self._scripts = scripts

    def all(self) -> dict[str, Study]:
        """Every study as it was submitted last, by name."""
        found = readable(read_study, self._scripts.call("kept", "studies", "")[1::2])
        return {study.name: study for study in sorted(found, key=lambda study: study.name)}

    def has(self, name: str) -> bool:
        """Whether a study of this name was submitted, also one that cannot be read."""
        return bool(name and self._scripts.call("kept", "studies", name))

    def names(self) -> list[str]:
        """Every study's name, also of those that cannot be read."""
        return sorted(self._scripts.call("kept", "studies", "")[0::2])

    def edition(self, name: str) -> str:
        """The edition of a study that is stored now, '' for none: `since` of `Queue.put`. Read it before the study."""
        found = self._scripts.call("kept", "studies", name)
        return hashlib.sha1(found[1].encode()).hexdigest() if found else ""

    def limited(self) -> dict[str, Study]:
        """Those whose policy limits what they may spend, by name."""
        texts = self._scripts.call("kept", "studies", "")[1::2]
        found = readable(read_study, filter(_may_be_limited, texts))
        return {study.name: study for study in sorted(found, key=lambda study: study.name) if study.policy.is_limited}

    def one(self, name: str) -> Study:
        """The study as it was submitted last.

        Raises: NotFound: names the nearest. Unreadable
        """
        found = self.stored(name)
        if found is None:
            self.refuse_unknown(name)
        return found

    def refuse_unknown(self, name: str) -> NoReturn:
        raise NotFound(f"no study {name!r}{nearest(name, self.names())}", remedy="See `farm status`.")

    def stored(self, name: str) -> Study | None:
        """As `one`, None where there is no such study. Raises: Unreadable"""
        return study_of(name, self.text("studies", name))

    def text(self, which: Literal["studies", "imported", "references"], name: str) -> str | None:
        """What a study has of this kind, as Redis keeps it; None: nothing."""
        found = self._scripts.call("kept", which, name) if name else []
        return found[1] if found else None

    def bring(self, imported: Imported) -> None:
        """Keep what was imported into a study, over what was there; without any run, nothing."""
        self._scripts.call("keep", "imported", imported.study, stamp(canonical_json(imported)) if imported.runs else "")

    def imported(self, study: str) -> Imported:
        """The rows imported into a study: none into one that does not exist, or whose name no study could have.

        Raises: Unreadable
        """
        return imported_of(study, self.text("imported", study))

    def all_imported(self) -> dict[str, Imported]:
        """The imported rows of every study, by its name."""
        return {one.study: one for one in readable(read_imported, self._scripts.call("kept", "imported", "")[1::2])}

    def refer(self, references: References) -> None:
        """Keep the reference models of a study, over what was there; without any, nothing."""
        text = stamp(canonical_json(references)) if references.models else ""
        self._scripts.call("keep", "references", references.study, text)

    def references(self, study: str) -> References:
        """The reference models of a study.

        Raises: Unreadable
        """
        return references_of(study, self.text("references", study))

    def account(self, usd: Mapping[str, float], seconds: float) -> None:
        """A dispatcher has counted what studies have spent; believed for `seconds`."""
        self._scripts.call("account", json.dumps(dict(usd)), milliseconds(seconds))

    def dollars_spent(self) -> dict[str, float]:
        """Dollars by study, of those that have a limit, as a dispatcher counted lately; it knows every price."""
        return json.loads(self._scripts.call("spent") or "{}")


def study_of(name: str, text: str | None) -> Study | None:
    """Raises: Unreadable"""
    return _read(name, text, read_study, spoilt_study)


def imported_of(study: str, text: str | None) -> Imported:
    """Raises: Unreadable"""
    return _read(study, text, read_imported, spoilt_import) or Imported.model_construct(study=study)


def references_of(study: str, text: str | None) -> References:
    """Raises: Unreadable"""
    return _read(study, text, read_references, spoilt_references) or References.model_construct(study=study)


def _read(
    study: str, text: str | None, read: Callable[[str], Said], spoilt: Callable[[str, Exception], Flaw]
) -> Said | None:
    """What `text` of a study says; None where there is none. Raises: Unreadable"""
    try:
        return None if text is None else read(text)
    except UNREADABLE as error:
        raise Unreadable(str(spoilt(study, error))) from None


def _may_be_limited(text: str) -> bool:
    """Whether a study's policy limits it, or cannot be read. All else of a study takes 1 to 2 ms to read."""
    with suppress(*UNREADABLE):
        return Policy.model_validate(json.loads(text)["policy"]).is_limited
    return True
