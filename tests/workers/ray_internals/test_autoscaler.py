"""What is read of Ray's autoscaler."""

from collections import Counter

from ray.autoscaler.v2.schema import ClusterStatus, LaunchRequest, NodeInfo

from workers.ray_internals.autoscaler import Inventory, read

KINDS = {"a100", "h100"}


def node(name: str, kind: str) -> NodeInfo:
    return NodeInfo(instance_type_name=kind, ray_node_type_name=kind, instance_id=name, ip_address="", node_id=name)


def launch(kind: str, count: int, at: int, details: str | None = None) -> LaunchRequest:
    state = LaunchRequest.Status.FAILED if details else LaunchRequest.Status.PENDING
    return LaunchRequest(
        kind, kind, count, state, request_ts_s=at, failed_ts_s=at if details else None, details=details
    )


def test_only_the_autoscaler_s_nodes_are_seen_and_the_last_trouble_of_each_type():
    status = ClusterStatus(
        active_nodes=[node("n1", "a100"), node("home", "node_home")],
        idle_nodes=[node("n2", "a100"), node("head", "head")],
        pending_nodes=[node("", "h100")],
        pending_launches=[launch("h100", 2, at=5)],
        failed_launches=[launch("h100", 1, 9, "no capacity"), launch("h100", 1, 3, "no permission")],
    )
    nodes, starting = {"n1": "a100", "n2": "a100"}, Counter(h100=3)
    assert read(status, KINDS, now=60.0) == Inventory(nodes, starting, {"h100": "no capacity"})
    assert read(status, KINDS, now=3600.0) == Inventory(nodes, starting, {}), "that was an hour ago"
