"""fit(task) -> Outcome: one DDP group, on one node or on those of a mixed group, through Ray Train.

And score(task) -> Measurement: one process that scores a model that was trained.
"""

from collections.abc import Callable
from typing import Any

import ray
from ray.exceptions import ActorUnavailableError, NodeDiedError, RayActorError, RayError, RaySystemError
from ray.train import FailureConfig, RunConfig, ScalingConfig, TrainingFailedError

from farm.errors import FarmError, MachineDied, WorkerDied, reason
from farm.record.result import Measurement, Outcome
from farm.study.machine import Machine
from workers.attempt.task import Scoring, Task
from workers.ray_internals.phrases import NODE_DIED
from workers.ray_internals.trainer import LeanTrainer, Torch

# A worker needs no CPU of its own: the job holds the node's class unit and CPUs. Ray wants some resource in a bundle.
SLIVER = 0.001


def fit(task: Task, machine: Machine, node: str, storage: str, job: str) -> Outcome:
    """Train `task` on the Ray node whose id is `node`, and wait for the end. This process drives the Ray job `job`.

    A mixed group trains on its own places, of which `node` is the first.

    Raises: FarmError: what a worker raised, or WorkerDied when a process vanished.
    """
    name, scaling = f"{task.run.id}-a{task.lease.epoch}", _scaling(task, machine, node)
    return Outcome.model_validate(_run_group(_loop, task, name, scaling, machine, storage, job))


def score(task: Scoring, machine: Machine, node: str, storage: str, job: str) -> Measurement:
    """Score a model in one process on the Ray node whose id is `node`, with one accelerator of `machine`.

    Raises: FarmError: what the process raised, or WorkerDied when it vanished.
    """
    return Measurement.model_validate(
        _run_group(_score, task, task.name, _on_node(machine, node, 1), machine, storage, job)
    )


def _run_group(
    loop: Callable[[dict[str, Any]], dict[str, Any]],
    task: Task | Scoring,
    name: str,
    scaling: ScalingConfig,
    machine: Machine,
    storage: str,
    job: str,
) -> Any:
    """Run `loop` in each process of the group, and return what rank 0 returns."""
    trainer = LeanTrainer(
        loop,
        job=job,
        train_loop_config={"task": task.model_dump_json()},
        scaling_config=scaling,
        backend_config=Torch(backend="gloo" if machine.is_cpu else "nccl"),
        run_config=RunConfig(
            name=name,
            storage_path=storage,
            failure_config=FailureConfig(max_failures=0, controller_failure_limit=0),  # type: ignore[call-arg]
        ),
    )
    try:
        return trainer.fit().return_value  # type: ignore[attr-defined]
    except (TrainingFailedError, RayError) as error:
        raise _cause(error) from error


def _score(config: dict[str, Any]) -> dict[str, Any]:
    """workers.attempt.scoring's, as the next."""
    from workers.attempt.scoring import score_once

    return score_once(config)


def _loop(config: dict[str, Any]) -> dict[str, Any]:
    """workers.attempt.loop's, which only the workers import: with it comes torch."""
    from workers.attempt.loop import loop

    return loop(config)


def _scaling(task: Task, machine: Machine, node: str) -> ScalingConfig:
    if task.places:
        return _mixed_scaling(task, machine)
    return _on_node(machine, node, task.plan.world)


def _on_node(machine: Machine, node: str, workers: int) -> ScalingConfig:
    address = next(facts["NodeManagerAddress"] for facts in ray.nodes() if facts["NodeID"] == node)
    worker = {f"node:{address}": SLIVER} | ({} if machine.is_cpu else {"GPU": 1})
    return ScalingConfig(
        num_workers=workers,
        use_gpu=not machine.is_cpu,
        resources_per_worker=worker,
        label_selector={"ray.io/node-id": node},  # type: ignore[call-arg]
    )


def _mixed_scaling(task: Task, machine: Machine) -> ScalingConfig:
    """Ray starts workers in the order of their selectors, and ranks them by node in the order of first appearance."""
    nodes = [place.node for place in task.places for _ in range(place.workers)]
    return ScalingConfig(
        num_workers=task.plan.world,
        use_gpu=not machine.is_cpu,
        resources_per_worker={"memory": 1} if machine.is_cpu else {"GPU": 1},  # a byte: every node has some
        label_selector=[{"ray.io/node-id": node} for node in nodes],  # type: ignore[call-arg]
    )


def _is_of_the_node(failure: BaseException) -> bool:
    if isinstance(failure, RayActorError):
        return isinstance(failure, ActorUnavailableError) or failure.preempted or NODE_DIED in str(failure)
    return isinstance(failure, NodeDiedError | RaySystemError)


def _cause(error: BaseException) -> FarmError:
    """The FarmError that a worker raised, dug out of Ray's wrappers; else WorkerDied with the line of the error, or
    MachineDied where it is Ray's: a worker that was lost with its node, or no worker at all."""
    failures = getattr(error, "worker_failures", {})
    for rank in sorted(failures):
        inner: BaseException | None = failures[rank]
        while inner is not None:
            if isinstance(inner, FarmError):
                return inner
            inner = getattr(inner, "cause", None) or inner.__cause__
    first = next(iter(failures.values()), error)
    said = reason(str(first) or type(first).__name__)
    if not failures or all(map(_is_of_the_node, failures.values())):
        return MachineDied(f"Ray lost the training: {said}", remedy="The log has its traceback.")
    return WorkerDied(f"A training process ended: {said}", remedy="The log has its traceback.")
