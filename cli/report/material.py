"""The material of a report, gathered before a line of it is written."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from cli.report.curves import Curve
from cli.unread import Unread
from farm.queue.values import Status
from farm.record.sample import Sample
from farm.study.run import Attempt
from farm.study.study import Study
from farm.verdict.effects import Effects
from farm.verdict.noise import Noise
from farm.verdict.seen import Seen
from farm.verdict.table import Table


class Material(NamedTuple):
    """A study as it stands, or one run of it."""

    name: str  # of the study
    study: Study | None  # None: of imported losses alone
    table: Table
    statuses: Sequence[Status]
    results: Sequence[Seen]  # as the evaluation of the ranking sees them
    curves: Mapping[str, Curve]  # by run id
    are_whole: bool  # the curves are from ledgers: every step is in them
    effects: Mapping[tuple[str, str], Effects]  # by evaluation and machine
    missing: Mapping[tuple[str, str], Sequence[str]]  # arms that a factorial lacks, likewise
    noise: Mapping[str, Noise]  # by evaluation
    attempts: Mapping[str, Sequence[Attempt]]  # by run id, where the storage can be read from here
    samples: Mapping[str, Sequence[Sample]]  # by run id, likewise
    remarks: Sequence[str]  # below the ranking
    passed: Unread  # what cannot be read, and is not in it
    file: str  # the study file
    when: float  # Unix seconds
    run: Status | None = None  # that the report is of; None: of the whole study

    @property
    def title(self) -> str:
        return f"Run {self.run.run.id}" if self.run else f"Study {self.name}"

    @property
    def question(self) -> str:
        """What the study is to find out, if it says so."""
        return self.study.study.question if self.study else ""
