"""The record of every optimiser step of a run: append, read, derive. JSON lines, readable without torch.

Each attempt writes one file, `<run folder>/<epoch>/ledger.jsonl`. Its first line says which attempt and step it goes
on from, so the attempts form a chain, and reading the chain gives every step once, however often the run was resumed.
Every figure of a run is derived from these lines; none is counted apart.
"""

import os
from collections.abc import Iterable, Iterator, Mapping
from io import BytesIO
from math import ceil, fsum, isfinite, nan
from pathlib import Path
from typing import Any, BinaryIO, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from farm.errors import CheckpointInvalid, Nonfinite, first_line
from farm.files import plain
from farm.record.lines import JsonLines

SCHEMA = "farm.ledger/1"
FILE = "ledger.jsonl"
LONGEST_LINE = 1024  # bytes
TAIL = 0.1  # of the steps: what train_loss is the mean of


class Validation(NamedTuple):
    """The held-out slice after a step: what it cost, and what the model made of it. Not finite reads back as nan."""

    slice: str | None  # the beginning of the fingerprint of its tokens, where that is known
    tokens: int
    loss_sum: float  # nats, summed over the tokens
    seconds: float


class Line(NamedTuple):
    """One optimiser step, over the whole batch. A loss or norm that is not finite reads back as nan, or None."""

    step: int  # from 1: the first step that was done
    tokens: int
    loss_sum: float  # nats, summed over the tokens
    lr: float
    grad_norm: float | None
    clipped: bool
    skipped: bool  # fp16 found a gradient that is not finite: the weights did not move
    seconds: float  # of the step, without the validation
    validation: Validation | None = None  # after it


class Totals(NamedTuple):
    """Sums over the steps that count."""

    steps: int
    tokens: int
    seconds: float
    clipped: int
    skipped: int
    validation_seconds: float


class Writer(JsonLines):
    """Appends to the ledger of one attempt: see `JsonLines`."""

    def __init__(self, path: Path, epoch: int, from_epoch: int | None = None, from_step: int = 0):
        super().__init__(path)
        self.write({"schema": SCHEMA, "epoch": epoch, "from_epoch": from_epoch, "from_step": from_step})

    def append(self, line: Line) -> None:
        """Add one step."""
        more = {"validation": _json(line.validation)} if line.validation else {}
        self.write(_json(line, without="validation") | more)


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class _Header(_Strict):
    """The first line of a ledger file."""

    farm: Literal["farm.ledger/1"] = Field(alias="schema")
    epoch: int = Field(ge=1)
    from_epoch: int | None
    from_step: int = Field(ge=0)


class _Validation(_Strict):
    """The validation after a step, as the step's line has it."""

    slice: str | None
    tokens: int = Field(ge=1)
    loss_sum: float | None
    seconds: float = Field(ge=0)

    def as_validation(self) -> Validation:
        return Validation(**self.__dict__ | {"loss_sum": nan if self.loss_sum is None else self.loss_sum})


class _Step(_Strict):
    """Any other line."""

    step: int = Field(ge=1)
    tokens: int = Field(ge=1)
    loss_sum: float | None
    lr: float
    grad_norm: float | None
    clipped: bool
    skipped: bool
    seconds: float = Field(ge=0)
    validation: _Validation | None = None

    def line(self) -> Line:
        loss_sum = nan if self.loss_sum is None else self.loss_sum
        return Line(
            **self.__dict__ | {"loss_sum": loss_sum, "validation": self.validation and self.validation.as_validation()}
        )


class _File(NamedTuple):
    """A ledger file as far as it can be believed: its lines up to the first that is none, each a step after the last.

    `fault` says what that one is, and `is_cut` that steps come after it, so that it is not just a tail.
    """

    header: _Header | None
    lines: list[Line]
    fault: str | None = None
    is_cut: bool = False


class Ledgers:
    """The ledger files of a run by epoch, each read once."""

    def __init__(self, files: Mapping[int, Path]):
        self._paths = files
        self._read: dict[int, _File] = {}

    def until(self, epoch: int, step: int) -> list[Line]:
        """Every step up to `step` as attempt `epoch` knows it: its own lines, behind those of the attempts it goes on
        from, each up to where the next took over.

        Raises: CheckpointInvalid: one of them is missing or damaged before that.
        """
        pieces: list[list[Line]] = []
        wanted: int | None = epoch
        until = step
        while wanted is not None:
            header, lines = self._piece(wanted, until)
            pieces.append(lines)
            wanted, until = header.from_epoch, min(until, header.from_step)
        return [line for piece in reversed(pieces) for line in piece]

    def beyond(self, epoch: int) -> str | None:
        """The content of this attempt's file that is not a step, in words; None where there is none."""
        return self._file(epoch).fault

    def newest(self) -> list[Line]:
        """Every step as the newest attempt that wrote one knows it; nothing before the first ledger.

        Raises: as `until`
        """
        for epoch in sorted(self._paths, reverse=True):
            file = self._file(epoch)
            if file.is_cut:
                raise CheckpointInvalid(f"{file.fault}.")
            if file.header:
                return self.until(epoch, file.lines[-1].step if file.lines else file.header.from_step)
        return []

    def _piece(self, epoch: int, until: int) -> tuple[_Header, list[Line]]:
        if epoch not in self._paths:
            raise CheckpointInvalid(f"the ledger of epoch {epoch}, which a later one continues, is missing.")
        file = self._file(epoch)
        if file.header is None:
            raise CheckpointInvalid(f"{file.fault}.")
        lines = file.lines[: max(0, until - file.header.from_step)]
        reached = file.header.from_step + len(lines)
        if reached < until:
            why = f"{file.fault}; it" if file.fault else self._paths[epoch]
            raise CheckpointInvalid(f"{why} ends at step {reached}, before step {until}.")
        return file.header, lines

    def _file(self, epoch: int) -> _File:
        if epoch not in self._read:
            self._read[epoch] = _read_file(self._paths[epoch], epoch)
        return self._read[epoch]


