"""What the run directories bring back."""

from pathlib import Path

import pytest
from claims import checkpoint_at, claimed, listed
from results import result, study_text, tiny_study

from farm.queue.queue import Queue
from farm.record.store import Store
from farm.study.run import State
from farm.study.study import Study


def test_restored_runs_are_as_they_were_told_and_known_ones_stay(queue: Queue) -> None:
    lost, kept = tiny_study(init=(42,)).runs()[:2]
    assert queue.index.restore(lost, "old", State.QUEUED, epoch=4, checkpoint=checkpoint_at(9, epoch=4))
    assert queue.index.restore(kept, "old", State.SUCCEEDED, epoch=1, result=result(kept, 3.0))
    assert not queue.index.restore(kept, "old", State.QUEUED)
    first, second = queue.listing.statuses("old")
    assert (first.state, first.epoch, first.step, first.checkpoint) == (State.QUEUED, 4, 9, checkpoint_at(9, epoch=4))
    assert (second.state, second.result) == (State.SUCCEEDED, result(kept, 3.0))
    assert queue.listing.overview() == (listed(queue), {})
    assert queue.redis.hget(f"{queue.prefix}run:{kept.id}", "losses"), "so that a listing need not read the result"
    assert claimed(queue).lease.epoch == 5
    assert sum(queue.listing.counts().values()) == queue.listing.put_count() == 2


@pytest.mark.parametrize("design", ["factorial", "stack", "leave-one-out", "fraction"])
def test_a_study_comes_back_with_its_interventions_in_their_order(queue: Queue, design: str, tmp_path: Path) -> None:
    """It names the arms, and is the order of a ladder: sorted by name they would be other arms than those submitted."""
    study = Study.parse(study_text().replace("[study]", f'[study]\ndesign = "{design}"'))
    assert list(study.interventions) != sorted(study.interventions)
    queue.put(study)
    store = Store(tmp_path)
    store.studies.keep(study)
    names = [arm.name for arm in study.arms()]
    assert [arm.name for arm in queue.studies.one("tiny").arms()] == names
    assert [arm.name for arm in store.studies.all()[0]["tiny"].arms()] == names
