"""The processes of a Ray, as the process table shows them. Nothing here calls Ray."""

from contextlib import suppress

import psutil

SESSION_LOGS = "**/session_*/logs"  # below the folder of a Ray
# Words in the command line of each: agents replace theirs by a title once they are up.
OF_THE_HEAD = {
    "GCS": ("/gcs/gcs_server",),
    "raylet": ("/raylet/raylet",),
    "dashboard": ("/ray/dashboard/dashboard.py",),
    "monitor": ("/ray/autoscaler/_private/monitor.py",),
    "log monitor": ("/ray/_private/log_monitor.py",),
}
OF_THE_RAYLET = {
    "dashboard agent": ("ray::DashboardAgent", "/ray/dashboard/agent.py"),
    "runtime environment agent": ("ray::RuntimeEnvAgent", "/ray/_private/runtime_env/agent/main.py"),
}


def cluster_mark(cluster_id: str) -> str:
    """The words in the command line of each process of a cluster's head."""
    return f"--cluster-id-hex={cluster_id}"


def raylet(parent: int) -> psutil.Process | None:
    """The raylet that the process `parent` started; None before it has, or when `parent` is gone."""
    with suppress(psutil.NoSuchProcess):
        return next((child for child in psutil.Process(parent).children() if child.name() == "raylet"), None)
    return None


def has_ended(process: psutil.Process) -> bool:
    """Whether it runs no more, buried or not."""
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True
