"""The record of every optimiser step of a run: append, read, derive. JSON lines, readable without torch.

Each attempt writes one file, `<run folder>/<epoch>/ledger.jsonl`. Its first line says which attempt and step it goes
on from, so the attempts form a chain, and reading the chain gives every step once, however often the run was resumed.
Every figure of a run is derived from these lines; none is counted apart.
"""

import errno
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from math import ceil, fsum, isfinite, nan
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

from farm.errors import CheckpointInvalid, Conflict, Nonfinite, NotFound, StorageFull

SCHEMA = "farm.ledger/1"
FILE = "ledger.jsonl"
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
LONGEST_LINE = 1024  # bytes
TAIL = 0.1  # of the steps: what train_loss is the mean of


class Line(NamedTuple):
    """One optimiser step, over the whole batch. A loss or norm that is not finite reads back as nan, or None."""

    step: int  # from 1: the first step that was done
    tokens: int
    loss_sum: float  # nats, summed over the tokens
    lr: float
    grad_norm: float | None
    clipped: bool
    skipped: bool  # fp16 found a gradient that is not finite: the weights did not move
    seconds: float


class Totals(NamedTuple):
    """Sums over the steps that count."""

    steps: int
    tokens: int
    seconds: float
    clipped: int
    skipped: int


class Writer:
    """Appends to the ledger of one attempt. Use it as a context manager, or close it.

    Raises: Conflict: this attempt has a ledger already. StorageFull: here and from `append` and `sync`. A line that was
    not written whole is not there at all, and the next may be tried.
    """

    def __init__(self, path: Path, epoch: int, from_epoch: int | None = None, from_step: int = 0):
        self.path = path
        self._bytes = 0  # of whole lines
        with storage_errors(path):
            try:
                self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o644)
            except FileExistsError:
                raise Conflict(
                    f"{path} is there already.", remedy="An attempt writes one ledger: begin another."
                ) from None
        self._write({"schema": SCHEMA, "epoch": epoch, "from_epoch": from_epoch, "from_step": from_step})

    def append(self, line: Line) -> None:
        """Add one step. It survives the death of this process at once, and that of the machine after `sync`."""
        self._write({key: _finite(value) for key, value in line._asdict().items()})

    def sync(self) -> None:
        """Return when every line is on the disk."""
        with storage_errors(self.path):
            os.fsync(self._descriptor)

    def close(self) -> None:
        self.sync()
        os.close(self._descriptor)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _write(self, content: dict[str, Any]) -> None:
        line = json.dumps(content, allow_nan=False, separators=(",", ":")).encode() + b"\n"
        with storage_errors(self.path):
            try:
                written = os.write(self._descriptor, line)
                while written < len(line):  # a disk that is nearly full takes a part, and then says why not the rest
                    written += os.write(self._descriptor, line[written:])
            except OSError:
                os.ftruncate(self._descriptor, self._bytes)  # half a line, with another behind it, would be damage
                raise
        self._bytes += len(line)


class _File(NamedTuple):
    """A ledger file as read."""

    from_epoch: int | None
    from_step: int
    lines: list[Line]


def read(run_folder: Path) -> list[Line]:
    """Every step of the run as its newest attempt knows it, each once, in order. Empty before the first ledger.

    A torn last line of a file, left by a machine that died, is passed over.

    Raises: CheckpointInvalid: a line in the middle is damaged, or steps are missing. NotFound: an attempt that another
    goes on from has no ledger.
    """
    files = {int(path.parent.name): path for path in run_folder.glob(f"*/{FILE}") if path.parent.name.isdecimal()}
    lines: list[Line] = []
    for epoch in sorted(files, reverse=True):
        if _read_file(files[epoch]) is not None:
            lines = _chain(run_folder, files, epoch)
            break
    _check_whole(run_folder, lines)
    return lines


def last_step(path: Path) -> int | None:
    """The newest step in one ledger file, read from its end; None before the first."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - 2 * LONGEST_LINE))
            rows = [_parse(text) for text in file.read().splitlines()]
    except FileNotFoundError:
        return None
    steps = [row["step"] for row in rows if isinstance(row, dict) and "step" in row]
    return steps[-1] if steps else None


def reached(content: bytes) -> tuple[int, float]:
    """The newest step in the content of one ledger file, 0 before the first, and the seconds that its steps took."""
    steps = [row for row in map(_parse, content.splitlines()) if isinstance(row, dict) and "step" in row]
    return (steps[-1]["step"] if steps else 0), fsum(row["seconds"] for row in steps)


def totals(lines: list[Line]) -> Totals:
    """What the steps add up to."""
    return Totals(
        steps=len(lines),
        tokens=sum(line.tokens for line in lines),
        seconds=fsum(line.seconds for line in lines),
        clipped=sum(line.clipped for line in lines),
        skipped=sum(line.skipped for line in lines),
    )


def train_loss(lines: list[Line]) -> float:
    """Nats per token over the last tenth of the steps; those that were skipped or not finite are left out.

    Raises: Nonfinite: none is left.
    """
    tail = lines[len(lines) - ceil(len(lines) * TAIL) :]
    counted = [line for line in tail if not line.skipped and isfinite(line.loss_sum)]
    if not counted:
        raise Nonfinite(f"none of the last {len(tail)} steps has a finite loss.")
    return fsum(line.loss_sum for line in counted) / sum(line.tokens for line in counted)


@contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """A full disk, quota or file size limit as the farm's own error.

    Raises: StorageFull
    """
    try:
        yield
    except OSError as error:
        if error.errno in FULL:
            raise StorageFull(f"cannot write {path}: {error.strerror}.", remedy="Free some space there.") from error
        raise


def _chain(run_folder: Path, files: dict[int, Path], newest: int) -> list[Line]:
    """The lines of `newest`, behind those of the attempts it goes on from, each up to where the next took over."""
    pieces: list[list[Line]] = []
    epoch: int | None = newest
    until: float = float("inf")
    while epoch is not None:
        file = _read_file(files[epoch]) if epoch in files else None
        if file is None:
            raise NotFound(f"{run_folder} has no ledger of epoch {epoch}, which a later epoch goes on from.")
        pieces.append([line for line in file.lines if line.step <= until])
        epoch, until = file.from_epoch, min(until, file.from_step)
    return [line for piece in reversed(pieces) for line in piece]


def _check_whole(run_folder: Path, lines: list[Line]) -> None:
    for expected, line in enumerate(lines, start=1):
        if line.step != expected:
            raise CheckpointInvalid(f"the ledger of {run_folder} goes from step {expected - 1} to step {line.step}.")


def _read_file(path: Path) -> _File | None:
    """A ledger file, or None when not even its header is whole."""
    rows = [_parse(text) for text in path.read_bytes().splitlines()]
    if rows and rows[-1] is None:
        rows.pop()
    if None in rows:
        raise CheckpointInvalid(f"line {rows.index(None) + 1} of {path} is damaged.")
    if not rows:
        return None
    header, *steps = rows
    return _File(header["from_epoch"], header["from_step"], [_line(step) for step in steps])


def _parse(text: bytes) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return None


def _line(row: dict[str, Any]) -> Line:
    return Line(**row | {"loss_sum": nan if row["loss_sum"] is None else row["loss_sum"]})


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not isfinite(value) else value
