"""Every part of Ray beyond its documented interface that the farm touches, by name: red where a new version of Ray has
lost one or changed its parameters. Nothing here starts a Ray.

And nothing outside workers/ray_internals touches such a part, so that this list and that room are all there is to read
when Ray's version changes.
"""

import ast
import importlib
import inspect
import re
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest
import ray
from packaging.requirements import Requirement

from workers.ray_internals import phrases, processes, variables

ROOT = Path(__file__).resolve().parents[3]
ROOM = ROOT / "workers" / "ray_internals"
RAY = Path(ray.__file__).parent
DOCUMENTED = (
    *(
        "ray",
        "ray.autoscaler",
        "ray.autoscaler.sdk",
        "ray.exceptions",
        "ray.job_submission",
        "ray.train",
        "ray.train.backend",
    ),
    *("ray.train.torch", "ray.util", "ray.util.metrics"),
)

WORKER_GROUP = "ray.train.v2._internal.execution.worker_group:WorkerGroup"
CALLBACK = "ray.train.v2._internal.callbacks.state_manager:StateManagerCallback"
STATES = "ray.train.v2._internal.state.state_manager:TrainStateManager"
TRAINER = "ray.train.v2.api.data_parallel_trainer:DataParallelTrainer"
CONTROLLER = "ray.train.v2._internal.execution.controller:TrainController"

# What is called or overridden, and its parameters; None for what has none that could be looked at.
CALLED = {
    # own_node
    "ray._private:parameter": None,
    "ray._private:worker": None,
    "ray._private.worker:_global_node": None,
    "ray._private.node:Node.dead_processes": "self",
    "ray._private.node:Node.kill_all_processes": "self check_alive allow_graceful wait",
    "ray._private.node:Node.get_session_dir_path": "self",
    "ray._private.parameter:RayParams": None,
    "ray._private.ray_constants:PROMETHEUS_SERVICE_DISCOVERY_FILE": None,
    "ray._private.utils:write_ray_address": "ray_address temp_dir",
    # gcs
    "ray._raylet:GcsClient": None,
    # launcher
    "ray.autoscaler._private:util": None,
    "ray.autoscaler._private.util:prepare_config": "config",
    "ray.autoscaler._private.util:validate_config": "config",
    # autoscaler
    "ray.autoscaler.v2.schema:ClusterStatus": "active_nodes idle_nodes pending_launches failed_launches pending_nodes"
    " failed_nodes cluster_resource_usage resource_demands stats",
    "ray.autoscaler.v2.sdk:get_cluster_status": "gcs_address timeout",
    "ray.autoscaler.v2.utils:is_autoscaler_v2": "fetch_from_server gcs_client",
    # job_client
    "ray.job_submission:JobSubmissionClient._do_request": "self method endpoint data json_data kwargs",
    # trainer
    "ray.actor:ActorHandle._actor_id": None,
    "ray.train._internal.utils:get_address_and_port": "",
    "ray.train.v2._internal.callbacks.datasets:DatasetsCallback": None,
    "ray.train.v2._internal.callbacks.placement_group_callback:PlacementGroupCleanerCallback": None,
    CALLBACK: "datasets",
    f"{CALLBACK}.after_controller_start": "self train_run_context",
    f"{CALLBACK}.after_worker_group_start": "self worker_group",
    "ray.train.v2._internal.execution.callback:RayTrainCallback": None,
    "ray.train.v2._internal.execution.context:TrainRunContext": "run_config train_loop_config scaling_config"
    " backend_config dataset_config",
    CONTROLLER: "train_fn_ref train_run_context scaling_policy failure_policy callbacks validation_config",
    f"{CONTROLLER}.run": "self",
    f"{CONTROLLER}.get_result": "self",
    f"{CONTROLLER}.worker_group_cls": None,
    WORKER_GROUP: "train_run_context worker_group_context callbacks",
    f"{WORKER_GROUP}._get_worker_runtime_env": "custom_runtime_env",
    f"{WORKER_GROUP}._init_train_context_on_workers": "self workers sync_actor train_context_args",
    f"{WORKER_GROUP}._decorate_worker_log_file_paths": "workers",
    f"{WORKER_GROUP}.get_worker_group_context": "self",
    f"{WORKER_GROUP}.get_worker_group_state": "self",
    f"{WORKER_GROUP}.execute_single": "self rank fn fn_args fn_kwargs",
    f"{WORKER_GROUP}.execute_single_async": "self rank fn fn_args fn_kwargs",
    f"{WORKER_GROUP}.execute_async": "self fn fn_args fn_kwargs",
    "ray.train.v2._internal.execution.worker_group:RayTrainWorker.init_train_context": "self train_run_context"
    " distributed_context synchronization_actor storage_context worker_callbacks controller_actor"
    " dataset_shard_provider checkpoint has_validation_fn current_report_index",
    "ray.train.v2._internal.logging.logging:get_train_application_controller_log_path": "",
    STATES: "",
    f"{STATES}.create_train_run": "self id name job_id controller_actor_id controller_log_file_path run_config"
    " train_loop_config scaling_config backend_config datasets dataset_config",
    f"{STATES}.update_train_run_attempt_running": "self run_id attempt_id workers",
    f"{STATES}.update_train_run_framework_versions": "self run_id framework_versions",
    "ray.train.v2._internal.util:TrainingFramework": None,
    "ray.train.v2._internal.util:TrainingFramework.TORCH": None,
    TRAINER: "train_loop_per_worker train_loop_config backend_config scaling_config run_config datasets dataset_config"
    " resume_from_checkpoint metadata validation_config",
    f"{TRAINER}._create_default_callbacks": "self",
    f"{TRAINER}._initialize_and_run_controller": "self controller_init_kwargs",
    "ray.train.backend:Backend.on_start": "self worker_group backend_config",
    "ray.train.backend:Backend.on_shutdown": "self worker_group backend_config",
    "ray.train.backend:BackendConfig.backend_cls": None,
    "ray.train.backend:BackendConfig.framework": None,
    "ray.train.backend:BackendConfig.to_dict": "self",
}

