"""Run directories: what a run is, which attempts it had, what it reached, and its result, which is written once."""

import hashlib
from contextlib import suppress
from pathlib import Path

from farm.errors import CheckpointInvalid, Conflict, NotFound
from farm.files import storage_errors
from farm.record import energy, layout, ledger
from farm.record.format import as_json, as_recipe, as_record, is_torn, read_epoch, read_json, read_recipe, unless_torn
from farm.record.result import Result
from farm.record.storage import Storage
from farm.study.run import Attempt, Checkpoint, Run


class Runs:
    """The run directories of a storage."""

    def __init__(self, storage: Storage):
        self._storage, self._records = storage, storage.records

    def occupy(self, run_id: str, epoch: int, owner: str) -> int:
        """Have the folder of this epoch for `owner` alone. Returns 0, or the epoch that the directory holds
        and that bars it, which is this one or a later; then nothing was written.

        A Redis that was emptied, or restored from an older copy, hands out epochs again; so do two of one storage.
        """
        newest = max(self.epochs(run_id), default=0)
        name = layout.lease(run_id, epoch)
        content = as_json({"owner": owner})
        if newest > epoch or (newest == epoch and self._records.get(name) != content):
            return max(newest, epoch)
        if self._records.create(name, content) or self._records.get(name) == content:  # its answer may have got lost
            return 0
        return epoch

    def begin(self, run: Run, attempt: Attempt, study: str | None = None) -> Path:
        """Record that an attempt began, and the run if this is its first; returns the attempt's folder.

        Raises: Conflict: the directory is another run's, or that attempt is on record. StorageFull
        """
        recipe = layout.recipe(run.id)
        self._records.create(recipe, as_recipe(run, study))
        if self.run(run.id).digest != run.digest:
            raise Conflict(f"{self._storage.uri}/{recipe} belongs to another run.", remedy="Rename the arm.")
        name, content = layout.attempt_record(run.id, attempt.epoch), as_record(attempt)
        if not self._records.create(name, content) and self._records.get(name) != content:
            raise Conflict(f"{self._storage.uri}/{name} already exists and was kept.", remedy="Run: farm reindex")
        folder = self._storage.attempt_folder(run.id, attempt.epoch)
        if self._storage.bucket:
            with storage_errors(folder):
                folder.mkdir(parents=True, exist_ok=True)
        return folder

    def end(self, attempt: Attempt) -> None:
        """Record how an attempt ended.

        Raises: StorageFull
        """
        self._records.put(layout.attempt_record(attempt.run_id, attempt.epoch), as_record(attempt))

    def record(self, result: Result) -> None:
        """Write the result of a run, once; the same again is fine, and so is another in place of a withdrawn one.

        Raises: Conflict: another result is there. WorkerDied: no finished training can have produced it. StorageFull
        """
        result.check()
        name, content = layout.result(result.run_id), as_record(result)
        if self._records.create(name, content):
            return
        there = self.result(result.run_id)
        if there is None:
            self._records.put(name, content)
        elif there != result:
            raise Conflict(f"{self._storage.uri}/{name} already holds another result, which was kept.")

    def withdraw(self, run_id: str, epoch: int) -> None:
        """Record that a run was cancelled under this epoch; 0: before its first. What it recorded as its result until
        then does not count (Q8).

        Raises: StorageFull
        """
        name = layout.cancelled(run_id)
        with suppress(CheckpointInvalid):  # half a word is none
            epoch = max(epoch, self._storage.read(name, read_epoch) or 0)  # a Redis that was emptied may know less
        self._records.put(name, as_json({"epoch": epoch}))

    def forget(self, run_id: str, epoch: int, files: bool = False) -> None:
        """Record that a run was forgotten up to this epoch, so that no reindex brings it back. `files`: remove its
        directory, which then holds nothing but that word.

        Raises: StorageFull
        """
        if files:
            self._records.remove(layout.run(run_id))
        self._records.put(layout.forgotten(run_id), as_json({"epoch": epoch}))

    def remember(self, run_id: str) -> None:
        """Record that a forgotten run was submitted again: what its directory holds counts."""
        self._records.remove(layout.forgotten(run_id))

    def run(self, run_id: str) -> Run:
        """The run as its directory tells it.

        Raises: NotFound. CheckpointInvalid: recipe.toml is damaged.
        """
        if found := self.run_and_study(run_id):
            return found[0]
        raise NotFound(f"no run {run_id!r} in {self._storage.uri}.", remedy="See `farm runs`.")

    def run_and_study(self, run_id: str) -> tuple[Run, str | None] | None:
        """A run and the name of its study, or None where there is no directory of it."""
        return self._storage.read(layout.recipe(run_id), read_recipe)

    def ids(self) -> list[str]:
        """The ids of the runs that have a directory."""
        return [name for name in self._records.names(layout.RUNS) if layout.RUN_ID.fullmatch(name)]

    def result(self, run_id: str) -> Result | None:
        """The result of a run, or None while it has none that counts; one that is cut off is none.

        Raises: CheckpointInvalid: result.json is damaged, or cannot be that of its recipe.
        """
        found = self._storage.read(layout.result(run_id), unless_torn(_sound))
        return found if found and found.epoch > self.cancelled_epoch(run_id) else None

    def torn_result(self, run_id: str) -> str | None:
        """Where the run's result.json is, if that is cut off, as a copy or a mirror may leave it."""
        name = layout.result(run_id)
        return f"{self._storage.uri}/{name}" if is_torn((self._records.get(name) or b"{}").decode()) else None

    def attempts(self, run_id: str) -> list[Attempt]:
        """Every attempt that began, by epoch.

        Raises: CheckpointInvalid: one of them is damaged.
        """
        names = [layout.attempt_record(run_id, epoch) for epoch in self.epochs(run_id)]
        found = [self._storage.read(name, read_json(Attempt)) for name in names]
        return [attempt for attempt in found if attempt]

    def readable_attempts(self, run_id: str) -> tuple[list[Attempt], list[str]]:
        """Every attempt that began and whose record can be read, by epoch; and what is wrong with the others."""
        return self._storage.readable(
            [layout.attempt_record(run_id, epoch) for epoch in self.epochs(run_id)], read_json(Attempt)
        )

    def progress(self, attempt: Attempt) -> tuple[int, float]:
        """The step that an attempt had reached, and the seconds it took: one that was killed, those of its steps."""
        took = attempt.ended and attempt.ended - attempt.started
        if took is not None and attempt.step is not None:
            return attempt.step, took
        content = b""
        with suppress(CheckpointInvalid, OSError):  # a ledger that cannot be read says nothing
            content = self._records.get(f"{layout.attempt(attempt.run_id, attempt.epoch)}/{ledger.FILE}") or b""
        step, seconds = ledger.progress(content)
        return step, seconds if took is None else took

    def energy_used(self, attempt: Attempt, nodes: int) -> energy.Used | None:
        """The energy of an attempt on so many nodes; None where one of them has not told it. An attempt that did no
        step, and told none, used none that counts."""
        names = [f"{layout.attempt(attempt.run_id, attempt.epoch)}/{energy.file(node)}" for node in range(nodes)]
        found = []
        for name in names:
            with suppress(CheckpointInvalid, OSError):  # a file that cannot be read tells nothing
                found.append(energy.last(self._records.get(name) or b""))
        told = [one for one in found if one is not None]
        if len(told) < nodes:
            return energy.Used(seconds=0.0, joules=0.0, meter="none") if self.progress(attempt)[0] == 0 else None
        joules, seconds = sum(one.joules for one in told), max(one.seconds for one in told)
        return energy.Used(seconds=seconds, joules=joules, meter=told[0].meter)

    def cancelled_epoch(self, run_id: str) -> int:
        """The epoch up to which a run was cancelled; -1 if it never was."""
        found = self._storage.read(layout.cancelled(run_id), read_epoch)
        attempts = [past.epoch for past in self.readable_attempts(run_id)[0] if past.outcome == "cancelled"]
        return max([-1 if found is None else found, *attempts])

    def forgotten_epoch(self, run_id: str) -> int | None:
        """The epoch up to which a run was forgotten; None if it never was.

        Raises: CheckpointInvalid: the record of it is damaged.
        """
        return self._storage.read(layout.forgotten(run_id), read_epoch)

    def newest_checkpoint(self, run_id: str) -> Checkpoint | None:
        """The one of the highest step whose manifest is there; whether its files are whole is not looked at."""
        for step, epoch, name in self.checkpoints(run_id):
            if (manifest := self._records.get(f"{name}/{layout.MANIFEST}")) is not None:
                return Checkpoint(step=step, epoch=epoch, path=name, sha256=hashlib.sha256(manifest).hexdigest())
        return None

    def checkpoints(self, run_id: str) -> list[tuple[int, int, str]]:
        """Step, epoch and name of every checkpoint, whole or not, highest step first."""
        folders = [(epoch, layout.checkpoints(run_id, epoch)) for epoch in self.epochs(run_id)]
        found = [
            (layout.step_of(name), epoch, f"{folder}/{name}")
            for epoch, folder in folders
            for name in self._records.names(folder)
            if layout.STEP.fullmatch(name)
        ]
        return sorted(found, reverse=True)

    def epochs(self, run_id: str) -> list[int]:
        """The epochs of which the run directory holds a folder, the lowest first."""
        return sorted(int(name) for name in self._records.names(layout.run(run_id)) if name.isdecimal())


def _sound(text: str) -> Result:
    result = read_json(Result)(text)
    if result.faults:
        raise ValueError("; ".join(result.faults))
    return result
