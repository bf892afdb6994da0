"""The network of a run, from a checkpoint in the storage, on the CPU of this machine."""

from importlib.util import find_spec
from typing import TYPE_CHECKING, NamedTuple

from farm.errors import CheckpointInvalid, FarmError, NotFound
from farm.queue.values import Status
from farm.record import layout
from farm.record.result import Result
from farm.record.store import Store
from farm.study.run import Run

if TYPE_CHECKING:
    from model.gpt import GPT


class Network(NamedTuple):
    """A network, and the step after which it was saved. `is_final`: it is the one that the run's result is about."""

    step: int
    gpt: "GPT"
    is_final: bool


def check_torch(remedy: str) -> None:
    """Raises: FarmError: this machine has no torch."""
    if find_spec("torch") is None:
        raise FarmError("torch is not installed here.", remedy=remedy)


def network(store: Store, status: Status, step: int | None = None) -> Network:
    """The network of a run after `step`; by default the final one, or that of its newest intact checkpoint.

    Raises: NotFound: there is no such checkpoint. CheckpointInvalid: it is damaged, or not what the result says.
    """
    result = status.result or store.runs.result(status.id)
    if step is not None and not (result and step == result.steps):
        return _after(store, status.run, step)
    return _final(store, status.run, result) if result else _newest(store, status.run)


def _final(store: Store, run: Run, result: Result) -> Network:
    """The network that the result is about.

    Raises: CheckpointInvalid
    """
    from model.export import load_network
    from model.init import fingerprint

    path = store.copies.bring(result.checkpoint)
    if not path.is_dir():
        raise CheckpointInvalid(
            f"{store.uri}/{result.checkpoint} is not there.", remedy="Is FARM_STORAGE the farm's storage?"
        )
    gpt = load_network(path, run)
    if (found := fingerprint(gpt)) != result.fingerprints.final:
        raise CheckpointInvalid(f"{path}: weights {found[:12]}, the result has {result.fingerprints.final[:12]}.")
    return Network(result.steps, gpt, is_final=True)


def _newest(store: Store, run: Run) -> Network:
    """The network of the newest intact checkpoint.

    Raises: NotFound
    """
    from model.export import newest

    found = newest(store.copies.checkpoints(run.id), run)
    if found is None:
        raise NotFound(
            f"{run.id} has no intact checkpoint under {store.uri}.",
            remedy=f"It makes one every {run.policy.checkpoint_seconds:,g} s while it trains.",
        )
    path, gpt = found
    return Network(layout.step_of(path.name), gpt, is_final=False)


def _after(store: Store, run: Run, step: int) -> Network:
    """The network of the checkpoint after `step`: of the newest attempt that kept one, and has it intact.

    Raises: NotFound
    """
    from model.export import newest

    kept = store.runs.checkpoints(run.id)
    found = newest((store.copies.bring(name) for at, _, name in kept if at == step), run)
    if found is None:
        steps = ", ".join(f"{at:,}" for at in sorted({at for at, _, _ in kept}))
        raise NotFound(
            f"{run.id} has no intact checkpoint of step {step:,} under {store.uri}.",
            remedy=f"Kept are those of step {steps}: the two newest of each attempt."
            if steps
            else f"It makes one every {run.policy.checkpoint_seconds:,g} s while it trains.",
        )
    return Network(step, found[1], is_final=False)
