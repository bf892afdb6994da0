"""The scores that a study's models lack, as jobs for the queue."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Literal, NamedTuple

from farm.queue.values import Status
from farm.record.result import Result
from farm.record.score import Score
from farm.study.machine import parts
from farm.study.recipe import TEST
from farm.study.run import Evaluating, Run, State
from farm.study.study import Study

Why = Literal["missing", "stale"]


class Unscored(NamedTuple):
    """The runs to be scored and why; and those that are not."""

    jobs: dict[str, tuple[Evaluating, Why]]  # by their ids
    there: int  # scores by the study's evaluations as they are now
    stale: int  # scores that only an earlier form of an evaluation made, and that were not asked for
    unfinished: dict[str, State]  # runs without a model


def find_unscored(
    study: Study,
    statuses: Sequence[Status],
    scores: Mapping[str, Collection[Score]],
    names: Collection[str],
    *,
    stale: bool = False,
    machine: str | None = None,
) -> Unscored:
    """Find the scores by the evaluations `names` of `study` that the runs in `statuses` lack; `scores` has them by run.

    A score is missing where its run has none of that name, and stale where it has one by an earlier form of the
    evaluation: other code, another slice or another precision. `machine`: the class that scores, instead of each run's.
    """
    jobs: dict[str, tuple[Evaluating, Why]] = {}
    there = passed = 0
    for status in statuses:
        for name in names if status.result else ():
            assert status.result
            job = _job(study, status.run, status.result, name, machine)
            made = [one for one in scores.get(status.id, ()) if one.name == name and one.weights == job.weights]
            if any(one.evaluation == job.recipe.evaluation_id(name) for one in made):
                there += 1
            elif made and not stale:
                passed += 1
            else:
                jobs[job.id] = job, "stale" if made else "missing"
    unfinished = {status.id: status.state for status in statuses if not status.result}
    return Unscored(jobs, there, passed, unfinished)


def _job(study: Study, run: Run, result: Result, name: str, machine: str | None) -> Evaluating:
    """The scoring of a run's model on one node: of a mixed group's, on a node of its first class."""
    fields = {field: getattr(run, field) for field in Run.model_fields}
    recipe = run.recipe if name == TEST else run.recipe.with_test(study.evaluations[name])
    fields |= {"recipe": recipe, "machine": machine or parts(run.machine)[0]}
    return Evaluating(**fields, of=result.adopted or run.id, evaluation=name, weights=result.fingerprints.final)


def tell(jobs: Sequence[Status]) -> list[str]:
    """How the evaluations that were asked for stand, in lines; those that have their scores are left out."""
    counted = Counter(status.state for status in jobs)
    under_way = [f"{counted[state]} {state}" for state in (State.QUEUED, State.RUNNING) if counted[state]]
    lines = [f"evaluations: {', '.join(under_way)}"] if under_way else []
    for status in jobs:
        if status.state is State.FAILED and status.causes:
            last = status.causes[-1]
            lines.append(f"evaluation {status.id} has failed: {last.cause}: {last.message}")
        elif status.state is State.QUEUED and status.causes:
            lines.append(f"evaluation {status.id} is tried again: {status.causes[-1].message}")
        elif status.state is State.CANCELLED:
            lines.append(f"evaluation {status.id} was cancelled")
    return lines
