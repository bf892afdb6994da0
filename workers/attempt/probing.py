"""The largest microbatch that this node takes: measured once per class, model and precision, then known to all."""

from collections.abc import Callable

from farm.errors import DoesNotFit, FarmError
from farm.queue.queue import Queue
from farm.study.machine import Machine, Mixed, probe_key
from farm.study.planner import Plan, plan
from farm.study.recipe import Recipe
from model.probe import largest_microbatch
from workers.node.gpus import gpus

LIMIT = 1024  # sequences: a larger microbatch keeps no accelerator busier
NODE = "probe"  # what it registers as: facts and probes stay, and no node offers to train by this name
MOMENT_SECONDS = 0.001


def probe_microbatch(queue: Queue, machine: Machine, recipe: Recipe, give_up: Callable[[], bool]) -> Machine:
    """`machine`, with the microbatch measured here if its plan depends on that and it was not measured yet.

    For the agent: whatever goes wrong, it says so and leaves the microbatch to the planner's formula.
    """
    if not _is_planned_by_probe(machine, recipe) or key(recipe) in machine.probes:
        return machine
    if (split := _by_formula(machine, recipe)) and split.accumulation == 1:
        return machine  # each accelerator takes its share of a step at once: there is nothing to gain
    try:
        _check_alone(machine)
        return measure(queue, machine, recipe, give_up)
    except (FarmError, OSError) as error:
        print(f"The largest microbatch was not measured: {error} The planner's formula chooses one.")
        return machine


def measure(queue: Queue, machine: Machine, recipe: Recipe, give_up: Callable[[], bool] = lambda: False) -> Machine:
    """`machine` with the largest microbatch of `recipe` on this node, which the queue now knows of the class, too.

    Raises: FarmError: as model.probe.largest_microbatch. Unreachable, Refused
    """
    split = _by_formula(machine, recipe)
    guess = split.microbatch if split else 1
    found = largest_microbatch(recipe, LIMIT, guess, world=machine.accelerators, give_up=give_up)
    _keep(queue, machine, recipe, found)
    return machine.model_copy(update={"probes": machine.probes | {key(recipe): found}})


def lower(queue: Queue, machine: Machine, recipe: Recipe, microbatch: int) -> None:
    """Have the queue know that `microbatch` ran out of memory: the largest that was probed is below it from now on."""
    if _is_planned_by_probe(machine, recipe) and microbatch > 1:
        _keep(queue, machine, recipe, microbatch - 1)


def _is_planned_by_probe(machine: Machine, recipe: Recipe) -> bool:
    """Whether a plan for the class asks what was probed."""
    fixed = recipe.train.canonical_microbatch or machine.microbatch
    return not (machine.is_cpu or isinstance(machine, Mixed) or fixed)


def _by_formula(machine: Machine, recipe: Recipe) -> Plan | None:
    """The plan before anything is measured; None where not even one sequence should fit."""
    try:
        return plan(recipe, machine)
    except DoesNotFit:
        return None


def _keep(queue: Queue, machine: Machine, recipe: Recipe, microbatch: int) -> None:
    facts = queue.roster.machines().get(machine.name, machine)  # as its nodes told them; a study may have its own
    queue.roster.register(facts.model_copy(update={"probes": {key(recipe): microbatch}}), NODE, MOMENT_SECONDS)


def key(recipe: Recipe) -> str:
    return probe_key(recipe.model, recipe.train.precision)


def _check_alone(machine: Machine) -> None:
    """A class that takes every GPU of its node trains one run there at a time, so that no other run disturbs a trial.

    Raises: FarmError
    """
    found = len(gpus())
    if found != machine.accelerators:
        raise FarmError(f"class {machine.name} takes {machine.accelerators} of the {found} GPUs seen here.")
