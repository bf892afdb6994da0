"""The spelling of values in Redis: how the scripts read them, and how their answers are read."""

import json
from collections.abc import Collection, Iterable, Iterator, Sequence
from functools import lru_cache
from typing import Any, Literal, NamedTuple, TypeAlias

from farm.queue.node import Head, Node
from farm.queue.rental import Rental
from farm.queue.values import Cause, Event, Listed, Losses, Pause, Status, Supply
from farm.record.imported import Imported
from farm.record.reference import References
from farm.record.result import Result
from farm.record.score import Score
from farm.study.machine import Machine
from farm.study.recipe import Recipe, canonical_json
from farm.study.run import Checkpoint, Evaluating, Run, State, seeds_in
from farm.study.schema import SCHEMA, check, stamp, unstamp
from farm.study.study import Study

Absent: TypeAlias = Literal[False]  # what a hash has not, as Lua says it


def spell_run(run: Run) -> tuple[Any, ...]:
    """A run as put.lua and restore.lua read it.

    Behind its JSON, on a line of its own, come its digest once more and the schema. Lua keeps strings in a hash table
    and looks at 32 characters of a long one; the runs of an arm, which differ in a seed, all fell into one bucket, and
    10,000 of them cost 90 us each.
    """
    digest, policy = run.digest, run.policy
    kind = " evaluation" if isinstance(run, Evaluating) else ""
    spec = f"{run.model_dump_json()}\n{digest} {SCHEMA}{kind}"
    recipe = run.recipe
    return (
        run.id_with(digest),
        digest,
        run.machine,
        run.arm,
        policy.priority,
        policy.attempts,
        spec,
        recipe.corpus,
        recipe.steps,
    )


@lru_cache(maxsize=20_000)  # twice the runs of the largest study; reading one costs 60 us
def read_run(spec: str) -> Run:
    text, _, rest = spec.partition("\n")
    schema, _, kind = rest.partition(" ")[2].partition(" ")
    check(int(schema or 0))
    return (Evaluating if kind else Run).model_validate_json(text)


def read_recipe(text: str) -> Recipe:
    """The recipe of an identity."""
    return Recipe.model_validate_json(canonical_json(json.loads(text)["changes"]))


class StatusRow(NamedTuple):
    """A run as statuses.lua tells it: its id, and these fields of its hash or beside it."""

    id: str
    spec: str
    study: str
    state: str
    epoch: str
    attempts: str
    step: str
    submitted: str
    started: str | Absent
    ended: str | Absent
    deadline: str | Absent
    worker: str | Absent
    job: str | Absent
    node: str | Absent
    checkpoint: str | Absent
    cancelling: str | Absent
    not_before: str | Absent
    released: str | Absent
    recalled: str | Absent
    held: str | Absent
    causes: Sequence[str]
    result: str | Absent


FIELDS = " ".join(StatusRow._fields[1:])  # as statuses.lua is asked for them; every run has the first


class ListedRow(NamedTuple):
    """A run as a listing needs it, told in the same way."""

    id: str
    arm: str
    study: str
    machine: str
    state: str
    step: str
    steps: str | Absent
    attempts: str
    submitted: str
    job: str | Absent
    cancelling: str | Absent
    recalled: str | Absent
    losses: str | Absent
    cause: str | Absent


LISTED = " ".join(ListedRow._fields[1:])


def read_listed(row: ListedRow) -> Listed | None:
    """None: it lacks what a listing shows, for an older farm put or finished it."""
    state = State(row.state)
    if not row.steps or (state is State.SUCCEEDED and not row.losses):
        return None
    seeds, rerun = seeds_in(row.id)
    return Listed(
        id=row.id,
        study=row.study,
        arm=row.arm,
        machine=row.machine,
        seeds=seeds,
        rerun=rerun,
        state=state,
        step=int(row.step),
        steps=int(row.steps),
        attempts=int(row.attempts),
        submitted=read_seconds(row.submitted),
        job=row.job or None,
        cancelling=bool(row.cancelling),
        recalled=row.recalled or None,
        losses=Losses(*json.loads(row.losses)) if row.losses else None,
        causes=(_read_cause(row.cause),) if row.cause else (),
    )


def spell_losses(result: Result) -> str:
    return json.dumps(Losses.of(result))


