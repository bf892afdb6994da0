"""`farm submit STUDY`"""

from collections import Counter
from collections.abc import Iterator
from typing import Annotated

import typer

from cli import render
from cli.access import machines, offered, queue
from cli.options import Json, StudyFile
from cli.progress import follow
from cli.render import Column, Sheet, say
from cli.table import show_table
from farm import settings as settings_
from farm import study as study_
from farm.errors import FarmError
from farm.forecast import plans
from farm.queue import Put, Queue
from farm.run import State
from farm.settings import Settings
from farm.store import Store
from farm.study import Study

COLUMNS = (
    Column("run", "run"),
    Column("arm", "arm"),
    Column("machine", "machine"),
    Column("seeds", "seeds"),
    Column("now", "now"),
)
WORDS = {State.SUCCEEDED: "already finished", State.FAILED: "failed before", State.CANCELLED: "cancelled before"}
SHOWN = 40  # runs on a terminal; a pipe and JSON get all


def submit(
    study: StudyFile,
    wait: Annotated[bool, typer.Option("--wait", help="Follow the runs, then show the table.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Queue nothing; say what would be.")] = False,
    as_json: Json = False,
) -> None:
    """Queue every run of a study that is not known yet.

    Submitting twice queues nothing twice. Every run is planned first: one that fits nowhere refuses the whole study.
    """
    settings = settings_.load()
    parsed = study_.load(study)
    with queue(settings) as open_queue:
        plans(parsed, machines(settings, open_queue))  # refuses what no machine can run
        put = open_queue.preview(parsed) if dry_run else queued(open_queue, settings, parsed)
        if not wait:
            render.emit(sheet(parsed, put), as_json=as_json)
        for remark in remarks(parsed, put, dry_run):
            say(remark)
        warn_of_absent(parsed, offered(settings, open_queue), put)
        if wait and not dry_run:
            failed = wait_for(open_queue, parsed.name)
            show_table(open_queue, parsed.name, as_json=as_json)
            raise typer.Exit(1 if failed else 0)
    if not as_json and not dry_run:
        render.say_next(f"farm watch {parsed.name}", f"farm table {parsed.name}")


def queued(queue: Queue, settings: Settings, study: Study) -> Put:
    """Queue the study, and record it where the run directories are, if that is seen from here. Raises: Conflict."""
    put = queue.put(study)
    if settings.redis_url is None or settings.storage.is_dir():
        try:
            Store(settings.storage).keep(study)
        except (FarmError, OSError) as error:  # queued all the same, and an agent records it again
            say(f"warning: {study.name} is queued, but {error}")
    return put


def sheet(study: Study, put: Put) -> Sheet:
    """A row per run: queued now, or the state it has already."""
    rows = [
        {
            "run": run.id,
            "arm": run.arm,
            "machine": run.machine,
            "seeds": str(run.seeds),
            "now": str(put.known[run.id]) if run.id in put.known else "new",
        }
        for run in study.runs()
    ]
    more = {"study": study.name, "new": len(put.new), "known": len(put.known)}
    return Sheet("farm.submit/1", COLUMNS, rows, more=more, shown=SHOWN)


def remarks(study: Study, put: Put, dry_run: bool) -> Iterator[str]:
    """One line: how many are new and how many known, and one more for those that need `retry`."""
    counts = Counter(WORDS.get(state, "already queued or running") for state in put.known.values())
    parts = [f"{count} {word}" for word, count in counts.items()]
    parts.append(f"{len(put.new)} {'would be queued' if dry_run else 'queued'}")
    yield f"{study.name}: of {len(put.new) + len(put.known)} runs {', '.join(parts)}"
    if State.FAILED in put.known.values():
        yield f"failed runs stay failed until: farm retry {study.name}"


def warn_of_absent(study: Study, nodes: dict[str, int], put: Put) -> None:
    """Name the classes whose new runs will wait because no node offers them."""
    new = set(put.new)
    absent = sorted({run.machine for run in study.runs() if run.id in new} - nodes.keys())
    if absent:
        hint = "join one with: farm join" if nodes else "start one with: farm up"
        say(f"warning: no live node of class {', '.join(absent)}: those runs wait; {hint}")


def wait_for(queue: Queue, study: str) -> bool:
    """Follow a study until all its runs are final; whether one did not succeed."""
    try:
        statuses = follow(queue, lambda: queue.statuses(study))
    except KeyboardInterrupt:
        say(f"{study} goes on without you; see it with: farm watch {study}")
        raise
    return any(status.state is not State.SUCCEEDED for status in statuses)