def read(run_folder: Path) -> list[Line]:
    """Every step of the run as its newest attempt knows it, each once, in order. Empty before the first ledger.

    What is no step at the end of a file, such as a line torn by a machine that died, is passed over.

    Raises: CheckpointInvalid: a line before that is damaged, steps are missing, or an attempt that another goes on from
    has no ledger.
    """
    return Ledgers(files(run_folder)).newest()


def files(run_folder: Path) -> dict[int, Path]:
    """The ledger files in a run's directory by epoch."""
    return {int(path.parent.name): path for path in run_folder.glob(f"*/{FILE}") if path.parent.name.isdecimal()}


def last_step(path: Path) -> int | None:
    """The newest step in one ledger file, read from its end; None before the first."""
    try:
        with plain(path) as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - 2 * LONGEST_LINE))
            steps = [found.step for text in file.read().splitlines() if (found := _step(text))]
    except FileNotFoundError:
        return None
    return steps[-1] if steps else None


def progress(content: bytes) -> tuple[int, float]:
    """The newest step in the content of one ledger file, 0 before the first, and the seconds of its steps and
    validations."""
    lines = _parse(BytesIO(content), "", None).lines
    seconds = [line.seconds + (line.validation.seconds if line.validation else 0.0) for line in lines]
    return (lines[-1].step if lines else 0), fsum(seconds)


def totals(lines: list[Line]) -> Totals:
    """Add up the steps."""
    return Totals(
        steps=len(lines),
        tokens=sum(line.tokens for line in lines),
        seconds=fsum(line.seconds for line in lines),
        clipped=sum(line.clipped for line in lines),
        skipped=sum(line.skipped for line in lines),
        validation_seconds=fsum(line.validation.seconds for line in lines if line.validation),
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


def validations(lines: list[Line]) -> list[tuple[Line, Validation]]:
    """The steps after which the model was validated: all on the slice of the last, since others cannot be compared."""
    found = [(line, line.validation) for line in lines if line.validation]
    return [pair for pair in found if pair[1].slice == found[-1][1].slice]


def _read_file(path: Path, epoch: int) -> _File:
    try:
        with plain(path) as file:
            return _parse(file, str(path), epoch)
    except OSError as error:
        return _File(None, [], f"{path} cannot be read: {error.strerror}")


def _parse(file: BinaryIO, name: str, epoch: int | None) -> _File:
    """Parse `file`. It is read one line at a time and no more than LONGEST_LINE of it: it may be of any size."""
    texts = _texts(file)
    try:
        header = _header(next(texts, b""), epoch)
    except ValueError as error:
        return _File(None, [], f"line 1 of {name} is damaged: {_fault(error)}", is_cut=_has_step(texts))
    lines: list[Line] = []
    for number, text in enumerate(texts, start=2):
        last = header.from_step + len(lines)
        try:
            step = _Step.model_validate_json(text)
        except ValueError as error:
            return _File(header, lines, f"line {number} of {name} is damaged: {_fault(error)}", _has_step(texts))
        if step.step != last + 1:
            fault = f"line {number} of {name} is damaged: step {step.step} follows step {last}"
            return _File(header, lines, fault, is_cut=step.step > last or _has_step(texts))
        lines.append(step.line())
    return _File(header, lines)


def _header(text: bytes, epoch: int | None) -> _Header:
    header = _Header.model_validate_json(text)
    if epoch not in (None, header.epoch):
        raise ValueError(f"it is of epoch {header.epoch}")
    if (header.from_epoch is None and header.from_step) or (header.from_epoch or 0) >= header.epoch:
        raise ValueError(f"it continues from step {header.from_step} of epoch {header.from_epoch}")
    return header


def _texts(file: BinaryIO) -> Iterator[bytes]:
    """The lines of a file; of one that is longer than LONGEST_LINE, a little more than that."""
    while text := file.readline(LONGEST_LINE + 1):
        yield text
        while not text.endswith(b"\n") and text:
            text = file.readline(2**16)


def _has_step(texts: Iterable[bytes]) -> bool:
    return any(_step(text) for text in texts)


def _step(text: bytes) -> _Step | None:
    try:
        return _Step.model_validate_json(text)
    except ValueError:
        return None


def _fault(error: ValueError) -> str:
    """Explain in a few words why a line is invalid: pydantic's own message has the whole line in it."""
    if not isinstance(error, ValidationError):
        return first_line(error)
    found = error.errors(include_url=False, include_context=False, include_input=False)[0]
    field = ".".join(map(str, found["loc"]))
    return f"{field}: {found['msg']}" if field else found["msg"]


def _json(record: Line | Validation, without: str = "") -> dict[str, Any]:
    return {key: _finite(value) for key, value in record._asdict().items() if key != without}


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not isfinite(value) else value
