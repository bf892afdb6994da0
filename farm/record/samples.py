"""The samples of the runs in a storage, which lie beside the ledgers of their attempts."""

from farm.record import layout, sample
from farm.record.runs import Runs
from farm.record.sample import Sample
from farm.record.storage import Storage


class SampleRecords:
    """The samples of all runs in a storage."""

    def __init__(self, storage: Storage, runs: Runs):
        self._records, self._runs = storage.records, runs

    def of(self, run_id: str) -> list[Sample]:
        """The samples of a run, each once, in the order of its steps. Empty where there is none.

        Raises: NotFound: not a run id. StorageUnusable, OSError: the storage cannot be read from here.
        """
        files = {}
        for epoch in self._runs.epochs(run_id):
            content = self._records.get(f"{layout.attempt(run_id, epoch)}/{sample.FILE}")
            if content and (file := sample.parse(content)):
                files[epoch] = file
        return sample.chain(files)
