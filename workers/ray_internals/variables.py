"""The environment variables that set up a Ray for the farm, and those that belong to other uses of Ray.

A new version drops one without a word, and then does as it likes: tests/workers/ray_internals looks for each in Ray.
"""

STOP_WAIT_SECONDS = 60  # for a drained or cancelled agent to save a checkpoint before Ray kills it

TOKEN, TOKEN_PATH = "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"  # the secret, which goes before the file that holds it
TMPDIR = "RAY_TMPDIR"  # where a Ray's sockets, logs and session lie; inherited by all that it starts
GCS_PORT = "RAY_GCS_SERVER_PORT"
LABELS = "RAY_OVERRIDE_LABELS"  # of a node, as JSON: Ray's launcher hands those of its type to the start commands
METRICS_ROOT = "RAY_METRICS_OUTPUT_ROOT"  # what Ray writes for Grafana and Prometheus

RAY = {
    "RAY_AUTH_MODE": "token",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # the agent holds no GPU but may look at them
    "CUDA_DEVICE_ORDER": "PCI_BUS_ID",  # as nvidia-smi, farm and Ray count; by itself CUDA counts the fastest first
    "RAY_JOB_STOP_WAIT_TIME_S": str(STOP_WAIT_SECONDS),
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",  # Train's controller polls; Ray's default of 2 s costs 5 s a run
    "RAY_TRAIN_ENABLE_STATE_TRACKING": "1",  # for GET /api/train/v2/runs/v1; the dashboard has no page for it
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
AT_ONCE = {"RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0"}  # told to stop while it starts, Ray would wait half a minute


# Variables that a shell may hold for other uses of Ray. Its client would follow one to another cluster, with our
# token: for it, RAY_ADDRESS goes before the address that it is given. A name that ends in "_" stands for all that
# begin so.
OTHERS = (
    *("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS", "RAY_CLIENT_MODE", "RAY_NAMESPACE", "RAY_START_HOOK"),
    *("RAY_JOB_", "RAY_RUNTIME_ENV", "RAY_RUNTIME_ENV_"),
)
OTHER_HEADS = (TOKEN, GCS_PORT, "RAY_OVERRIDE_", "RAY_REDIS_")  # for a Ray that is all ours
