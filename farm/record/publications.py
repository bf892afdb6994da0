"""Where the models of runs were published: a record beside the run for each repo."""

from farm.record import layout
from farm.record.format import as_record, read_json, unless_torn
from farm.record.publication import Publication
from farm.record.storage import Storage


class Publications:
    """The publications of the runs in a storage."""

    def __init__(self, storage: Storage):
        self._storage, self._records = storage, storage.records

    def keep(self, publication: Publication) -> None:
        """Record where a run was sent; the same commit again changes nothing.

        Raises: StorageFull
        """
        place = f"{layout.published(publication.run_id)}/{publication.file}.json"
        there, _ = self._storage.readable([place], _read)
        if [one.model_copy(update={"when": publication.when}) for one in there] != [publication]:
            self._records.put(place, as_record(publication))

    def of(self, run_id: str) -> tuple[list[Publication], list[str]]:
        """The publications of a run, by repo; and what is wrong with records that cannot be read."""
        folder = layout.published(run_id)
        names = [f"{folder}/{name}" for name in self._records.names(folder) if name.endswith(".json")]
        return self._storage.readable(names, _read)


_read = unless_torn(read_json(Publication))
