"""A study's ranking as it stands, for every command that shows it."""

from collections.abc import Sequence
from typing import NamedTuple

from cli.unread import Unread, unread
from farm.queue.queue import Queue
from farm.queue.values import Status
from farm.site.settings import Settings
from farm.study.recipe import TEST
from farm.study.study import Study
from farm.verdict.memory import remembering
from farm.verdict.seen import Sight, find_name, names, see
from farm.verdict.table import Table, rank


class RankedStudy(NamedTuple):
    """The table of a study, and what it was made from."""

    study: Study | None  # None: of imported losses alone
    table: Table
    by: str  # the evaluation that arms are ranked by
    evaluations: Sequence[str]  # all that it could be ranked by
    statuses: Sequence[Status]
    sight: Sight
    passed: Unread  # what cannot be read


def ranking(queue: Queue, study: str, score: str | None = None) -> RankedStudy:
    """Rank a study by `score`, or by the one that it names.

    Raises: NotFound: also of an unknown evaluation. Unreadable: the study itself.
    """
    imported = queue.studies.imported(study).runs
    stored = queue.studies.one(study) if not imported or queue.studies.has(study) else None
    (scores, spoilt), evaluations = queue.evaluations.scored(study, "study"), stored.evaluations if stored else {}
    among = names(scores, evaluations)
    by = find_name(score or (stored.study.score if stored else TEST), among)
    statuses = (picture := queue.listing.picture(study)).statuses
    sight = see([status.result for status in statuses if status.result], scores, by, evaluations)
    margin, looks = (stored.study.margin, stored.looks) if stored else (None, None)
    references = queue.studies.references(study).models
    with remembering(Settings.load(through_tunnel=False).home / "cache" / "verdicts"):
        table = rank(sight.results, statuses, margin, imported, looks, references, by)
    return RankedStudy(stored, table, by, among, statuses, sight, unread(picture, study, spoilt))
