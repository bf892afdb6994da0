"""`farm submit`: what is new, what is known, and what is refused before anything is queued."""

import json
import signal

import pytest
from results import study_text
from waiting import wait_until

from farm.queue.values import Supply
from farm.study.machine import BUILT_IN
from farm.study.run import State

from .conftest import Farm


def test_submitting_twice_queues_nothing_twice_and_says_so(farm: Farm) -> None:
    first = farm("submit", farm.file())
    assert first.code == 0
    assert "tiny: of 9 runs 9 queued" in first.err
    assert {row["now"] for row in first.rows} == {"new"}
    farm.finish(farm.claim(), 3.5)
    farm.fail(farm.claim())
    again = farm("submit", farm.file(), "--json")
    told = json.loads(again.out)
    assert (told["schema"], told["new"], told["known"]) == ("farm.submit/1", 0, 9)
    assert "1 already finished, 1 failed before, 7 already queued or running, 0 queued" in again.err
    assert "farm retry tiny" in again.err
    assert farm.queue.listing.put_count() == 9


def test_a_wider_study_queues_only_what_is_new(farm: Farm) -> None:
    farm.put(init=(42,))
    answer = farm("submit", farm.file(init=(42, 22)))
    assert "of 6 runs 3 already queued or running, 3 queued" in answer.err
    assert farm.queue.listing.put_count() == 6


def test_a_dry_run_queues_nothing(farm: Farm) -> None:
    answer = farm("submit", farm.file(), "--dry-run")
    assert "9 would be queued" in answer.err
    assert len(answer.rows) == 9
    assert farm.queue.listing.put_count() == 0
    assert farm.queue.studies.all() == {}


def test_a_class_without_a_node_is_queued_with_a_warning(farm: Farm) -> None:
    answer = farm("submit", farm.file())
    assert "warning: no live node of class cpu" in answer.err
    assert farm.queue.listing.counts()[State.QUEUED] == 9
    farm.queue.roster.register(farm.queue.studies.one("tiny").machine("cpu", {}), "node-1", 60)
    assert "warning" not in farm("submit", farm.file(name="other", init=(1,))).err


def test_to_wait_for_a_class_that_no_node_offers_is_refused_and_nothing_is_queued(farm: Farm) -> None:
    answer = farm("submit", farm.file(), "--wait")
    assert answer.code == 7
    assert "no node of class cpu (no nodes at all). Start one here with: farm up" in answer.err
    assert answer.err.count("\n") == 1
    assert farm.queue.listing.put_count() == 0
    farm.queue.roster.register(BUILT_IN["cpu-x1"], "node-1", 60)
    assert "available: cpu-x1. Join one with: farm join HEAD" in farm("submit", farm.file(), "--wait").err


def test_a_study_that_is_done_needs_no_node_to_wait_for(farm: Farm) -> None:
    farm.put()
    farm.finish_all()
    assert farm("submit", farm.file(), "--wait").code == 0


def test_a_class_that_an_autoscaler_starts_may_be_waited_for(farm: Farm) -> None:
    farm.queue.roster.provide({"cpu": Supply(most=1)}, 60)
    assert "warning: no live node of class cpu: the autoscaler starts one" in farm("submit", farm.file()).err
    with farm.start("submit", farm.file(name="other", init=(1,)), "--wait") as process:
        wait_until(lambda: "other" in farm.queue.studies.all() or process.poll() is not None, "it is queued")
        assert process.poll() is None


def test_a_study_that_would_cost_more_than_its_limit_needs_a_yes(farm: Farm) -> None:
    path = farm.folder / "dear.toml"
    dear = "[policy]\nusd_limit = 0.01\n[machines.cpu]\nusd_per_hour = 100.0\ntokens_per_second = 9.0\n"
    path.write_text(study_text(init=(42,)) + dear)
    for words in ([], ["--dry-run"]):
        answer = farm("submit", str(path), *words)
        assert (answer.code, farm.queue.listing.put_count()) == (7, 0)
        assert "error: tiny would take $" in answer.err
        assert "its policy.usd_limit is $0.01" in answer.err
        assert "with one at a time, $" in answer.err
        assert "at $100.00/h by the study)" in answer.err
    assert "more than policy.usd_limit" in farm("plan", str(path)).err
    assert farm("submit", str(path), "-y").code == 0


