"""A Ray head that trains nothing, for tests that join it. Prints its address, then waits for its stdin to close.

python ray_head.py ADDRESS DASHBOARD-PORT
"""

import json
import sys

from ray.cluster_utils import Cluster


def main() -> None:
    head = {
        "num_cpus": 0,
        "node_ip_address": sys.argv[1],
        "include_dashboard": True,
        "dashboard_port": int(sys.argv[2]),
        "dashboard_agent_listen_port": 0,  # the default is one port for all the Rays of a machine
    }
    cluster = Cluster(initialize_head=True, head_node_args=head)
    print(json.dumps({"address": cluster.address}), flush=True)
    sys.stdin.read()
    cluster.shutdown()


if __name__ == "__main__":
    main()
