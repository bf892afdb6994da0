"""What befalls a run while it trains, on the real farm. Whatever it is, the numbers are those of a run left alone."""

import re
from types import SimpleNamespace
from typing import Any

import numpy as np
import psutil
import pytest
from paced import paced
from waiting import wait_until

from farm.record import ledger
from farm.site import serving
from farm.study.run import State
from farm.study.study import Study
from workers.head import parts

from .conftest import study_text

STEPS = paced(900)  # 5 s of training (Zen 5) to 10 (Zen 3): time to be hurt in
GONE_SECONDS = 30.0  # for Ray to notice that a driver is gone and end its workers


class Hurt:
    """One recipe, trained again and again: once left alone, then each time something befalls it."""

    def __init__(self, farm):
        self.farm, self.times = farm, 0
        self.alone = self.begin()

    def begin(self, **changes: Any) -> str:
        """Queue the next repetition and return its id. Past `farm submit`, since the hurt is to come soon."""
        name = f"faults-{self.times}"
        changes = {"first_rerun": self.times, "checkpoint_seconds": 0.5, "tokens": 256 * STEPS} | changes
        text = study_text(name, **changes)
        (self.farm.home / f"{name}.toml").write_text(text)
        study = Study.parse(text)
        with self.farm.queue() as queue:
            queue.put(study)
        self.times += 1
        (run,) = study.runs()
        return run.id


@pytest.fixture(scope="module")
def hurt(farm):
    return Hurt(farm)


def same_numbers(hurt, run_id):
    """The run has the weights, the loss and every step of the run that was left alone."""
    hurt.farm.wait_for(hurt.alone, State.SUCCEEDED)
    theirs, ours = (hurt.farm.store.runs.result(name) for name in (hurt.alone, run_id))
    assert ours.fingerprints == theirs.fingerprints
    assert ours.test_loss == theirs.test_loss
    expected, found = (ledger.read(hurt.farm.store.folder(name)) for name in (hurt.alone, run_id))
    assert [line.loss_sum for line in found] == [line.loss_sum for line in expected]


def is_gone(process):
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


def kill_worker(hurt):
    run_id = hurt.begin()
    hurt.farm.wait_for_checkpoint(run_id)
    hurt.farm.trainer(run_id).kill()
    return run_id


def kill_agent(hurt):
    run_id = hurt.begin()
    hurt.farm.wait_for_checkpoint(run_id)
    trainer = hurt.farm.trainer(run_id)
    hurt.farm.agent(run_id).kill()
    wait_until(lambda: is_gone(trainer), "nobody trains on without an agent", GONE_SECONDS)
    return run_id


def stop_worker(hurt):
    """Its process is there, its job is RUNNING, and nothing moves. Waits until the process is gone."""
    run_id = hurt.begin(hang_seconds=5)
    hurt.farm.wait_for_checkpoint(run_id)
    trainer = hurt.farm.trainer(run_id)
    trainer.suspend()
    wait_until(lambda: is_gone(trainer), "it would hold its GPU for ever", 60)
    return run_id


@pytest.fixture(scope="module")
def befallen(hurt):
    """The run that each of these befell. The next is hurt while those before it still recover."""
    return {befall: befall(hurt) for befall in (kill_worker, kill_agent, stop_worker)}


def recovered(hurt, run_id, cause):
    """What became of a run that `cause` cost its first attempt: it went on from a checkpoint, to the same numbers."""
    status = hurt.farm.wait_for(run_id, State.SUCCEEDED)
    assert [found.cause for found in status.causes] == [cause]
    second = hurt.farm.store.runs.attempts(run_id)[1]
    assert second.resumed_from is not None
    same_numbers(hurt, run_id)
    return status, second


def test_a_killed_worker_costs_an_attempt_and_no_bits(hurt, befallen):
    status, second = recovered(hurt, befallen[kill_worker], "worker-died")
    assert status.epoch == 2
    assert second.resumed_from.step > 0


def test_q3_a_killed_agent_loses_its_lease_and_no_bits(hurt, befallen):
    recovered(hurt, befallen[kill_agent], "lease-expired")


def test_a_worker_that_hangs_loses_the_run_and_no_bits(hurt, befallen):
    recovered(hurt, befallen[stop_worker], "hung")


def end_at_once(head, victims):
    """The head sees none of them end before the others: a process that is killed needs a moment to die."""
    head.suspend()
    try:
        for victim in victims:
            victim.kill()
        wait_until(lambda: all(map(is_gone, victims)), "they are dead", 30)
    finally:
        head.resume()


@pytest.mark.parametrize(
    "ends",
    [
        ("GCS",),
        pytest.param(("raylet",), marks=pytest.mark.long),
        pytest.param(("dashboard", "log monitor"), marks=pytest.mark.long),
    ],
    ids=" and ".join,
)
def test_q7_a_ray_that_loses_a_part_is_started_again_and_costs_neither_attempts_nor_bits(hurt, ends):
    """One run that trains, and one that is submitted before the farm has missed anything."""
    farm, run_id = hurt.farm, hurt.begin()
    farm.wait_for_checkpoint(run_id)
    facts = serving.facts(farm.settings)
    ray = parts.census(psutil.Process(facts.pid))
    assert set(ray) == set(parts.PARTS)
    end_at_once(psutil.Process(facts.pid), [ray[name] for name in ends])
    late = hurt.begin(tokens=256 * 40)
    wait_until(lambda: serving.missing(farm.settings, facts), "farm status can say what is missing", 30)
    said = farm.run("status", seconds=30).stdout
    assert "Ray on this machine is being started again" in said
    for name in ends:
        assert f"the {name} (process {ray[name].pid}) has ended" in said
    for status in (farm.wait_for(run_id, State.SUCCEEDED), farm.wait_for(late, State.SUCCEEDED)):
        assert (status.attempts, status.causes) == (0, ())
    assert serving.facts(farm.settings).pid == facts.pid
    assert serving.missing(farm.settings, facts) == []
    assert farm.store.runs.attempts(run_id)[-1].resumed_from.step > 0
    same_numbers(hurt, run_id)


