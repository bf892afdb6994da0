"""Q5: a result is final."""

import pytest
from claims import started, state, study_of
from results import result

from farm.errors import Conflict
from farm.queue.queue import Queue
from farm.study.run import State


def test_q5_finish_is_final_and_may_be_repeated(queue: Queue) -> None:
    study_of(queue)
    claim = started(queue)
    said = result(claim.run, 3.0)
    queue.finish(claim.lease, said)
    queue.finish(claim.lease, said)
    status = queue.listing.status(claim.run.id)
    assert (status.state, status.result, status.step) == (State.SUCCEEDED, said, said.steps)
    assert status.ended is not None
    assert queue.cancel(claim.run.id) == State.SUCCEEDED
    with pytest.raises(Conflict, match="has succeeded"):
        queue.retry(claim.run.id)


def test_q5_a_different_result_is_a_conflict(queue: Queue) -> None:
    study_of(queue)
    claim = started(queue)
    queue.finish(claim.lease, result(claim.run, 3.0))
    with pytest.raises(Conflict, match="already has another result"):
        queue.finish(claim.lease, result(claim.run, 2.0))
    assert queue.listing.status(claim.run.id).result == result(claim.run, 3.0)


def test_q5_the_result_of_another_run_or_epoch_is_a_conflict(queue: Queue) -> None:
    study_of(queue)
    first, second = started(queue), started(queue)
    with pytest.raises(Conflict, match="the result is of"):
        queue.finish(first.lease, result(second.run, 3.0))
    with pytest.raises(Conflict, match="epoch 2"):
        queue.finish(first.lease, result(first.run, 3.0, epoch=2))
    assert state(queue, first) == State.RUNNING
