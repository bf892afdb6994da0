"""The state of Ray's autoscaler, version 2. Ray documents only how to ask it for nodes."""

from collections import Counter
from collections.abc import Collection
from typing import NamedTuple

import ray
from ray.autoscaler.v2.schema import ClusterStatus
from ray.autoscaler.v2.sdk import get_cluster_status
from ray.autoscaler.v2.utils import is_autoscaler_v2

TROUBLE_SECONDS = 600.0  # Ray remembers a start that failed for ever


class Inventory(NamedTuple):
    """The autoscaler's nodes at one moment. Nodes that joined by themselves are not its own, and not here."""

    nodes: dict[str, str]  # id of a living Ray node -> node type
    starting: Counter[str]  # node type -> nodes asked for and not up yet
    troubles: dict[str, str]  # node type -> why the last start failed


def is_version_2() -> bool:
    """Whether the Ray that this process is connected to has version 2."""
    return is_autoscaler_v2(fetch_from_server=True)


def sight(kinds: Collection[str], now: float) -> Inventory:
    """The nodes of the types `kinds` that the autoscaler of this process's Ray has and starts."""
    return read(get_cluster_status(ray.get_runtime_context().gcs_address), kinds, now)


def read(status: ClusterStatus, kinds: Collection[str], now: float) -> Inventory:
    """The nodes of the types `kinds` in what Ray says of the whole cluster at `now`, Unix seconds."""
    living = [*status.active_nodes, *status.idle_nodes]
    nodes = {node.node_id: node.ray_node_type_name for node in living if node.node_id}
    starting = Counter(node.ray_node_type_name for node in status.pending_nodes)
    for launch in status.pending_launches:
        starting[launch.ray_node_type_name] += launch.count
    fresh = [launch for launch in status.failed_launches if now - (launch.failed_ts_s or 0) < TROUBLE_SECONDS]
    failed = sorted(fresh, key=lambda launch: launch.failed_ts_s or 0)
    troubles = {launch.ray_node_type_name: launch.details or "no reason given" for launch in failed}
    return Inventory({node: kind for node, kind in nodes.items() if kind in kinds}, starting, troubles)
