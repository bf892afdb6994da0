"""The run directory, which is the record. Redis is only the index: farm.reindex rebuilds it.

    <storage>/.farm-storage                  the storage's own name, random, written once
    <storage>/.farm-index                    the name of the Redis that is its index: two farms must not share one
    <storage>/studies/<name>.json            the study as it was submitted last
    <storage>/imported/<name>.json           the losses that were imported into the study
    <storage>/references/<name>.json         the reference models that were scored for the study
    <storage>/runs/<id>/recipe.toml          the run, written once
    <storage>/runs/<id>/result.json          its result, created exclusively, never changed
    <storage>/runs/<id>/scores/              what its model is worth, a file an evaluation, created exclusively; beside
                                             each the values of its items, as safetensors
    <storage>/runs/<id>/forgotten.json       up to which epoch it was forgotten: no reindex brings those back
    <storage>/runs/<id>/cancelled.json       up to which epoch it was cancelled: a result of those does not count
    <storage>/runs/<id>/<epoch>/             one attempt: attempt.json ledger.jsonl log.txt checkpoints/step-00000040/
    <storage>/runs/<id>/<epoch>/lease.json   whose attempt it is, created exclusively before all else

The storage is a folder that every node sees, or a bucket. A worker whose lease is gone writes only in its own epoch's
folder. Training always writes to a local folder. Where the storage is a bucket, that is a working copy of the same
layout under `root`: workers.attempt.mirror sends it up, and what others wrote is brought there when it is asked for.
"""

import hashlib
import json
import re
import secrets
import shutil
import time
import tomllib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import tomli_w
from pydantic import BaseModel, ValidationError

from farm.errors import CheckpointInvalid, Conflict, NotFound, StorageUnusable, Unreadable, first_line
from farm.files import storage_errors
from farm.record import energy, ledger
from farm.record.bucket import PATIENT, Bucket, Patience
from farm.record.folder import Folder
from farm.record.imported import Imported
from farm.record.ledger import Ledgers, Line
from farm.record.reference import References
from farm.record.result import Result
from farm.record.score import Score, packed, sha256, unpacked
from farm.study.recipe import canonical_json
from farm.study.run import Attempt, Checkpoint, Run
from farm.study.schema import SCHEMA, check, stamped, unstamped
from farm.study.study import Study

if TYPE_CHECKING:
    import numpy as np

RUN_ID = re.compile(r"[a-z0-9][a-z0-9._-]{0,250}")
STEP = re.compile(r"step-(\d{8,})")
LOG = "log.txt"
CANCELLED, FORGOTTEN = "cancelled.json", "forgotten.json"
STALE_SECONDS = 86400.0
MARKER, INDEX, LEASE = ".farm-storage", ".farm-index", "lease.json"

Read = TypeVar("Read", bound=BaseModel)


class Records(Protocol):
    """What a storage must do: keep records by name, each there in full or not at all."""

    @property
    def uri(self) -> str: ...
    def get(self, name: str) -> bytes | None: ...
    def put(self, name: str, content: bytes) -> None: ...
    def create(self, name: str, content: bytes) -> bool: ...
    def remove(self, name: str) -> None: ...
    def names(self, folder: str) -> list[str]: ...
    def check(self) -> None: ...


