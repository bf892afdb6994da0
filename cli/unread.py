"""Values in Redis that a command passed over because they cannot be read: it says so, and ends with exit code 1."""

from collections.abc import Sequence
from typing import NamedTuple

import typer

from farm.queue.listing import Overview, Picture
from farm.queue.unreadable import Flaw


class Unread(NamedTuple):
    """The runs and scores of a study, or of all, that a command passed over, and of how many."""

    study: str | None
    of: int
    runs: Sequence[Flaw]
    scores: Sequence[Flaw] = ()
    open: int = 0  # runs that are queued or training

    @property
    def none_finished(self) -> str:
        """Why there is nothing to conclude from, where no run has a result."""
        return "no run has finished yet" if self.open or not self.of else "no run has succeeded (see farm runs)"

    @property
    def is_any(self) -> bool:
        """Whether something was passed over."""
        return bool(self.runs or self.scores)

    @property
    def every(self) -> list[str]:
        """A line for each, for JSON."""
        return [str(flaw) for flaw in (*self.runs, *self.scores)]

    @property
    def lines(self) -> list[str]:
        """The lines that a person has to read: how many, why, and what to do."""
        of = f" of {self.study}" if self.study else ""
        runs = f"{len(self.runs):,} of {self.of:,} run{'s' * (self.of != 1)}{of}"
        scores = f"{len(self.scores):,} score{'s' * (len(self.scores) != 1)}{of}"
        return [_told(what, flaws) for what, flaws in ((runs, self.runs), (scores, self.scores)) if flaws]

    def end(self) -> None:
        """Raises: typer.Exit: what was printed is not all that there is."""
        if self.is_any:
            raise typer.Exit(1)


NOTHING = Unread(None, 0, ())


def unread(picture: Picture | Overview, study: str | None = None, scores: Sequence[Flaw] = ()) -> Unread:
    """Find what `picture`, of a study or of all, has left out; and which of its `scores`."""
    left = sum(not status.state.is_final for status in picture.statuses)
    count = len(picture.statuses) + len(picture.flaws)
    return Unread(study, count, tuple(picture.flaws.values()), tuple(scores), left)


def _told(what: str, flaws: Sequence[Flaw]) -> str:
    if len(flaws) == 1:
        return f"{what} cannot be read and is left out: {flaws[0]}"
    return f"{what} cannot be read and are left out; farm doctor names each. The first is {flaws[0]}"
