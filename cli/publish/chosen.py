"""What a name stands for that is to be published: a study, or the one run that its model is of."""

from collections.abc import Sequence
from contextlib import suppress
from typing import NamedTuple

from cli.access import refuse_imported
from cli.ranking import RankedStudy, ranking
from farm.errors import Conflict, FarmError, NotFound, nearest
from farm.queue.queue import Queue
from farm.queue.values import Status
from farm.record.result import Result
from farm.record.score import Score
from farm.study.run import Evaluating, State


class Chosen(NamedTuple):
    """A finished run, and the study that it is shown as a part of."""

    status: Status
    result: Result
    study: str
    ranked: RankedStudy | None  # None: the study was forgotten, or is spoilt
    scores: Sequence[Score]
    why: str = ""  # this run, where an arm was named


def choose(queue: Queue, name: str, study: str | None = None) -> Chosen | str:
    """The name of a study if `name` is one, unless `study` is given; else the run that it stands for.

    Raises: NotFound, Conflict: several arms or runs are called so, or the run is not finished.
    """
    if study is None and (queue.studies.has(name) or queue.studies.imported(name).runs):
        return name
    if study is not None or name in queue.listing.names("arms", name):
        return _of_arm(queue, name, study or _study_with(queue, name))
    return _of_run(queue, name)


def _study_with(queue: Queue, arm: str) -> str:
    """The only study that has the arm. Raises: Conflict: there are several."""
    found = [study for study in queue.studies.names() if arm in queue.listing.names("arms", arm, study)]
    if len(found) > 1:
        raise Conflict(
            f"{len(found)} studies have an arm {arm!r}: {', '.join(found)}.", remedy=f"Write --study {found[0]}."
        )
    return found[0]


def _of_arm(queue: Queue, arm: str, study: str) -> Chosen:
    """The run of the arm's first seed pair that is finished, in the order of the study.

    The run with the lowest loss would be picked for its luck: its loss would be too good for the arm.
    """
    ranked = ranking(queue, study)
    order = {run.id: at for at, run in enumerate(ranked.study.runs())} if ranked.study else {}
    runs = sorted((one for one in ranked.statuses if one.run.arm == arm), key=lambda one: order.get(one.id, len(order)))
    if not runs:
        arms = {one.run.arm for one in ranked.statuses}
        raise NotFound(f"study {study!r} has no arm {arm!r}{nearest(arm, arms, listed=True)}")
    done = [one for one in runs if one.result]
    if not done:
        raise Conflict(
            f"no run of {arm} in {study} is finished; nothing was sent.", remedy=f"Wait for one: farm watch {study}"
        )
    many = f"of {len(runs)} runs of {arm} the one of the first seed pair" if len(runs) > 1 else f"the run of {arm}"
    later = "" if done[0] is runs[0] else " that is finished"
    return _chosen(queue, done[0], study, ranked, f"{done[0].id} is {many}{later}")


def _of_run(queue: Queue, name: str) -> Chosen:
    refuse_imported(queue, name)
    try:
        status = queue.listing.status(name)
    except NotFound:
        known = [*queue.studies.names(), *queue.listing.names("runs", name[:8]), *queue.listing.names("arms", name[:1])]
        raise NotFound(
            f"there is no run, arm or study {name!r}{nearest(name, known)}", remedy="See `farm runs`."
        ) from None
    if isinstance(status.run, Evaluating):  # a score belongs to the run that it scores
        status = queue.listing.status(status.run.of)
    ranked = None
    with suppress(FarmError):  # the study was forgotten, or is spoilt: its runs are not
        ranked = ranking(queue, status.study)
    return _chosen(queue, status, status.study, ranked)


def _chosen(queue: Queue, status: Status, study: str, ranked: RankedStudy | None, why: str = "") -> Chosen:
    if status.result is None:
        where = f"{status.state}, at step {status.step:,} of {status.run.recipe.steps:,}"
        remedy = (
            f"Try it again: farm retry {status.id}" if status.state is State.FAILED else "Publish one that is done."
        )
        if status.state in (State.QUEUED, State.RUNNING):
            remedy = f"Wait for it: farm watch {status.study}. Its newest checkpoint as a folder: farm export."
        raise Conflict(f"{status.id} is {where}: only a finished run is published; nothing was sent.", remedy=remedy)
    scores = queue.evaluations.scores(status.id, "run").get(status.id, ())
    return Chosen(status, status.result, study, ranked, scores, why)
