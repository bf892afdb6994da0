"""What the processes of a farm's node inherit: Ray, and through it the agents and their workers.

Ray reads some of it when it is imported, so it must be there before. It is the node's environment and not the jobs'
runtime environment for two reasons: Ray shows the latter to everybody, passwords included, and a job that has one
cannot use the worker processes that Ray keeps ready. (Having those preload torch costs more than it saves: a run has
eight Ray processes, of which one or two need it.)
"""

import fcntl
import os
import secrets
import sys
from pathlib import Path

from farm.server import make_home
from farm.settings import Settings

OBJECT_STORE_BYTES = 100 * 2**20  # nothing of farm's travels through Ray's object store
STOP_WAIT_SECONDS = 60  # for a drained or cancelled agent to save a checkpoint before Ray kills it

RAY = {
    "RAY_AUTH_MODE": "token",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # the agent holds no GPU but may look at them
    "RAY_JOB_STOP_WAIT_TIME_S": str(STOP_WAIT_SECONDS),
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",  # Train's controller polls; Ray's default of 2 s costs 5 s a run
    "RAY_TRAIN_ENABLE_STATE_TRACKING": "1",  # fills the dashboard's Train tab
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",  # an actor per run; draining is the agent's
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",  # else every line of a worker stands twice in the log
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_COLOR_PREFIX": "0",
    # How long a node trains on without a head. After Ray's default of 60 s it would end, and a reboot takes longer.
    "RAY_gcs_rpc_server_reconnect_timeout_s": "600",
    # Train runs the loop in a thread. glibc would give it an arena of its own, which returns freed memory to the system
    # at every step: 779 against 671 ms a step at 4 layers x 256, vocab 50257.
    "MALLOC_ARENA_MAX": "1",
    "PYTHONWARNINGS": "ignore::DeprecationWarning,ignore::FutureWarning",
}


def environment(here: Settings, token: Path | None = None) -> dict[str, str]:
    """This process's environment with the farm's laid over it. `token` is the file with Ray's secret.

    FARM_REDIS_URL may hold a password, so it travels here and nowhere else.
    """
    own = {"FARM_HOME": str(here.home), "FARM_STORAGE": str(here.storage), "FARM_PYTHON": sys.executable}
    own |= {"RAY_METRICS_OUTPUT_ROOT": str(here.home / "metrics")}  # what Ray writes for Grafana, at a path that stays
    own |= {"FARM_REDIS_URL": here.redis_url} if here.redis_url else {}
    own |= {"FARM_REDIS_CA": str(here.redis_ca)} if here.redis_ca else {}
    own |= {"RAY_AUTH_TOKEN_PATH": str(token)} if token else {}
    return os.environ | RAY | own


def token(home: Path) -> Path:
    """The secret that Ray's job API and dashboard ask for: made once, readable by its owner only.

    Raises: BadSetting: the home cannot be made.
    """
    path = home / "ray-token"
    make_home(home)
    if not path.exists() or not path.stat().st_size:  # empty: who made it was killed
        with os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o600), "r+", encoding="utf-8") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            if not file.read():  # else another was first
                file.write(secrets.token_hex(32))
    return path


def others_token() -> Path:
    """The file with the secret of a Ray that somebody else started."""
    return Path(os.environ.get("RAY_AUTH_TOKEN_PATH", "~/.ray/auth_token")).expanduser()
