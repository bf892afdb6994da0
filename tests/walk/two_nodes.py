"""A Ray of three nodes on one machine: a head that trains nothing, and two that offer a machine class each.

Run by test_two_nodes in a process of its own. Prints the address and the dashboard's port, then waits for its stdin to
close. Nodes have loopback addresses of their own: with one address Ray would take them for one node.
"""

import json
import sys

from ray._private.utils import write_ray_address
from ray.cluster_utils import Cluster


def main() -> None:
    anywhere = {"dashboard_agent_listen_port": 0}  # the default is one port for all the Rays of a machine
    head = {
        "num_cpus": 0,
        "node_ip_address": "127.0.0.2",
        "include_dashboard": True,
        "dashboard_port": int(sys.argv[1]),
    }
    cluster = Cluster(initialize_head=True, head_node_args=head | anywhere)
    for number, name in enumerate(["home", "rented"], start=3):
        cluster.add_node(
            num_cpus=2,
            node_ip_address=f"127.0.0.{number}",
            resources={f"farm:{name}": 1},
            labels={"farm-machine": name},
            object_store_memory=100 * 2**20,
            **anywhere,
        )
    cluster.wait_for_nodes()
    write_ray_address(cluster.address)  # else a job looks through the machine's processes, and may find another Ray
    print(json.dumps({"address": cluster.address}), flush=True)
    sys.stdin.read()
    cluster.shutdown()


if __name__ == "__main__":
    main()
