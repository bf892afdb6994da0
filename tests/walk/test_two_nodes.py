"""Two Ray nodes of different machine classes train one study, and the head trains nothing."""

import json
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from waiting import wait_until

from farm import serving
from farm.run import State
from workers.environment import environment, token

CLASSES = """
[machines.home]
threads = 1
[machines.rented]
accelerators = 2
threads = 1
"""


@pytest.fixture
def cluster(tmp_path, walk_farm):
    """The three nodes, and `farm serve --attach` beside their head."""
    farm = walk_farm(tmp_path)
    variables = environment(farm.settings, token(farm.home)) | farm.environment
    script = Path(__file__).with_name("two_nodes.py")
    nodes = subprocess.Popen(
        [sys.executable, str(script), str(free_port())],
        env=variables,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    address = json.loads(nodes.stdout.readline())["address"]
    with (tmp_path / "serve.out").open("w") as output:
        head = subprocess.Popen(
            [*farm.command, "serve", "--attach", address], env=variables, stdout=output, stderr=output
        )
    try:
        wait_until(lambda: serving.facts(farm.settings) or head.poll() is not None, "farm serve is up", seconds=60)
        assert head.poll() is None, (tmp_path / "serve.out").read_text()
        yield farm
    finally:
        head.terminate()
        head.wait(timeout=60)
        nodes.stdin.close()
        nodes.wait(timeout=60)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_two_nodes_of_different_classes_train_one_study(cluster):
    ids = cluster.submit("unlike", machines='["home", "rented"]', more=CLASSES, tokens=12_800)
    statuses = [cluster.wait_for(run_id, State.SUCCEEDED) for run_id in ids]
    assert {status.run.machine for status in statuses} == {"home", "rented"}
    assert len({status.node for status in statuses}) == 2
    one, two = (cluster.store.result(run_id) for run_id in ids)
    assert (one.plan.world, two.plan.world) == (1, 2)
    assert one.test_loss == pytest.approx(two.test_loss, abs=1e-5)
