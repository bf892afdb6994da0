"""Where the models of runs and the reports of studies were published: a record for each repo."""

from collections.abc import Callable
from typing import Any

from farm.record import layout
from farm.record.format import as_record, read_json, unless_torn
from farm.record.publication import Publication, PublishedReport
from farm.record.storage import Storage


class Publications:
    """The publications of a storage."""

    def __init__(self, storage: Storage):
        self._storage, self._records = storage, storage.records

    def keep(self, sent: Publication | PublishedReport) -> None:
        """Record where a run or a report was sent; the same commit again changes nothing.

        Raises: StorageFull
        """
        of_run = isinstance(sent, Publication)
        folder = layout.published(sent.run_id) if isinstance(sent, Publication) else layout.reported(sent.study)
        place = f"{folder}/{sent.file}.json"
        there, _ = self._storage.readable([place], _publication if of_run else _report)
        if [one.model_copy(update={"when": sent.when}) for one in there] != [sent]:
            self._records.put(place, as_record(sent))

    def of(self, run_id: str) -> tuple[list[Publication], list[str]]:
        """The publications of a run, by repo; and what is wrong with records that cannot be read."""
        return self._all(layout.published(run_id), _publication)

    def of_study(self, name: str) -> tuple[list[PublishedReport], list[str]]:
        """Likewise, those of the report of a study."""
        return self._all(layout.reported(name), _report)

    def _all(self, folder: str, read: Callable[[str], Any]) -> tuple[list[Any], list[str]]:
        names = [f"{folder}/{name}" for name in self._records.names(folder) if name.endswith(".json")]
        return self._storage.readable(names, read)


_publication, _report = unless_torn(read_json(Publication)), unless_torn(read_json(PublishedReport))
