"""The agent of an evaluation before it scores: a model that is gone or damaged, other weights, a drain, a lost lease.

tests/walk/test_walk.py has the scoring itself.
"""

from pathlib import Path

import numpy as np
import pytest
from results import result, score, tiny_study
from worlds import planned

from farm.errors import LeaseLost
from farm.queue.queue import Queue
from farm.queue.unscored import find_unscored
from farm.queue.values import Claim, Status
from farm.record.result import Measurement, Result
from farm.record.store import Store
from farm.site.settings import Settings
from farm.study.recipe import TEST
from farm.study.run import Attempt, Evaluating, Run, State
from model.checkpoint import Contents, Identity, write
from workers.attempt import evaluating
from workers.attempt.agent import Agent
from workers.attempt.asks import Asks
from workers.attempt.ending import Finished, ending
from workers.attempt.evaluating import Evaluator
from workers.attempt.task import Scoring

STUDY = tiny_study(init=(42,))


def trained(queue: Queue, home: Path) -> tuple[Store, Result]:
    """A finished run on record, with a checkpoint of other weights than a result would have."""
    store = Store(home / "storage")
    queue.put(STUDY)
    claim = queue.claim("cpu", "worker", 60)
    assert claim is not None
    run, steps = claim.run, claim.run.recipe.steps
    folder = store.runs.begin(run, Attempt(run_id=run.id, epoch=1, worker="worker", started=1.0), "tiny")
    plan = planned(run, 1, run.recipe.train.batch)
    write(folder / "checkpoints", Identity.of(run, plan), Contents(steps, {"w": np.ones(9, np.float32)}, {}, {}))
    made = result(run, 3.0)
    store.runs.record(made)
    queue.finish(claim.lease, made)
    while other := queue.claim("cpu", "worker", 60):  # the other arms stay out of the way
        queue.cancel(other.run.id)
        queue.acknowledge_cancel(other.lease)
    return store, made


def asked(queue: Queue) -> Claim:
    """A claim of the scoring of that run."""
    wanted = find_unscored(STUDY, queue.listing.statuses("tiny"), {}, [TEST]).jobs
    queue.evaluations.put("tiny", [job for job, _ in wanted.values()])
    claim = queue.claim("cpu", "worker", 60)
    assert claim is not None
    assert isinstance(claim.run, Evaluating)
    return claim


def agent_of(queue: Queue, claim: Claim, home: Path, asks: Asks | None = None) -> Agent:
    here = Settings(home=home / "home", storage=home / "storage")
    found = Agent(here, queue, claim.lease, "job", "node", asks)
    assert isinstance(found.work, Evaluator)
    return found


def spoil(how: str, store: Store, made: Result) -> None:
    place = store.root / made.checkpoint
    match how:
        case "gone":
            store.records.remove(made.checkpoint)
        case "damaged":
            content = bytearray((place / "weights.safetensors").read_bytes())
            content[-1] ^= 1
            (place / "weights.safetensors").write_bytes(content)
        case "without a manifest":
            (place / "manifest.json").unlink()
        case "result gone":
            store.records.remove(f"runs/{made.run_id}/result.json")


@pytest.mark.parametrize(
    ("how", "cause", "says"),
    [
        ("gone", "checkpoint-invalid", "is gone: the model of"),
        ("damaged", "checkpoint-invalid", "weights.safetensors"),
        ("without a manifest", "checkpoint-invalid", "is gone: the model of"),
        ("result gone", "not-found", "holds no result: there is no model to score"),
    ],
)
def test_a_model_that_is_not_whole_fails_its_evaluation_with_the_cause(
    how: str, cause: str, says: str, queue: Queue, tmp_path: Path
) -> None:
    store, made = trained(queue, tmp_path)
    claim = asked(queue)
    spoil(how, store, made)
    assert agent_of(queue, claim, tmp_path).serve() == 1
    status = queue.listing.status(claim.run.id)
    assert (status.state, [one.cause for one in status.causes]) == (State.FAILED, [cause])
    assert says in status.causes[0].message
    assert queue.listing.status(made.run_id).state is State.SUCCEEDED, "the run is not touched"
    assert store.scores.of(made.run_id) == ([], [])


