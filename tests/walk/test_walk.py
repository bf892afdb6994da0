"""From `farm submit` to a row of `farm table`, through the installed command, on two machine classes."""

import csv
import io
import json
import math
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from farm.record import ledger
from farm.site import serving
from farm.study.run import State
from model.kernels import resolve
from workers.attempt.task import PULSE_FILE
from workers.head.jobs import Jobs, job_id

TWINS = ("cpu-x1", "cpu-x2")


def test_every_run_succeeds_and_the_queue_conserves_them(walked):
    with walked.farm.queue() as queue:
        states = [queue.listing.status(run_id).state for run_id in walked.ids]
        assert states == [State.SUCCEEDED] * 3
        assert queue.listing.put_count() == sum(queue.listing.counts().values())


def test_the_evaluation_after_the_last_step_is_a_sign_of_life(walked):
    for run_id, result in walked.results.items():
        assert (walked.farm.store.attempt_folder(run_id, result.epoch) / PULSE_FILE).exists()


def test_what_ray_does_not_know_is_an_answer_and_no_error(walked):
    up = serving.facts(walked.farm.settings)
    jobs = Jobs(up.dashboard, Path(up.token_path))
    assert "farm-nothing-a1 does not exist" in jobs.stop("farm-nothing-a1")
    assert jobs.info("farm-nothing-a1") is None
    known = next(iter(walked.ids))
    assert jobs.info(job_id(known, walked.results[known].epoch)).metadata["study"] == "walk"


def test_submitting_again_queues_nothing(walked):
    said = walked.farm.run("submit", str(walked.farm.home / "walk.toml"))
    assert "of 3 runs 3 already finished, 0 queued" in said.stderr
    with walked.farm.queue() as queue:
        assert queue.listing.counts()[State.QUEUED] == 0


def test_the_table_orders_arms_per_machine_by_mean_test_loss_and_ranks_none_within_the_noise(walked):
    rows = walked.farm.json("table", "walk", "--json")
    assert {(row["arm"], row["machine"]) for row in rows} == {
        ("baseline", "cpu-x1"),
        ("baseline", "cpu-x2"),
        ("remove-dropout", "cpu-x1"),
    }
    single = [row for row in rows if row["machine"] == "cpu-x1"]
    assert [row["test_loss_mean"] for row in single] == sorted(row["test_loss_mean"] for row in single)
    baseline = next(row for row in single if row["arm"] == "baseline")
    for row in single:
        assert row["delta"] == pytest.approx(row["test_loss_mean"] - baseline["test_loss_mean"])
        assert row["n"] == 1
        assert row["verdict"] == (None if row is baseline else "unresolved"), "one seed pair shows no noise"
        assert row["rank"] == 1
        assert row["tokens_per_second"] > 0
        assert row["hours"] > 0
        assert set(row["runs"]) <= set(walked.ids)


@pytest.mark.parametrize("form", ["md", "csv", "latex"])
def test_the_table_comes_in_the_forms_that_people_paste(walked, form):
    text = walked.farm.run("table", "walk", "--format", form).stdout
    assert "remove-dropout" in text
    if form == "csv":
        assert len(list(csv.DictReader(io.StringIO(text)))) == 3


def test_the_training_learned_something(walked):
    for result in walked.results.values():
        assert 1.5 < result.test_loss < math.log(257)
        assert 1.5 < result.train_loss < math.log(257)


def test_every_model_is_scored_by_all_evaluations_on_record_and_in_redis(walked):
    with walked.farm.queue() as queue:
        indexed = queue.evaluations.scores("walk", "study")
    for run_id, result in walked.results.items():
        (late, test), unread = walked.farm.store.scores.of(run_id)
        assert (sorted(indexed[run_id], key=lambda score: score.name), unread) == ([late, test], [])
        assert (test.name, test.value, test.evaluation) == ("test_loss", result.test_loss, result.evaluation)
        assert (late.name, late.count, len(walked.farm.store.scores.values(late))) == ("late", 32, 32)
        assert walked.farm.store.scores.values(test).mean() == pytest.approx(test.value, rel=1e-12)
        assert 1.5 < late.value < math.log(257)
        assert late.value != test.value
    rows = walked.farm.json("table", "walk", "--score", "late", "--json")
    assert {row["score"] for row in rows} == {"late"}
    assert all(row["test_set_error"] > 0 for row in rows if row["delta"] and row["arm"] != "baseline")