def test_limits_at_submit_stand_for_those_of_the_file(farm: Farm) -> None:
    path = farm.folder / "dear.toml"
    path.write_text(
        study_text(init=(42,))
        + "[policy]\nusd_limit = 1e6\n[machines.cpu]\nusd_per_hour = 100.0\ntokens_per_second = 9.0\n"
    )
    dear = farm("submit", str(path), "--max-usd", "0.01")
    assert (dear.code, "its policy.usd_limit is $0.01" in dear.err, farm.queue.listing.put_count()) == (7, True, 0)
    hours = farm.folder / "long.toml"
    hours.write_text(path.read_text().replace("usd_limit = 1e6", "hours_limit = 0.001"))
    planned = farm("plan", str(hours)).err
    assert "more than policy.hours_limit, 0.001 node hours: its runs stop and wait once that is spent" in planned
    long = farm("submit", str(path), "--max-hours", "0.001")
    assert (long.code, "node hours and its policy.hours_limit is 0.001" in long.err) == (7, True)
    assert farm("submit", str(path), "--max-usd", "50", "--max-hours", "0.01", "-y").code == 0
    policy = farm.queue.studies.one("tiny").policy
    assert (policy.usd_limit, policy.hours_limit) == (50.0, 0.01)
    farm.queue.redis.hset(f"farm:run:{farm.queue.listing.statuses()[0].run.id}", "held", 72_000)
    answer = farm("watch", "tiny")
    assert answer.code == 7
    assert "3 runs wait: 0.02 node hours used of 0.01. The rest goes on with a policy.hours_limit of" in answer.err


@pytest.mark.parametrize("option", ["--max-usd", "--max-hours"])
@pytest.mark.parametrize("value", ["nan", "-5", "0", "inf", "ten"])
def test_a_limit_that_is_none_is_refused_by_name(farm: Farm, option: str, value: str) -> None:
    answer = farm("submit", farm.file(), option, value)
    assert (answer.code, option in answer.err, farm.queue.listing.put_count()) == (2, True, 0), answer.err


def test_a_limit_that_does_not_see_a_class_says_so(farm: Farm) -> None:
    path = farm.folder / "blind.toml"
    path.write_text(study_text(machines=("attic",)) + "[policy]\nusd_limit = 5\n[machines.attic]\n")
    assert (
        "attic: no usd_per_hour is declared, so policy.usd_limit does not count runs there"
        in farm("submit", str(path)).err
    )


def test_an_unknown_machine_is_refused_and_nothing_is_queued(farm: Farm) -> None:
    answer = farm("submit", farm.file(machines=("cpu", "8xb200")))
    assert answer.code == 2
    assert "unknown machine class '8xb200'" in answer.err
    assert "cpu-x1" in answer.err, "the known ones are named"
    assert farm.queue.listing.put_count() == 0


def test_data_that_no_run_could_train_on_is_refused_and_nothing_is_queued(farm: Farm) -> None:
    path = farm.folder / "far.toml"
    path.write_text(study_text(init=(42,)).replace("offset = 0", "offset = 50_000_000"))
    for words in ([], ["--dry-run"], ["-y"]):
        answer = farm("submit", str(path), *words)
        assert (answer.code, farm.queue.listing.put_count()) == (2, 0)
        assert "error: every arm: builtin:python-reference validation has" in answer.err
        assert "evaluation.offset 50,000,000" in answer.err
    farm.environment["FARM_REDIS_URL"] = ""  # the farm of this machine, which trains here
    path.write_text(study_text(init=(42,)).replace("builtin:python-reference", "/none/such"))
    answer = farm("submit", str(path))
    assert (answer.code, answer.err.count("\n")) == (2, 1)
    assert "error: every arm: /none/such does not exist here. Every node must see data.source" in answer.err


def test_a_further_evaluation_that_its_data_cannot_serve_is_refused_too(farm: Farm) -> None:
    path = farm.folder / "far.toml"
    path.write_text(study_text(init=(42,)) + "[evaluations.far]\noffset = 50_000_000\n")
    answer = farm("submit", str(path))
    assert (answer.code, farm.queue.listing.put_count()) == (2, 0)
    assert "error: every arm: builtin:python-reference validation has" in answer.err
    assert "evaluation.offset 50,000,000" in answer.err


def test_data_that_went_away_after_a_study_was_queued_does_not_matter_to_what_is_known(farm: Farm) -> None:
    source = farm.folder / "corpus"
    source.mkdir()
    for split in ("train", "validation"):
        (source / f"{split}.bin").write_bytes(bytes(range(1, 251)) * 30)
    path = farm.folder / "kept.toml"
    path.write_text(study_text(init=(42,)).replace("builtin:python-reference", str(source)))
    assert farm("submit", str(path)).code == 0
    (source / "validation.bin").write_bytes(b"12")
    again = farm("submit", str(path))
    assert (again.code, "data:" in again.err) == (0, False)
    path.write_text(path.read_text().replace("[42]", "[42, 22]"))
    assert "every arm: " in farm("submit", str(path)).err