@pytest.fixture(scope="module")
def drained(hurt):
    """`farm down` while one run trains and the agent of another has hardly begun, and `farm up`.

    In between, the newest checkpoint of the first is damaged.
    """
    hurt.farm.wait_for(hurt.alone, State.SUCCEEDED)  # a unit for each of the two
    run_id = hurt.begin()
    hurt.farm.wait_for_checkpoint(run_id)
    late = hurt.begin()
    with hurt.farm.queue() as queue:
        wait_until(lambda: queue.listing.status(late).state is State.RUNNING, "another run has been claimed", 60)
    hurt.farm.run("down")
    try:
        with hurt.farm.queue() as queue:
            down = [queue.listing.status(name) for name in (run_id, late)]
            running, events = queue.listing.counts()[State.RUNNING], queue.listing.events(run_id)
            queue.cancel(late)
        *_, whole, damaged = sorted(hurt.farm.store.folder(run_id).glob("1/checkpoints/step-*"))
        weights = next(damaged.glob("*.safetensors"))
        flipped = bytearray(weights.read_bytes())
        flipped[-1] ^= 1
        weights.write_bytes(flipped)
    finally:
        hurt.farm.run("up")
    hurt.farm.wait_for(run_id, State.SUCCEEDED)
    return SimpleNamespace(run_id=run_id, down=down, running=running, events=events, whole=whole, damaged=damaged)


def test_q7_farm_down_drains_what_trains_and_farm_up_goes_on(hurt, drained):
    assert [(status.state, status.attempts) for status in drained.down] == [(State.QUEUED, 0)] * 2
    assert drained.running == 0
    assert "released" in {event.event for event in drained.events}
    first, second = hurt.farm.store.runs.attempts(drained.run_id)
    assert first.outcome == "released"
    assert second.resumed_from is not None
    same_numbers(hurt, drained.run_id)


def test_a_damaged_checkpoint_is_passed_over_for_the_one_before_and_an_event_says_so(hurt, drained):
    with hurt.farm.queue() as queue:
        events = {event.event: event for event in queue.listing.events(drained.run_id)}
    assert drained.damaged.name in str(events["checkpoint-invalid"])
    assert hurt.farm.store.runs.attempts(drained.run_id)[1].resumed_from.path.endswith(drained.whole.name)


@pytest.mark.long
def test_a_spent_limit_stops_what_trains_and_a_raised_one_lets_it_go_on(hurt):
    """The limit is lowered under a run that trains, for a dollar a second."""
    farm, priced = hurt.farm, "[machines.cpu-x1]\nusd_per_hour = 3600.0"
    run_id = hurt.begin(more=priced, policy="usd_limit = 9000.0")
    name = f"faults-{hurt.times - 1}"
    farm.wait_for_checkpoint(run_id)
    path = farm.home / f"{name}.toml"
    text = path.read_text()
    path.write_text(text.replace("usd_limit = 9000.0", "usd_limit = 0.5"))
    farm.run("submit", str(path), "-y")
    status = farm.wait_for(run_id, State.QUEUED, 60)
    assert (status.attempts, status.causes) == (0, ())
    assert re.fullmatch(r"over budget: \$\d+\.\d\d spent of \$0\.50", status.released)
    assert status.checkpoint.step > 0
    said = farm.run("watch", name, code=7).stderr
    assert "The rest goes on with a policy.usd_limit of at least $" in said
    path.write_text(text)
    farm.run("submit", str(path))
    farm.wait_for(run_id, State.SUCCEEDED)
    assert [attempt.outcome for attempt in farm.store.runs.attempts(run_id)] == ["released", "succeeded"]
    same_numbers(hurt, run_id)


@pytest.fixture(scope="module")
def nowhere(farm, tmp_path_factory):
    """A run whose corpus is not there, and is put there when its study has been paused. Then its rate ruins it.

    Past `farm submit`, which looks first: as from a machine that does not see the nodes' folders.
    """
    corpus = tmp_path_factory.mktemp("nowhere") / "corpus"
    text = study_text("nowhere", learning_rate=1e30).replace("builtin:python-reference", str(corpus))
    with farm.queue() as queue:
        queue.put(Study.parse(text))
    farm.run("watch", "nowhere", code=1)
    (paused,) = farm.json("runs", "nowhere", "--json")
    corpus.mkdir()
    for split in ("train", "validation"):
        (np.arange(4000) % 257).astype(np.uint16).tofile(corpus / f"{split}.bin")
    farm.run("retry", "nowhere")
    return SimpleNamespace(corpus=corpus, paused=paused, status=farm.wait_for(paused["run"], State.FAILED))


def test_q11_a_corpus_that_is_not_there_pauses_its_study_until_it_is(nowhere):
    assert (nowhere.paused["state"], nowhere.paused["attempts"]) == ("queued", 0)
    assert nowhere.paused["why"].startswith(f"paused: bad-corpus: {nowhere.corpus} does not exist here.")
    assert nowhere.status.epoch == 2, "it trained when it was there"


def test_a_loss_that_is_not_finite_fails_the_run_at_once(farm, nowhere):
    (cause,) = nowhere.status.causes
    assert cause.cause == "nonfinite"
    assert not cause.retryable
    assert "nonfinite" in farm.run("runs", "nowhere").stdout