class Store:
    """The storage that every node reaches: a folder, or the URI of a bucket with a local folder `work`."""

    def __init__(self, storage: Path | str, work: Path | None = None, patience: Patience = PATIENT):
        self.bucket = Bucket(storage, patience) if isinstance(storage, str) and "://" in storage else None
        self.records: Records = self.bucket or Folder(Path(storage))
        if self.bucket:
            self._root = work and work / self.bucket.bucket / self.bucket.prefix
        else:
            self._root = Path(storage)

    @property
    def root(self) -> Path:
        """The local folder that is laid out like the storage, or is it."""
        assert self._root, "a bucket needs a working folder"
        return self._root

    @property
    def uri(self) -> str:
        """What FARM_STORAGE says."""
        return self.records.uri

    @property
    def is_local(self) -> bool:
        """Whether this machine sees a storage folder. False for a bucket, which needs credentials to be asked."""
        return self.bucket is None and self.root.is_dir()

    def place(self, run_id: str) -> str:
        """Where the record of a run is, for people."""
        return f"{self.uri}/{_of(run_id)}"

    def folder(self, run_id: str) -> Path:
        """The run's local directory, there or not.

        Raises: NotFound: not a run id.
        """
        return self.root / _of(run_id)

    def attempt_folder(self, run_id: str, epoch: int) -> Path:
        """The directory that only the holder of this epoch writes in."""
        return self.folder(run_id) / str(epoch)

    def path(self, relative: str) -> Path:
        """A path as checkpoints and results name it.

        Raises: CheckpointInvalid: it leads out of the storage root.
        """
        path = (self.root / relative).resolve()
        if not path.is_relative_to(self.root.resolve()):
            raise CheckpointInvalid(f"{relative!r} lies outside the storage root {self.root}.")
        return path

    def check(self) -> None:
        """Make sure that records can be written here, by writing one; and, for a bucket, working copies of them.

        Raises: StorageFull. StorageUnusable: says why not, and what to do.
        """
        self.records.check()
        if self.bucket and self._root:
            try:
                Folder(self._root).check()
            except StorageUnusable as error:
                raise StorageUnusable(error.message, remedy="Set FARM_HOME to a folder that can be written.") from None

    def mark(self) -> str:
        """The storage's own name, the same on every node that reaches it; whoever asks first gives it one.

        Raises: StorageFull
        """
        self.records.create(MARKER, secrets.token_hex(8).encode())
        return self.marker() or ""

    def marker(self) -> str | None:
        """The storage's own name; None if it never got one: perhaps a folder where nothing is mounted."""
        content = self.records.get(MARKER)
        return None if content is None else content.decode().strip()

    def indexer(self) -> str | None:
        """The name of the Redis that took this storage for its own last; None before any did."""
        content = self.records.get(INDEX)
        return None if content is None else content.decode().strip()

    def take(self, redis: str) -> None:
        """Record that the Redis of this name is the index from now on; another that was starts no run any more."""
        self.records.put(INDEX, redis.encode())

    def has_records(self) -> bool:
        """Whether a farm ever wrote here."""
        return any(self.records.names(folder) for folder in ("runs", "studies", "imported", "references"))

    def occupy(self, run_id: str, epoch: int, owner: str) -> int:
        """Have the folder of this epoch for `owner` alone. Returns 0, or the epoch that the directory holds
        and that bars it, which is this one or a later; then nothing was written.

        A Redis that was emptied, or restored from an older copy, hands out epochs again; so do two of one storage.
        """
        newest = max(self.epochs(run_id), default=0)
        name = f"{_of(run_id)}/{epoch}/{LEASE}"
        content = _json({"owner": owner})
        if newest > epoch or (newest == epoch and self.records.get(name) != content):
            return max(newest, epoch)
        if self.records.create(name, content) or self.records.get(name) == content:  # its answer may have got lost
            return 0
        return epoch

    def brought(self, relative: str) -> Path:
        """A folder of the storage, such as a checkpoint's, on this machine.

        Raises: CheckpointInvalid: it leads out of the storage root. StorageUnusable. StorageFull
        """
        self.path(relative)
        path = self.root / relative
        if self.bucket:
            shutil.rmtree(path, ignore_errors=True)
            found = {entry.name.removeprefix(f"{relative}/"): entry for entry in self.bucket.objects(relative)}
            if "manifest.json" in found:  # else it never was complete
                for name in sorted(found):
                    if "/" not in name:
                        self.bucket.download(found[name], path / name)
        return path

    def checkpoints(self, run_id: str) -> Iterator[Path]:
        """The folders of a run's checkpoints, highest step first, each brought to this machine when it is asked for."""
        for _, _, name in self.saved(run_id):
            with suppress(CheckpointInvalid):
                yield self.brought(name)

    def lines(self, run_id: str) -> list[Line]:
        """Every step of the run as the storage knows it.

        Raises: as ledger.read
        """
        return self.ledgers(run_id).newest()

    def ledgers(self, run_id: str) -> Ledgers:
        """The ledgers of the run's attempts that the storage has, brought to this machine."""
        self.bring(run_id, ledger.FILE)
        kept = set(self.epochs(run_id))  # a copy of what the storage lost is no record
        found = ledger.files(self.folder(run_id))
        return Ledgers({epoch: path for epoch, path in found.items() if epoch in kept})

    def log(self, run_id: str, epoch: int) -> Path | None:
        """What an attempt printed so far, if it is on record.

        Raises: CheckpointInvalid: it leads out of the storage root.
        """
        path = self.attempt_folder(run_id, epoch) / LOG
        self._bring(f"{_of(run_id)}/{epoch}", LOG)
        self.path(str(path.relative_to(self.root)))
        return path if path.exists() else None

    def bring(self, run_id: str, file: str) -> None:
        """See to it that this machine has `file` of every attempt; one that grows comes again when it has grown."""
        if self.bucket:
            for epoch in self.epochs(run_id):
                self._bring(f"{_of(run_id)}/{epoch}", file)

    def _bring(self, folder: str, file: str) -> None:
        if self.bucket and (found := self.bucket.find(f"{folder}/{file}")):
            path = self.root / folder / file
            if not path.exists() or path.stat().st_size < found.bytes:
                self.bucket.download(found, path)

    def forget_copies(self, run_id: str, epoch: int) -> None:
        """Remove the working copies of a run's attempts up to `epoch`; the records in the bucket stay."""
        if self.bucket and self.folder(run_id).is_dir():
            for copy in self.folder(run_id).iterdir():
                if copy.name.isdecimal() and int(copy.name) <= epoch:
                    shutil.rmtree(copy, ignore_errors=True)

    def forget_stale_copies(self) -> None:
        """Remove the working copies that nobody has written to for a day: of attempts that were killed here."""
        newest = time.time() - STALE_SECONDS
        for copy in (self.root / "runs").glob("*") if self.bucket else ():
            with suppress(FileNotFoundError):  # another agent removes it right now
                files = [copy, *copy.glob("*"), *copy.glob(f"*/{ledger.FILE}")]
                if all(path.stat().st_mtime < newest for path in files):
                    shutil.rmtree(copy, ignore_errors=True)

    def keep(self, study: Study) -> None:
        """Record a study, over an older one of that name."""
        self.records.put(_study(study.name), stamped(study.model_dump_json()).encode())

    def keep_imported(self, imported: Imported) -> None:
        """Record what was imported into a study, over what was there; without any run, remove the record."""
        self._keep(_of_import(imported.study), imported, bool(imported.runs))

    def imported(self, study: str) -> Imported:
        """What was imported into a study.

        Raises: CheckpointInvalid: the record is damaged.
        """
        return self._parsed(_of_import(study), read_json(Imported)) or Imported(study=study)

    def keep_references(self, references: References) -> None:
        """Record the reference models of a study, over what was there; without any, remove the record."""
        self._keep(_of_references(references.study), references, bool(references.models))

    def references(self, study: str) -> References:
        """The reference models of a study.

        Raises: CheckpointInvalid: the record is damaged.
        """
        return self._parsed(_of_references(study), read_json(References)) or References(study=study)

    def _keep(self, name: str, record: BaseModel, holds_something: bool) -> None:
        if holds_something:
            self.records.put(name, stamped(canonical_json(record)).encode())
        else:
            self.records.remove(name)

    def begin(self, run: Run, attempt: Attempt, study: str | None = None) -> Path:
        """Record that an attempt began, and the run if this is its first; returns the attempt's folder.

        Raises: Conflict: the directory is another run's, or that attempt is on record. StorageFull
        """
        recipe = f"{_of(run.id)}/recipe.toml"
        self.records.create(recipe, _recipe(run, study))
        if self.run(run.id).digest != run.digest:
            raise Conflict(f"{self.uri}/{recipe} is of another run.", remedy="Rename the arm.")
        name, content = _attempt(run.id, attempt.epoch), _attempt_text(attempt)
        if not self.records.create(name, content) and self.records.get(name) != content:
            raise Conflict(f"{self.uri}/{name} is there already: it stays.", remedy="Run: farm reindex")
        folder = self.attempt_folder(run.id, attempt.epoch)
        if self.bucket:
            with storage_errors(folder):
                folder.mkdir(parents=True, exist_ok=True)
        return folder

    def end(self, attempt: Attempt) -> None:
        """Record what became of an attempt.

        Raises: StorageFull
        """
        self.records.put(_attempt(attempt.run_id, attempt.epoch), _attempt_text(attempt))

    def record(self, result: Result) -> None:
        """Write the result of a run, once; the same again is fine, and so is another in place of a withdrawn one.

        Raises: Conflict: another result is there. WorkerDied: no finished training can have had it. StorageFull
        """
        result.check()
        name, content = _result(result.run_id), _json({"schema": SCHEMA} | result.model_dump(mode="json"))
        if self.records.create(name, content):
            return
        there = self.result(result.run_id)
        if there is None:
            self.records.put(name, content)
        elif there != result:
            raise Conflict(f"{self.uri}/{name} holds another result already: it stays.")

    def keep_score(self, score: Score, values: Sequence[float]) -> None:
        """Write a score of a run with the values of its items, once; the same again is fine, and so is one in place of
        a score that does not count: of other weights than the result's.

        Raises: Conflict: another score by that evaluation is there. StorageFull
        """
        content, record = packed(values), _json({"schema": SCHEMA} | score.model_dump(mode="json"))
        assert (sha256(content), len(values)) == (score.values, score.count), "these are the values of another score"
        self.records.create(f"{_scores(score.run_id)}/{_values(score)}", content)  # first: half a score is none
        place = f"{_scores(score.run_id)}/{score.file}.json"
        if self.records.create(place, record):
            return
        there = self._parsed(place, _unless_torn(read_json(Score)))
        if there == score:
            return
        result = self.result(score.run_id)
        if there and result and there.weights == result.fingerprints.final:
            raise Conflict(f"{self.uri}/{place} holds another score already: it stays.")
        self.records.put(place, record)

    def scores(self, run_id: str) -> tuple[list[Score], list[str]]:
        """The scores of a run that count, which are those of its result's weights, by evaluation; and what is wrong
        with records that cannot be read. One that is cut off is none.
        """
        places = [f"{_scores(run_id)}/{name}" for name in self.records.names(_scores(run_id)) if name.endswith(".json")]
        result = self.result(run_id) if places else None
        if result is None:
            return [], []
        found, unread = self._readable(places, _unless_torn(read_json(Score)))
        return [one for one in found if one.weights == result.fingerprints.final], unread

    def values(self, score: Score) -> "np.ndarray":
        """The value of each item of a score, in their order, as float64.

        Raises: CheckpointInvalid: they are gone, or not those that the score was made from.
        """
        place = f"{_scores(score.run_id)}/{_values(score)}"
        content = self.records.get(place)
        try:
            if content is None or sha256(content) != score.values:
                raise ValueError("gone" if content is None else "its sha256 is not that in the score")
            return unpacked(content)
        except ValueError as error:
            raise CheckpointInvalid(f"{self.uri}/{place} is damaged: {error}.", remedy="Score the run again.") from None

    def withdraw(self, run_id: str, epoch: int) -> None:
        """Record that a run was cancelled under this epoch; 0: before its first. What it recorded as its result until
        then does not count (Q8).

        Raises: StorageFull
        """
        name = f"{_of(run_id)}/{CANCELLED}"
        with suppress(CheckpointInvalid):  # half a word is none
            epoch = max(epoch, self._parsed(name, _epoch) or 0)  # a Redis that was emptied may know less
        self.records.put(name, _json({"epoch": epoch}))

    def forget(self, run_id: str, epoch: int, files: bool = False) -> None:
        """Record that a run was forgotten up to this epoch, so that no reindex brings it back. `files`: remove its
        directory, which then holds nothing but that word.

        Raises: StorageFull
        """
        if files:
            self.records.remove(_of(run_id))
        self.records.put(f"{_of(run_id)}/{FORGOTTEN}", _json({"epoch": epoch}))

    def remember(self, run_id: str) -> None:
        """A run that was forgotten was submitted again: what its directory holds counts."""
        self.records.remove(f"{_of(run_id)}/{FORGOTTEN}")

    def drop(self, study: str) -> None:
        """Remove the record of a study."""
        self.records.remove(_study(study))

    def adopt(self, result: Result, run: Run, study: str) -> None:
        """Have a run that never trained keep the result that it adopted, since the run that trained it is forgotten."""
        self.records.create(f"{_of(run.id)}/recipe.toml", _recipe(run, study))
        for score in self.scores(result.adopted or run.id)[0]:
            with suppress(CheckpointInvalid):  # what its items were worth is lost, and so is the score
                self.keep_score(score.model_copy(update={"run_id": run.id}), self.values(score).tolist())
        self.record(result)

    def run(self, run_id: str) -> Run:
        """The run as its directory tells it.

        Raises: NotFound. CheckpointInvalid: recipe.toml is damaged.
        """
        if found := self.run_and_study(run_id):
            return found[0]
        raise NotFound(f"no run {run_id!r} in {self.uri}.", remedy="See `farm runs`.")

    def result(self, run_id: str) -> Result | None:
        """The result of a run, or None while it has none that counts; one that is cut off is none.

        Raises: CheckpointInvalid: result.json is damaged, or cannot be that of its recipe.
        """
        found = self._parsed(_result(run_id), _unless_torn(_sound))
        return found if found and found.epoch > self.cancelled(run_id) else None

    def attempts(self, run_id: str) -> list[Attempt]:
        """Every attempt that began, by epoch.

        Raises: CheckpointInvalid: one of them is damaged.
        """
        names = [_attempt(run_id, epoch) for epoch in self.epochs(run_id)]
        found = [self._parsed(name, read_json(Attempt)) for name in names]
        return [attempt for attempt in found if attempt]

    def readable_attempts(self, run_id: str) -> tuple[list[Attempt], list[str]]:
        """Every attempt that began and whose record can be read, by epoch; and what is wrong with the others."""
        return self._readable([_attempt(run_id, epoch) for epoch in self.epochs(run_id)], read_json(Attempt))

    def reached(self, attempt: Attempt) -> tuple[int, float]:
        """The step that an attempt had reached, and the seconds it took: one that was killed, those of its steps."""
        took = attempt.ended and attempt.ended - attempt.started
        if took is not None and attempt.step is not None:
            return attempt.step, took
        content = b""
        with suppress(CheckpointInvalid, OSError):  # a ledger that cannot be read says nothing
            content = self.records.get(f"{_of(attempt.run_id)}/{attempt.epoch}/{ledger.FILE}") or b""
        step, seconds = ledger.reached(content)
        return step, seconds if took is None else took

    def used(self, attempt: Attempt, nodes: int) -> energy.Used | None:
        """The energy of an attempt on so many nodes; None where one of them has not told it. An attempt that did no
        step, and told none, used none that counts."""
        names = [f"{_of(attempt.run_id)}/{attempt.epoch}/{energy.file(node)}" for node in range(nodes)]
        found = []
        for name in names:
            with suppress(CheckpointInvalid, OSError):  # a file that cannot be read tells nothing
                found.append(energy.last(self.records.get(name) or b""))
        told = [one for one in found if one is not None]
        if len(told) < nodes:
            return energy.Used(seconds=0.0, joules=0.0, meter="none") if self.reached(attempt)[0] == 0 else None
        joules, seconds = sum(one.joules for one in told), max(one.seconds for one in told)
        return energy.Used(seconds=seconds, joules=joules, meter=told[0].meter)

    def begun(self) -> list[str]:
        """The ids of the runs that have a directory."""
        return [name for name in self.records.names("runs") if RUN_ID.fullmatch(name)]

    def runs(self) -> list[Run]:
        """Every run that has a directory, by id."""
        return [found[0] for name in self.begun() if (found := self.run_and_study(name))]

    def all_imported(self) -> tuple[list[Imported], list[str]]:
        """What was imported into each study, as far as it can be read; and what is wrong with the others."""
        return self._all("imported", Imported)

    def all_references(self) -> tuple[list[References], list[str]]:
        """The reference models of each study, as far as they can be read; and what is wrong with the others."""
        return self._all("references", References)

    def studies(self) -> tuple[dict[str, Study], list[str]]:
        """Every study that can be read, by name; and what is wrong with the others."""
        found, unread = self._all("studies", Study)
        return {study.name: study for study in found}, unread

    def _all(self, folder: str, model: type[Read]) -> tuple[list[Read], list[str]]:
        return self._readable([f"{folder}/{name}" for name in self.records.names(folder)], read_json(model))

    def forgotten(self, run_id: str) -> int | None:
        """The epoch up to which a run was forgotten; None if it never was.

        Raises: CheckpointInvalid: the record of it is damaged.
        """
        return self._parsed(f"{_of(run_id)}/{FORGOTTEN}", _epoch)

    def torn(self, run_id: str) -> str | None:
        """Where the run's result.json is, if that is cut off, as a copy or a mirror may leave it."""
        name = _result(run_id)
        return f"{self.uri}/{name}" if _is_torn((self.records.get(name) or b"{}").decode()) else None

    def cancelled(self, run_id: str) -> int:
        """The epoch up to which a run was cancelled; -1 if it never was."""
        found = self._parsed(f"{_of(run_id)}/{CANCELLED}", _epoch)
        attempts = [past.epoch for past in self.readable_attempts(run_id)[0] if past.outcome == "cancelled"]
        return max([-1 if found is None else found, *attempts])

    def newest_checkpoint(self, run_id: str) -> Checkpoint | None:
        """The one of the highest step whose manifest is there; whether its files are whole is not looked at."""
        for step, epoch, name in self.saved(run_id):
            if (manifest := self.records.get(f"{name}/manifest.json")) is not None:
                return Checkpoint(step=step, epoch=epoch, path=name, sha256=hashlib.sha256(manifest).hexdigest())
        return None

    def saved(self, run_id: str) -> list[tuple[int, int, str]]:
        """Step, epoch and name of every checkpoint, whole or not, highest step first."""
        folders = [(epoch, f"{_of(run_id)}/{epoch}/checkpoints") for epoch in self.epochs(run_id)]
        found = [
            (int(match[1]), epoch, f"{folder}/{name}")
            for epoch, folder in folders
            for name in self.records.names(folder)
            if (match := STEP.fullmatch(name))
        ]
        return sorted(found, reverse=True)

    def epochs(self, run_id: str) -> list[int]:
        """The epochs of which the run directory holds a folder, the lowest first."""
        return sorted(int(name) for name in self.records.names(_of(run_id)) if name.isdecimal())

    def run_and_study(self, run_id: str) -> tuple[Run, str | None] | None:
        """A run and the name of its study, or None where there is no directory of it."""

        def read(text: str) -> tuple[Run, str | None]:
            table = tomllib.loads(text)
            check(table.pop("schema", SCHEMA))
            study = table.pop("study", None)
            return Run.model_validate(table), study

        return self._parsed(f"{_of(run_id)}/recipe.toml", read)

    def _readable(self, names: Iterable[str], read: Callable[[str], Any]) -> tuple[list[Any], list[str]]:
        """The records of these names that are there and can be read; and what is wrong with the others."""
        found, unread = [], []
        for name in names:
            try:
                found.append(self._parsed(name, read))
            except (CheckpointInvalid, OSError) as error:
                unread.append(told(error))
        return [one for one in found if one is not None], unread

    def _parsed(self, name: str, read: Any) -> Any:
        """A record as `read` understands it, or None where there is none."""
        content = self.records.get(name)
        try:
            return None if content is None else read(content.decode())
        except Unreadable as newer:
            raise CheckpointInvalid(f"{self.uri}/{name}: {newer.message}", remedy=newer.remedy) from None
        except (ValidationError, ValueError, TypeError, KeyError) as error:
            why = first_line(error)
            raise CheckpointInvalid(f"{self.uri}/{name} is damaged: {why}.", remedy="Restore it.") from None