def read_status(text: str) -> Status:
    row = StatusRow(*json.loads(text))
    run = read_run(row.spec)
    return Status(
        run=run,
        study=row.study,
        state=State(row.state),
        epoch=int(row.epoch),
        attempts=int(row.attempts),
        step=int(row.step),
        submitted=read_seconds(row.submitted),
        started=read_seconds(row.started) if row.started else None,
        ended=read_seconds(row.ended) if row.ended else None,
        deadline=read_seconds(row.deadline) if row.deadline else None,
        worker=row.worker or None,
        job=row.job or None,
        node=row.node or None,
        causes=tuple(_read_cause(text) for text in row.causes),
        checkpoint=read_checkpoint(row.checkpoint or None),
        cancelling=bool(row.cancelling),
        not_before=read_seconds(row.not_before) if row.not_before else None,
        released=row.released or None,
        recalled=row.recalled or None,
        held_seconds=read_seconds(row.held) if row.held else 0.0,
        result=_read_result(row, run) if row.result and not isinstance(run, Evaluating) else None,
    )


@lru_cache(maxsize=1_000)  # who watches a study reads its results every second; one costs 200 us
def _result(text: str) -> Result:
    return Result.model_validate_json(unstamp(text))


def _read_result(row: StatusRow, run: Run) -> Result:
    """The result of `run`: its own, or the one that it has adopted, said of it."""
    found = _result(row.result)
    trained = found.adopted or found.run_id
    if trained == row.id:
        return found
    return found.model_copy(update={"run_id": row.id, "arm": run.arm, "adopted": trained})


def read_checkpoint(text: str | None) -> Checkpoint | None:
    return Checkpoint.model_validate_json(text) if text else None


def _read_cause(text: str) -> Cause:
    at, epoch, detail = text.split(" ", 2)
    return Cause(epoch=int(epoch), at=read_seconds(at), **json.loads(detail))


def _spell_cause(cause: Cause) -> str:
    detail = json.dumps(cause.model_dump(exclude={"at", "epoch"}))
    return f"{milliseconds(cause.at)} {cause.epoch} {detail}"


def spell_history(causes: Sequence[Cause], released: Collection[int]) -> list[str]:
    """As restore.lua reads it: failures, oldest first, and between them the attempts that were given back."""
    told = [(cause.epoch, _spell_cause(cause)) for cause in causes]
    told += [(epoch, f"0 {epoch} released") for epoch in released]
    return [text for _, text in sorted(told, key=lambda one: one[0])]


def read_event(stream_id: str, fields: list[str]) -> Event:
    values = dict(pairs(fields))
    at, epoch = read_seconds(stream_id.split("-")[0]), int(values["epoch"])
    return Event(at=at, event=values["event"], epoch=epoch, detail=values["detail"])


def read_score(text: str) -> Score:
    return Score.model_validate_json(unstamp(text))


def spell_scores(scores: Iterable[Score]) -> list[str]:
    """As the scripts read them: the evaluation's id, and the score."""
    return [part for score in scores for part in (score.evaluation, stamp(canonical_json(score)))]


@lru_cache(maxsize=100)  # who guards budgets reads them all every few seconds
def read_study(text: str) -> Study:
    return Study.model_validate_json(unstamp(text))


@lru_cache(maxsize=100)
def read_imported(text: str) -> Imported:
    return Imported.model_validate_json(unstamp(text))


@lru_cache(maxsize=100)
def read_references(text: str) -> References:
    return References.model_validate_json(unstamp(text))


def spell_node(node: Node) -> str:
    return stamp(canonical_json(node.model_copy(update={"drained": None, "resting": None})))


def read_node(answer: Sequence[Any]) -> Node:
    text, drained, resting = answer
    node = Node.model_validate_json(unstamp(text))
    return node.model_copy(update={"drained": drained or None, "resting": resting or None})


def read_head(text: str) -> Head:
    return Head.model_validate_json(unstamp(text))


def spell_rental(rental: Rental) -> str:
    return stamp(rental.model_dump_json())


def read_rental(text: str) -> Rental:
    return Rental.model_validate_json(unstamp(text))


def read_machine(facts: str, probes: Sequence[str]) -> Machine:
    machine = Machine.model_validate_json(unstamp(facts))
    return machine.model_copy(update={"probes": {key: int(size) for key, size in pairs(probes)}})


def read_supply(text: str) -> dict[str, Supply]:
    return {name: Supply(**one) for name, one in json.loads(text).items()}


def read_pause(place: str, reason: str) -> Pause:
    study, corpus, *node = place.split(" ")
    return Pause(study, corpus, node[0] if node else None, reason)


def pairs(flat: Sequence[Any]) -> Iterator[tuple[Any, Any]]:
    return zip(flat[::2], flat[1::2], strict=True)


def milliseconds(seconds: float) -> int:
    return max(1, round(seconds * 1000))


def read_seconds(milliseconds: str) -> float:
    return int(milliseconds) / 1000
