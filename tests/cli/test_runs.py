"""`farm runs`, `show`, `logs`, `watch`, `cancel`, `retry`: what became of runs, and what can be done to them."""

import json

import pytest
from results import result

from cli import render
from cli import runs as listing
from cli.runs import runs
from farm.queue.values import Point
from farm.record.result import Peaks, Utilisation, Validated
from farm.study.run import Attempt, State

from .conftest import Farm


def test_no_runs_is_no_error(farm: Farm) -> None:
    answer = farm("runs")
    assert (answer.code, answer.rows) == (0, [])
    assert "farm submit" in answer.err
    assert json.loads(farm("runs", "--json").out) == {"schema": "farm.runs/1", "data": [], "unreadable": []}


def test_runs_say_state_step_loss_and_why_they_wait(farm: Farm) -> None:
    study = farm.put(init=(42, 22))
    assert {row["why"] for row in farm("runs").rows} == {"no node of class cpu (no nodes at all)"}
    farm.queue.roster.register(study.machine("cpu", {}), "node-1", 60)
    farm.finish(farm.claim(), 3.25)
    running = farm.claim()
    farm.curve(running, 10.0, 9.5)  # two steps, before the next heartbeat
    farm.fail(farm.claim())
    backing_off = farm.claim()
    farm.queue.fail(backing_off.lease, "worker-died", "out of memory", 3, retryable=True)
    rows = farm("runs", "tiny").rows
    assert [(row["state"], row["step"], row["train_loss"], row["test_loss"]) for row in rows[:3]] == [
        ("succeeded", "10", "3.15", "3.25"),
        ("running", "2", "9.5", ""),
        ("failed", "5", "", ""),
    ]
    assert rows[2]["why"] == "nonfinite at step 5: the loss is nan"
    assert rows[3]["why"].startswith("backing off")
    assert rows[3]["why"].endswith("s after worker-died: out of memory")
    assert [row["why"] for row in rows[4:]] == ["next in line", "behind 1 other"]