@contextmanager
def opened(storage: Path | str) -> Iterator[Store]:
    """The storage, for who reads a little of it: copies of what lies in a bucket are gone at the end."""
    if isinstance(storage, Path):
        yield Store(storage)
    else:
        with TemporaryDirectory(prefix="farm-") as work:
            yield Store(storage, Path(work))


def read_json(model: type[Read]) -> Callable[[str], Read]:
    """How to read a record that is a `model` in JSON, behind its schema."""
    return lambda text: model.model_validate_json(unstamped(text))


def _recipe(run: Run, study: str | None) -> bytes:
    return tomli_w.dumps(_without_none({"schema": SCHEMA, "study": study} | run.model_dump(mode="json"))).encode()


def _study(name: str) -> str:
    return f"studies/{name}.json"


def _sound(text: str) -> Result:
    result = read_json(Result)(text)
    if result.faults:
        raise ValueError("; ".join(result.faults))
    return result


def _of_import(study: str) -> str:
    return f"imported/{study}.json"


def _of_references(study: str) -> str:
    return f"references/{study}.json"


def _result(run_id: str) -> str:
    return f"{_of(run_id)}/result.json"


def _scores(run_id: str) -> str:
    return f"{_of(run_id)}/scores"


def _values(score: Score) -> str:
    """Named by what is in it too: two who score at once must not mix theirs up."""
    return f"{score.file}.{score.values[:8]}.safetensors"


