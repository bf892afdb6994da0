"""A study's ranking as it stands, from what Redis tells of it word for word.

What a table shows is remembered (memory.py): where not a letter has changed, nothing is read, sorted or ranked again.
So nothing else may come in here: not the time of day, and no setting of this machine.
"""

from collections.abc import Sequence
from typing import NamedTuple

from pydantic import Field

from farm.queue.evaluations import scores_of
from farm.queue.listing import picture_of
from farm.queue.spelling import read_status
from farm.queue.studies import imported_of, references_of, study_of
from farm.queue.unreadable import Flaw, readable
from farm.queue.unscored import tell
from farm.queue.values import Status
from farm.study.recipe import TEST, Frozen
from farm.study.study import Study
from farm.verdict.memory import remembered
from farm.verdict.seen import Sight, find_name, names, see
from farm.verdict.table import Table, rank


class Told(NamedTuple):
    """All that the ranking of a study follows from, as Redis spells it."""

    name: str
    study: str | None  # None: of imported losses alone
    imported: str | None
    references: str | None
    scores: Sequence[tuple[str, Sequence[str]]]  # by run id
    runs: Sequence[str]


class Shown(Frozen):
    """What a table shows of a ranking."""

    table: Table
    by: str = Field(description="the evaluation that arms are ranked by")
    evaluations: tuple[str, ...] = Field(description="all that it could be ranked by")
    unscored: tuple[tuple[str, str], ...] = Field(description="arm and machine of each run that `by` has not scored")
    count: int = Field(description="of all runs, also of those that cannot be read")
    open: int = Field(description="runs that are queued or training")
    unread_runs: tuple[Flaw, ...]
    unread_scores: tuple[Flaw, ...]


class Ranking(NamedTuple):
    """What a table shows of a ranking, and what it was made from."""

    study: Study | None  # None: of imported losses alone
    statuses: Sequence[Status]
    sight: Sight
    shown: Shown


def ranking_of(told: Told, score: str | None = None) -> Ranking:
    """Rank a study by `score`, or by the one that it names.

    Raises: NotFound: an unknown evaluation. Unreadable: the study itself, what was imported into it, its references.
    """
    imported = imported_of(told.name, told.imported).runs
    study = study_of(told.name, told.study)
    (scores, spoilt), evaluations = scores_of(told.scores), study.evaluations if study else {}
    among = names(scores, evaluations)
    by = find_name(score or (study.study.score if study else TEST), among)
    statuses, flaws = picture_of(told.runs)
    sight = see([status.result for status in statuses if status.result], scores, by, evaluations)
    margin, looks = (study.study.margin, study.looks) if study else (None, None)
    references = references_of(told.name, told.references).models
    shown = Shown(
        table=rank(sight.results, statuses, margin, imported, looks, references, by),
        by=by,
        evaluations=tuple(among),
        unscored=tuple((result.arm, result.machine) for result in sight.unscored),
        count=len(statuses) + len(flaws),
        open=sum(not status.state.is_final for status in statuses),
        unread_runs=tuple(flaws.values()),
        unread_scores=tuple(spoilt),
    )
    return Ranking(study, statuses, sight, shown)


@remembered
def shown(told: Told, score: str | None = None) -> Shown:
    """What a table shows of the ranking. Raises: as `ranking_of`."""
    return ranking_of(told, score).shown


@remembered
def evaluations_told(rows: Sequence[str]) -> tuple[str, ...]:
    """How the evaluations that were asked for stand, in lines, from what Redis tells of them."""
    return tuple(tell(list(readable(read_status, rows))))
