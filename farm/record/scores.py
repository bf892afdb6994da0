"""Scores, which lie beside the result of their run, each with the values of its items."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from farm.errors import CheckpointInvalid, Conflict
from farm.record import layout
from farm.record.format import as_record, read_json, unless_torn
from farm.record.runs import Runs
from farm.record.score import Score, pack, sha256, unpack
from farm.record.storage import Storage

if TYPE_CHECKING:
    import numpy as np


class Scores:
    """The scores of the runs in a storage."""

    def __init__(self, storage: Storage, runs: Runs):
        self._storage, self._records, self._runs = storage, storage.records, runs

    def keep(self, score: Score, values: Sequence[float]) -> None:
        """Write a score of a run with the values of its items, once; the same again is fine, and so is one in place of
        a score that does not count: of other weights than the result's.

        Raises: Conflict: another score by that evaluation is there. StorageFull
        """
        content, record = pack(values), as_record(score)
        assert (sha256(content), len(values)) == (score.values, score.count), "these are the values of another score"
        self._records.create(f"{layout.scores(score.run_id)}/{_values(score)}", content)  # first: half a score is none
        place = f"{layout.scores(score.run_id)}/{score.file}.json"
        if self._records.create(place, record):
            return
        there = self._storage.read(place, unless_torn(read_json(Score)))
        if there == score:
            return
        result = self._runs.result(score.run_id)
        if there and result and there.weights == result.fingerprints.final:
            raise Conflict(f"{self._storage.uri}/{place} already holds another score, which was kept.")
        self._records.put(place, record)

    def of(self, run_id: str) -> tuple[list[Score], list[str]]:
        """The scores of a run that count, which are those of its result's weights, by evaluation; and what is wrong
        with records that cannot be read. One that is cut off is none.
        """
        places = [
            f"{layout.scores(run_id)}/{name}"
            for name in self._records.names(layout.scores(run_id))
            if name.endswith(".json")
        ]
        result = self._runs.result(run_id) if places else None
        if result is None:
            return [], []
        found, unread = self._storage.readable(places, unless_torn(read_json(Score)))
        return [one for one in found if one.weights == result.fingerprints.final], unread

    def values(self, score: Score) -> "np.ndarray":
        """The value of each item of a score, in their order, as float64.

        Raises: CheckpointInvalid: they are gone, or not those that the score was made from.
        """
        place = f"{layout.scores(score.run_id)}/{_values(score)}"
        content = self._records.get(place)
        try:
            if content is None or sha256(content) != score.values:
                raise ValueError("gone" if content is None else "its sha256 is not that in the score")
            return unpack(content)
        except ValueError as error:
            raise CheckpointInvalid(
                f"{self._storage.uri}/{place} is damaged: {error}.", remedy="Score the run again."
            ) from None


def _values(score: Score) -> str:
    """The name includes a hash of the content: two that score at once must not mix up their files."""
    return f"{score.file}.{score.values[:8]}.safetensors"
