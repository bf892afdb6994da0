"""All that the queue, and the storage if it can be reached, know of a study or of one of its runs."""

import time
from collections.abc import Iterator, Sequence
from contextlib import suppress

from cli.access import run_of
from cli.effects import cohorts, effects_of, missing
from cli.noise import comparable
from cli.ranking import ranking
from cli.remarks import remarks
from cli.report.curves import Curve, of_ledger, of_points
from cli.report.material import Material
from cli.storage import within_sight
from farm.errors import FarmError, NotFound, nearest
from farm.queue.queue import Queue
from farm.queue.values import Status
from farm.record.sample import Sample
from farm.record.store import Store
from farm.site.settings import Settings
from farm.study import toml
from farm.study.run import Attempt, Evaluating
from farm.study.study import Study
from farm.verdict.noise import ladder
from farm.verdict.seen import see


def gather(settings: Settings, queue: Queue, name: str) -> Material:
    """The study `name`, or the one run whose id starts with it.

    Raises: NotFound: neither. Conflict: several runs start so. Unreadable
    """
    if queue.studies.has(name) or queue.studies.imported(name).runs:
        return _of_study(settings, queue, name)
    try:
        return _of_run(settings, queue, run_of(queue, name))
    except NotFound as error:
        if "no run" not in str(error):
            raise  # an imported loss: says so
        known = [*queue.studies.names(), *queue.studies.all_imported(), *queue.listing.names("runs", name[:8])]
        remedy = "See `farm status` for studies and `farm runs` for runs."
        raise NotFound(f"there is no run or study {name!r}{nearest(name, known)}", remedy=remedy) from None


def _of_study(settings: Settings, queue: Queue, name: str) -> Material:
    found = ranking(queue, name)
    study, sight = found.study, found.sight
    together = dict(cohorts(sight.results)) if study else {}
    material = Material(
        name=name,
        study=study,
        table=found.table,
        statuses=found.statuses,
        results=sight.results,
        curves={},
        are_whole=True,
        effects={key: effects_of(study, runs) for key, runs in together.items()} if study else {},
        missing={key: missing(study, runs) for key, runs in together.items()} if study else {},
        noise={evaluation: ladder(runs) for evaluation, runs in comparable(sight.results)},
        attempts={},
        samples={},
        remarks=[*found.passed.lines, *remarks(found.table)],
        passed=found.passed,
        file=_file(study),
        when=time.time(),
    )
    return _with_records(material, settings, queue)


def _of_run(settings: Settings, queue: Queue, status: Status) -> Material:
    """The run, and the row of the table that it is part of. Of an evaluation, the run that it scores."""
    if isinstance(status.run, Evaluating):
        status = queue.listing.status(status.run.of)
    run, found = status.run, ranking(queue, status.study)
    seen = [result for result in found.sight.results if result.run_id == run.id]
    if status.result and not seen:  # the study ranks by an evaluation that has not scored it
        seen = see([status.result], queue.evaluations.scores(run.id, "run")).results
    rows = tuple(row for row in found.table.rows if run.id in row.runs)
    material = Material(
        name=status.study,
        study=found.study,
        table=found.table.model_copy(update={"rows": rows, "unfinished": (), "twins": ()}),
        statuses=[status],
        results=seen,
        curves={},
        are_whole=True,
        effects={},
        missing={},
        noise={},
        attempts={},
        samples={},
        remarks=[],
        passed=found.passed,
        file=_file(found.study),
        when=time.time(),
        run=status,
    )
    return _with_records(material, settings, queue)


def _file(study: Study | None) -> str:
    return toml.text(study.model_dump(mode="json", exclude_unset=True, exclude={"looks"})) if study else ""


def _with_records(material: Material, settings: Settings, queue: Queue) -> Material:
    store = within_sight(settings)
    curves, are_whole = _curves(queue, store, material.statuses)
    attempts = {status.run.id: kept for status in material.statuses if (kept := _attempts(store, status))}
    samples = {status.run.id: said for status in material.statuses if (said := _samples(store, status))}
    return material._replace(curves=curves, are_whole=are_whole, attempts=attempts, samples=samples)


def _curves(queue: Queue, store: Store | None, statuses: Sequence[Status]) -> tuple[dict[str, Curve], bool]:
    """The curve of each run that has one, and whether all of them have every step."""
    found: dict[str, Curve] = {}
    are_whole = True
    for status in statuses:
        run = status.run
        try:
            lines = store.copies.lines(_trainer(status)) if store else []
        except (FarmError, OSError):
            lines = []
        if lines:
            found[run.id] = of_ledger(lines)
        elif points := queue.listing.curve(run.id):
            found[run.id] = of_points(points, run.recipe.tokens_per_step)
            are_whole = False
    return found, are_whole


def _attempts(store: Store | None, status: Status) -> list[Attempt]:
    """As the run directory keeps them; else those that failed, as the queue does."""
    kept: list[Attempt] = []
    with suppress(FarmError, OSError):
        kept = list(store.runs.attempts(_trainer(status))) if store else []
    return kept or list(_failures(status))


def _samples(store: Store | None, status: Status) -> list[Sample]:
    with suppress(FarmError, OSError):
        return store.samples.of(_trainer(status)) if store else []
    return []


def _failures(status: Status) -> Iterator[Attempt]:
    for cause in status.causes:
        told = {"cause": cause.cause, "message": cause.message, "step": cause.step, "retryable": cause.retryable}
        where = {"run_id": status.run.id, "epoch": cause.epoch, "worker": "", "started": cause.at, "ended": cause.at}
        yield Attempt.model_validate(where | told | {"outcome": "failed"})


def _trainer(status: Status) -> str:
    """The run whose training it is: another one's, where that had the same recipe, seeds and machine."""
    return (status.result.adopted if status.result else None) or status.run.id