def test_a_long_cause_is_cut_on_a_terminal_only(
    farm: Farm, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    farm.put(init=(42,))
    claim = farm.claim()
    message = f"the loss is nan\n{'all of it ' * 60}\nlower the learning rate"
    farm.fail(claim, message=message)
    whole = f"nonfinite at step 5: {message}"
    assert farm("runs").rows[0]["why"] == whole.replace("\n", " ")
    assert json.loads(farm("runs", "--json").out)["data"][0]["why"] == whole
    assert {"what": "why", "value": whole.replace("\n", " ")} in farm("show", claim.run.id).rows
    for name, value in farm.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(render, "is_terminal", lambda: True)
    runs(None)
    shown = " ".join(capsys.readouterr().out.split())
    assert 0 < shown.count("all of it") < 20
    assert "learning rate" in shown


def test_a_terminal_shows_of_thousands_those_that_train_those_that_wait_and_the_newest(
    farm: Farm, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    farm.put(init=(42,))
    trains = farm.claim().run.id
    farm.put(name="ended", init=(1, 2, 3))
    ids = [run_id for name in ("tiny", "ended") for run_id in farm.queue.listing.ids(name)]
    for run_id in ids[3:]:
        farm.queue.cancel(run_id)
    for name, value in farm.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(render, "is_terminal", lambda: True)

    def shown(study: str | None = None, as_json: bool = False) -> list[str]:
        runs(study, as_json=as_json)
        out, err = capsys.readouterr()
        found = [run_id for run_id in ids if run_id in out]
        assert (f"and {12 - len(found)} more: farm runs STUDY, or --json" in err) == (not study and len(found) < 12)
        return found

    assert shown() == ids
    monkeypatch.setattr(listing, "SHOWN", 5)
    assert shown() == [*ids[:3], *ids[-2:]]
    assert shown("ended") == ids[3:]
    assert shown(as_json=True) == ids
    monkeypatch.setattr(listing, "SHOWN", 1)
    assert shown() == [trains]


def test_a_claimed_run_that_no_agent_took_up_yet_is_starting(farm: Farm) -> None:
    farm.put(init=(42,))
    assert farm.queue.claim("cpu", "dispatcher", 60)
    assert farm("runs").rows[0]["why"] == "starting"


def test_a_run_whose_agent_has_not_trained_a_step_is_starting_still(farm: Farm) -> None:
    farm.put(init=(42,))
    claim = farm.claim()
    assert farm("runs").rows[0]["why"] == "starting"
    farm.curve(claim, 10.0, 9.5, 9.4)  # the heartbeat has told of step 1
    assert farm("runs").rows[0]["why"] == ""
    assert {row["what"]: row["value"] for row in farm("show", "cpu-baseline").rows}["step"] == "3 of 10"


def test_show_tells_what_share_of_a_gpus_measured_peaks_a_training_reached(farm: Farm) -> None:
    farm.put(init=(42,))
    claim = farm.claim()
    peaks = Peaks(flops_per_second=280e12, bytes_per_second=1.4e12)
    reached = Utilisation(peaks=peaks, flops=0.458, bandwidth=0.196)
    farm.queue.finish(claim.lease, result(claim.run, 3.25, epoch=claim.lease.epoch, utilisation=reached))
    told = {row["what"]: row["value"] for row in farm("show", "cpu-baseline").rows}
    shares = "46% of 280 TFLOP/s of matrix products (MFU), at least 20% of 1,400 GB/s of memory"
    assert told["reached"] == f"{shares}; both measured on this GPU"


def test_show_takes_the_start_of_an_id_and_tells_everything(farm: Farm) -> None:
    farm.put(init=(42,))
    claim = farm.claim()
    attempt = Attempt(run_id=claim.run.id, epoch=1, worker="worker", hardware={"host": "attic"}, started=1.0)
    farm.store.runs.begin(claim.run, attempt)
    farm.curve(claim, *[10.0 - step for step in range(8)])
    farm.finish(claim, 3.25)
    told = {row["what"]: row["value"] for row in farm("show", "cpu-baseline").rows}
    assert told["run"] == claim.run.id
    assert told["state"] == "succeeded"
    assert told["test loss"].startswith("3.250000")
    assert (told["kernels"], told["compiled"]) == ("farm", "no")
    assert "reached" not in told, "no peak of a CPU is measured"
    assert told["attempt 1"] == "running on attic"
    assert told["curve"] == "█▇▆▅▄▃▂▁"
    assert told["folder"] == str(farm.store.folder(claim.run.id))
    whole = json.loads(farm("show", "cpu-baseline", "--json").out)["data"]
    assert [event["event"] for event in whole["events"]] == ["queued", "claimed", "started", "succeeded"]
    assert (whole["id"], len(whole["curve"]), whole["result"]["test_loss"]) == (claim.run.id, 8, 3.25)


def test_the_newest_validation_loss_is_shown_while_a_run_trains_and_after(farm: Farm) -> None:
    farm.put(init=(42,))
    claim = farm.claim()
    farm.curve(claim, 10.0, 9.5)
    assert "validation" not in {row["what"] for row in farm("show", "cpu-baseline").rows}
    assert json.loads(farm("show", "cpu-baseline", "--json").out)["data"]["validation"] is None
    seen = Point(step=3, loss=9.4, lr=1e-3, tokens_per_second=9.0, validation_loss=9.6)
    farm.queue.record(claim.lease, [seen, Point(step=4, loss=9.3, lr=1e-3, tokens_per_second=9.0)])
    assert {row["what"]: row["value"] for row in farm("show", "cpu-baseline").rows}["validation"] == (
        "loss 9.6000 at step 3"
    )
    assert json.loads(farm("show", "cpu-baseline", "--json").out)["data"]["validation"] == {"step": 3, "loss": 9.6}
    assert json.loads(farm("runs", "--json").out)["data"][0]["validation_loss"] == 9.6
    assert "baseline s42.23 on cpu, step 4 of 10, loss 9.3000, validation 9.6000" in farm("status").out
    points = tuple(Validated(step=step, tokens=256 * step, seconds=step / 4, loss=4 - step / 10) for step in (5, 10))
    done = result(claim.run, 3.25, epoch=1, validation=points, validation_seconds=0.032, train_seconds=2.5)
    farm.queue.finish(claim.lease, done)
    told = {row["what"]: row["value"] for row in farm("show", "cpu-baseline").rows}
    assert told["validation"] == "loss 3.0000 at step 10 (2 points; 0s, 1.3% of the training)"
    assert json.loads(farm("watch", "cpu-baseline", "--json").out)["data"][0]["validation_loss"] == 3.0
    assert json.loads(farm("show", "cpu-baseline", "--json").out)["data"]["validation"] == {"step": 10, "loss": 3.0}


def test_show_tells_what_happened_to_a_run_lately(farm: Farm) -> None:
    farm.put(init=(42,))
    claim = farm.claim()
    for step in range(1, 10):
        farm.queue.note(claim.lease, "checkpoint-invalid", f"step {step} is damaged or gone")
    told = [row["value"] for row in farm("show", "cpu-baseline").rows if row["what"] == "event"]
    assert len(told) == 8
    assert told[-1].endswith(" ago (attempt 1): checkpoint-invalid: step 9 is damaged or gone")


def test_an_ambiguous_start_of_an_id_is_a_conflict_that_names_some(farm: Farm) -> None:
    farm.put()
    answer = farm("show", "cpu-")
    assert answer.code == 6
    assert "9 runs begin with 'cpu-': cpu-baseline-s22.23" in answer.err


def test_logs_are_those_of_the_newest_attempt(farm: Farm) -> None:
    farm.put(init=(42,))
    assert "was never started" in farm("logs", "cpu-baseline").err
    claim = farm.claim()
    assert "Is FARM_STORAGE the farm's storage?" in farm("logs", "cpu-baseline").err
    log = farm.store.attempt_folder(claim.run.id, 1) / "log.txt"
    log.parent.mkdir(parents=True)
    log.write_text("first\nsecond\nno end")
    answer = farm("logs", "cpu-baseline")
    assert (answer.code, answer.out) == (0, "first\nsecond\nno end\n")
    told = [json.loads(line)["data"] for line in farm("logs", "cpu-baseline", "--json").out.splitlines()]
    assert told[0] == {"epoch": 1, "line": "first"}


def test_logs_in_a_pipe_have_no_escapes_and_no_link_is_followed(farm: Farm) -> None:
    farm.put(init=(42,))
    log = farm.store.attempt_folder(farm.claim().run.id, 1) / "log.txt"
    log.parent.mkdir(parents=True)
    log.write_text("\x1b[31mred\x1b[0m\x1b]0;title\x07\n", encoding="utf-8")
    assert farm("logs", "cpu-baseline").out == "red]0;title\n"
    outside = farm.store.root.parent / "secret"
    log.rename(outside)
    log.symlink_to(outside)
    answer = farm("logs", "cpu-baseline")
    assert (answer.code, answer.out) == (1, "")
    assert "outside the storage root" in answer.err


def test_logs_f_follows_over_a_retry_until_the_run_is_final(farm: Farm) -> None:
    farm.put(init=(42,))
    claim = farm.claim()
    first = farm.store.attempt_folder(claim.run.id, 1) / "log.txt"
    first.parent.mkdir(parents=True)
    first.write_text("step 1\nste")
    with farm.start("logs", "cpu-baseline", "-f") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "step 1\n"
        with first.open("a") as file:
            file.write("p 2\n")
        assert process.stdout.readline() == "step 2\n"
        farm.queue.release(claim.lease, "drained")
        again = farm.claim()
        second = farm.store.attempt_folder(claim.run.id, 2) / "log.txt"
        second.parent.mkdir(parents=True)
        second.write_text("step 3\n")
        assert process.stdout.readline() == "step 3\n"
        farm.finish(again, 3.2)
        out, err = process.communicate(timeout=30)
    assert (process.returncode, out) == (0, "")
    assert "attempt 2 takes over" in err
    assert f"{claim.run.id}: succeeded" in err


def test_watch_ends_when_all_is_final_with_1_if_a_run_failed(farm: Farm) -> None:
    farm.put(init=(42,))
    farm.finish(farm.claim(), 3.25)
    farm.finish(farm.claim(), 3.20)
    assert farm("watch", "cpu-baseline").code == 0
    farm.fail(farm.claim())
    answer = farm("watch", "--json")
    assert answer.code == 1
    told = json.loads(answer.out)["data"]
    found = [(run["state"], run["test_loss"]) for run in told]
    assert found == [("succeeded", 3.25), ("succeeded", 3.2), ("failed", None)]
    assert "failed  gradient-clipping s42.23 on cpu: nonfinite: the loss is nan" in answer.err


def test_cancel_says_what_it_did_per_run(farm: Farm) -> None:
    farm.put(init=(42,))
    farm.finish(farm.claim(), 3.25)
    running = farm.claim()
    answer = farm("cancel", "tiny")
    assert answer.code == 0
    assert [(row["was"], row["now"]) for row in answer.rows] == [("running", "cancelling"), ("queued", "cancelled")]
    assert farm("runs", "tiny").rows[1]["why"] == "being cancelled"
    farm.queue.acknowledge_cancel(running.lease)
    assert farm.queue.listing.counts()[State.CANCELLED] == 2
    assert "all 3 runs of tiny are final already" in farm("cancel", "tiny").err


def test_a_finished_run_is_neither_cancelled_nor_retried(farm: Farm) -> None:
    farm.put(init=(42,))
    farm.finish(farm.claim(), 3.25)
    for command, says in (("cancel", "is succeeded already"), ("retry", "only a failed or cancelled run")):
        answer = farm(command, "cpu-baseline")
        assert (answer.code, answer.out) == (6, "")
        assert says in answer.err


def test_retry_of_a_study_takes_the_failed_runs_only(farm: Farm) -> None:
    farm.put(init=(42,))
    farm.fail(farm.claim())
    cancelled = farm.claim().run.id
    farm.queue.cancel(farm.queue.listing.statuses()[2].run.id)
    answer = farm("retry", "tiny")
    assert [(row["was"], row["now"]) for row in answer.rows] == [("failed", "queued")]
    assert "1 cancelled run stays so until: farm retry tiny --cancelled" in answer.err
    assert farm("retry", "tiny").rows == []
    assert farm.queue.listing.status(cancelled).state is State.RUNNING
    assert farm("retry", "cpu-gradient").rows[0]["now"] == "queued"


@pytest.mark.parametrize("command", ["cancel", "retry", "watch"])
def test_a_name_that_is_neither_run_nor_study_is_not_found_with_the_nearest(farm: Farm, command: str) -> None:
    farm.put(name="interventions")
    answer = farm(command, "intervention")
    assert answer.code == 3
    assert "no run or study 'intervention'; did you mean 'interventions'? See `farm runs`." in answer.err
    assert "there is no run or study 'zebra'. See `farm runs`." in farm(command, "zebra").err


def test_watch_in_a_pipe_has_a_header_with_or_without_runs(farm: Farm) -> None:
    assert farm("watch").out == "run\tstate\tstep\ttrain_loss\ttest_loss\n"
    farm.put(init=(42,))
    farm.finish_all("cpu")
    head, *lines = farm("watch").out.splitlines()
    assert head == "run\tstate\tstep\ttrain_loss\ttest_loss"
    assert [line.split("\t")[1] for line in lines] == ["succeeded"] * 3


def test_show_counts_the_failures_of_all_of_a_run_s_life(farm: Farm) -> None:
    farm.put(init=(42,))
    claim = farm.claim()
    farm.fail(claim)
    shown = {row["what"]: row["value"] for row in farm("show", claim.run.id).rows}
    assert shown["attempts"] == "1 begun, 1 failed"
    farm("retry", claim.run.id)
    farm.claim()
    shown = {row["what"]: row["value"] for row in farm("show", claim.run.id).rows}
    assert shown["attempts"] == "2 begun, 1 failed (0 since the last retry)"