LIBRARY, GCS, CONSTANTS = "_raylet.so", "core/src/ray/gcs/gcs_server", "_private/ray_constants.py"
TRAIN = "train/v2/_internal/constants.py"
# What no import shows: a file of Ray's, and what must stand in it.
STANDS = [
    ("_private/node.py", "self.cluster_id ="),
    ("_private/node.py", 'f"session_{date_str}_'),
    ("_private/node.py", phrases.TOO_SLOW),
    (GCS, phrases.NODE_DIED),
    ("dashboard/modules/job/job_supervisor.py", phrases.JOB_BEGINS),
    ("dashboard/modules/job/job_head.py", phrases.NO_SUCH_JOB),
    ("_private/services.py", processes.cluster_mark("{cluster_id_hex}")),
    ("dashboard/dashboard.py", '"--cluster-id-hex"'),
    ("dashboard/modules/job/common.py", "_PREFIX}job_actor_"),
    ("dashboard/modules/job/common.py", '= "SUPERVISOR_ACTOR_RAY_NAMESPACE"'),
    ("dashboard/modules/job/common.py", "RAY_INTERNAL_NAMESPACE_PREFIX"),
    (CONSTANTS, '"ray::DashboardAgent"'),
    (CONSTANTS, '"ray::RuntimeEnvAgent"'),
    ("train/v2/_internal/execution/worker_group/worker_group.py", "self._train_run_context ="),
    ("train/v2/_internal/execution/worker_group/worker_group.py", "self._storage_context ="),
    ("train/v2/_internal/execution/worker_group/worker_group.py", "self._worker_callbacks_to_propagate ="),
    ("train/v2/_internal/callbacks/state_manager.py", "self._state_manager ="),
    ("train/v2/_internal/callbacks/state_manager.py", "self._run_name ="),
    ("train/v2/_internal/callbacks/state_manager.py", "self._run_id ="),
]
# Where Ray reads each variable that the farm sets; "RAY_x" in lower case is x in Ray's table of settings.
READ_IN = {
    variables.TOKEN: LIBRARY,
    variables.TOKEN_PATH: LIBRARY,
    variables.TMPDIR: "_common/utils.py",
    variables.GCS_PORT: CONSTANTS,
    variables.LABELS: CONSTANTS,
    variables.METRICS_ROOT: "dashboard/modules/metrics/metrics_head.py",
    "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": CONSTANTS,
    "RAY_AUTH_MODE": LIBRARY,
    "RAY_USAGE_STATS_ENABLED": "_common/usage/usage_constants.py",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "_private/accelerators/accelerator.py",
    "RAY_JOB_STOP_WAIT_TIME_S": "dashboard/modules/job/job_supervisor.py",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": TRAIN,
    "RAY_TRAIN_ENABLE_STATE_TRACKING": "train/v2/api/data_parallel_trainer.py",
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": TRAIN,
    "RAY_TRAIN_ENABLE_PRINT_PATCH": TRAIN,
    "RAY_CHDIR_TO_TRIAL_DIR": "train/constants.py",
    "RAY_COLOR_PREFIX": "_private/worker.py",
    "RAY_gcs_rpc_server_reconnect_timeout_s": LIBRARY,
}
NOT_RAYS = {"CUDA_DEVICE_ORDER", "MALLOC_ARENA_MAX", "PYTHONWARNINGS"}


@pytest.mark.parametrize("name", CALLED)
def test_ray_has_what_is_called_or_overridden_and_it_takes_what_it_took(name: str) -> None:
    module, _, path = name.partition(":")
    try:
        found = importlib.import_module(module)
        for part in path.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError):
        pytest.fail(f"Ray {ray.__version__} has no {name} any more: see workers/ray_internals.")
    if (wanted := CALLED[name]) is not None:
        takes = " ".join(inspect.signature(inspect.getattr_static(*_place(module, path))).parameters)
        assert takes == wanted, f"Ray {ray.__version__} has other parameters for {name}: see workers/ray_internals."


def _place(module: str, path: str) -> tuple[object, str]:
    """The object that holds what is named, and its name there."""
    holder: object = importlib.import_module(module)
    *above, last = path.split(".")
    for part in above:
        holder = getattr(holder, part)
    return holder, last


