"""Every error of the farm, and what to do about it.

A `FarmError` says what happened, with the numbers, and then the remedy, in one line. Its class fixes the exit code of
the command and whether the queue may try the run again. It names a page of the documentation only where that says more
than the line does: its class does, or who raises it. Code that can go on without, or tries again, catches it; any
other ends as the line of a command (`cli.main`, and the `main` of a process) or as a failed attempt
(`workers.attempt.agent`).
"""

import re
from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any

_FRAME = re.compile(r'  File "')
_ERROR = re.compile(r"[A-Za-z_][\w.]*(?=: |:?$)")
_CAUSED = "The above exception was the direct cause of the following exception:"
_COMPLAINT = re.compile(r"\berror: ")  # a compiler's
_CONTROL = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]|[\x00-\x08\x0e-\x1f\x7f]")


class FarmError(Exception):
    """The farm could not do that."""

    exit_code = 1
    retryable = False
    page: str | None = None  # a file of docs/, and the anchor of a heading in it

    def __init__(
        self, message: str | None = None, *, remedy: str | None = None, page: str | None = None, **fields: Any
    ):
        self.message = message or (type(self).__doc__ or "").splitlines()[0]
        self.remedy = remedy
        self.page = type(self).page if page is None else page or None  # "": this one has none
        self.fields = fields
        super().__init__(self.message)

    def __str__(self) -> str:
        """The message: what happened and what to do next, on one line."""
        more = f" (and {len(self.lines) - 1} more)" if len(self.lines) > 1 else ""
        return self.lines[0] + more

    @property
    def lines(self) -> tuple[str, ...]:
        """The lines that a person reads, one for each fault where there are several: this one, and those in `also`."""
        first = f"{self.message} {self.remedy}" if self.remedy else self.message
        return (first, *self.fields.get("also", ()))

    def __reduce__(self) -> tuple:
        return _rebuild, (type(self), self.message, self.remedy, self.page or "", self.fields)

    @property
    def cause(self) -> str:
        """The short name kept with a failed attempt: the class name in kebab case."""
        name = type(self).__name__
        return "".join(f"-{c.lower()}" if c.isupper() and i else c.lower() for i, c in enumerate(name))


def _rebuild(kind: type[FarmError], message: str, remedy: str | None, page: str, fields: dict[str, Any]) -> FarmError:
    return kind(message, remedy=remedy, page=page, **fields)


def read_at(page: str, site: str | None = None) -> str:
    """Where to read a page: by its name in the sources, or below `site`, where what `make site` builds is served."""
    if site is None:
        return page
    path, _, heading = page.removeprefix("docs/").partition("#")
    path = path.removesuffix(".md").removesuffix("README") or "index"
    path += "index" if path.endswith("/") else ""
    return f"{site.rstrip('/')}/{path}.html" + (f"#{heading}" if heading else "")


class BadStudy(FarmError):
    """The study file is not valid."""

    exit_code = 2


class BadSetting(FarmError):
    """A flag, an environment variable or a line of farm.toml is not valid."""

    exit_code = 2


class BadImport(FarmError):
    """The import is not valid."""

    exit_code = 2
    page = "docs/published.md#what-farm-import-takes"


class DoesNotFit(FarmError):
    """No plan runs this recipe on this machine."""

    exit_code = 2


class BadCorpus(FarmError):
    """The corpus cannot train this recipe."""

    exit_code = 2
    page = "docs/data.md#sources"


class NotFound(FarmError):
    """Nothing has that name."""

    exit_code = 3


class Refused(FarmError):
    """The server refused the credentials."""

    exit_code = 4


class Unreachable(FarmError):
    """The farm's Redis or Ray cannot be reached."""

    exit_code = 5
    retryable = True


class Conflict(FarmError):
    """Something else already has that name or that result."""

    exit_code = 6


class Changed(Conflict):
    """Another command changed it meanwhile."""


class Guard(FarmError):
    """This needs a confirmation that was not given."""

    exit_code = 7


