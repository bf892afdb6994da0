"""The run directory is the record: written all at once, never changed, and enough to rebuild the queue."""

import resource
import subprocess
import sys
import tomllib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from results import result
from stored import RUN, attempt

from farm.errors import CheckpointInvalid, Conflict, FarmError, Nonfinite, NotFound, WorkerDied
from farm.record.store import Store
from farm.study.recipe import Data, Recipe, Schedule, Seeds, Train
from farm.study.run import Policy, Run


@pytest.fixture
def folder_store(tmp_path: Path) -> Store:
    return Store(tmp_path / "storage")


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