def test_hardware_twins_agree(walked):
    """One worker with four microbatches and two DDP workers with two each: the same losses to 1e-5."""
    one, two = (next(r for r in walked.results.values() if r.machine == name and r.arm == "baseline") for name in TWINS)
    assert (one.plan.world, one.plan.accumulation) == (1, 4)
    assert (two.plan.world, two.plan.accumulation) == (2, 2)
    assert one.test_loss == pytest.approx(two.test_loss, abs=1e-5)
    assert one.fingerprints.initial == two.fingerprints.initial
    assert one.fingerprints.tokens == two.fingerprints.tokens
    said = walked.farm.run("table", "walk")
    assert "hardware twins: cpu-x1 and cpu-x2, 1 pair of runs: agree to 1e-" in said.stderr


def test_every_arm_starts_from_the_weights_of_the_baseline(walked):
    assert len({result.fingerprints.initial for result in walked.results.values()}) == 1


def test_a_result_says_what_trained_it(walked):
    for result in walked.results.values():
        hardware, provenance = result.hardware, result.provenance
        assert hardware.cores >= 1
        assert hardware.threads == 1
        assert hardware.cpu
        assert hardware.host
        assert provenance.torch.startswith("2.")
        assert provenance.ray.startswith("2.")
        assert len(provenance.code) == 64
        assert result.ended > result.started
        assert result.seconds > result.train_seconds > 0
        assert result.peak_bytes > 2**20
        assert result.kernels == (resolve("auto", hardware.instruction_set),)
        assert 0 < result.checkpoint_seconds_stalled < result.seconds


def test_the_ledger_holds_every_step_once(walked):
    for run_id, result in walked.results.items():
        lines = ledger.read(walked.farm.store.folder(run_id))
        assert [line.step for line in lines] == list(range(1, result.recipe.steps + 1))
        assert sum(line.tokens for line in lines) == result.recipe.train.tokens
        best = min(lines, key=lambda line: line.loss_sum / line.tokens)
        assert (result.best_step, result.best_loss) == (best.step, best.loss_sum / best.tokens)


def test_show_and_logs_tell_of_one_run(walked):
    run_id = walked.ids[0]
    shown = walked.farm.json("show", run_id, "--json")
    assert run_id in json.dumps(shown)
    log = walked.farm.run("logs", run_id).stdout
    assert "Finished: test loss" in log


def test_what_the_models_said_is_on_record_shown_and_said_again(walked):
    for run_id, result in walked.results.items():
        found = walked.farm.store.samples.of(run_id)
        assert {one.step for one in found} >= {*range(0, result.recipe.steps + 1, 10)}
        assert len({one.step for one in found}) == len(found), "one prompt, each step once"
        assert {(one.prompt, one.tokenizer, len(one.tokens)) for one in found} == {
            ("Every effort moves you", "bytes", 20)
        }
        assert sum(one.seconds for one in found) < result.train_seconds
    shown = walked.farm.json("show", walked.ids[0], "--json")["samples"]
    last = walked.farm.store.samples.of(walked.ids[0])[-1]
    assert shown[-1] == last.model_dump(mode="json")
    (again,) = walked.farm.json("sample", walked.ids[0], "--json")
    assert (again["step"], again["tokens"]) == (last.step, list(last.tokens))


def test_the_curve_reaches_redis(walked):
    with walked.farm.queue() as queue:
        for run_id, result in walked.results.items():
            curve = queue.listing.curve(run_id)
            assert curve[-1].step == result.recipe.steps
            assert curve[0].loss > curve[-1].loss
            validated = {point.step: point.validation_loss for point in curve if point.validation_loss is not None}
            assert validated == {seen.step: seen.loss for seen in result.validation}
            assert 0 < result.validation_seconds < result.train_seconds
            assert result.validation[-1].tokens == result.tokens


