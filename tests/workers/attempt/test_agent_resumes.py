"""Where an attempt goes on: from the newest checkpoint that is whole, with its ledger and its record."""

import shutil
from pathlib import Path

import pytest
from attempts import attempt_of, closed
from results import tiny_study
from worlds import planned

from farm.errors import WorkerDied
from farm.queue.queue import Queue
from farm.queue.values import Claim
from farm.record.ledger import FILE
from farm.site.settings import Settings
from farm.study.run import Checkpoint
from workers.attempt.agent import Agent
from workers.attempt.ending import Broken
from workers.attempt.resuming import newest, past


def resumption(queue: Queue, claim: Claim, here: Settings) -> tuple[tuple[int, int] | None, list[tuple[str, str]]]:
    """The epoch and step that the run goes on from when it is claimed again, and what is said about it."""
    queue.release(claim.lease, "drained")
    again = queue.claim("cpu", "worker", 60)
    assert again is not None
    plan = planned(claim.run, 1, claim.run.recipe.train.batch)
    post = Agent(here, queue, again.lease, "job", "node").work._post
    found = newest(post, queue.listing.status(claim.run.id), plan, past(post, claim.run))
    told = [
        (event.event, event.detail) for event in queue.listing.events(claim.run.id) if event.epoch == again.lease.epoch
    ]
    said = [(event, detail) for event, detail in told if event.endswith(("-invalid", "-cut"))]
    return found and (found.epoch, found.step), said


@pytest.mark.parametrize("kind", ["folder", "s3"])
def test_every_damaged_checkpoint_is_noted_and_the_next_older_taken(
    kind: str, queue: Queue, tmp_path: Path, s3_uri: str
) -> None:
    storage = s3_uri if kind == "s3" else tmp_path / "storage"
    first, second = (Settings(home=tmp_path / node, storage=storage) for node in ("node-1", "node-2"))
    queue.put(tiny_study())
    for epoch, checkpoints in ((1, (2, 3)), (2, (5, 7))):
        claim = queue.claim("cpu", "worker", 60)
        assert claim is not None
        agent = Agent(first, queue, claim.lease, "job", "node")
        attempt_of(agent, claim, checkpoints, begun=(1, 3) if epoch == 2 else None)
        if epoch == 1:
            queue.release(claim.lease, "drained")
    place = f"runs/{claim.run.id}/2/checkpoints"
    queue.checkpoint(claim.lease, Checkpoint(step=3, epoch=1, path=f"{place}/step-00000003", sha256=""))
    for name in ("step-00000007/weights.safetensors", "step-00000005/state.json"):
        agent.store.records.put(f"{place}/{name}", b"flipped")
    went_on, said = resumption(queue, claim, second)
    assert went_on == (1, 3)
    assert [(event, detail.split(":")[0]) for event, detail in said] == [
        ("checkpoint-invalid", f"{place}/step-00000007 was skipped"),
        ("checkpoint-invalid", f"{place}/step-00000005 was skipped"),
    ], "though the queue, which had heard of neither, points at an older one"


def spoilt(how: str, run_folder: Path) -> None:
    """Attempt 1 ended at step 3, and attempt 2 went on from there to step 7 with checkpoints at 5 and 7."""
    first, second = run_folder / "1", run_folder / "2"
    steps = (second / FILE).read_bytes().splitlines(keepends=True)  # a header, and steps 4 to 7
    match how:
        case "attempt 1 deleted":
            shutil.rmtree(first)
        case "ledger of attempt 1 deleted":
            (first / FILE).unlink()
        case "ledger of attempt 2 emptied":
            (second / FILE).write_bytes(b"")
        case "ledger of attempt 2 is a folder":
            (second / FILE).unlink()
            (second / FILE).mkdir()
        case "record of attempt 2 damaged":
            (second / "attempt.json").write_bytes(b"{")
        case "a bad tail":
            (second / FILE).write_bytes(b"".join(steps) + b"12\n")
        case "a bad middle":
            (second / FILE).write_bytes(b"".join([*steps[:3], b'{"step": 6}\n', *steps[4:]]))
        case "a checkpoint that leads out":
            (second / "checkpoints" / "step-00000009").symlink_to("/etc")
        case "weights that lead out":
            weights = second / "checkpoints" / "step-00000007" / "weights.safetensors"
            weights.rename(run_folder.parent / "elsewhere")
            weights.symlink_to(run_folder.parent / "elsewhere")


