"""A study on a network of hosts, and what befalls its runs when hosts and links fail. The numbers never change."""

import time

import pytest
from cluster.cluster import HEAD, RAY_PORT
from paced import paced
from waiting import wait_until

from farm.record import ledger
from farm.study.run import State

pytestmark = pytest.mark.long

STEPS = paced(1200)  # time to be hurt in
CUT_SECONDS = 60.0  # two leases

STUDY = """
[study]
name = "{name}"
machines = {machines}
seeds = {{ init = [42], train = [23] }}
first_rerun = {first_rerun}

[policy]
checkpoint_seconds = 1

[machines.home]
threads = 1
[machines.rented]
accelerators = 2
threads = 1

[baseline.model]
vocab = 257
context = 32
width = 32
layers = 2
heads = 4
dropout = 0.1

[baseline.train]
batch = 8
tokens = {tokens}
learning_rate = 1e-3
precision = "fp32"
reduction = "canonical"
canonical_microbatch = 2

[baseline.data]
source = "builtin:python-reference"
repeat = true

[baseline.evaluation]
offset = 0
sequences = 64
"""


class Hurt:
    """One recipe, trained again and again: first left alone on both nodes, then each time something befalls it."""

    def __init__(self, cluster):
        self.cluster, self.times = cluster, 0
        ids = self.begin("home", "rented")
        cluster.switch.pull(cluster.laptop)  # its lid is closed
        runs = [cluster.wait_for(run_id, State.SUCCEEDED).run for run_id in ids]
        cluster.switch.push(cluster.laptop)
        self.alone = {run.machine: run.id for run in runs}

    def begin(self, *machines, steps=STEPS):
        """Have the laptop submit the next repetition, for each of `machines`; the ids of its runs."""
        name = f"study-{self.times}"
        listed = str(list(machines)).replace("'", '"')
        text = STUDY.format(name=name, machines=listed, first_rerun=self.times, tokens=256 * steps)
        self.times += 1
        return self.cluster.submit(name, text)


@pytest.fixture(scope="module")
def hurt(cluster):
    return Hurt(cluster)


def events(hurt, run_id):
    return [event.event for event in hurt.cluster.queue.listing.events(run_id)]


def details(hurt, run_id):
    return [event.detail for event in hurt.cluster.queue.listing.events(run_id)]


def unharmed(hurt, run_id):
    """One result, every step and weight as if left alone, and no run of the queue lost."""
    queue, store = hurt.cluster.queue, hurt.cluster.store
    theirs, ours = (store.runs.result(name) for name in (hurt.alone["rented"], run_id))
    assert ours.fingerprints == theirs.fingerprints
    assert ours.test_loss == theirs.test_loss
    expected, found = (ledger.read(store.folder(name)) for name in (hurt.alone["rented"], run_id))
    assert [line.loss_sum for line in found] == [line.loss_sum for line in expected]
    assert queue.listing.status(run_id).result == ours
    assert events(hurt, run_id).count("succeeded") == 1
    assert sum(queue.listing.counts().values()) == queue.listing.put_count()


def test_a_laptop_submits_a_study_is_closed_and_prints_the_table(hurt):
    rows = hurt.cluster.laptop.run("farm", "table", "study-0").stdout.splitlines()[1:]
    machines = [row.split("\t")[2] for row in rows]
    assert sorted(machines) == ["home", "rented"]
    one, two = (hurt.cluster.store.runs.result(hurt.alone[machine]) for machine in ("home", "rented"))
    assert (one.plan.world, one.plan.accumulation) == (1, 4)
    assert (two.plan.world, two.plan.accumulation) == (2, 2)
    assert one.fingerprints == two.fingerprints
    assert {one.hardware.host, two.hardware.host} == {"home", "rented"}


def test_a_laptop_reaches_redis_and_nothing_else_and_has_neither_ray_nor_torch(cluster):
    call = f"import socket; socket.create_connection(({HEAD!r}, {RAY_PORT}), timeout=5)"
    assert "Network is unreachable" in cluster.laptop.run("python", "-c", call, code=1).stderr
    cluster.nodes["home"].run("python", "-c", call)
    for name in ("ray", "torch"):
        assert "ImportError" in cluster.laptop.run("python", "-c", f"import {name}", code=1).stderr


def test_q3_a_node_out_of_reach_of_redis_for_longer_than_a_lease_loses_no_run_and_no_bits(hurt):
    (run_id,) = hurt.begin("rented")
    hurt.cluster.wait_for_checkpoint(run_id)
    with hurt.cluster.without_redis(*hurt.cluster.nodes.values()):
        time.sleep(CUT_SECONDS)
    status = hurt.cluster.wait_for(run_id, State.SUCCEEDED)
    assert [cause.cause for cause in status.causes] == ["lease-expired"]
    unharmed(hurt, run_id)


def test_a_head_that_is_killed_and_comes_back_costs_a_run_nothing(hurt):
    (run_id,) = hurt.begin("rented")
    hurt.cluster.wait_for_checkpoint(run_id)
    hurt.cluster.kill_head()
    (meanwhile,) = hurt.begin("home", steps=20)
    hurt.cluster.start_head()
    status = hurt.cluster.wait_for(run_id, State.SUCCEEDED)
    assert (status.epoch, status.causes) == (1, ())
    unharmed(hurt, run_id)
    hurt.cluster.wait_for(meanwhile, State.SUCCEEDED)


def test_q4_a_host_that_vanishes_and_comes_back_changes_nothing_of_what_another_finished(hurt):
    cluster = hurt.cluster
    (run_id,) = hurt.begin("rented")
    first = cluster.wait_for_checkpoint(run_id)
    lost = cluster.nodes["rented"]
    with lost.stopped():  # as processes do whose network folder does not answer
        cluster.switch.pull(lost)
        wait_until(lambda: cluster.queue.listing.status(run_id).epoch == 2, "its lease ran out", 60)
        cluster.nodes["rented"] = cluster.join("spare", "rented")
        second = cluster.wait_for(run_id, State.SUCCEEDED)
        cluster.switch.push(lost)
    assert second.node != first.node
    assert [cause.cause for cause in second.causes] == ["lease-expired"]
    assert "its node was gone or drained before it began" in details(hurt, run_id)
    wait_until(lambda: not lost.processes(), "the host that came back has ended its attempt and left", 120)
    unharmed(hurt, run_id)
