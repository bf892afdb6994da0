"""The agent before it trains: a Redis that is away, a storage it cannot use, a checkpoint it must not, no torch."""

import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from results import tiny_study
from worlds import planned

from farm.node import Head
from farm.queue import Queue
from farm.result import Provenance
from farm.run import Checkpoint, State
from farm.server import Server
from farm.settings import Settings
from farm.store import Store
from model.checkpoint import Contents, Identity, write
from workers.agent import _Agent, opened

AWAY_SECONDS = 5.0  # longer than a client tries by itself, which is about 3 s


def test_an_agent_waits_for_a_redis_that_is_away(tmp_path: Path) -> None:
    server = Server(tmp_path)
    here = Settings(home=tmp_path, redis_url=server.start(), storage=tmp_path)
    server.stop()
    back = threading.Timer(AWAY_SECONDS, server.start)
    back.start()
    try:
        with opened(here) as redis:
            assert redis.ping()
    finally:
        back.join()
        server.stop()


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


def test_a_folder_that_is_not_the_farms_is_no_storage(queue: Queue, tmp_path: Path) -> None:
    """As where nothing is mounted: it can be written, and nobody would ever find what was."""
    theirs = Store(tmp_path / "theirs")
    software = Provenance(farm="0", code="c" * 64, python="3.11", torch="2")
    queue.publish(
        Head(host="head", ray="h:1", software=software, sources="/s", storage=theirs.uri, marker=theirs.mark())
    )
    queue.put(tiny_study())
    claim = queue.claim("cpu", "worker", 60)
    assert claim is not None
    here = Settings(home=tmp_path / "home", storage=tmp_path / "ours")
    assert _Agent(here, queue, claim.lease, "job", "node").serve() == 1
    (cause,) = queue.status(claim.run.id).causes
    assert cause.message == f"{here.storage} on this node is not the farm's storage, {theirs.uri} on head. " + (
        "Mount that, or let FARM_STORAGE name it, as on the head."
    )


@pytest.mark.parametrize("kind", ["folder", "s3"])
def test_a_damaged_checkpoint_is_noted_and_the_next_older_taken(
    kind: str, queue: Queue, tmp_path: Path, s3_uri: str
) -> None:
    storage = s3_uri if kind == "s3" else tmp_path / "storage"
    first, second = (Settings(home=tmp_path / node, storage=storage) for node in ("node-1", "node-2"))
    queue.put(tiny_study())
    claim = queue.claim("cpu", "worker", 60)
    assert claim is not None
    plan = planned(claim.run, 1, claim.run.recipe.train.batch)
    agent = _Agent(first, queue, claim.lease, "job", "node")
    for step in (3, 5):
        contents = Contents(step, {"w": np.full(9, step, np.float32)}, {}, {})
        saved = write(agent.folder / "checkpoints", Identity.of(claim.run, plan), contents)
        agent.mirror.settle(0)
    pointer = Checkpoint(step=5, epoch=1, path=f"runs/{claim.run.id}/1/checkpoints/{saved.path.name}", sha256="")
    queue.checkpoint(claim.lease, pointer)
    agent.store.records.put(f"{pointer.path}/weights.safetensors", b"flipped")
    queue.release(claim.lease, "drained")
    again = queue.claim("cpu", "worker", 60)
    assert again is not None
    found = _Agent(second, queue, again.lease, "job", "node")._newest(claim.run, plan)
    assert found is not None
    assert (found.step, found.epoch) == (3, 1)
    (noted,) = [event for event in queue.events(claim.run.id) if event["event"] == "checkpoint-invalid"]
    assert "step-00000005 is damaged or gone: going on from step 3" in noted["detail"]


def test_an_agent_imports_no_torch() -> None:
    """Each of a run's processes would import it anew: 1.5 s of a core and 200 MB, in the way of the one that trains."""
    code = "import sys, workers.agent; assert 'ray.train' in sys.modules; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
