"""A Ray whose autoscaler starts nodes at demand: real Ray nodes on this machine, by Ray's fake multi-node provider.

Run by test_autoscale in a process of its own, as `scaled.py CONFIG PORT DASHBOARD_PORT`. Prints its address, then
waits for its stdin to close.
"""

import json
import sys
from pathlib import Path

from ray.autoscaler._private.fake_multi_node.node_provider import FAKE_HEAD_NODE_ID, FAKE_HEAD_NODE_TYPE
from ray.cluster_utils import Cluster

ADDRESS = "127.0.0.9"  # of its own: with one address Ray would take head and worker for one node
IDLE_MINUTES = 0.1


def config(gcs_port: int) -> dict:
    """A cluster file: at most one node of one class, started when it is needed and gone soon after."""
    return {
        "cluster_name": "scaled",
        "max_workers": 1,
        "idle_timeout_minutes": IDLE_MINUTES,
        "provider": {
            "type": "external",
            "module": "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider",
            "gcs_address": f"{ADDRESS}:{gcs_port}",
            "head_node_id": FAKE_HEAD_NODE_ID,
            "launch_multiple": True,
            "disable_node_updaters": True,
        },
        "auth": {},
        "file_mounts": {},
        "cluster_synced_files": [],
        **{f"{what}_commands": [] for what in ("initialization", "setup", "head_setup", "worker_setup")},
        **{f"{what}_start_ray_commands": [] for what in ("head", "worker")},
        "head_node_type": FAKE_HEAD_NODE_TYPE,
        "available_node_types": {
            FAKE_HEAD_NODE_TYPE: {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
            "rented": {
                "resources": {"CPU": 2, "farm:rented": 1, "object_store_memory": 100 * 2**20},
                "labels": {"farm-usd-per-hour": "1.5", "farm-price-date": "2026-11"},
                "node_config": {},
                "min_workers": 0,
                "max_workers": 1,
            },
        },
    }


def main() -> None:
    path, gcs_port, dashboard_port = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    path.write_text(json.dumps(config(gcs_port)))
    head = {
        "num_cpus": 0,
        "node_ip_address": ADDRESS,
        "gcs_server_port": gcs_port,
        "include_dashboard": True,
        "dashboard_port": dashboard_port,
        "dashboard_agent_listen_port": 0,
        "autoscaling_config": str(path),
        "env_vars": {
            "RAY_OVERRIDE_NODE_ID_FOR_TESTING": FAKE_HEAD_NODE_ID,
            "RAY_CLOUD_INSTANCE_ID": FAKE_HEAD_NODE_ID,
            "RAY_NODE_TYPE_NAME": FAKE_HEAD_NODE_TYPE,
        },
    }
    cluster = Cluster(initialize_head=True, head_node_args=head)
    print(json.dumps({"address": f"{ADDRESS}:{gcs_port}"}), flush=True)
    sys.stdin.read()
    cluster.shutdown()


if __name__ == "__main__":
    main()
