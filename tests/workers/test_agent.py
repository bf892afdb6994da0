"""The agent before it trains: a node that cannot use the storage says so, and the run goes back to the queue."""

from pathlib import Path

import pytest
from results import tiny_study

from farm.queue import Queue
from farm.run import State
from farm.settings import Settings
from workers.agent import _Agent


@pytest.mark.parametrize(
    ("storage", "says"),
    [
        ("s3://not-there/farm", "s3://not-there/farm is in no bucket that exists. Make it, or name another."),
        ("/proc/farm", "the storage /proc/farm cannot hold records: No such file or directory. Set FARM_STORAGE to a"),
    ],
)
def test_a_storage_that_this_node_cannot_use_is_the_cause_of_the_failure(
    storage: str, says: str, queue: Queue, tmp_path: Path, s3_uri: str
) -> None:
    queue.put(tiny_study())
    claim = queue.claim("cpu", "worker", 60)
    assert claim is not None
    here = Settings(home=tmp_path / "home", storage=storage if "://" in storage else Path(storage))
    assert _Agent(here, queue, claim.lease, "job", "node").serve() == 1
    status = queue.status(claim.run.id)
    assert status.state is State.QUEUED, "another node may reach it"
    (cause,) = status.causes
    assert cause.cause == "storage-unusable"
    assert cause.message.startswith(says)
