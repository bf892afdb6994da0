"""The outcome of a submit in sentences: new runs, known ones and their studies, and leftovers of an earlier form."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping

from cli.render import ago, duration
from farm.queue.queue import Queue
from farm.queue.values import Put, Status
from farm.queue.waiting import cut
from farm.study.run import State
from farm.study.study import Study

WORDS = {State.SUCCEEDED: "already finished", State.FAILED: "failed before", State.CANCELLED: "cancelled before"}
FAILURES = 3  # of other studies, told one by one


def remarks(queue: Queue, study: Study, put: Put, dry_run: bool) -> Iterator[str]:
    """A line of numbers, and one for each thing that its reader would not expect."""
    failed = [run_id for run_id, state in put.known.items() if state is State.FAILED]
    named = {*put.adopted.values(), *put.twins.values(), *failed}
    statuses = {status.id: status for status in queue.listing.these(list(named)).statuses}
    yield _numbers(study, put, dry_run)
    yield from _replacements(put, dry_run)
    yield from _adoptions(put, statuses)
    yield from _twins(put, statuses)
    if put.again:
        yield (
            f"{_runs(len(put.again))} {_was(len(put.again))} forgotten before: what their directories hold counts,"
            " results and checkpoints alike"
        )
    yield from _known_runs(study, put, statuses)
    yield from _leftover(study, queue, put)


def _numbers(study: Study, put: Put, dry_run: bool) -> str:
    counts = Counter(WORDS.get(state, "already queued or running") for state in put.known.values())
    told = [f"{count} {word}" for word, count in counts.items()]
    if put.adopted:
        told.append(f"{len(put.adopted)} known under another name")
    told.append(f"{len(put.new)} {'would be queued' if dry_run else 'queued'}")
    return f"{study.name}: of {len(put.new) + len(put.known) + len(put.adopted)} runs {', '.join(told)}"


def _replacements(put: Put, dry_run: bool) -> Iterator[str]:
    if put.replaced:
        what = "would be replaced" if dry_run else "replaced"
        arms = ", ".join(f"{count} of {arm}" for arm, count in Counter(put.replaced.values()).items())
        yield (
            f"{what}: {_runs(len(put.replaced))} of another recipe, none with a result ({arms});"
            " running ones stop at their next step"
        )


def _adoptions(put: Put, statuses: Mapping[str, Status]) -> Iterator[str]:
    for origin, count in Counter(_whose(statuses, run_id) for run_id in put.adopted.values()).items():
        has = "has" if count == 1 else "have"
        yield f"{_runs(count)} {has} the result of {origin}: the same recipe, seeds and machine, so nothing is trained"


def _twins(put: Put, statuses: Mapping[str, Status]) -> Iterator[str]:
    for origin, count in Counter(_whose(statuses, run_id) for run_id in put.twins.values()).items():
        are = "is" if count == 1 else "are"
        yield f"{_runs(count)} {are} queued or running as {origin}, too: trained twice, unless one is cancelled"


def _known_runs(study: Study, put: Put, statuses: Mapping[str, Status]) -> Iterator[str]:
    """The studies whose failures these are, and how failed and cancelled runs are queued again."""
    failed = [statuses[run_id] for run_id, state in put.known.items() if state is State.FAILED and run_id in statuses]
    others = [status for status in failed if status.study != study.name]
    for status in others[:FAILURES]:
        last = status.causes[-1] if status.causes else None
        why = f": {last.cause}: {cut(last.message)}" if last else ""
        yield f"{status.id} failed {duration(ago(status.ended))} ago for study {status.study}{why}"
    if len(others) > FAILURES:
        yield f"and {len(others) - FAILURES} more that failed for other studies: farm runs {study.name}"
    if failed:
        yield f"failed runs stay failed until: farm retry {study.name}"
    if cancelled := sum(state is State.CANCELLED for state in put.known.values()):
        stay = "run stays" if cancelled == 1 else "runs stay"
        yield f"{cancelled} cancelled {stay} so until: farm retry {study.name} --cancelled"


def _leftover(study: Study, queue: Queue, put: Put) -> Iterator[str]:
    """The runs of an earlier form of the study that it no longer has."""
    still = {*(run.id for run in study.runs()), *put.replaced}
    left = queue.listing.these([run_id for run_id in queue.listing.ids(study.name) if run_id not in still]).statuses
    going = [status for status in left if not status.state.is_final]
    if going:
        what = f"{_runs(len(going))} of an earlier form of {study.name} ({_arms(going)})"
        yield f"{what} {_are(len(going))} still queued or running; to stop: farm cancel {study.name} --dropped"
    elif left:
        what = f"{_runs(len(left))} of an earlier form of {study.name} ({_arms(left)})"
        yield f"{what} {'stays' if len(left) == 1 else 'stay'} in its tables until: farm forget {study.name} --dropped"


def _arms(statuses: Iterable[Status]) -> str:
    return ", ".join(f"{arm} x {count}" for arm, count in Counter(status.run.arm for status in statuses).items())


def _whose(statuses: Mapping[str, Status], run_id: str) -> str:
    found = statuses.get(run_id)
    return f"{found.run.arm} of study {found.study}" if found else run_id


def _runs(count: int) -> str:
    return f"{count} run{'s' * (count != 1)}"


def _was(count: int) -> str:
    return "was" if count == 1 else "were"


def _are(count: int) -> str:
    return "is" if count == 1 else "are"