class NoCapacity(FarmError):
    """The cloud has no such machine free now."""

    page = "docs/machines/rent.md#who-watches"


class TooOften(FarmError):
    """The cloud was asked too often, and did nothing."""

    page = "docs/machines/rent.md#what-goes-over-the-wire"


class LeaseLost(FarmError):
    """The lease on this run is gone: another agent may hold it now, so nothing was written."""

    page = "docs/machines/waiting.md#when-something-dies"


class Cancelled(FarmError):
    """The run was cancelled."""


class Nonfinite(FarmError):
    """The loss or a gradient is not a number: the same seeds would do it again."""


class OutOfMemory(FarmError):
    """The microbatch did not fit."""

    retryable = True  # by a smaller one


class NoAccelerator(FarmError):
    """torch sees no GPU on this node."""

    retryable = True  # another node of the class may have a driver that torch can use


class NoCompiler(FarmError):
    """This node has no compiler for train.compile."""


class CheckpointInvalid(FarmError):
    """The checkpoint is damaged or belongs to another run."""

    page = "docs/method.md#checkpoints"


class Unreadable(FarmError):
    """A value in Redis or a record in the storage cannot be read."""


class StorageFull(FarmError):
    """The disk is full."""

    retryable = True
    page = "docs/machines/storage.md#what-can-go-wrong"


class StorageUnusable(FarmError):
    """The storage cannot be used from this node."""

    exit_code = 5
    retryable = True  # another node may reach it, or this one a little later
    page = "docs/machines/storage.md#what-can-go-wrong"


class WorkerDied(FarmError):
    """A training process died."""

    retryable = True


class MachineDied(FarmError):
    """The machine, or Ray on it, went away under the training."""

    retryable = True
    page = "docs/machines/waiting.md#when-something-dies"


class Hung(FarmError):
    """Training made no progress for too long."""

    retryable = True


def nearest(word: str, known: Iterable[str], listed: bool = False) -> str:
    """The end of a sentence that says that `word` is unknown: what it may mean, or, if `listed`, what is known."""
    names = sorted(known)
    if close := get_close_matches(word, names, n=1):
        return f"; did you mean {close[0]!r}?"
    return f"; known: {', '.join(names)}." if listed and names else "."


def last_line(said: str) -> str:
    """The last line that a process printed, which is where most say why they end; without colours."""
    lines = [line.strip() for line in _CONTROL.sub("", said).splitlines() if line.strip()]
    return lines[-1] if lines else "it said nothing"


def reason(said: str) -> str:
    """The line of the error in a traceback, which hints and notes may follow: that of the cause, if there is a chain.

    An error that only announces what comes after it is told with that. Without a traceback, the last line.
    """
    lines = [line.rstrip() for line in _CONTROL.sub("", said).splitlines() if line.strip()]
    errors = [at for at, line in enumerate(lines) if _ERROR.match(line) and _frames_end(lines, at)]
    while len(errors) > 1 and _CAUSED in lines[errors[-2] : errors[-1]]:
        del errors[-1]
    if not errors:
        return last_line(said)
    line, *rest = lines[errors[-1] :]
    if line.endswith(":") and rest:
        return f"{line} {rest[0].strip()}"
    rest = rest[: next((at for at, other in enumerate(rest) if other == _CAUSED), None)]
    complaint = next((other.strip() for other in rest if _COMPLAINT.search(other)), None)
    return f"{line}: {complaint}" if complaint else line


def _frames_end(lines: list[str], at: int) -> bool:
    """Whether the frames of a traceback end before line `at`."""
    indented = next((back for back in range(at - 1, -1, -1) if not lines[back].startswith(" ")), -1)
    return any(_FRAME.match(line) for line in lines[indented + 1 : at])


def in_plain_words(message: str) -> str:
    """What pydantic says of a value, as a person would."""
    told = message.replace("Value error, ", "").replace("Input should be ", "must be ")
    return told.partition(", unable to parse")[0]


def first_line(error: BaseException) -> str:
    """The message of `error` on one line; its class if that is empty."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
