"""The run directory, which is the record. Redis is only the index: `Store.reindex` rebuilds it.

    <root>/.farm-storage                  the storage's own name, random, written once
    <root>/studies/<name>.json            the study as it was submitted last
    <root>/runs/<id>/recipe.toml          the run, written once
    <root>/runs/<id>/result.json          its result, created exclusively, never changed
    <root>/runs/<id>/<epoch>/             one attempt: attempt.json ledger.jsonl log.txt checkpoints/step-00000040/

Files are written under another name, flushed and renamed, so that a reader never sees half of one. A worker whose
lease is gone writes only in its own epoch's folder.
"""

import hashlib
import json
import os
import re
import secrets
import tomllib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from farm.errors import CheckpointInvalid, Conflict, FarmError, NotFound
from farm.ledger import storage_errors
from farm.queue import Cause, Queue
from farm.recipe import canonical_json
from farm.result import Result
from farm.run import Attempt, Checkpoint, Run, State
from farm.study import Study

RUN_ID = re.compile(r"[a-z0-9][a-z0-9._-]{0,250}")
MARKER = ".farm-storage"
ORPHANS = "reindexed"  # the study of runs whose directories name none
COUNTED = ("failed", "lost")  # outcomes that cost an attempt


class Store:
    """The storage root that every node sees."""

    def __init__(self, root: Path):
        self.root = root

    def folder(self, run_id: str) -> Path:
        """The run's directory, there or not.

        Raises: NotFound: not a run id.
        """
        if not RUN_ID.fullmatch(run_id):
            raise NotFound(f"{run_id!r} is not a run id.", remedy="See `farm runs`.")
        return self.root / "runs" / run_id

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
        """Make sure that records can be written here, by writing one.

        Raises: StorageFull. FarmError: says why not, and what to do.
        """
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            probe = self.root / f".check-{secrets.token_hex(4)}"
            _create(probe, b"farm")
            probe.unlink()
        except OSError as error:
            raise FarmError(
                f"the storage {self.root} cannot hold records: {error.strerror}.",
                remedy="Set FARM_STORAGE to a folder that every node may write, on a file system with hard links.",
            ) from None

    def mark(self) -> str:
        """The storage's own name, the same on every node that sees it; whoever asks first gives it one.

        Raises: StorageFull
        """
        with suppress(FileExistsError):
            _create(self.root / MARKER, secrets.token_hex(8).encode())
        return self.marker() or ""

    def marker(self) -> str | None:
        """The storage's own name; None if it never got one."""
        try:
            return (self.root / MARKER).read_text().strip()
        except (FileNotFoundError, NotADirectoryError):
            return None

    def keep(self, study: Study) -> None:
        """Record a study, over an older one of that name."""
        folder = _made(self.root / "studies")
        _replace(folder / f"{study.name}.json", canonical_json(study).encode())

    def begin(self, run: Run, attempt: Attempt, study: str | None = None) -> Path:
        """Record that an attempt began, and the run if this is its first; returns the attempt's folder.

        Raises: Conflict: the directory is another run's. StorageFull
        """
        recipe = _made(self.folder(run.id)) / "recipe.toml"
        with suppress(FileExistsError):
            _create(recipe, _toml({"study": study} | run.model_dump(mode="json")).encode())
        if self.run(run.id).digest != run.digest:
            raise Conflict(f"{recipe} is of another run.", remedy="Rename the arm.")
        self.end(attempt)
        return self.attempt_folder(run.id, attempt.epoch)

    def end(self, attempt: Attempt) -> None:
        """Record what became of an attempt.

        Raises: StorageFull
        """
        folder = _made(self.attempt_folder(attempt.run_id, attempt.epoch))
        _replace(folder / "attempt.json", _json(attempt.model_dump(mode="json")))

    def record(self, result: Result) -> None:
        """Write the result of a run, once; the same again is fine.

        Raises: Conflict: another result is there. StorageFull
        """
        path = _made(self.folder(result.run_id)) / "result.json"
        try:
            _create(path, _json(result.model_dump(mode="json")))
        except FileExistsError:
            if self.result(result.run_id) != result:
                raise Conflict(f"{path} holds another result already: it stays.") from None

    def run(self, run_id: str) -> Run:
        """The run as its directory tells it.

        Raises: NotFound. CheckpointInvalid: recipe.toml is damaged.
        """
        return self._run(run_id)[0]

    def result(self, run_id: str) -> Result | None:
        """The result of a run, or None while it has none.

        Raises: CheckpointInvalid: result.json is damaged.
        """
        path = self.folder(run_id) / "result.json"
        return _parsed(path, Result.model_validate_json) if path.exists() else None

    def attempts(self, run_id: str) -> list[Attempt]:
        """Every attempt that began, by epoch."""
        paths = [folder / "attempt.json" for _, folder in self._epochs(run_id)]
        return [_parsed(path, Attempt.model_validate_json) for path in paths if path.exists()]

    def runs(self) -> list[Run]:
        """Every run that has a directory, by id."""
        return [self.run(path.parent.name) for path in sorted(self.root.glob("runs/*/recipe.toml"))]

    def reindex(self, queue: Queue) -> int:
        """Bring back into the queue what it does not know of these directories; returns how many runs.

        A run with a result has succeeded; one whose last attempt was cancelled is cancelled; one whose attempts are
        spent has failed; any other is queued, to go on from its newest checkpoint under a new epoch.

        Raises: Conflict: a study there has an arm of another recipe.
        """
        count = sum(self._restore(queue, run.id) for run in self.runs())
        for path in sorted(self.root.glob("studies/*.json")):
            count += len(queue.put(_parsed(path, Study.model_validate_json)).new)
        return count

    def _restore(self, queue: Queue, run_id: str) -> bool:
        run, study = self._run(run_id)
        result, attempts = self.result(run_id), self.attempts(run_id)
        causes = [_cause(attempt) for attempt in attempts if attempt.outcome in COUNTED]
        epochs = [epoch for epoch, _ in self._epochs(run_id)]
        return queue.restore(
            run,
            study or ORPHANS,
            _state(run, result, attempts, len(causes)),
            epoch=max(epochs, default=0),
            causes=causes,
            checkpoint=self._newest_checkpoint(run_id),
            result=result,
        )

    def _newest_checkpoint(self, run_id: str) -> Checkpoint | None:
        found = [
            (int(manifest.parent.name.removeprefix("step-")), epoch, manifest)
            for epoch, folder in self._epochs(run_id)
            for manifest in folder.glob("checkpoints/step-*/manifest.json")
        ]
        if not found:
            return None
        step, epoch, manifest = max(found)
        path = str(manifest.parent.relative_to(self.root))
        return Checkpoint(step=step, epoch=epoch, path=path, sha256=hashlib.sha256(manifest.read_bytes()).hexdigest())

    def _epochs(self, run_id: str) -> list[tuple[int, Path]]:
        folder = self.folder(run_id)
        names = [entry.name for entry in folder.iterdir()] if folder.is_dir() else []
        return sorted((int(name), folder / name) for name in names if name.isdecimal())

    def _run(self, run_id: str) -> tuple[Run, str | None]:
        path = self.folder(run_id) / "recipe.toml"
        if not path.exists():
            raise NotFound(f"no run {run_id!r} in {self.root}.", remedy="See `farm runs`.")
        table = _parsed(path, tomllib.loads)
        study = table.pop("study", None)
        return _parsed(path, lambda _: Run.model_validate(table)), study


