"""The records of a study: the study as last submitted, what was imported into it, and its reference models."""

from pydantic import BaseModel

from farm.record import layout
from farm.record.format import Read, read_json
from farm.record.imported import Imported
from farm.record.reference import References
from farm.record.storage import Storage
from farm.study.recipe import canonical_json
from farm.study.schema import stamp
from farm.study.study import Study


class StudyRecords:
    """The studies of a storage."""

    def __init__(self, storage: Storage):
        self._storage, self._records = storage, storage.records

    def keep(self, study: Study) -> None:
        """Record a study, over an older one of that name."""
        self._records.put(layout.study(study.name), stamp(study.model_dump_json()).encode())

    def drop(self, study: str) -> None:
        """Remove the record of a study."""
        self._records.remove(layout.study(study))

    def all(self) -> tuple[dict[str, Study], list[str]]:
        """Every study that can be read, by name; and what is wrong with the others."""
        found, unread = self._all(layout.STUDIES, Study)
        return {study.name: study for study in found}, unread

    def imported(self, study: str) -> Imported:
        """The rows imported into a study.

        Raises: CheckpointInvalid: the record is damaged.
        """
        return self._storage.read(layout.imported(study), read_json(Imported)) or Imported(study=study)

    def keep_imported(self, imported: Imported) -> None:
        """Record what was imported into a study, over what was there; without any run, remove the record."""
        self._keep(layout.imported(imported.study), imported, bool(imported.runs))

    def all_imported(self) -> tuple[list[Imported], list[str]]:
        """The rows imported into each study, as far as they can be read; and what is wrong with the others."""
        return self._all(layout.IMPORTED, Imported)

    def references(self, study: str) -> References:
        """The reference models of a study.

        Raises: CheckpointInvalid: the record is damaged.
        """
        return self._storage.read(layout.references(study), read_json(References)) or References(study=study)

    def keep_references(self, references: References) -> None:
        """Record the reference models of a study, over what was there; without any, remove the record."""
        self._keep(layout.references(references.study), references, bool(references.models))

    def all_references(self) -> tuple[list[References], list[str]]:
        """The reference models of each study, as far as they can be read; and what is wrong with the others."""
        return self._all(layout.REFERENCES, References)

    def _keep(self, name: str, record: BaseModel, holds_something: bool) -> None:
        if holds_something:
            self._records.put(name, stamp(canonical_json(record)).encode())
        else:
            self._records.remove(name)

    def _all(self, folder: str, model: type[Read]) -> tuple[list[Read], list[str]]:
        return self._storage.readable([f"{folder}/{name}" for name in self._records.names(folder)], read_json(model))
