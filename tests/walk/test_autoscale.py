"""A machine class without a node: one starts because runs wait for it, trains them, and goes when it is idle."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from waiting import wait_until

from farm import serving
from farm.run import State
from farm.server import free_port
from workers.environment import environment, token

AUTOSCALER = {"RAY_enable_autoscaler_v2": "1", "RAY_FAKE_CLUSTER": "1", "AUTOSCALER_UPDATE_INTERVAL_S": "1"}
RENTED = """
[interventions.remove-dropout]
machines = ["rented"]
model.dropout = 0.0
[machines.rented]
threads = 1
usd_per_hour = 1.0
"""


@pytest.fixture
def cluster(tmp_path, walk_farm):
    """A head with an autoscaler and no other node, and `farm serve --attach` beside it."""
    farm = walk_farm(tmp_path)
    variables = environment(farm.settings, token(farm.home)) | farm.environment | AUTOSCALER
    port, dashboard_port = free_port(), free_port()
    file = tmp_path / "cluster.json"
    script = Path(__file__).with_name("scaled.py")
    head = subprocess.Popen(
        [sys.executable, str(script), str(file), str(port), str(dashboard_port)],
        env=variables,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert head.stdout.readline() == "up\n"
    words = ["serve", "--attach", json.loads(file.read_text())["provider"]["gcs_address"]]
    with (tmp_path / "serve.out").open("w") as output:
        serve = subprocess.Popen(
            [*farm.command, *words, "--autoscaling-config", str(file)], env=variables, stdout=output, stderr=output
        )
    try:
        wait_until(lambda: serving.facts(farm.settings) or serve.poll() is not None, "farm serve is up", seconds=60)
        assert serve.poll() is None, (tmp_path / "serve.out").read_text()
        yield farm
    finally:
        serve.terminate()
        serve.wait(timeout=60)
        head.stdin.close()
        head.wait(timeout=60)


def offering(queue):
    return [node.name for node in queue.roster() if "rented" in node.units]


def test_a_node_starts_for_what_waits_trains_it_and_goes_when_idle(cluster):
    """Two runs wait and only one node may be up: asked for two, Ray's autoscaler would start none."""
    with cluster.queue() as queue:
        wait_until(lambda: queue.supply().get("rented"), "the autoscaler's classes are known", seconds=30)
        assert offering(queue) == []
        first, second = cluster.submit("scaled", machines='["rented"]', more=RENTED, tokens=12_800)
        wait_until(lambda: offering(queue), "a node has started", seconds=120)
        cluster.run("cancel", second)
        cluster.wait_for(first, State.SUCCEEDED, seconds=150)
        wait_until(lambda: not offering(queue), "the idle node is gone", seconds=120)