def _state(run: Run, result: Result | None, attempts: list[Attempt], failures: int) -> State:
    if result:
        return State.SUCCEEDED
    if attempts and attempts[-1].outcome == "cancelled":
        return State.CANCELLED
    return State.FAILED if failures >= run.policy.attempts else State.QUEUED


def _cause(attempt: Attempt) -> Cause:
    return Cause(
        epoch=attempt.epoch,
        cause=attempt.cause or attempt.outcome,
        message=attempt.message or "",
        step=0,
        at=attempt.ended or attempt.started,
        retryable=True,
    )


def _parsed(path: Path, read: Any) -> Any:
    try:
        return read(path.read_text())
    except (ValidationError, ValueError) as error:
        raise CheckpointInvalid(f"{path} is damaged: {str(error).splitlines()[0]}.", remedy="Restore it.") from None


def _made(folder: Path) -> Path:
    with storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    return folder


def _create(path: Path, content: bytes) -> None:
    """Create a file all at once, or raise FileExistsError."""
    draft = _draft(path, content)
    try:
        with storage_errors(path):
            os.link(draft, path)  # unlike rename, fails when the name is taken
    finally:
        draft.unlink()
    _flush(path.parent)


def _replace(path: Path, content: bytes) -> None:
    """Write a file all at once, over an older one."""
    _draft(path, content).replace(path)
    _flush(path.parent)


def _draft(path: Path, content: bytes) -> Path:
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with storage_errors(path), draft.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
    return draft


def _flush(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)  # of a folder: the names in it
    finally:
        os.close(descriptor)


def _json(content: dict[str, Any]) -> bytes:
    return (json.dumps(content, indent=2, allow_nan=False) + "\n").encode()


def _toml(table: dict[str, Any]) -> str:
    return "\n".join(_toml_lines(table, "")) + "\n"


def _toml_lines(table: dict[str, Any], path: str) -> Iterator[str]:
    """`table` as TOML; None is left out, as everywhere it means the same as saying nothing."""
    for key, value in table.items():
        if value is not None and not isinstance(value, dict):
            yield f"{key} = {_toml_value(value)}"
    for key, value in table.items():
        if isinstance(value, dict):
            yield f"\n[{path}{key}]"
            yield from _toml_lines(value, f"{path}{key}.")


def _toml_value(value: Any) -> str:
    if isinstance(value, list):
        return f"[{', '.join(map(_toml_value, value))}]"
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