@pytest.mark.parametrize(
    ("file", "words"),
    [*STANDS, *((file, name if name.isupper() else name.removeprefix("RAY_")) for name, file in READ_IN.items())],
)
def test_ray_says_and_reads_what_it_did(file: str, words: str) -> None:
    path = RAY / file
    assert path.is_file(), f"Ray {ray.__version__} has no {file} any more: see workers/ray_internals."
    assert words.encode() in path.read_bytes(), f"Ray {ray.__version__}: {words!r} is not in its {file} any more."


def test_every_process_that_is_looked_for_is_a_file_or_a_title_of_ray_s() -> None:
    marks = [
        mark for found in (processes.OF_THE_HEAD, processes.OF_THE_RAYLET) for kind in found.values() for mark in kind
    ]
    files = [mark.removeprefix("/ray/") if mark.startswith("/ray/") else f"core/src/ray{mark}" for mark in marks]
    gone = [
        mark
        for mark, file in zip(marks, files, strict=True)
        if not mark.startswith("ray::") and not (RAY / file).is_file()
    ]
    assert not gone, f"Ray {ray.__version__} starts no {gone} any more"
    assert {"ray::DashboardAgent", "ray::RuntimeEnvAgent"} == {mark for mark in marks if mark.startswith("ray::")}


def test_every_variable_that_the_farm_sets_is_looked_for() -> None:
    assert {*variables.RAY, *variables.AT_ONCE} - NOT_RAYS <= READ_IN.keys()


def test_the_version_of_ray_is_one_that_the_project_names() -> None:
    """A new one is a decision: this list first, then tests/walk."""
    named = [Requirement(line) for line in metadata.requires("farm") or []]
    assert {ray.__version__ in one.specifier for one in named if one.name == "ray"} == {True}


def test_every_private_name_that_the_room_imports_or_overrides_is_on_the_list() -> None:
    unlisted = {name for path in ROOM.glob("*.py") for name in _imported(ast.parse(path.read_text(encoding="utf-8")))}
    unlisted = {name for name in unlisted if name.partition(":")[0] not in DOCUMENTED}
    assert unlisted - CALLED.keys() == set(), "name them in CALLED, with their parameters"


def test_nothing_outside_the_room_touches_ray_s_private_parts() -> None:
    files = [path for package in ("cli", "farm", "model", "workers") for path in (ROOT / package).glob("**/*.py")]
    outside = [path for path in files if ROOM not in path.parents]
    touched = {str(path.relative_to(ROOT)): _touched(path) for path in outside}
    assert {file: names for file, names in touched.items() if names} == {}, "move them to workers/ray_internals"


def _touched(path: Path) -> list[str]:
    code = path.read_text(encoding="utf-8")
    if not re.search(r"\bray|RAY_", code):  # each kind of touch names it
        return []
    tree = ast.parse(code)
    return [*_private_imports(tree), *_private_attributes(tree), *_variables(tree)]


def test_a_private_part_outside_the_room_would_be_seen() -> None:
    """Each kind of touch, planted."""
    planted = """
import os, ray.train.v2.api.data_parallel_trainer
from ray._private import worker
from ray import _raylet
from ray.job_submission import JobSubmissionClient
node = worker._global_node
JobSubmissionClient("")._do_request("GET", "/")
os.environ["RAY_TMPDIR"] = "/tmp"
"""
    tree = ast.parse(planted)
    assert len([*_private_imports(tree)]) == 3
    assert [*_private_attributes(tree)] == ["._global_node", "._do_request"]
    assert [*_variables(tree)] == ["RAY_TMPDIR"]
    assert not [*_private_attributes(ast.parse("import ray\nclass A:\n  def f(self): self._x; line._replace(a=1)"))]


def _imported(tree: ast.Module) -> Iterator[str]:
    """module:name of all that is imported from Ray."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and _is_ray(node.module):
            yield from (f"{node.module}:{name.name}" for name in node.names)
        elif isinstance(node, ast.Import):
            yield from (f"{name.name}:" for name in node.names if _is_ray(name.name))


def _is_ray(module: str | None) -> bool:
    return module is not None and module.split(".")[0] == "ray"


def _private_imports(tree: ast.Module) -> Iterator[str]:
    for name in _imported(tree):
        module, _, what = name.partition(":")
        if module not in DOCUMENTED or what.startswith("_"):
            yield name


def _private_attributes(tree: ast.Module) -> Iterator[str]:
    """In a file that imports Ray: attributes with an underscore, but for the own object's or class's, and os._exit."""
    if not [*_imported(tree)]:
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr.startswith("_") and not node.attr.startswith("__"):
            is_own = isinstance(node.value, ast.Name) and node.value.id in ("self", "cls", "os")
            if not is_own and node.attr not in ("_replace", "_asdict", "_fields"):
                yield f".{node.attr}"


def _variables(tree: ast.Module) -> Iterator[str]:
    """Strings that are the name of one of Ray's variables, and no more: not those that a message speaks of."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and re.fullmatch("RAY_[A-Za-z_]+", str(node.value)):
            yield str(node.value)
