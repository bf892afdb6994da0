"""`farm eval RUN|STUDY [EVALUATION]`, `farm eval STUDY --reference FOLDER`"""

from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer

from cli import eval_reference, render
from cli.access import is_study, machines, queue, selected
from cli.options import Json, RunOrStudy
from cli.render import Column, Sheet, say
from farm.errors import Conflict, FarmError, NotFound, nearest
from farm.queue.queue import Queue
from farm.queue.unscored import Unscored, find_unscored
from farm.queue.values import Status
from farm.record.score import Score
from farm.record.store import Store
from farm.site.settings import Settings
from farm.study.recipe import TEST
from farm.study.run import State
from farm.study.study import Study

COLUMNS = (
    Column("run", "run"),
    Column("evaluation", "evaluation"),
    Column("score", "score"),
    Column("was", "was", render.or_unknown(str)),
    Column("now", "now"),
    Column("machine", "machine", is_spare=True),
)
Name = Annotated[
    str | None, typer.Argument(metavar="EVALUATION", help="test_loss, or a name of [evaluations]; default: all.")
]
Stale = Annotated[bool, typer.Option("--stale", help="Also replace scores by an earlier form of an evaluation.")]
On = Annotated[
    str | None, typer.Option("--machine", metavar="CLASS", help="Machine class that scores; default: each run's own.")
]
ReferenceFolder = Annotated[
    Path | None,
    typer.Option("--reference", metavar="FOLDER", help="Score this GPT-2 in transformers' format here, instead."),
]
Called = Annotated[
    str | None, typer.Option("--name", metavar="NAME", help="The reference's name in tables; default: the folder's.")
]


def eval(
    name: RunOrStudy,
    evaluation: Name = None,
    stale: Stale = False,
    machine: On = None,
    reference: ReferenceFolder = None,
    called: Called = None,
    as_json: Json = False,
) -> None:
    """Score trained models: queue a job for every score that a run, or the runs of a study, lack.

    A job reads the stored final checkpoint on a free machine of the run's class, and writes the score beside the
    result. A score by an earlier form of the evaluation (other code, another slice or precision) is stale: --stale
    replaces those, too. Asking twice scores once.

    --reference FOLDER scores a model that others trained, such as OpenAI's GPT-2 (config.json and model.safetensors),
    on this machine, by the evaluations of the study's baseline. It stands in the table beside the arms, without rank
    and verdict, and the table then says how much of the gap to it each arm has closed.
    """
    if reference is not None:
        _refuse_beside_reference(stale, machine)
        eval_reference.score(name, lambda study: _names(study, evaluation), reference, called, as_json=as_json)
        return
    if called is not None:
        raise typer.BadParameter("it names a reference: give --reference FOLDER, too", param_hint="--name")
    settings = Settings.load()
    with queue(settings) as open_queue:
        statuses, passed = selected(open_queue, name)
        study = open_queue.studies.one(name if is_study(open_queue, name) else statuses[0].study)
        names = _names(study, evaluation)
        if machine is not None:
            study.machine(machine, machines(settings, open_queue))
        found = find_unscored(
            study, statuses, _scores(settings, open_queue, statuses), names, stale=stale, machine=machine
        )
        if not passed.is_any:
            _refuse_unfinished(name, found)
        jobs = [job for job, _ in found.jobs.values()]
        before = open_queue.evaluations.put(study.study.name, jobs) if jobs else {}
    rows = list(_rows(found, before))
    if rows or as_json or not render.is_terminal():
        render.emit(Sheet("farm.eval/1", COLUMNS, rows), as_json=as_json)
    for remark in _remarks(name, found):
        say(remark)
    if rows and not as_json:
        render.say_next("farm status")
    passed.end()


def _refuse_beside_reference(stale: bool, machine: str | None) -> None:
    if stale:
        raise typer.BadParameter("a reference is always scored by the current evaluations", param_hint="--stale")
    if machine is not None:
        raise typer.BadParameter("a reference is scored on this machine", param_hint="--machine")


def _names(study: Study, evaluation: str | None) -> list[str]:
    known = [TEST, *study.evaluations]
    if evaluation is not None and evaluation not in known:
        raise NotFound(
            f"study {study.study.name!r} has no evaluation {evaluation!r}{nearest(evaluation, known, listed=True)}",
            remedy=f"Describe it as [evaluations.{evaluation}] in the study, and submit it again.",
        )
    return known if evaluation is None else [evaluation]


def _scores(settings: Settings, queue: Queue, statuses: list[Status]) -> dict[str, tuple[Score, ...]]:
    """The scores that the queue knows, by run; only those on record, too, if the run directories can be seen."""
    known = queue.evaluations.scores()
    store = Store(settings.storage) if not isinstance(settings.storage, str) else None
    if store is None or not store.is_local:
        return known
    for status in statuses:
        if status.result and known.get(status.id):
            recorded: list[str] = []
            with suppress(FarmError, OSError):
                recorded = [one.evaluation for one in store.scores.of(status.result.adopted or status.id)[0]]
            known[status.id] = tuple(one for one in known[status.id] if one.evaluation in recorded)
    return known


def _refuse_unfinished(name: str, found: Unscored) -> None:
    """Raises: Conflict: there is no model yet."""
    if not found.unfinished or found.jobs or found.there or found.stale:
        return
    run_id, state = next(iter(found.unfinished.items()))
    remedies = {
        State.QUEUED: f"Wait for it: farm watch {name}",
        State.RUNNING: f"Wait for it: farm watch {name}",
        State.FAILED: f"See why: farm show {run_id}. Then: farm retry {name}",
        State.CANCELLED: f"To train it after all: farm retry {run_id}",
    }
    many = len(found.unfinished)
    what = f"{run_id} is {state}" if many == 1 else f"none of {many} runs has finished"
    raise Conflict(f"{what}: there is no model to score.", remedy=remedies[state])


def _rows(found: Unscored, before: Mapping[str, State | None]) -> Iterator[dict]:
    for job_id, (job, why) in found.jobs.items():
        was = before[job_id]
        yield {
            "run": job.of,
            "evaluation": job.evaluation,
            "score": why,
            "was": was and str(was),
            "now": str(was if was in (State.QUEUED, State.RUNNING) else State.QUEUED),
            "machine": job.machine,
            "job": job_id,
        }


def _remarks(name: str, found: Unscored) -> Iterator[str]:
    if not found.jobs:
        yield f"nothing to score: {found.there} score{'s are' * (found.there != 1) or ' is'} there already"
    if found.stale:
        yield f"{found.stale} stale, made by an earlier form of the evaluation: farm eval {name} --stale"
    if found.unfinished:
        one = len(found.unfinished) == 1
        yield f"{len(found.unfinished)} run{' has' if one else 's have'} not finished, and so no model to score"
