"""Two Ray nodes of different machine classes train one study, then one run; and the head trains nothing."""

import shutil
import subprocess
import sys
import tempfile

import pytest
from paced import paced
from waiting import wait_until

from farm.study.run import State

CLASSES = """
[machines.home]
threads = 1
[machines.rented]
accelerators = 2
threads = 1
"""


@pytest.fixture(scope="module")
def attached(tmp_path_factory, walk_farm):
    """The three nodes, and `farm serve --attach` beside their head."""
    farm = walk_farm(tmp_path_factory.mktemp("two-nodes"))
    own = tempfile.mkdtemp(prefix="ray-")  # short: sockets are made below it
    with farm.attached("two_nodes.py", RAY_TMPDIR=own) as ray:
        yield farm, ray
    shutil.rmtree(own, ignore_errors=True)


@pytest.fixture
def cluster(attached):
    farm, _ = attached
    return farm


ASKED = """
import sys
import ray
from farm.errors import BadSetting
from workers.attempt.group import Also, hold
from workers.head.autoscale import check_version

ray.init(sys.argv[1], log_to_driver=False)
(node,) = (node["NodeID"] for node in ray.nodes() if "farm:home" in node["Resources"])
home = Also("home", node, 2.0)
with hold([home], 60) as first, hold([home], 0.5) as second:
    print(first, second)
with hold([home], 60) as third, hold([]) as nothing:
    print(third, nothing)
try:
    check_version()
except BadSetting as refused:
    print(refused)
"""


@pytest.fixture(scope="module")
def said(attached):
    """The lines that a process printed which is connected to this Ray."""
    _, ray = attached
    command = [sys.executable, "-c", ASKED, ray.address]
    done = subprocess.run(command, env=ray.variables, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_a_unit_is_held_once_and_free_again_afterwards(said):
    assert said[:2] == ["True False", "True True"]


def test_a_ray_whose_autoscaler_is_not_version_2_is_refused(said):
    assert "Start its head by `ray up`, or with RAY_enable_autoscaler_v2=1." in said[2]


def test_two_nodes_of_different_classes_and_a_group_of_both_have_the_same_bits(cluster):
    study = {"reduction": "canonical", "more": CLASSES, "tokens": 12_800}
    alone = [
        cluster.wait_for(run_id, State.SUCCEEDED)
        for run_id in cluster.submit("alone", machines='["home", "rented"]', **study)
    ]
    assert [status.run.machine for status in alone] == ["home", "rented"]
    assert len({status.node for status in alone}) == 2
    home, rented = (status.result for status in alone)
    assert (home.plan.world, rented.plan.world) == (1, 2)
    (group,) = cluster.submit("together", machines='["home+rented"]', **study)
    status = cluster.wait_for(group, State.SUCCEEDED)
    assert len(set(status.nodes)) == 2
    assert (status.result.plan.world, sum(status.result.plan.shares)) == (3, 4)
    assert status.result.plan.shares_basis == "measured"
    for other in (home, rented):
        assert status.result.fingerprints == other.fingerprints
        assert status.result.test_loss == other.test_loss
    assert _losses(cluster, group) == _losses(cluster, home.run_id)
    (row,) = cluster.json("table", "together", "--json")
    assert (row["machine"], row["mixed"], row["rank"]) == ("home+rented", True, 1)


def _losses(cluster, run_id):
    return [(line.step, line.loss_sum, line.grad_norm) for line in cluster.store.copies.lines(run_id)]


@pytest.mark.long
def test_a_drain_of_one_node_gives_a_mixed_run_back_unharmed(cluster):
    (group,) = cluster.submit("drained", machines='["home+rented"]', more=CLASSES, tokens=5_120_000)
    nodes = cluster.wait_for_step(group, 3, seconds=200).nodes
    assert cluster.json("drain", nodes[1], "--json")["released"] == [group]
    status = cluster.wait_for(group, State.QUEUED)
    assert (status.attempts, status.released) == (0, "drained")
    assert status.checkpoint.step >= 3
    cluster.run("cancel", group)


@pytest.mark.long
def test_a_dispatcher_that_is_stopped_leaves_the_runs_of_a_ray_that_it_did_not_start(attached):
    """The last of the module: it takes the dispatcher of the others away."""
    farm, ray = attached
    (run_id,) = farm.submit("left", machines='["home"]', more=CLASSES, tokens=256 * paced(1500))
    farm.wait_for_step(run_id, 3)
    ray.serve.terminate()
    assert ray.serve.wait(timeout=60) == 0
    ledger = farm.store.attempt_folder(run_id, 1) / "ledger.jsonl"
    size = ledger.stat().st_size
    wait_until(lambda: ledger.stat().st_size > size, "it trains on", seconds=30)
    with farm.dispatching(ray.address, ray.variables):
        farm.wait_for(run_id, State.SUCCEEDED)
    assert [attempt.outcome for attempt in farm.store.runs.attempts(run_id)] == ["succeeded"]
