"""A machine class without a node: one starts because runs wait for it, trains them, and goes when it is idle."""

import pytest
from waiting import wait_until

from farm.site.server import free_port
from farm.study.run import State

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
    farm, file = walk_farm(tmp_path), tmp_path / "cluster.json"
    with farm.attached("scaled.py", str(file), str(free_port()), config=file, **AUTOSCALER):
        yield farm


def offering(queue):
    return [node.name for node in queue.roster.nodes() if "rented" in node.units]


@pytest.mark.long
def test_a_node_starts_for_what_waits_trains_it_and_goes_when_idle(cluster):
    """Two runs wait and only one node may be up: asked for two, Ray's autoscaler would start none."""
    with cluster.queue() as queue:
        rented = wait_until(
            lambda: queue.roster.supply().get("rented"), "the autoscaler's classes are known", seconds=30
        )
        assert (rented.price.usd_per_hour, str(rented.price)) == (1.5, "by cluster file of 2026-11")
        assert offering(queue) == []
        first, second = cluster.submit("scaled", machines='["rented"]', more=RENTED, tokens=12_800)
        wait_until(lambda: offering(queue), "a node has started", seconds=120)
        cluster.run("cancel", second)
        cluster.wait_for(first, State.SUCCEEDED, seconds=150)
        wait_until(lambda: not offering(queue), "the idle node is gone", seconds=120)
