"""The way in: settings, the queue behind them, and the run or study that a name stands for."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Literal, NamedTuple

from cli.unread import Unread, unread
from farm.errors import FarmError, NotFound, nearest
from farm.queue.listing import Picture
from farm.queue.node import offering
from farm.queue.queue import Queue
from farm.queue.values import Status
from farm.record.imported import PREFIX
from farm.site import serving
from farm.site.client import translate_errors
from farm.site.session import glance, session
from farm.site.settings import Settings
from farm.study.machine import BUILT_IN, Machine, layer
from farm.study.recipe import TEST
from farm.study.study import Draft, Study
from farm.verdict.seen import Seen, Sight, see


@contextmanager
def queue(settings: Settings | None = None) -> Iterator[Queue]:
    """The queue of this farm; starts the embedded Redis unless it runs.

    Raises: Unreachable, Refused: also when Redis goes away in between.
    """
    with session(settings or Settings.load()) as redis, translate_errors(redis):
        yield Queue(redis)


def machines(settings: Settings, queue: Queue | None) -> dict[str, Machine]:
    """The machine classes known here: built in, declared in farm.toml, registered by nodes; the last wins."""
    return queue.roster.classes(settings.machines) if queue else layer(BUILT_IN, settings.machines)


def study_file(path: Path, settings: Settings) -> Study:
    """The study in a file; faults of its machines are reported together with all others.

    Raises: BadStudy
    """
    found = Draft.load(path)
    if found.faults:
        from farm.verdict.forecast import misfits

        more = misfits(found, _local_classes(settings))
        raise found.refusal(more)
    return found.whole()


def _local_classes(settings: Settings) -> dict[str, Machine]:
    """The machine classes that are known without waiting for a Redis."""
    with suppress(FarmError), glance(settings) as redis:
        return machines(settings, Queue(redis))
    return machines(settings, None)


def is_study(queue: Queue, name: str) -> bool:
    """Whether `name` is a submitted study."""
    return queue.studies.has(name)


def select(queue: Queue, name: str) -> list[Status]:
    """The runs of the study `name`, or the one run whose id starts with it.

    Raises: NotFound: neither. Conflict: several runs start so.
    """
    return _picture(queue, name).statuses


def selected(queue: Queue, name: str) -> tuple[list[Status], Unread]:
    """As `select`, with the runs of the study that cannot be read; says that there are some, if there are."""
    from cli.render import say

    picture = _picture(queue, name)
    passed = unread(picture, name)
    for line in passed.lines:
        say(line)
    return picture.statuses, passed


def _picture(queue: Queue, name: str) -> Picture:
    """The runs of the study `name`, or the one run whose id starts with it.

    Raises: NotFound, Conflict. Unreadable: it is one run, and cannot be read.
    """
    if is_study(queue, name):
        return queue.listing.picture(name)
    refuse_imported(queue, name)
    try:
        return Picture([queue.listing.status(name)], {})
    except NotFound:
        known = [*queue.studies.names(), *queue.listing.near(name)]
        raise NotFound(f"there is no run or study {name!r}{nearest(name, known)}", remedy="See `farm runs`.") from None


def run_of(queue: Queue, name: str) -> Status:
    """The run whose id starts with `name`. Raises: NotFound, also of an imported loss; Conflict, Unreadable."""
    refuse_imported(queue, name)
    return queue.listing.status(name)


def refuse_imported(queue: Queue, name: str) -> None:
    """Raises: NotFound: `name` is an imported loss, or a study of such alone, where only runs of the farm will do."""
    if name.startswith(PREFIX):
        known = [run.id for one in queue.studies.all_imported().values() for run in one.runs]
        if any(run_id.startswith(name) for run_id in known):
            raise NotFound(
                f"{name} is an imported loss, and this needs a run that the farm trained.",
                remedy=f"See what is known of it with: farm show {name}",
            )
    if not is_study(queue, name) and queue.studies.imported(name).runs:
        raise NotFound(
            f"study {name!r} has imported losses only, and this needs runs that the farm trained.",
            remedy=f"See them with: farm table {name}",
        )


def newest_study(queue: Queue) -> str | None:
    """The study that queued a run most recently, or None. Names it, and the others, on stderr."""
    from cli.render import say

    newest_first = queue.listing.studies()
    known = dict.fromkeys([*queue.studies.names(), *queue.studies.all_imported()])
    names = [*newest_first, *(name for name in known if name not in newest_first)]
    if names:
        others = ", ".join(names[1:6]) + (", ..." if len(names) > 6 else "")
        say(f"study {names[0]}" + (f" (others: {others})" if others else ""))
    return names[0] if names else None


def study_or_newest(queue: Queue, name: str | None) -> str:
    """`name`, or the newest study. Raises: NotFound: there is none at all."""
    name = name or newest_study(queue)
    if name is None:
        raise NotFound("no study yet.", remedy="Queue one: farm submit STUDY.")
    return name


def trained_study(queue: Queue, name: str | None) -> Study:
    """The study `name`, or the newest. Raises: NotFound: none, or of imported losses alone. Unreadable."""
    name = study_or_newest(queue, name)
    refuse_imported(queue, name)
    return queue.studies.one(name)


class StudyResults(NamedTuple):
    """A study, its results, and what of it cannot be read."""

    study: Study
    results: list[Seen]
    unread: Unread


def load_results(queue: Queue, name: str | None) -> StudyResults:
    """The study `name`, or the newest, and its results, as scored by the evaluation that it ranks by. Names that
    evaluation on stderr unless it is the test loss, and counts the runs that it has not scored or that cannot be read.

    Raises: NotFound: there is no such study, or none at all. Unreadable: the study itself.
    """
    from cli.render import say

    study = trained_study(queue, name)
    picture, scored = queue.listing.picture(study.name), queue.evaluations.scored(study.name, "study")
    results = [status.result for status in picture.statuses if status.result]
    sight = see(results, scored.scores, study.study.score, study.evaluations)
    passed = unread(picture, study.name, scored.flaws)
    for line in (*passed.lines, *_yardstick(study, sight)):
        say(line)
    return StudyResults(study, sight.results, passed)


def _yardstick(study: Study, sight: Sight) -> Iterator[str]:
    by = study.study.score
    if by != TEST and sight.results:
        one = sight.results[0]
        yield f"by {by}, in {one.unit}: {one.direction} is better"
    if count := len(sight.unscored):
        runs = f"{count} run{'s' * (count != 1)}"
        yield f"{runs} without a score by {by} left out; to score them: farm eval {study.name} {by}"


def count_offers(settings: Settings, queue: Queue) -> dict[str, int]:
    """Machine class -> living nodes where a run may start; classes without any are left out.

    As the dispatcher sees them; without one, as the nodes report themselves.
    """
    if roster := queue.roster.nodes():
        return offering(roster)
    nodes = {name: len(nodes) for name, nodes in queue.roster.offers().items() if nodes}
    up = serving.facts(settings)
    return (dict.fromkeys(up.units, 1) if up else {}) | nodes


def slots(queue: Queue) -> dict[str, int]:
    """Machine class -> runs that can train at a time on the nodes that are up; empty without a dispatcher."""
    found: Counter[str] = Counter()
    for node in queue.roster.nodes():
        if node.drained is None:
            found.update(node.units)
    return found


def complete_study(incomplete: str) -> list[str]:
    """Study names, for the shell."""
    return _names("studies", incomplete)


def complete_arm(incomplete: str, named: str | None) -> list[str]:
    """Arms for the shell: those of the study, study file or run that is `named`; of all studies if none is named."""
    if named is None:
        return _names("arms", incomplete)
    with suppress(Exception):
        if Path(named).is_file():
            return [arm.name for arm in Study.load(Path(named)).arms() if arm.name.startswith(incomplete)]
        with glance(Settings.load()) as redis:
            known = Queue(redis)
            study = named if is_study(known, named) else known.listing.status(named).study
            return known.listing.names("arms", incomplete, study)
    return []


def complete_run(incomplete: str) -> list[str]:
    """Run ids, for the shell."""
    return _names("runs", incomplete)


def _names(kind: Literal["studies", "arms", "runs"], incomplete: str, study: str = "") -> list[str]:
    """Names from Redis if it answers at once; else none."""
    with suppress(Exception), glance(Settings.load()) as redis:  # a shell that completes must not print errors
        return Queue(redis).listing.names(kind, incomplete, study)
    return []
