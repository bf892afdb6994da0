"""A study's ranking as it stands, for every command that shows it."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import NamedTuple

from cli.unread import Unread
from farm.queue.queue import Queue
from farm.queue.values import Status
from farm.site.settings import Settings
from farm.study.study import Study
from farm.verdict.memory import remembering
from farm.verdict.ranking import Shown, Told, evaluations_told, ranking_of, shown
from farm.verdict.seen import Sight
from farm.verdict.table import Table


class RankedStudy(NamedTuple):
    """The table of a study, and what it was made from."""

    study: Study | None  # None: of imported losses alone
    table: Table
    by: str  # the evaluation that arms are ranked by
    statuses: Sequence[Status]
    sight: Sight
    passed: Unread  # what cannot be read


def ranking(queue: Queue, study: str) -> RankedStudy:
    """Rank a study by the score that it names.

    Raises: NotFound: also of an unknown evaluation. Unreadable: the study itself.
    """
    with _remembering():
        found = ranking_of(_ask(queue, study))
    table, by, passed = found.shown.table, found.shown.by, passed_over(study, found.shown)
    return RankedStudy(found.study, table, by, found.statuses, found.sight, passed)


def shown_ranking(queue: Queue, study: str, score: str | None) -> tuple[Shown, Sequence[str]]:
    """As `ranking`, by `score` if one is named, of what a table shows; and how the study's evaluations stand, in lines.
    Both are worked out only where anything has changed since they were shown here. Raises: as `ranking`.
    """
    with _remembering():
        return shown(_ask(queue, study), score), evaluations_told(queue.evaluations.texts(study))


def passed_over(study: str, found: Shown) -> Unread:
    """The runs and scores that cannot be read."""
    return Unread(study, found.count, found.unread_runs, found.unread_scores, found.open)


def _remembering() -> AbstractContextManager[None]:
    return remembering(Settings.load(through_tunnel=False).home / "cache" / "verdicts")


def _ask(queue: Queue, name: str) -> Told:
    """Raises: NotFound"""
    imported, study = queue.studies.text("imported", name), queue.studies.text("studies", name)
    if imported is None and study is None:
        queue.studies.refuse_unknown(name)
    scores, runs = queue.evaluations.score_texts(name), queue.listing.texts(name)
    return Told(name, study, imported, queue.studies.text("references", name), scores, runs)