@pytest.mark.parametrize(
    ("how", "goes_on", "events"),
    [
        ("attempt 1 deleted", None, ["checkpoint-invalid"] * 2),
        ("ledger of attempt 1 deleted", None, ["checkpoint-invalid"] * 3),
        ("ledger of attempt 2 emptied", (1, 3), ["checkpoint-invalid"] * 2),
        ("ledger of attempt 2 is a folder", (1, 3), ["checkpoint-invalid"] * 2),
        ("record of attempt 2 damaged", (1, 3), ["attempt-invalid", *["checkpoint-invalid"] * 2]),
        ("a bad tail", (2, 7), ["ledger-cut"]),
        ("a bad middle", (2, 5), ["checkpoint-invalid", "ledger-cut"]),
        ("a checkpoint that leads out", (2, 7), ["checkpoint-invalid"]),
        ("weights that lead out", (2, 5), ["checkpoint-invalid"]),
    ],
)
def test_a_run_goes_on_only_where_checkpoint_ledger_and_record_are_whole(
    how: str, goes_on: tuple[int, int] | None, events: list[str], queue: Queue, tmp_path: Path
) -> None:
    here = Settings(home=tmp_path / "home", storage=tmp_path / "storage")
    queue.put(tiny_study())
    for begun, checkpoints in ((None, (3,)), ((1, 3), (5, 7))):
        claim = queue.claim("cpu", "worker", 60)
        assert claim is not None
        attempt_of(Agent(here, queue, claim.lease, "job", "node"), claim, checkpoints, begun)
        if begun is None:
            queue.release(claim.lease, "drained")
    spoilt(how, tmp_path / "storage" / "runs" / claim.run.id)
    went_on, said = resumption(queue, claim, here)
    assert went_on == goes_on, said
    assert [event for event, _ in said] == events, said


def test_copies_stay_while_the_run_goes_on_since_its_next_attempt_may_be_here(
    queue: Queue, tmp_path: Path, s3_uri: str
) -> None:
    queue.put(tiny_study())
    claim = queue.claim("cpu", "worker", 60)
    assert claim is not None
    agent = Agent(Settings(home=tmp_path, storage=s3_uri), queue, claim.lease, "job", "node")
    agent.work.folder.mkdir(parents=True)
    queue.release(claim.lease, "drained")
    agent.work.leave()
    assert agent.work.folder.exists()
    queue.cancel(claim.run.id)
    agent.work.leave()
    assert not agent.work.folder.exists()


def test_q6_an_attempt_that_dies_before_its_first_step_has_died_where_it_resumed(queue: Queue, tmp_path: Path) -> None:
    queue.put(tiny_study())
    for died in range(1, 4):
        claim = queue.claim("cpu", "worker", 60)
        assert claim is not None
        agent = Agent(Settings(home=tmp_path / "h", storage=tmp_path / "s"), queue, claim.lease, "job", "node")
        agent._take_over()
        if died == 1:
            queue.checkpoint(claim.lease, Checkpoint(step=5, epoch=1, path="p", sha256=""))
            agent.work.resumed = 5
        assert closed(agent, Broken(WorkerDied())) == 1
        queue.redis.zadd("farm:queue:cpu", {claim.run.id: 0})
        queue.redis.delete("farm:delayed:cpu")
    status = queue.listing.status(claim.run.id)
    assert [cause.step for cause in status.causes] == [5, 5, 5]
    assert queue.listing.events(claim.run.id)[-1].detail == "3 crashes at step 5"
