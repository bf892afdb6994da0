"""The newest step of a run as gauges on its node's metrics endpoint, where Prometheus finds them as ray_farm_*.

A gauge that is not set vanishes there after two of Ray's report intervals, 20 s. That ends the series of a run that is
over; and it is why `show` must be called again and again while a step takes longer.
"""

import psutil
import torch
from ray.util.metrics import Gauge

from farm.queue.values import Point
from farm.record.result import Peaks, utilisation
from farm.study.planner import Plan
from farm.study.recipe import Recipe
from farm.study.run import Run

STEP = {
    "step": "Newest step",
    "steps": "Steps of the whole run",
    "loss": "Training loss of the newest step, nats per token",
    "learning_rate": "Learning rate of the newest step",
    "grad_norm": "Norm of the gradient before clipping",
    "tokens_per_second": "Tokens per second of the newest step, over all workers",
    "flops_share": "Model FLOPs utilisation of the newest step, of the measured peak of its GPUs, from 0 to 1",
    "bandwidth_share": "Share of the measured memory bandwidth of its GPUs that the newest step needed at least",
    "validation_loss": "Loss on held-out text after the newest validation, nats per token",
}


class Gauges:
    """The gauges of a run, which rank 0 sets. `device` is the one that it trains on."""

    def __init__(self, run: Run, plan: Plan, study: str, device: torch.device):
        tags = {"study": study, "run": run.id, "arm": run.arm, "machine": run.machine}
        self._recipe, self._plan = run.recipe, plan
        self.peaks: Peaks | None = None  # until they are measured, and on a CPU
        self._device = device
        self._gauges = {name: _gauge(name, text, tags) for name, text in STEP.items()}
        self._memory = _gauge("memory_bytes", "What rank 0 holds. host: resident; gpu: reserved", tags, "kind")
        self._process = psutil.Process()

    def show(self, point: Point, validation_loss: float | None) -> None:
        """Set every gauge to what is so after `point`. The newest validation may be some steps before it."""
        told = values(point, self._recipe, self._plan, self.peaks) | {"validation_loss": validation_loss}
        for name, value in told.items():
            if value is not None:
                self._gauges[name].set(value)
        self._memory.set(self._process.memory_info().rss, tags={"kind": "host"})
        if self._device.type == "cuda":
            self._memory.set(torch.cuda.memory_reserved(self._device), tags={"kind": "gpu"})


def values(point: Point, recipe: Recipe, plan: Plan, peaks: Peaks | None) -> dict[str, float | None]:
    """The values of a point, by the names of STEP; None: unknown."""
    reached = utilisation(peaks, recipe, plan, point.tokens_per_second) if peaks else None
    return {
        "step": point.step,
        "steps": recipe.steps,
        "loss": point.loss,
        "learning_rate": point.lr,
        "grad_norm": point.grad_norm,
        "tokens_per_second": point.tokens_per_second,
        "flops_share": reached.flops if reached else None,
        "bandwidth_share": reached.bandwidth if reached else None,
    }


def _gauge(name: str, text: str, tags: dict[str, str], *more: str) -> Gauge:
    gauge = Gauge(f"farm_{name}", description=text, tag_keys=(*tags, *more))
    gauge.set_default_tags(tags)
    return gauge
