"""The store: every record of the farm, by kind. Redis is only the index: farm.reindex rebuilds it.

farm.record.layout says where each lies. A worker whose lease is gone writes only in its own epoch's folder. Training
always writes to a local folder. Where the storage is a bucket, that is a working copy of the same layout under `root`:
workers.attempt.mirror sends it up, and what others wrote is brought there when it is asked for.
"""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

from farm.errors import CheckpointInvalid
from farm.record import layout
from farm.record.bucket import PATIENT, Patience
from farm.record.copies import Copies
from farm.record.format import as_recipe
from farm.record.publications import Publications
from farm.record.result import Result
from farm.record.runs import Runs
from farm.record.samples import SampleRecords
from farm.record.scores import Scores
from farm.record.storage import Storage
from farm.record.studies import StudyRecords
from farm.study.run import Run


class Store(Storage):
    """A storage, with the records in it by kind."""

    def __init__(self, storage: Path | str, work: Path | None = None, patience: Patience = PATIENT):
        super().__init__(storage, work, patience)
        self.runs = Runs(self)
        self.scores = Scores(self, self.runs)
        self.samples = SampleRecords(self, self.runs)
        self.publications = Publications(self)
        self.studies = StudyRecords(self)
        self.copies = Copies(self, self.runs)

    def adopt(self, result: Result, run: Run, study: str) -> None:
        """Have a run that never trained keep the result that it adopted, since the run that trained it is forgotten."""
        self.records.create(layout.recipe(run.id), as_recipe(run, study))
        for score in self.scores.of(result.adopted or run.id)[0]:
            with suppress(CheckpointInvalid):  # what its items were worth is lost, and so is the score
                self.scores.keep(score.model_copy(update={"run_id": run.id}), self.scores.values(score).tolist())
        self.runs.record(result)


@contextmanager
def open_store(storage: Path | str) -> Iterator[Store]:
    """The storage, for brief reading: working copies from a bucket are removed at the end."""
    if isinstance(storage, Path):
        yield Store(storage)
    else:
        with TemporaryDirectory(prefix="farm-") as work:
            yield Store(storage, Path(work))