def _of(run_id: str) -> str:
    """Raises: NotFound: not a run id."""
    if not RUN_ID.fullmatch(run_id):
        raise NotFound(f"{run_id!r} is not a run id.", remedy="See `farm runs`.")
    return f"runs/{run_id}"


def _attempt(run_id: str, epoch: int) -> str:
    return f"{_of(run_id)}/{epoch}/attempt.json"


def _attempt_text(attempt: Attempt) -> bytes:
    return _json({"schema": SCHEMA} | attempt.model_dump(mode="json"))


def _is_torn(text: str) -> bool:
    """Whether a record is cut off, as a copy or a mirror may leave it: farm writes it whole."""
    try:
        json.loads(text)
    except ValueError:
        return True
    return False


def _unless_torn(read: Callable[[str], Read]) -> Callable[[str], Read | None]:
    """How to read a record that is none while it is cut off."""
    return lambda text: None if _is_torn(text) else read(text)


def _epoch(text: str) -> int:
    return int(json.loads(text)["epoch"])


def told(error: Exception) -> str:
    if isinstance(error, OSError):
        return f"{error.filename}: {error.strerror}. See to it that it can be read, and reindex again."
    return str(error)


def _json(content: dict[str, Any]) -> bytes:
    return (json.dumps(content, indent=2, allow_nan=False) + "\n").encode()


def _without_none(table: dict[str, Any]) -> dict[str, Any]:
    """`table` as TOML can say it: None is left out, as everywhere it means the same as saying nothing."""
    told = {key: value for key, value in table.items() if value is not None}
    return {key: _without_none(value) if isinstance(value, dict) else value for key, value in told.items()}
