"""`farm track`: every step of a ledger in a tracker, once, whatever stops in between. The trackers are real."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import requests
from tensorboardX.proto.event_pb2 import Event
from waiting import wait_until
from wandb.proto import wandb_internal_pb2

from cli.track import targets
from farm.queue.values import Claim
from farm.record.ledger import Line, Validation, Writer
from farm.site.server import free_port
from farm.study.run import Attempt

from .conftest import ROOT, Farm

NAMES = {"train/loss", "val/loss", "lr", "grad_norm", "tokens/s"}


def line(step: int, shift: float = 0.0, **changes: Any) -> Line:
    values: dict[str, Any] = {"tokens": 100, "loss_sum": 1000.0 / step + shift, "lr": step / 1000, "grad_norm": 1.5}
    values |= {"clipped": False, "skipped": False, "seconds": 0.5}
    values["validation"] = Validation("s", 50, 200.0, 0.25) if step % 5 == 0 else None
    return Line(step=step, **values | changes)


def write(farm: Farm, claim: Claim, steps: range, after: tuple[int, int] | None = None, shift: float = 0.0) -> Writer:
    """The ledger of an attempt, which goes `after` a step of another epoch."""
    epoch = claim.lease.epoch
    farm.store.runs.begin(claim.run, Attempt(run_id=claim.run.id, epoch=epoch, worker="w", started=1000.0), claim.study)
    writer = Writer(farm.store.attempt_folder(claim.run.id, epoch) / "ledger.jsonl", epoch, *(after or ()))
    for step in steps:
        writer.append(line(step, shift))
    writer.sync()
    return writer


@pytest.fixture
def begun(farm: Farm) -> Claim:
    """A run whose first attempt has got to step 7."""
    farm.put(init=(42,))
    claim = farm.claim()
    write(farm, claim, range(1, 8))
    return claim


def resume(farm: Farm, claim: Claim) -> Claim:
    """It is lost, and the next attempt goes on behind step 4: it ends at step 10."""
    farm.queue.release(claim.lease, "its machine is needed")
    again = farm.claim()
    assert again.run == claim.run
    write(farm, again, range(5, 11), (claim.lease.epoch, 4), shift=0.0)
    return again


def track(farm: Farm, *words: str) -> list[dict[str, Any]]:
    answer = farm("track", *words, "--json")
    assert answer.code == 0, answer.err
    return json.loads(answer.out)["data"]


def told(rows: list[dict[str, Any]], claim: Claim) -> tuple[int, int]:
    (row,) = [row for row in rows if row["run"] == claim.run.id]
    return row["new"], row["step"]


# TensorBoard


def events(folder: Path) -> list[tuple[int, float, dict[str, float]]]:
    """Step, wall time and values of every event in the files of a folder, as TensorBoard reads them: in their order."""
    found = []
    for path in sorted(folder.glob("events.out.tfevents.*"), key=lambda path: path.stat().st_mtime_ns):
        content = path.read_bytes()
        while content:
            length = int.from_bytes(content[:8], "little")
            event = Event.FromString(content[12 : 12 + length])
            content = content[16 + length :]
            if event.summary.value:
                values = {value.tag: value.simple_value for value in event.summary.value}
                found.append((event.step, event.wall_time, values))
    return found


def test_tensorboard_has_every_step_once_over_a_resume(farm: Farm, begun: Claim) -> None:
    to = f"tensorboard={farm.folder / 'tb'}"
    assert told(track(farm, "tiny", "--to", to), begun) == (7, 7)
    assert told(track(farm, "tiny", "--to", to), begun) == (0, 7)
    again = resume(farm, begun)
    assert told(track(farm, begun.run.id, "--to", to), begun) == (3, 10)
    farm.finish(again, 3.0)
    track(farm, "tiny", "--to", to)
    found = events(farm.folder / "tb" / "tiny" / begun.run.id)
    assert [step for step, _, _ in found] == [*range(1, 11)]
    assert set(found[4][2]) == NAMES
    assert set(found[5][2]) == NAMES - {"val/loss"}
    assert found[4][2] == pytest.approx(
        {"train/loss": 2.0, "val/loss": 4.0, "lr": 0.005, "grad_norm": 1.5, "tokens/s": 200.0}
    )
    assert [at for _, at, _ in found[:5]] == pytest.approx([1000.5, 1001, 1001.5, 1002, 1002.75])


def test_what_a_crash_has_cut_is_sent_again_and_nothing_else(farm: Farm, begun: Claim) -> None:
    to = f"tensorboard={farm.folder / 'tb'}"
    track(farm, "tiny", "--to", to)
    folder = farm.folder / "tb" / "tiny" / begun.run.id
    (path,) = folder.glob("events*")
    content = path.read_bytes()
    path.write_bytes(content[:-9])
    assert told(track(farm, "tiny", "--to", to), begun) == (1, 7)
    path.unlink()
    (rest,) = folder.glob("events*")
    assert [step for step, _, _ in events(folder)] == [7]
    rest.unlink()
    assert told(track(farm, "tiny", "--to", to), begun) == (7, 7), "a folder that was removed is filled again"


def test_values_that_are_not_finite_are_left_out(farm: Farm) -> None:
    farm.put(init=(42,))
    claim = farm.claim()
    writer = write(farm, claim, range(1, 3))
    writer.append(line(3, loss_sum=float("nan"), grad_norm=None, skipped=True))
    track(farm, "tiny", "--to", f"tensorboard={farm.folder / 'tb'}")
    found = events(farm.folder / "tb" / "tiny" / claim.run.id)
    assert set(found[2][2]) == {"lr", "tokens/s"}


def test_it_follows_until_the_runs_are_final(farm: Farm, monkeypatch: pytest.MonkeyPatch) -> None:
    farm.put(init=(42,))
    claim = farm.claim()
    writer = write(farm, claim, range(1, 3))
    folder = farm.folder / "tb" / "tiny" / claim.run.id
    words = ("track", claim.run.id, "--to", f"tensorboard={farm.folder / 'tb'}", "--follow", "--json")
    program = "import cli.track; cli.track.LOOK_SECONDS = 0.05; from cli.main import main; main()"
    with subprocess.Popen(
        [sys.executable, "-c", program, *words],
        cwd=farm.folder,
        env=os.environ | farm.environment | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            wait_until(lambda: [step for step, *_ in events(folder)] == [1, 2], "it sends what is there")
            other = farm("track", "tiny", "--to", words[3])
            assert (other.code, "another `farm track` sends to tensorboard=" in other.err) == (6, True)
            writer.append(line(3))
            wait_until(lambda: [step for step, *_ in events(folder)] == [1, 2, 3], "it follows")
            writer.append(line(4))
            farm.finish(claim, 3.0)
            (row,) = json.loads(process.communicate(timeout=60)[0])["data"]
        finally:
            process.kill()
    assert (row["new"], row["step"], row["fault"], process.returncode) == (4, 4, None, 0)
    assert [step for step, *_ in events(folder)] == [1, 2, 3, 4]


# MLflow


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real server, which keeps its own records."""
    folder = tmp_path_factory.mktemp("mlflow")
    with mlflow_server(folder, free_port()) as url:
        yield url


