"""The arms of a study, and the runs that follow from them: recipes, seeds and machines."""

from collections.abc import Iterable, Iterator
from functools import cached_property
from math import inf
from typing import Annotated, Any, NamedTuple, Self

from farm.errors import BadStudy
from farm.study.design import subsets, sweep
from farm.study.form import Change, Pairs, Stack, StudyTable, Sweep, WrittenStack
from farm.study.looks import Looks
from farm.study.machine import BUILT_IN, Machine, find_machine, is_mixed, layer, mix, parts
from farm.study.recipe import Frozen, FurtherEvaluation, Recipe, Seeds, Unset, merge
from farm.study.run import Name, Policy, Run
from farm.study.samples import Samples

BASELINE = "baseline"


class Arm(NamedTuple):
    """The baseline, one intervention, or a stack of several."""

    name: str
    changes: tuple[str, ...]
    recipe: Recipe
    seeds: tuple[Seeds, ...]
    machines: tuple[str, ...]


class UncheckedStudy(Frozen):
    """A study whose tables have the right form. Whether its arms make sense is for `findings` to say."""

    study: StudyTable
    baseline: Change = Change()
    interventions: dict[Name, Change] = {}
    sweeps: dict[Name, Sweep] = {}
    stacks: dict[Name, WrittenStack] = {}
    evaluations: dict[Name, FurtherEvaluation] = {}
    more_seeds: dict[Name, Pairs] = {}
    machines: dict[Name, Machine] = {}
    policy: Policy = Policy()
    samples: Samples = Samples()
    looks: Annotated[Looks | None, Unset] = None  # farm resolve writes them

    @property
    def name(self) -> str:
        return self.study.name

    def with_limits(self, usd: float | None, hours: float | None) -> Self:
        """The study with other limits, where they are given.

        Raises: BadStudy: one is no positive number.
        """
        for option, value in (("--max-usd", usd), ("--max-hours", hours)):
            if value is not None and not 0 < value < inf:
                raise BadStudy(f"{option} = {value:g} is not a limit.", remedy=f"Write a positive number: {option} 50.")
        update = {name: value for name, value in (("usd_limit", usd), ("hours_limit", hours)) if value is not None}
        return self.model_copy(update={"policy": self.policy.model_copy(update=update)}) if update else self

    def arms(self) -> list[Arm]:
        """Baseline first, then what the design asks for (see farm.study.design), the sweeps, and the named stacks.

        A value of a sweep that is the baseline's already makes no arm: the baseline is there.
        """
        baseline = Recipe().with_patch(self.baseline.patch)
        arms = [self.arm(BASELINE, (), baseline, self.baseline)]
        for name, changes, override in self.subsets():
            recipe = baseline.with_patch(self.patch(changes))
            if recipe.digest != baseline.digest or name not in self.swept:
                arms.append(self.arm(name, changes, recipe, override))
        return arms

    @cached_property
    def swept(self) -> dict[str, tuple[str, Change]]:
        """The arms that the sweeps expand to: by arm, the sweep's name and the intervention. Raises: ValueError"""
        found: dict[str, tuple[str, Change]] = {}
        for name, swept in self.sweeps.items():
            for arm, patch in sweep(name, swept.patch, grid=swept.grid).items():
                found[arm] = (name, Change.model_validate(patch | {"machines": swept.machines, "seeds": swept.seeds}))
        return found

    def change(self, name: str) -> Change:
        """An intervention, written as such or as part of a sweep. Raises: KeyError: neither."""
        return self.interventions[name] if name in self.interventions else self.swept[name][1]

    def place(self, change: str) -> str:
        """Where in the file an intervention is written."""
        return f"interventions.{change}" if change in self.interventions else f"sweeps.{self.swept[change][0]}"

    def subsets(self) -> Iterator[tuple[str, tuple[str, ...], Change | Stack]]:
        """Every arm but the baseline: its name, its interventions, and where it departs from [study].

        Raises: ValueError: too many of them, or their names become too long.
        """
        head, names = self.study, tuple(self.interventions)
        chosen = subsets(head.design, names, has_stacks=bool(self.stacks), resolution=head.resolution, arms=head.arms)
        for name, subset in chosen.items():
            yield name, subset, self.interventions[name] if len(subset) == 1 else Change()
        for name, (_, change) in self.swept.items():
            yield name, (name,), change
        for name, stack in self.stacks.items():
            yield name, stack.of, stack

    def arm(self, name: str, changes: tuple[str, ...], recipe: Recipe, override: Change | Stack) -> Arm:
        """An arm with the seeds and machines of `override`, or else of [study]."""
        seeds, machines = override.seeds or self.study.seeds, override.machines or self.study.machines
        seeds = tuple(dict.fromkeys((*seeds, *self.more_seeds.get(name, ()))))
        return Arm(name, changes, recipe, seeds, self.named_machines if self.study.twins else machines)

    @property
    def named_machines(self) -> tuple[str, ...]:
        """Every machine class that [study] or an arm names, in that order: where twins train."""
        arms: list[Change | Stack] = [self.baseline, *self.interventions.values(), *self.sweeps.values()]
        arms += self.stacks.values()
        named = [*self.study.machines, *(name for arm in arms for name in arm.machines or ())]
        return tuple(dict.fromkeys(named))

    def with_twins(self) -> Self:
        """This study with `twins = true`.

        Raises: BadStudy: it names one machine class only.
        """
        if len(self.named_machines) < 2:
            raise BadStudy(
                f"twins take two machine classes or more, and {self.name} names {self.named_machines[0]} only.",
                remedy="Name more in study.machines.",
            )
        return self.model_copy(update={"study": self.study.model_copy(update={"twins": True})})

    def patch(self, changes: Iterable[str]) -> dict[str, Any]:
        """Several interventions as one patch."""
        patch: dict[str, Any] = {}
        for change in changes:
            patch = merge(patch, self.change(change).patch)
        return patch

    def runs(self) -> list[Run]:
        """Every run, the first seeds of all arms before the second seeds of any, so that a table exists early."""
        members = [
            (
                repeat,
                index,
                order,
                Run(
                    arm=arm.name,
                    recipe=arm.recipe,
                    seeds=seeds,
                    machine=machine,
                    rerun=repeat,
                    policy=self.policy,
                ),
            )
            for order, arm in enumerate(self.arms())
            for index, seeds in enumerate(arm.seeds)
            for machine in arm.machines
            for repeat in range(self.study.first_rerun, self.study.first_rerun + self.study.reruns + 1)
        ]
        return [run for *_, run in sorted(members, key=lambda m: m[:3])]

    def machine(self, name: str, known: dict[str, Machine]) -> Machine:
        """The class `name`: what the study declares, else what is `known`, else built in; and what its nodes found out.

        A mixed group is made of its classes.

        Raises: BadStudy: nobody knows it.
        """
        if is_mixed(name):
            return mix(tuple(self.machine(part, known) for part in parts(name)))
        found = find_machine(name, layer(BUILT_IN, known, self.machines))
        measured = known[name].probes if name in known else {}
        return found.model_copy(update={"probes": measured | found.probes})
