"""The run directory is the record: written all at once, never changed, and enough to rebuild the queue."""

import json
import resource
import subprocess
import sys
import time
import tomllib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from redis import Redis
from results import result, tiny_study

from farm.errors import CheckpointInvalid, Conflict, FarmError, Nonfinite, NotFound, WorkerDied
from farm.queue.budget import find_exhausted
from farm.queue.queue import Queue
from farm.queue.values import Status
from farm.record.ledger import SCHEMA, Line
from farm.record.store import Store
from farm.reindex import reindex
from farm.study.machine import BUILT_IN
from farm.study.recipe import Data, Recipe, Schedule, Seeds, Train
from farm.study.run import Attempt, Policy, Run, State

RUN = tiny_study().runs()[1]


@pytest.fixture(params=["folder", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    """Every promise holds of both kinds of storage."""
    if request.param == "folder":
        return Store(tmp_path / "storage")
    return Store(request.getfixturevalue("s3_uri"), tmp_path / "work")


@pytest.fixture
def folder_store(tmp_path: Path) -> Store:
    return Store(tmp_path / "storage")


def attempt(run: Run = RUN, epoch: int = 1, **changes) -> Attempt:
    return Attempt(run_id=run.id, epoch=epoch, worker="w", started=1000.0 + epoch, **changes)


def files(store: Store) -> list[str]:
    if store.bucket:
        return sorted(entry.name for entry in store.bucket.objects(""))
    return sorted(str(path.relative_to(store.root)) for path in store.root.rglob("*") if path.is_file())


def test_an_attempt_that_is_on_record_is_not_written_over_by_another_of_its_epoch(store: Store) -> None:
    store.runs.begin(RUN, attempt())
    store.runs.begin(RUN, attempt())  # its answer had got lost
    with pytest.raises(Conflict, match=r"attempt\.json already exists and was kept"):
        store.runs.begin(RUN, attempt().model_copy(update={"worker": "another"}))
    assert store.runs.attempts(RUN.id) == [attempt()]


def test_an_attempt_is_on_record_from_its_beginning_to_its_end(store: Store) -> None:
    folder = store.runs.begin(RUN, attempt(), "tiny")
    assert folder == store.attempt_folder(RUN.id, 1)
    assert files(store) == [f"runs/{RUN.id}/1/attempt.json", f"runs/{RUN.id}/recipe.toml"], "and no draft is left"
    assert [found.outcome for found in store.runs.attempts(RUN.id)] == ["running"]
    ended = attempt(outcome="failed", ended=1010.0, cause="worker-died", message="killed")
    store.runs.end(ended)
    store.runs.begin(RUN, attempt(epoch=10))
    store.runs.begin(RUN, attempt(epoch=9))
    assert store.runs.attempts(RUN.id) == [ended, attempt(epoch=9), attempt(epoch=10)]
    assert store.runs.ids() == [RUN.id]


@pytest.mark.parametrize(
    "recipe",
    [
        Recipe(),
        Recipe(train=Train(clip_grad_norm=3.5, eps=1e-10, schedule=Schedule(kind="warmup-cosine", warmup=0.05))),
        Recipe(data=Data(source='a "quoted" \\ path\n\t\x7f\x01 é 漢字 😀', revision="v1", repeat=True)),
    ],
)
def test_a_recipe_is_read_back_as_it_was(store: Store, recipe: Recipe) -> None:
    run = Run(arm="a", recipe=recipe, seeds=Seeds(init=2**63 - 1), machine="cpu", policy=Policy(priority=-3))
    store.runs.begin(run, attempt(run), "study")
    assert store.runs.run(run.id) == run
    table = tomllib.loads((store.records.get(f"runs/{run.id}/recipe.toml") or b"").decode())
    assert (table["study"], table["recipe"]["train"]["batch"]) == ("study", 96), "a person can read it too"


def test_a_recipe_whose_lists_are_written_on_one_line_is_the_same(folder_store: Store) -> None:
    folder_store.runs.begin(RUN, attempt(), "study")
    path = folder_store.folder(RUN.id) / "recipe.toml"
    lines = path.read_text("utf-8").replace("[\n    ", "[").replace(",\n    ", ", ").replace(",\n]", "]")
    assert "betas = [0.9, 0.999]" in lines
    path.write_text(lines, "utf-8")
    assert folder_store.runs.run_and_study(RUN.id) == (RUN, "study")


def test_a_directory_of_another_run_is_a_conflict(store: Store) -> None:
    store.runs.begin(RUN, attempt())
    other = RUN.model_copy(update={"recipe": Recipe()})
    content = store.records.get(f"runs/{RUN.id}/recipe.toml")
    assert content
    store.records.put(f"runs/{other.id}/recipe.toml", content)
    with pytest.raises(Conflict, match="belongs to another run"):
        store.runs.begin(other, attempt(other))


def test_a_result_is_written_once(store: Store) -> None:
    assert store.runs.result(RUN.id) is None
    store.runs.record(result(RUN, 3.0))
    store.runs.record(result(RUN, 3.0))
    with pytest.raises(Conflict, match="already holds another result"):
        store.runs.record(result(RUN, 2.0))
    assert store.runs.result(RUN.id) == result(RUN, 3.0)
    assert files(store) == [f"runs/{RUN.id}/result.json"]


def test_of_many_who_record_at_once_one_wins(store: Store) -> None:
    def record(loss: float) -> bool:
        try:
            store.runs.record(result(RUN, loss))
        except Conflict:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(record, [1.0 + number for number in range(16)]))
    assert won.count(True) == 1
    assert store.runs.result(RUN.id) == result(RUN, 1.0 + won.index(True))


def test_a_damaged_record_is_named(store: Store) -> None:
    store.runs.begin(RUN, attempt())
    store.runs.record(result(RUN, 3.0))
    for file, read in (
        ("result.json", store.runs.result),
        ("1/attempt.json", store.runs.attempts),
        ("recipe.toml", store.runs.run),
    ):
        name = f"runs/{RUN.id}/{file}"
        content = store.records.get(name) or b""
        store.records.put(name, content.replace(b'"epoch"', b'"epok"') if file.endswith("json") else content[:-20])
        with pytest.raises(CheckpointInvalid, match=f"{store.uri}/{name} is damaged"):
            read(RUN.id)


@pytest.mark.parametrize("run_id", ["..", "../x", "/etc", "a/b", "", ".hidden", "A", "x\n", "x" * 300])
def test_nothing_leaves_the_root(store: Store, run_id: str) -> None:
    with pytest.raises(NotFound, match="is not a run id"):
        store.folder(run_id)


@pytest.mark.parametrize("path", ["../x", "/etc/passwd", "runs/../../x", "link/x"])
def test_no_path_of_a_checkpoint_leads_out_of_the_root(store: Store, path: str) -> None:
    store.check()
    store.root.mkdir(parents=True, exist_ok=True)
    (store.root / "link").symlink_to("/etc")
    with pytest.raises(CheckpointInvalid, match="outside the storage root"):
        store.path(path)
    assert store.path("runs/x/1/checkpoints") == store.root / "runs/x/1/checkpoints"


def test_a_run_nobody_began_is_not_found(store: Store) -> None:
    with pytest.raises(NotFound, match="no run 'cpu-x'"):
        store.runs.run("cpu-x")
    assert store.runs.ids() == []
    assert store.runs.attempts("cpu-x") == []


def test_storage_that_can_be_written_passes_the_check(store: Store) -> None:
    store.check()
    assert files(store) == list(store.root.iterdir()) == []


def test_a_storage_has_one_name_for_all_who_reach_it(store: Store, tmp_path: Path) -> None:
    assert store.marker() is None
    with ThreadPoolExecutor(4) as pool:
        names = set(pool.map(lambda _: store.mark(), range(4)))
    assert names == {store.marker()}
    assert Store(tmp_path / "another").mark() not in names


def test_storage_that_cannot_be_written_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for root in (tmp_path / "file", tmp_path / "file" / "below", Path("/proc/farm")):
        with pytest.raises(FarmError, match=r"cannot hold records: .*Set FARM_STORAGE"):
            Store(root).check()


def test_a_full_disk_is_storage_full_and_leaves_no_half_file(folder_store: Store) -> None:
    """With a limit on the size of files, in a process of its own."""
    store = folder_store
    code = f"""
import sys
sys.path.insert(0, "tests")
from pathlib import Path
from results import result, tiny_study
from farm.errors import StorageFull
from farm.record.store import Store
try:
    Store(Path({str(store.root)!r})).runs.record(result(tiny_study().runs()[1], 3.0))
except StorageFull as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1024, 1024)),
        cwd=Path(__file__).parents[3],
    )
    assert "result.json: File too large. Free some space there." in done.stdout
    assert files(store) == []


def a_checkpoint(store: Store, run: Run, epoch: int, step: int) -> str:
    name = f"runs/{run.id}/{epoch}/checkpoints/step-{step:08d}"
    store.records.put(f"{name}/manifest.json", b"{}")
    return name


def test_the_queue_is_rebuilt_from_the_directories(store: Store, queue: Queue) -> None:
    study = tiny_study()
    finished, failed, cancelled, resumable, running, *untouched = study.runs()
    store.studies.keep(study)
    store.runs.begin(finished, attempt(finished), "tiny")
    store.runs.record(result(finished, 3.0))
    for epoch in (1, 2, 3):
        store.runs.begin(failed, attempt(failed, epoch), "tiny")
        store.runs.end(attempt(failed, epoch, outcome="failed", cause="worker-died", message="killed", ended=2000.0))
    store.runs.begin(cancelled, attempt(cancelled), "tiny")
    store.runs.end(attempt(cancelled, outcome="cancelled"))
    store.runs.begin(resumable, attempt(resumable), "tiny")
    a_checkpoint(store, resumable, 1, 9)
    store.runs.begin(resumable, attempt(resumable, 2), "tiny")
    newest = a_checkpoint(store, resumable, 2, 10)
    a_checkpoint(store, resumable, 3, 8)
    store.runs.begin(running, attempt(running, 7), "tiny")

    assert reindex(store, queue) == (9, ())
    statuses = {status.run: status for status in queue.listing.statuses("tiny")}
    assert statuses.keys() == set(study.runs())
    assert statuses[finished].result == result(finished, 3.0)
    assert [cause.message for cause in statuses[failed].causes] == ["killed"] * 3
    assert {run: status.state for run, status in statuses.items()} == {
        finished: State.SUCCEEDED,
        failed: State.FAILED,
        cancelled: State.CANCELLED,
        **dict.fromkeys([resumable, running, *untouched], State.QUEUED),
    }
    pointer = statuses[resumable].checkpoint
    assert pointer is not None
    assert (pointer.step, pointer.epoch, pointer.path) == (10, 2, newest)
    assert statuses[running].epoch == 7, "whoever still trains it has a dead epoch"
    assert queue.studies.one("tiny") == study
    assert reindex(store, queue) == (0, ())
    assert sum(queue.listing.counts().values()) == queue.listing.put_count() == 9


def failed(run: Run, epoch: int, step: int, retryable: bool = True) -> Attempt:
    ending = {"outcome": "failed", "cause": "x", "ended": 1001.0 + epoch, "step": step, "retryable": retryable}
    return attempt(run, epoch, **ending)


def ledger_of(store: Store, run: Run, epoch: int, steps: int) -> None:
    """What a worker that was killed leaves, its last line torn."""
    lines = [Line(step, 1, 1.0, 1e-3, None, False, False, 2.0)._asdict() for step in range(1, steps + 1)]
    header = {"schema": SCHEMA, "epoch": epoch, "from_epoch": None, "from_step": 0}
    text = "\n".join(map(json.dumps, [header, *lines])) + '\n{"step":'
    store.records.put(f"runs/{run.id}/{epoch}/ledger.jsonl", text.encode())


def restored(store: Store, queue: Queue, *attempts: Attempt) -> Status:
    """The run of these attempts after a reindex; its policy allows three failures."""
    store.studies.keep(tiny_study())
    for each in attempts:
        store.runs.begin(RUN, each, "tiny")
    reindex(store, queue)
    return queue.listing.status(RUN.id)


def test_what_may_not_be_tried_again_is_not_paid_for_again(store: Store, queue: Queue) -> None:
    status = restored(store, queue, failed(RUN, 1, 5, retryable=False))
    assert (status.state, status.attempts) == (State.FAILED, 1)
    assert [(cause.step, cause.retryable) for cause in status.causes] == [(5, False)]
    assert queue.retry(RUN.id) == State.QUEUED


def test_poison_is_known_again_and_so_is_how_near_to_it_a_run_is(store: Store, queue: Queue, redis: Redis) -> None:
    run = RUN.model_copy(update={"policy": Policy(attempts=9)})
    store.studies.keep(tiny_study())
    for epoch in (1, 2, 3):
        store.runs.begin(run, failed(run, epoch, 4), "tiny")
    reindex(store, queue)
    assert queue.listing.status(run.id).state == State.FAILED
    store.runs.end(attempt(run, 3))  # killed: its ledger says where
    ledger_of(store, run, 3, steps=4)
    store.runs.begin(run, attempt(run, 4))
    near, drained = (Queue(redis, f"farm:{name}:", backoff_seconds=0.001) for name in ("near", "drained"))
    reindex(store, near)
    causes = [("x", 4), ("x", 4), ("lease-expired", 4)]
    assert [(cause.cause, cause.step) for cause in near.listing.status(run.id).causes] == causes
    assert crashed(near, run) == State.FAILED, "the third crash there"
    store.runs.end(attempt(run, 4, outcome="released", ended=1010.0))
    reindex(store, drained)
    assert crashed(drained, run) == State.QUEUED, "which a drain has made the first"


def crashed(queue: Queue, run: Run) -> State:
    """What becomes of the run when it crashes once more at the same step."""
    while (claim := queue.claim("cpu", "worker", 60)) and claim.run.id != run.id:
        pass
    assert claim is not None
    return queue.fail(claim.lease, "x", "y", 4, retryable=True)


def test_a_failure_that_was_final_before_a_retry_does_not_count(store: Store, queue: Queue) -> None:
    status = restored(store, queue, failed(RUN, 1, 5, retryable=False), failed(RUN, 2, 7))
    assert (status.state, status.attempts, len(status.causes)) == (State.QUEUED, 1, 2)


def test_a_cancelled_run_stays_cancelled_begun_or_not(store: Store, queue: Queue) -> None:
    begun, waiting, again = tiny_study().runs()[:3]
    store.runs.begin(begun, attempt(begun, 2), "tiny")
    store.runs.withdraw(begun.id, 2)
    store.runs.withdraw(waiting.id, 0)
    store.runs.withdraw(again.id, 1)
    store.runs.begin(again, attempt(again, 2), "tiny")
    store.studies.keep(tiny_study())
    assert reindex(store, queue) == (9, ())
    assert [queue.listing.status(run.id).state for run in (begun, waiting, again)] == [
        "cancelled",
        "cancelled",
        "queued",
    ]
    assert sum(queue.listing.counts().values()) == queue.listing.put_count() == 9


def test_q8_the_result_of_a_cancelled_run_does_not_count_and_that_of_its_retry_does(store: Store, queue: Queue) -> None:
    store.runs.record(result(RUN, 3.0))
    store.runs.end(attempt(outcome="cancelled"))
    assert store.runs.result(RUN.id) is None, "its agent had no time for more"
    store.runs.end(attempt(outcome="succeeded"))
    store.runs.withdraw(RUN.id, 1)
    assert store.runs.result(RUN.id) is None
    store.records.remove(f"runs/{RUN.id}/1/attempt.json")
    assert restored(store, queue, attempt(outcome="succeeded", ended=1010.0)).state == State.CANCELLED
    store.runs.record(result(RUN, 2.0, epoch=2))
    assert store.runs.result(RUN.id) == result(RUN, 2.0, epoch=2)
    with pytest.raises(Conflict, match="already holds another result"):
        store.runs.record(result(RUN, 1.0, epoch=2))


def test_a_limited_study_that_was_spent_stays_spent(store: Store, queue: Queue) -> None:
    """The time of every attempt comes back: to its end, or of the steps that it did before it was killed."""
    ledger_of(store, RUN, 2, steps=5)
    status = restored(store, queue, failed(RUN, 1, 3).model_copy(update={"ended": 1101.0}), attempt(epoch=2))
    assert status.held_seconds == 100.0 + 10.0
    machines = {"cpu": BUILT_IN["cpu"].model_copy(update={"usd_per_hour": 3600.0})}
    study = tiny_study().model_copy(update={"policy": Policy(usd_limit=109.0)})
    queue.put(study)
    assert find_exhausted([study], queue.listing.statuses(), machines, time.time()).keys() == {"tiny"}


def test_a_run_whose_study_is_unknown_waits_for_the_study(store: Store, queue: Queue) -> None:
    """An agent could not train it: it asks for the study. Its next lease has an epoch of its own all the same."""
    store.runs.begin(RUN, attempt())
    assert reindex(store, queue) == (1, ())
    status = queue.listing.status(RUN.id)
    assert (status.study, status.state) == ("reindexed", State.FAILED)
    assert status.causes[0].message.startswith("its study 'reindexed' is not in the storage: submit that, then farm")
    assert queue.claim("cpu", "worker", 60) is None
    assert queue.put(tiny_study()).known == {RUN.id: State.FAILED}
    queue.retry(RUN.id)
    claims = [queue.claim("cpu", "worker", 60) for _ in range(9)]
    (claim,) = [claim for claim in claims if claim and claim.run == RUN]
    assert (claim.study, claim.lease.epoch) == ("tiny", 2)
    assert queue.studies.one(claim.study) == tiny_study()


def test_reindexing_leaves_what_the_queue_knows_alone(store: Store, queue: Queue) -> None:
    study = tiny_study()
    queue.put(study)
    run = study.runs()[0]
    claim = queue.claim("cpu", "worker", 60)
    assert claim is not None
    assert claim.run == run
    queue.release(claim.lease, "drained")
    store.runs.begin(run, attempt(run), "tiny")
    store.runs.end(attempt(run, outcome="cancelled"))
    assert reindex(store, queue) == (0, ())
    assert queue.listing.status(run.id).state == State.QUEUED


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"steps": 9}, "steps = 9, and its recipe has 10"),
        ({"tokens": 2559}, "tokens = 2,559, and its recipe has 2,560"),
        ({"test_tokens": 255}, "test_tokens = 255, and its recipe has 256"),
        ({"test_loss": float("nan")}, "test_loss is nan"),
        ({"train_loss": float("inf")}, "train_loss is inf"),
    ],
)
def test_a_result_that_cannot_be_that_of_its_recipe_is_refused(store: Store, changes: dict, says: str) -> None:
    with pytest.raises((WorkerDied, Nonfinite), match=says):
        store.runs.record(result(RUN, 3.0).model_copy(update=changes))
    assert store.runs.result(RUN.id) is None


def test_a_result_that_lost_steps_on_its_way_is_damaged(folder_store: Store) -> None:
    folder_store.runs.record(result(RUN, 3.0))
    path = folder_store.root / "runs" / RUN.id / "result.json"
    path.write_text(path.read_text().replace('"steps": 10,', '"steps": 9,'))
    with pytest.raises(CheckpointInvalid, match="steps = 9, and its recipe has 10"):
        folder_store.runs.result(RUN.id)
