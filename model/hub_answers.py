"""What becomes of a call of the Hugging Face Hub that fails: reading from it is told apart from sending to it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from farm.errors import Conflict, FarmError, Refused, Unreachable, first_line
from farm.files import FULL

LOG_IN = "Make one that may write at https://huggingface.co/settings/tokens, and run hf auth login or set HF_TOKEN."
AGAIN = "Run the command again: it sends only what is missing."
CONNECT_SECONDS = 10.0
SILENCE_SECONDS = 60.0  # huggingface_hub itself waits for ever; a commit of large files took the Hub 20 s at most

_ODD = (ValueError, TypeError, LookupError, AttributeError)  # of an answer that has another form


class Unanswered(Unreachable):
    """The Hugging Face Hub could not be asked."""


class Asked:
    """Whether the Hub answered all of a block; `unanswered` says why not."""

    unanswered: str | None = None


@contextmanager
def if_answered(dry_run: bool) -> Iterator[Asked]:
    """Ask the Hub within the block. A dry run goes on behind it without the answers.

    Raises: Unanswered: this is no dry run.
    """
    asked = Asked()
    try:
        yield asked
    except Unanswered as error:
        if not dry_run:
            raise
        asked.unanswered = error.message


@contextmanager
def asking(what: str) -> Iterator[None]:
    """Ask the Hub within the block, which then says `what`.

    Raises: Unanswered, Refused. LocalTokenNotFoundError: there is no token.
    """
    with _told(lambda failed: _unanswered(what, failed)):
        yield


def _unanswered(what: str, failed: "_Failed") -> FarmError:
    hub, why = failed.hub, failed.why
    if failed.status in (401, 403):
        return Refused(f"{hub} refuses to say {what}: {why}.", remedy=LOG_IN)
    later = "Nothing was sent. Run it again"
    if failed.status == 429:
        return Unanswered(f"{hub} was asked too often: {why}.", remedy=f"{later} in a few minutes.")
    if failed.status is not None:
        return Unanswered(f"{hub} could not say {what}: {why}.", remedy=f"{later} later.")
    if isinstance(failed.first, _ODD):
        remedy = "Nothing was sent. Is HF_ENDPOINT a Hub, and does no proxy answer for it?"
        return Unanswered(f"{hub} did not say {what}: {why}.", remedy=remedy)
    return Unanswered(f"{hub} could not be reached: {why}.", remedy=f"{later} when there is a network.")


@contextmanager
def sending(what: str) -> Iterator[None]:
    """Change `what` on the Hub within the block.

    Raises: Refused, Conflict, Unreachable
    """
    with _told(lambda failed: _untaken(what, failed)):
        yield


def _untaken(what: str, failed: "_Failed") -> FarmError:
    from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

    hub, why = failed.hub, failed.why
    if failed.status in (401, 403):
        return Refused(f"{hub} refuses to take {what}: {why}.", remedy=LOG_IN)
    if failed.status in (409, 412):
        return Conflict(f"{what} was changed by another meanwhile: {why}; what is there is whole.", remedy=AGAIN)
    if isinstance(failed.first, RepositoryNotFoundError | RevisionNotFoundError):
        return Conflict(
            f"{what} was deleted or renamed meanwhile, or is another's and private: {why}.",
            remedy="Run the command again, or name another.",
        )
    remedy = f"Wait a few minutes. {AGAIN}" if failed.status == 429 else AGAIN
    return Unreachable(f"{hub} did not take {what}: {why}.", remedy=remedy)


class _Failed(NamedTuple):
    """A call that failed: what its client met with first, the status that the Hub answered with, and why."""

    hub: str
    first: BaseException
    status: int | None
    why: str


@contextmanager
def _told(error_of: Callable[[_Failed], FarmError]) -> Iterator[None]:
    """Call the Hub within the block; where that fails, and the Hub has a part in it, `error_of` says how."""
    from huggingface_hub import constants

    _limit_silence()
    try:
        yield
    except Exception as error:
        if _is_own(error):
            raise
        raise error_of(_Failed(constants.ENDPOINT, _first(error), _status(error), _why(error))) from None


def _limit_silence() -> None:
    """Give up on a Hub that says nothing. The client has no limit of its own, and some calls ask for none; it makes a
    new session when it lost one, so that each block sees to its own."""
    from huggingface_hub import get_session

    hooks = get_session().event_hooks["request"]
    if _limit not in hooks:
        hooks.append(_limit)


def _limit(request: Any) -> None:
    asked, most = request.extensions.get("timeout", {}), {"connect": CONNECT_SECONDS, "pool": CONNECT_SECONDS}
    limits = {kind: most.get(kind, SILENCE_SECONDS) for kind in ("connect", "read", "write", "pool")}
    request.extensions["timeout"] = limits | {kind: limit for kind, limit in asked.items() if limit is not None}


def _is_own(error: Exception) -> bool:
    """Whether the Hub has no part in it: an error of farm, no token on this machine, or a file that cannot be read."""
    from huggingface_hub.errors import LocalTokenNotFoundError

    is_file = isinstance(error, OSError) and (error.filename is not None or error.errno in FULL)
    return is_file or isinstance(error, FarmError | LocalTokenNotFoundError)


def _first(error: BaseException) -> BaseException:
    """What the client met with, which it may wrap: into an upload that failed, or a file that is not in its cache."""
    from huggingface_hub.errors import LocalEntryNotFoundError

    while isinstance(error, LocalEntryNotFoundError | RuntimeError) and error.__cause__:
        error = error.__cause__
    return error


def _status(error: Exception) -> int | None:
    """The status that the Hub answered with; None: it did not, or its answer could not be read."""
    return getattr(getattr(_first(error), "response", None), "status_code", None)


def _why(error: Exception) -> str:
    """What the Hub said, or what its client did, on one line without an end."""
    first: Any = _first(error)
    said, status = getattr(first, "server_message", None), _status(error)
    if isinstance(first, _ODD) and status is None:
        return f"its answer cannot be read ({type(first).__name__}: {first_line(first).rstrip('.')})"
    if status == 429 and not said:  # of whoami the client says how a program is to call it
        return "429, too many requests"
    told = f"{status}, {first_line(Exception(said))}" if said and status else first_line(first)
    return told.rstrip(".: ")
