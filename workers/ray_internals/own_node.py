"""The Ray node that this process started or is attached to, which Ray keeps private."""

import functools
from pathlib import Path

import ray
from ray._private import parameter, worker
from ray._private.ray_constants import PROMETHEUS_SERVICE_DISCOVERY_FILE
from ray._private.utils import write_ray_address


def cluster_id() -> str:
    return worker._global_node.cluster_id.hex()  # type: ignore[attr-defined]  # None until Ray is up


def prometheus_targets() -> Path:
    """Ray's list of what Prometheus may scrape, in the folder of its session."""
    session = worker._global_node.get_session_dir_path()  # type: ignore[attr-defined]  # None until Ray is up
    return Path(session) / PROMETHEUS_SERVICE_DISCOVERY_FILE


def announce() -> None:
    """Write down where this Ray is, as `ray start` does: its jobs look there."""
    write_ray_address(ray.get_runtime_context().gcs_address)


def shut_down() -> None:
    """End our Ray. Where its raylet is gone, `ray.shutdown` would end this process in the middle."""
    own = worker._global_node
    if own and own.dead_processes():
        own.kill_all_processes(check_alive=False, wait=True)
    else:
        ray.shutdown()


def free_the_agents_port() -> None:
    """Let Ray's agent, which takes our jobs, listen on a free port.

    Its default, 52365, it binds on 127.0.0.1 too. Where another Ray of this machine has that, or one that was killed a
    minute ago, it starts without a word and takes no job, ever. `ray.init` has no option for it.
    """
    anywhere = functools.partial(parameter.RayParams, dashboard_agent_listen_port=0)
    parameter.RayParams = anywhere  # type: ignore[misc, assignment]