@pytest.fixture
def mlflow(server: str) -> Iterator[str]:
    """That server, which has no experiment of a test's study."""
    yield server
    from mlflow import MlflowClient  # seconds, of each process that collects the tests

    client = MlflowClient(server)
    if experiment := client.get_experiment_by_name("tiny"):
        client.rename_experiment(experiment.experiment_id, f"before {experiment.experiment_id}")


@contextmanager
def mlflow_server(folder: Path, port: int) -> Iterator[str]:
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", f"sqlite:///{folder}/mlflow.db"]
    command += ["--default-artifact-root", str(folder), "--port", str(port), "--workers", "1"]
    quiet = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with (
        (folder / "log").open("ab") as log,
        subprocess.Popen(
            command, cwd=folder, env=os.environ | quiet, stdout=log, stderr=log, start_new_session=True
        ) as process,
    ):
        try:
            wait_until(lambda: _answers(f"http://127.0.0.1:{port}/health"), "the server answers", 300)
            yield f"http://127.0.0.1:{port}"
        finally:
            os.killpg(process.pid, 9)  # with its workers


def _answers(url: str) -> bool:
    try:
        return requests.get(url, timeout=5).ok
    except requests.RequestException:
        return False


@pytest.mark.timeout(400)
def test_mlflow_has_every_step_once_over_a_resume(farm: Farm, begun: Claim, mlflow: str) -> None:
    to = f"mlflow={mlflow}"
    assert told(track(farm, begun.run.id, "--to", to), begun) == (7, 7)
    again = resume(farm, begun)
    assert told(track(farm, begun.run.id, "--to", to), begun) == (3, 10)
    assert told(track(farm, begun.run.id, "--to", to), begun) == (0, 10)
    farm.finish(again, 3.0)
    track(farm, begun.run.id, "--to", to)
    from mlflow import MlflowClient  # seconds, of each process that collects the tests

    client = MlflowClient(mlflow)
    experiment = client.get_experiment_by_name("tiny")
    (run,) = client.search_runs([experiment.experiment_id], f"tags.`farm.run` = '{begun.run.id}'")
    assert (run.info.run_name, run.info.status) == (begun.run.id, "FINISHED")
    assert set(run.data.metrics) == NAMES
    assert (run.data.params["arm"], run.data.params["train.batch"]) == (begun.run.arm, "8")
    history = client.get_metric_history(run.info.run_id, "train/loss")
    assert [one.step for one in sorted(history, key=lambda one: one.step)] == [*range(1, 11)]
    assert [one.step for one in client.get_metric_history(run.info.run_id, "val/loss")] == [5, 10]


