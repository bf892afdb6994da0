"""Ray Train with no more processes than a run needs, so that it starts sooner and leaves the machine to training.

As it comes, TorchTrainer gives a run a process for its controller, one to clean up after the controller, one for
datasets, and to these and the workers a runtime environment, because of which none of them can be one of the processes
that Ray keeps ready. Each imports Ray Train again, and the driver torch too. Here the controller runs in the driver;
when the driver ends, Ray removes its placement group and its workers anyway. What the environment would say, the node's
own says already (workers.node.environment).

This overrides private parts of Ray 2.60, which is why pyproject.toml names that version.
"""

import asyncio
import os
from dataclasses import dataclass
from importlib import metadata
from typing import Any

import ray
import ray.train
from ray.train._internal.utils import get_address_and_port
from ray.train.backend import Backend, BackendConfig
from ray.train.v2._internal.callbacks.datasets import DatasetsCallback
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
from ray.train.v2._internal.callbacks.state_manager import StateManagerCallback
from ray.train.v2._internal.execution.callback import RayTrainCallback
from ray.train.v2._internal.execution.context import TrainRunContext
from ray.train.v2._internal.execution.controller import TrainController
from ray.train.v2._internal.execution.worker_group import WorkerGroup
from ray.train.v2._internal.logging.logging import get_train_application_controller_log_path
from ray.train.v2._internal.state.state_manager import TrainStateManager
from ray.train.v2._internal.util import TrainingFramework
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

LEAVE_SECONDS = 30.0


class LeanTrainer(DataParallelTrainer):
    """A TorchTrainer: give it a `Torch` as backend_config."""

    def __init__(self, *words: Any, job: str, **options: Any):
        """`job` is the submission id of the Ray job that this process is the driver of."""
        super().__init__(*words, **options)
        self._job = job

    def _create_default_callbacks(self) -> list[RayTrainCallback]:
        needless = (PlacementGroupCleanerCallback, DatasetsCallback)
        kept = [callback for callback in super()._create_default_callbacks() if not isinstance(callback, needless)]
        return [_Shown(self._job) if isinstance(callback, StateManagerCallback) else callback for callback in kept]

    def _initialize_and_run_controller(self, **words: Any) -> Any:
        controller = _Controller(**words)
        asyncio.run(controller.run())
        return controller.get_result()


class _Workers(WorkerGroup):
    @staticmethod
    def _get_worker_runtime_env(custom_runtime_env: dict[str, Any]) -> dict[str, Any]:
        return custom_runtime_env

    def _init_train_context_on_workers(self, workers: list, sync_actor: Any, train_context_args: dict) -> None:
        """As Ray's, but that there is no controller actor to name."""
        ray.get(
            [
                worker.actor.init_train_context.remote(
                    train_run_context=self._train_run_context,
                    distributed_context=worker.distributed_context,
                    synchronization_actor=sync_actor,
                    storage_context=self._storage_context,
                    worker_callbacks=self._worker_callbacks_to_propagate,
                    controller_actor=None,
                    **{name: values[i] for name, values in train_context_args.items()},
                )
                for i, worker in enumerate(workers)
            ]
        )
        self._decorate_worker_log_file_paths(workers)


class _Controller(TrainController):
    worker_group_cls = _Workers


class _Shown(StateManagerCallback):
    """Lists the run in GET /api/train/v2/runs/v1, for which the dashboard has no page.

    The actor that stands for the controller there is the job's own.
    """

    def __init__(self, job: str):
        super().__init__(datasets={})
        self._job = job

    def after_controller_start(self, train_run_context: TrainRunContext) -> None:
        self._state_manager = TrainStateManager()
        self._run_name = train_run_context.run_config.name
        self._run_id = train_run_context.run_id
        supervisor = ray.get_actor(f"_ray_internal_job_actor_{self._job}", "SUPERVISOR_ACTOR_RAY_NAMESPACE")
        self._state_manager.create_train_run(
            id=self._run_id,
            name=self._run_name or self._run_id,
            job_id=ray.get_runtime_context().get_job_id(),
            controller_actor_id=supervisor._actor_id.hex(),
            controller_log_file_path=get_train_application_controller_log_path() or "",
            run_config=train_run_context.run_config,
            train_loop_config=train_run_context.train_loop_config,
            scaling_config=train_run_context.scaling_config,
            backend_config=train_run_context.backend_config,
            datasets={},
            dataset_config=train_run_context.dataset_config,
        )

    def after_worker_group_start(self, worker_group: WorkerGroup) -> None:
        """As Ray's, but that no worker is asked for torch's version: the answer would have this process import torch,
        while they wait."""
        self._state_manager.update_train_run_attempt_running(
            run_id=self._run_id,
            attempt_id=worker_group.get_worker_group_context().run_attempt_id,
            workers=worker_group.get_worker_group_state().workers,
        )
        versions = {name: metadata.version(name) for name in ("ray", "torch")}
        self._state_manager.update_train_run_framework_versions(self._run_id, versions)


@dataclass
class Torch(BackendConfig):
    """torch.distributed over `backend` (gloo, nccl), as ray.train.torch.TorchConfig, whose module imports torch."""

    backend: str

    @property
    def backend_cls(self) -> type[Backend]:
        return _TorchBackend

    @property
    def framework(self) -> TrainingFramework:
        return TrainingFramework.TORCH

    def to_dict(self) -> dict[str, Any]:
        return {"backend": self.backend}


class _TorchBackend(Backend):
    share_cuda_visible_devices = True

    def on_start(self, worker_group: Any, backend_config: BackendConfig) -> None:
        assert isinstance(backend_config, Torch)
        place = worker_group.execute_single(0, get_address_and_port)
        world = len(worker_group)
        ray.get(
            [
                worker_group.execute_single_async(rank, _join, backend_config.backend, *place, rank, world)
                for rank in range(world)
            ]
        )

    def on_shutdown(self, worker_group: Any, backend_config: BackendConfig) -> None:
        leaving = worker_group.execute_async(_leave)
        ray.wait(leaving, num_returns=len(leaving), timeout=LEAVE_SECONDS)


def _join(backend: str, address: str, port: int, rank: int, world: int) -> None:
    from model.group import initialise  # with it comes torch

    here = ray.train.get_context()
    os.environ |= {
        "MASTER_ADDR": address,
        "MASTER_PORT": str(port),
        "RANK": str(rank),
        "WORLD_SIZE": str(world),
        "LOCAL_RANK": str(here.get_local_rank()),
        "LOCAL_WORLD_SIZE": str(here.get_local_world_size()),
        "NODE_RANK": str(here.get_node_rank()),
    }
    initialise(on_cuda=backend == "nccl")


def _leave() -> None:
    from torch import distributed

    if distributed.is_initialized():
        distributed.destroy_process_group()