def test_a_model_that_was_trained_anew_is_not_scored_as_the_one_that_was_asked_for(
    queue: Queue, tmp_path: Path
) -> None:
    _, made = trained(queue, tmp_path)
    (job,) = [job for job, _ in find_unscored(STUDY, queue.listing.statuses("tiny"), {}, [TEST]).jobs.values()]
    queue.evaluations.put("tiny", [job.model_copy(update={"weights": "0" * 64})])
    claim = queue.claim("cpu", "worker", 60)
    assert claim is not None
    assert agent_of(queue, claim, tmp_path).serve() == 1
    (cause,) = queue.listing.status(job.id).causes
    assert "has different weights now than when this score was requested" in cause.message
    assert cause.message.endswith(f"Ask again: farm eval {made.run_id}")


def test_drained_it_goes_back_unharmed(queue: Queue, tmp_path: Path) -> None:
    trained(queue, tmp_path)
    claim, asks = asked(queue), Asks()
    asks.drain()
    assert agent_of(queue, claim, tmp_path, asks).serve() == 0
    status = queue.listing.status(claim.run.id)
    assert (status.state, status.attempts, status.causes) == (State.QUEUED, 0, ())


def test_cancelled_at_its_end_it_keeps_its_score_and_the_run_its_result(queue: Queue, tmp_path: Path) -> None:
    store, made = trained(queue, tmp_path)
    claim = asked(queue)
    agent = agent_of(queue, claim, tmp_path)
    found = score(made, [3.0, 3.0], epoch=claim.lease.epoch)
    store.scores.keep(found, [3.0, 3.0])
    queue.cancel(claim.run.id)
    assert agent.closing.carry_out(ending(agent.asks.asked, Finished(found)), agent.work).code == 0
    assert queue.listing.status(claim.run.id).state is State.CANCELLED
    assert store.runs.result(made.run_id) == made, "a training that is cancelled has its result withdrawn; this is none"
    assert store.scores.of(made.run_id)[0] == [found]


def test_who_has_lost_the_lease_delivers_nothing(queue: Queue, tmp_path: Path) -> None:
    _, made = trained(queue, tmp_path)
    claim = asked(queue)
    agent = agent_of(queue, claim, tmp_path)
    queue.release(claim.lease, "given to another")
    again = queue.claim("cpu", "other", 60)
    assert again is not None
    with pytest.raises(LeaseLost):
        agent.work.deliver(score(made, [3.0, 3.0], epoch=claim.lease.epoch))
    assert queue.evaluations.scores(made.run_id, "run") == {}
    assert agent.serve() == 0, "nothing to do"
    assert queue.listing.status(claim.run.id).epoch == again.lease.epoch


def test_who_loses_the_lease_while_scoring_records_nothing(
    queue: Queue, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, made = trained(queue, tmp_path)
    claim = asked(queue)

    def scored(task: Scoring, *_: object) -> Measurement:
        queue.release(claim.lease, "given to another")
        assert queue.claim("cpu", "other", 60) is not None
        return Measurement(exam=task.exam, value=3.0, tokens=2, values=(3.0, 3.0))

    monkeypatch.setattr(evaluating, "score", scored)
    monkeypatch.setattr(evaluating, "items", lambda *_: "9" * 64)
    agent_of(queue, claim, tmp_path).serve()
    assert store.scores.of(made.run_id) == ([], [])
    assert queue.listing.status(claim.run.id).epoch == claim.lease.epoch + 1


def test_what_a_study_lacks_is_asked_of_one_node_of_a_mixed_group() -> None:
    run = Run.model_validate(STUDY.runs()[0].model_dump() | {"machine": "1xrtx3090+cpu"})
    queue_status = {"run": run, "study": "tiny", "state": State.SUCCEEDED, "epoch": 1, "attempts": 0, "step": 1}
    status = Status.model_construct(**queue_status, result=result(STUDY.runs()[0], 3.0))
    (job,) = [job for job, _ in find_unscored(STUDY, [status], {}, [TEST]).jobs.values()]
    assert job.machine == "1xrtx3090"