def test_a_run_that_fits_nowhere_is_refused_with_the_arithmetic_and_nothing_is_queued(farm: Farm) -> None:
    answer = farm("submit", farm.file(machines=("cpu", "8xa100m40")))
    assert answer.code == 0, "8 sequences over 8 accelerators"
    path = farm.folder / "odd.toml"
    path.write_text(study_text(name="odd", machines=("cpu", "8xa100m40")).replace("batch = 8", "batch = 12"))
    answer = farm("submit", str(path))
    assert answer.code == 2
    assert "error: arm baseline: " in answer.err
    assert "12 = 8 x 1 + 4" in answer.err
    assert "odd" not in farm.queue.studies.all()


def test_another_recipe_under_the_same_names_is_a_conflict_that_says_what_differs(farm: Farm) -> None:
    farm.put()
    farm.finish_all()
    path = farm.folder / "changed.toml"
    path.write_text(study_text().replace("clip_grad_norm = 3.5", "clip_grad_norm = 1.0"))
    answer = farm("submit", str(path))
    assert answer.code == 6
    assert "clip_grad_norm was 3.5, is now 1.0" in answer.err
    assert farm.queue.listing.put_count() == 9
    dry = farm("submit", str(path), "--dry-run")
    assert (dry.code, dry.err) == (6, answer.err), "a dry run says what would happen"


def test_machines_declared_in_farm_toml_are_known(farm: Farm) -> None:
    (farm.folder / "farm.toml").write_text('[machines.attic]\nmemory = "8GiB"\n')
    assert farm("submit", farm.file(machines=("attic",))).code == 0


def test_wait_follows_to_the_table_and_fails_if_a_run_did(farm: Farm) -> None:
    with farm.start("submit", farm.file(init=(42,)), "--wait", "-y") as process:
        assert process.stderr is not None
        while "no live node" not in process.stderr.readline():
            pass
        farm.finish(farm.claim(), 3.69)
        farm.finish(farm.claim(), 3.64)
        farm.fail(farm.claim())
        out, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert [line.split("\t")[1] for line in out.splitlines()] == ["arm", "remove-dropout", "baseline"]
    assert "succeeded  baseline s42.23 on cpu: test loss 3.6900" in err
    assert "failed  gradient-clipping s42.23 on cpu: nonfinite: the loss is nan" in err


def test_a_storage_that_cannot_be_written_queues_with_a_warning(farm: Farm) -> None:
    farm.store.root.mkdir()
    (farm.store.root / "studies").write_text("in the way")
    answer = farm("submit", farm.file())
    assert answer.code == 0
    folder = farm.store.root / "studies"
    assert f"warning: tiny is queued, but not recorded in the storage until it trains: {folder}: " in answer.err
    assert "Set FARM_STORAGE to a writable folder." in answer.err
    assert farm.queue.listing.counts()[State.QUEUED] == 9


def test_ctrl_c_ends_the_waiting_and_says_that_the_study_goes_on(farm: Farm) -> None:
    with farm.start("submit", farm.file(), "--wait", "-y") as process:
        assert process.stderr is not None
        lines = iter(process.stderr.readline, "")
        assert any(line.startswith("queued ") for line in lines), "it follows what waits"
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "tiny goes on in the background; follow it with: farm watch tiny" in err
    assert "Traceback" not in err
    assert farm.queue.listing.counts()[State.QUEUED] == 9


def test_twin_queues_every_arm_on_every_class_of_the_study(farm: Farm) -> None:
    path = farm.file(machines=("cpu-x1", "cpu-x2"), init=(42,))
    assert farm("submit", path, "--twin", "--dry-run").code == 0
    assert "twins take two machine classes or more" in farm("submit", farm.file(init=(42,)), "--twin").err
    text = study_text(init=(42,), machines=("cpu-x1",)).replace(
        "[interventions.remove-dropout]", '[interventions.remove-dropout]\nmachines = ["cpu-x2"]'
    )
    (farm.folder / "tiny.toml").write_text(text)
    assert len(farm("submit", path).rows) == 3
    assert len(farm("submit", path, "--twin").rows) == 6
    assert farm.queue.studies.one("tiny").study.twins