def test_the_dashboard_has_a_job_for_every_attempt(walked):
    """With the study, arm, machine and seeds as metadata; and it answers nobody who has no token."""
    jobs = {job["submission_id"]: job for job in walked.farm.dashboard("/api/jobs/") if job["submission_id"]}
    trained = {run["name"]: run for run in walked.farm.dashboard("/api/train/v2/runs/v1")["train_runs"]}
    for run_id in walked.ids:
        job = jobs[f"farm-{run_id}-a1"]
        assert job["status"] == "SUCCEEDED"
        assert job["metadata"]["study"] == "walk"
        assert job["metadata"]["seeds"] == "42.23"
        assert trained[f"{run_id}-a1"]["status"] == "FINISHED"
    dashboard = serving.facts(walked.farm.settings).dashboard
    with pytest.raises(urllib.error.HTTPError, match="401"):
        urllib.request.urlopen(f"{dashboard}/api/jobs/", timeout=30)


def test_no_secret_is_in_anything_that_the_farm_wrote(walked):
    """Passwords and tokens live in the home's own two files and nowhere else."""
    home = walked.farm.home
    secrets = [json.loads((home / "redis" / "server.json").read_text())["url"].split(":")[2].split("@")[0]]
    secrets.append((home / "ray-token").read_text().strip())
    for path in [*home.glob("*.log"), *home.rglob("storage/**/*.json"), *home.rglob("log.txt"), home / "farm.json"]:
        text = path.read_text(errors="replace")
        assert not [secret for secret in secrets if secret in text], path


def test_reading_works_when_the_farm_is_somewhere_else(walked):
    """With FARM_REDIS_URL a client reads, and imports neither torch nor ray."""
    url = json.loads((walked.farm.home / "redis" / "server.json").read_text())["url"]
    code = (
        "import sys; from cli.main import main; sys.argv = ['farm', 'table', 'walk']\n"
        "try: main()\n"
        "except SystemExit as end: assert not end.code, end.code\n"
        "assert not {'torch', 'ray'} & set(sys.modules)"
    )
    environment = walked.farm.environment | {"FARM_REDIS_URL": url, "FARM_HOME": str(walked.farm.home / "elsewhere")}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "remove-dropout" in done.stdout


def scores(walked, run_id):
    """What is on record of each evaluation, without who made it and when."""
    found, unread = walked.farm.store.scores.of(run_id)
    assert unread == []
    return {one.name: one.model_dump(exclude={"when", "epoch", "hardware", "code"}) for one in found}


def test_a_score_that_is_gone_comes_back_to_the_bit_and_a_damaged_model_says_so(walked):
    """The last of the module: an evaluation of the study has failed afterwards."""
    farm, run_id = walked.farm, walked.ids[0]
    before, result = scores(walked, run_id), farm.store.runs.result(run_id)
    assert before.keys() == {"test_loss", "late"}
    folder = farm.store.folder(run_id) / "scores"
    values = {path.name: path.read_bytes() for path in folder.iterdir() if path.suffix == ".safetensors"}
    for path in folder.glob("test_loss-*"):
        path.unlink()
    assert scores(walked, run_id).keys() == {"late"}

    (job,) = [row["job"] for row in farm.json("eval", "walk", "--json")]
    assert farm.wait_for_end(job) is State.SUCCEEDED
    assert scores(walked, run_id) == before
    assert {path.name: path.read_bytes() for path in folder.iterdir() if path.suffix == ".safetensors"} == values
    with farm.queue() as queue:
        assert {one.name: one.value for one in queue.evaluations.scores(run_id, "run")[run_id]} == {
            name: one["value"] for name, one in before.items()
        }
        assert queue.listing.status(run_id).state is State.SUCCEEDED
        assert queue.listing.put_count() == sum(queue.listing.counts().values()) + queue.listing.forgotten_count()
    assert farm.store.runs.result(run_id) == result

    weights = farm.store.root / result.checkpoint / "weights.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    next(folder.glob("late-*.json")).unlink()
    try:
        (job,) = [row["job"] for row in farm.json("eval", run_id, "late", "--json")]
        assert farm.wait_for_end(job) is State.FAILED
        said = farm.run("runs", "walk")
        assert f"evaluation {job} has failed: checkpoint-invalid: " in said.stderr
        assert json.loads(farm.run("status", "--json").stdout)["data"]["evaluations"]["failed"] == 1
    finally:
        weights.write_bytes(content)