@pytest.mark.timeout(400)
def test_a_tracker_that_is_away_is_said_and_the_next_time_it_has_everything(
    farm: Farm, begun: Claim, mlflow: str
) -> None:
    port, to = free_port(), f"tensorboard={farm.folder / 'tb'}"
    words = ("track", begun.run.id, "--to", f"mlflow=http://me:5ecret@127.0.0.1:{port}", "--to", to)
    answer = farm(*words)
    assert answer.code == 5
    found = {row["tracker"].partition("=")[0]: row for row in answer.rows}
    assert "127.0.0.1" in found["mlflow"]["fault"]
    assert (found["tensorboard"]["step"], found["tensorboard"]["fault"]) == ("7", "")
    assert "5ecret" not in answer.out + answer.err
    rows = {
        row["tracker"].partition("=")[0]: row for row in track(farm, words[1], "--to", f"mlflow={mlflow}", "--to", to)
    }
    assert (rows["mlflow"]["step"], rows["tensorboard"]["new"]) == (7, 0)


# Weights & Biases


def offline(folder: Path) -> list[dict[str, float]]:
    """The history of every session that was kept for `wandb sync`, oldest first."""
    found = []
    for path in sorted(folder.glob("wandb/offline-run-*/run-*.wandb"), key=lambda path: path.stat().st_mtime_ns):
        for record in records(path.read_bytes()):
            if items := wandb_internal_pb2.Record.FromString(record).history.item:
                row = {(item.key or "/".join(item.nested_key)): json.loads(item.value_json) for item in items}
                found.append(row)
    return found


def records(content: bytes) -> Iterator[bytes]:
    """The records of a LevelDB log, as W&B writes it: blocks of 32 KiB, behind a header of seven bytes."""
    block, at, pending = 2**15, 7, b""
    while at + 7 <= len(content):
        if block - at % block < 7:
            at += block - at % block
            continue
        length, kind = int.from_bytes(content[at + 4 : at + 6], "little"), content[at + 6]
        pending += content[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):
            yield pending
            pending = b""


def test_weights_and_biases_has_every_step_once_over_a_resume(
    farm: Farm, begun: Claim, monkeypatch: pytest.MonkeyPatch
) -> None:
    farm.environment |= {"WANDB_MODE": "offline", "WANDB_DIR": str(farm.folder)}
    assert told(track(farm, begun.run.id, "--to", "wandb=gpt2"), begun) == (7, 7)
    assert told(track(farm, begun.run.id, "--to", "wandb=gpt2"), begun) == (0, 7)
    again = resume(farm, begun)
    farm.finish(again, 3.0)
    assert told(track(farm, begun.run.id, "--to", "wandb=gpt2"), begun) == (3, 10)
    found = offline(farm.folder)
    assert [row["_step"] for row in found] == [*range(1, 11)]
    assert found[4].keys() >= NAMES
    assert found[4]["train/loss"] == pytest.approx(2.0)
    runs = {path.name.rpartition("-")[2] for path in farm.folder.glob("wandb/offline-run-*/run-*.wandb")}
    assert len(runs) == 1, "of both sessions the same run"


# What cannot be


@pytest.mark.parametrize(
    ("word", "says"),
    [
        ("tensorbord=x", "--to 'tensorbord=x' is not a tracker; did you mean 'tensorboard'?"),
        ("mlflow", "--to 'mlflow' is not a tracker: it names no URI. Known: tensorboard=DIR, mlflow=URI, "),
        ("wandb=", "it names no PROJECT"),
    ],
)
def test_a_tracker_that_is_none_is_named_with_the_right_form(word: str, says: str, farm: Farm, begun: Claim) -> None:
    answer = farm("track", "tiny", "--to", word)
    assert answer.code == 2
    assert says in answer.err


@pytest.mark.parametrize(
    ("kind", "library"), [("wandb", "wandb"), ("trackio", "trackio"), ("tensorboard", "tensorboardX")]
)
def test_a_library_that_is_missing_is_named_with_what_to_install(
    kind: str, library: str, farm: Farm, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    answer = farm("track", "tiny", "--to", f"{kind}=x")
    assert answer.code == 2
    assert answer.err == f"error: {library} is not installed here. pip install 'farm[{kind}]'\n"


def test_a_run_that_never_began_has_nothing_to_send(farm: Farm) -> None:
    farm.put(init=(42,))
    rows = track(farm, "tiny", "--to", f"tensorboard={farm.folder / 'tb'}")
    assert {(row["new"], row["step"]) for row in rows} == {(0, 0)}
    assert not (farm.folder / "tb").exists()
    assert {name for name, kind in targets.KINDS.items()} == {"tensorboard", "mlflow", "wandb", "trackio"}
