"""`farm forget STUDY|RUN`"""

import sys
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Annotated

import typer

from cli import render
from cli.access import is_study, queue, select
from cli.cancel import DroppedOnly, find_dropped
from cli.options import ArmName, Json, RunOrStudy
from cli.render import Column, Sheet, say
from cli.runs import of_arm
from cli.storage import on_record, recording
from farm.errors import Guard, Unreadable
from farm.queue.queue import Queue
from farm.queue.values import Forgotten, Status
from farm.record.imported import ImportedRun
from farm.record.reference import Reference
from farm.record.store import Store
from farm.site.settings import Settings

COLUMNS = (Column("run", "run"), Column("was", "was"), Column("now", "now"))
Files = Annotated[bool, typer.Option("--files", help="Also remove the run directories: checkpoints, logs, results.")]
Yes = Annotated[bool, typer.Option("-y", "--yes", help="Do not ask.")]


def forget(
    name: RunOrStudy,
    arm: ArmName = None,
    dropped_only: DroppedOnly = False,
    files: Files = False,
    yes: Yes = False,
    as_json: Json = False,
) -> None:
    """Drop finished, failed or cancelled runs from every table, list and study.

    Queued and running runs must be cancelled first. A run that another study shares stays there. The run directories
    stay unless --files is given, and farm reindex leaves them out: submitted again, a run finds its result or its
    checkpoints there. A reference model of the study is dropped by its name, --arm NAME, or with the whole study.
    """
    settings = Settings.load()
    with queue(settings) as open_queue:
        imports = [] if dropped_only else imported_runs(open_queue, name, arm)
        references = [] if dropped_only else reference_models(open_queue, name, arm)
        apart = bool(imports or references)
        store = recording(settings) if apart else None  # refused before anything is forgotten
        is_here = not apart or is_study(open_queue, name)
        chosen = chosen_runs(open_queue, name, None if apart else arm, dropped_only) if is_here else {}
        chosen = {key: status for key, status in chosen.items() if not (arm and status) or status.run.arm == arm}
        if not chosen and not apart:
            say(f"{name}: no such run: there is nothing to forget")
        elif not yes:
            confirm(chosen, name, files, len(imports), len(references))
        study = name if is_study(open_queue, name) else ""
        alike = open_queue.listing.namesakes(list(chosen))
        done = open_queue.forget(list(chosen), study) if chosen else Forgotten(gone={}, kept=())
        heirs = [] if not done.gone else adopters(open_queue, alike, done.gone)
        is_gone = bool(study) and not is_study(open_queue, study)
        if store and imports:
            drop_imported(store, open_queue, name, imports)
        if store and references:
            drop_references(store, open_queue, name, references)
    on_record(
        settings,
        lambda store: _record(store, done, heirs, files, study if is_gone and files else None),
        "forgotten, but not recorded in the storage: farm reindex would bring it back",
    )
    rows = [
        {
            "run": run_id,
            "was": str(status.state) if status else "unreadable",
            "now": "forgotten" if run_id in done.gone else "of another study",
        }
        for run_id, status in chosen.items()
    ]
    rows += [{"run": run.id, "was": "imported", "now": "forgotten"} for run in imports]
    rows += [{"run": one.name, "was": "reference", "now": "forgotten"} for one in references]
    render.emit(Sheet("farm.forget/1", COLUMNS, rows, more={"study_gone": is_gone}), as_json=as_json)
    for remark in remarks(done, heirs, files, study if is_gone else None):
        say(remark)


def chosen_runs(queue: Queue, name: str, arm: str | None, dropped_only: bool) -> dict[str, Status | None]:
    """The runs that are meant, by id; None for those whose values in Redis cannot be read.

    Raises: NotFound, Conflict.
    """
    try:
        chosen = select(queue, name)
    except Unreadable as spoilt:
        if run_id := spoilt.fields.get("run_id"):
            return {run_id: None}
        raise
    if arm:
        chosen = of_arm(chosen, arm)
    if dropped_only and is_study(queue, name):
        chosen = find_dropped(queue.studies.one(name), chosen)
    found: dict[str, Status | None] = {status.id: status for status in chosen}
    if is_study(queue, name) and not (arm or dropped_only):  # nothing tells the arm of what cannot be read
        found |= dict.fromkeys(queue.listing.picture(name).flaws)
    return found


def imported_runs(queue: Queue, study: str, arm: str | None) -> list[ImportedRun]:
    """The runs that were imported into a study, or into this arm of it."""
    return [run for run in queue.studies.imported(study).runs if arm in (None, run.arm)]


def drop_imported(store: Store, queue: Queue, study: str, runs: Sequence[ImportedRun]) -> None:
    """Remove imported losses, which are nowhere but on record and in Redis; the record first, or it would bring them
    back."""
    left = queue.studies.imported(study).without(run.id for run in runs)
    store.studies.keep_imported(left)
    queue.studies.bring(left)


def reference_models(queue: Queue, study: str, arm: str | None) -> list[Reference]:
    """The reference models of a study, or the one of this name."""
    return [one for one in queue.studies.references(study).models if arm in (None, one.name)]


def drop_references(store: Store, queue: Queue, study: str, references: Sequence[Reference]) -> None:
    """As drop_imported."""
    left = queue.studies.references(study).without([one.name for one in references])
    store.studies.keep_references(left)
    queue.studies.refer(left)


def confirm(chosen: Mapping[str, Status | None], name: str, files: bool, imports: int = 0, references: int = 0) -> None:
    """Ask for confirmation on a terminal. Raises: Guard: there is no terminal. typer.Abort: the answer is no."""
    results = sum(status is not None and status.result is not None for status in chosen.values())
    what = f"{len(chosen)} run{'s' * (len(chosen) != 1)} of {name}, {results} with a result"
    what += f", and {imports} imported loss{'es' * (imports != 1)}" if imports else ""
    what += f", and {references} reference model{'s' * (references != 1)}" if references else ""
    what += ", and their files" if files else "; their files stay"
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise Guard(f"this would forget {what}.", remedy="Confirm with -y.")
    typer.confirm(f"Forget {what}?", abort=True, err=True)


def adopters(queue: Queue, alike: Sequence[str], gone: Collection[str]) -> list[Status]:
    """Of the runs that are `alike`, those that adopted the results of some that are gone."""
    left = queue.listing.these([run_id for run_id in dict.fromkeys(alike) if run_id not in gone]).statuses
    return [status for status in left if status.result and status.result.adopted in gone]


def remarks(done: Forgotten, heirs: list[Status], files: bool, study: str | None) -> Iterable[str]:
    """Remarks on what may surprise."""
    if done.kept:
        yield f"{len(done.kept)} of these runs belong to another study, too, and stay there"
    if heirs:
        with_files = " and files" if files else ""
        names = ", ".join(sorted({f"{status.run.arm} of {status.study}" for status in heirs}))
        yield f"the results{with_files} that {names} adopted from them stay"
    if study:
        yield f"{study} has no runs any more, so the study is gone"


def _record(store: Store, done: Forgotten, heirs: list[Status], files: bool, study: str | None) -> None:
    for heir in heirs:
        assert heir.result, "an heir has one"
        store.adopt(heir.result, heir.run, heir.study)
    inherited = {heir.result.adopted for heir in heirs if heir.result}
    for run_id, epoch in done.gone.items():
        store.runs.forget(run_id, epoch, files=files and run_id not in inherited)
    if study:
        store.studies.drop(study)
