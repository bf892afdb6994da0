"""A study whose tables have the right form is examined: its recipes, names, stacks and evaluations."""

from collections.abc import Iterable, Iterator
from typing import Any

from pydantic import ValidationError

from farm.errors import nearest
from farm.study.arms import BASELINE, Arm, UncheckedStudy
from farm.study.design import leaves
from farm.study.faults import Fault, explain, without
from farm.study.form import Change, Stack, StudyTable
from farm.study.recipe import TEST, Recipe


class Findings:
    """The faults of a study whose tables have the right form, and the arms that stand all the same.

    `doubtful` are arms of which something was left out before, so that only single values can be judged: interventions
    by name, "baseline", and "" for all of them. `partial` are arms that are known but for some values.
    """

    def __init__(self, doubtful: Iterable[str] = ()):
        self.doubtful = set(doubtful)
        self.lines: list[str] = []
        self.arms: list[Arm] = []
        self.partial: list[Arm] = []
        self.sources: dict[str, str] = {}  # corpora, and where each was named first
        self.changes: dict[str, Change] = {}  # interventions, and what the sweeps expand to as far as they make sense

    def examine(self, study: UncheckedStudy) -> None:
        """Add what is wrong with the recipes of `study`, with its stacks and with its names."""
        baseline, faults = _lay_over(Recipe(), study.baseline.patch)
        self.lines += [fault.below(BASELINE) for fault in faults]
        if BASELINE not in self.doubtful:
            known = self.partial if faults else self.arms
            known += [study.arm(BASELINE, (), baseline, study.baseline)] if _knows_its_precision(faults) else []
        if faults:
            self.doubtful.add(BASELINE)
        self._note_sources(BASELINE, baseline)
        self.changes = self._swept(study) | study.interventions
        for name, change in self.changes.items():
            recipe, faults = _lay_over(baseline, change.patch)
            self._note_sources(name, recipe)
            wrong = [fault for fault in faults if len(fault.place) > 1]
            self.lines += [fault.below(study.place(name)) for fault in wrong]
            self.doubtful |= {name} if wrong else set()
        if BASELINE in study.interventions:
            self.lines.append("interventions.baseline: the baseline is not an intervention")
        self._examine_fraction(study.study)
        if study.study.twins and len(study.named_machines) < 2:
            only = study.named_machines[0]
            self.lines.append(f"study.twins: takes two machine classes or more, and the study names {only} only")
        self._examine_arms(study, baseline)
        self._examine_evaluations(study)

    def _examine_fraction(self, head: StudyTable) -> None:
        for name in ("resolution", "arms") if head.design != "fraction" else ():
            if getattr(head, name):
                self.lines.append(
                    f"study.{name}: is that of a fraction, and study.design is {head.design!r}; leave it out"
                )
        if head.resolution and head.arms:
            self.lines.append(
                "study.arms: study.resolution says already how large the fraction is; leave one of them out"
            )

    def _examine_evaluations(self, study: UncheckedStudy) -> None:
        """Each scores what no other does, and goes together with every arm; what the table ranks by is one of them."""
        if TEST in study.evaluations:
            self._say(f"evaluations.{TEST}: is the test that every arm has; write [baseline.evaluation]")
        if study.study.score not in (known := {TEST, *study.evaluations}):
            self._say(f"study.score: no evaluation {study.study.score!r}{_nearest(study.study.score, known)}")
        baseline = next((arm.recipe for arm in self.arms if arm.name == BASELINE), None)
        seen = {baseline.evaluation_id(TEST): TEST} if baseline else {}
        for name, further in study.evaluations.items():
            if further.source is not None:
                self.sources.setdefault(further.source, f"evaluations.{name}.source")
            short = [arm for arm in self.arms if (further.context or 0) > arm.recipe.model.context]
            if short:
                self._say(
                    f"evaluations.{name}.context: {further.context} is longer than"
                    f" model.context = {short[0].recipe.model.context} of arm {short[0].name}"
                )
            elif baseline and name != TEST:
                other = seen.setdefault(baseline.with_test(further).evaluation_id(TEST), name)
                if other != name:
                    self._say(f"evaluations.{name}: scores what {other} does; leave one out")

    def _swept(self, study: UncheckedStudy) -> dict[str, Change]:
        try:
            swept = study.swept
        except ValueError as error:
            self.lines.append(str(error))
            return {}
        for name in swept.keys() & study.interventions.keys():
            self.lines.append(f"sweeps.{swept[name][0]}: another arm is called {name} already")
        return {name: change for name, (_, change) in swept.items()}

    def _examine_arms(self, study: UncheckedStudy, baseline: Recipe) -> None:
        seen = {BASELINE}
        try:
            subsets = list(study.subsets())
        except ValueError as error:
            self._say(str(error))
            subsets = [(name, (name,), change) for name, change in study.interventions.items()]
        for name, changes, override in subsets:
            if name in seen or (name in study.stacks and name in study.interventions):
                if name in study.stacks:
                    self._say(f"stacks.{name}: another arm has that name already")
                continue
            seen.add(name)
            if self._can_be_laid_together(name, changes):
                self._examine_recipe(study, baseline, name, changes, override)
        for name in study.more_seeds.keys() - seen if "" not in self.doubtful else ():
            self._say(f"more_seeds.{name}: no arm is called so{_nearest(name, seen)}")

    def _can_be_laid_together(self, name: str, changes: tuple[str, ...]) -> bool:
        """Whether all of an arm's interventions are there, each in order, and do not fight over a field."""
        strangers = [change for change in changes if change not in self.changes]
        for stranger in strangers:
            self._say(f"stacks.{name}: no intervention {stranger!r}{_nearest(stranger, self.changes)}")
        if strangers or self.doubtful & {"", *changes}:
            return False
        fights = list(_fights({change: self.changes[change].patch for change in changes}))
        for fight in fights:
            if not any(line.endswith(fight) for line in self.lines):  # an arm that holds both interventions, too
                self._say(f"arm {name}: {fight}")
        return not fights

    def _examine_recipe(
        self, study: UncheckedStudy, baseline: Recipe, name: str, changes: tuple[str, ...], override: Change | Stack
    ) -> None:
        if BASELINE in self.doubtful:
            return
        recipe, faults = _lay_over(baseline, study.patch(changes))
        where = study.place(changes[0]) if len(changes) == 1 else f"stacks.{name}"
        for fault in faults:
            if not any(said.endswith(fault.line) for said in self.lines):
                self._say(fault.below(where))
        is_same = recipe.digest == baseline.digest
        if not faults and is_same and name in study.interventions.keys() | study.stacks.keys():
            self._say(
                f"{where}: changes nothing, every value is the baseline's already"
                if recipe == baseline
                else f"{where}: changes only how training is watched, which changes no loss; write it in [baseline]"
            )
        elif not faults and not is_same:
            self.arms.append(study.arm(name, changes, recipe, override))

    def _note_sources(self, arm: str, recipe: Recipe) -> None:
        for key, source in (("data.source", recipe.data.source), ("evaluation.source", recipe.evaluation.source)):
            if source is not None:
                self.sources.setdefault(source, f"arm {arm}: {key}")

    def _say(self, line: str) -> None:
        if line not in self.lines:
            self.lines.append(line)


def _fights(patches: dict[str, dict[str, Any]]) -> Iterator[str]:
    """Where several patches set one field to different values."""
    owner: dict[str, tuple[str, Any]] = {}
    for change, patch in patches.items():
        for keys, value in leaves(patch):
            path = ".".join(keys)
            other, set_to = owner.setdefault(path, (change, value))
            if set_to != value:
                yield f"{other!r} sets {path} = {set_to!r} and {change!r} sets it to {value!r}; leave one out"


def _lay_over(recipe: Recipe, patch: dict[str, Any]) -> tuple[Recipe, list[Fault]]:
    """`recipe` under what of `patch` is in order, and what is not."""
    faults: list[Fault] = []
    while True:
        try:
            return recipe.with_patch(patch), faults
        except ValidationError as error:
            spoilt = {fault.place[:1] for fault in faults} | ({()} if faults else set())
            found = explain(error, Recipe)  # what is left of spoilt tables need not agree with itself
            faults += [fault for fault in found if len(fault.place) > 1 or fault.place not in spoilt]
            left = without(patch, [fault.place for fault in found])
            if left == patch:  # tables that do not go together, each in order
                return recipe, faults
            patch = left


def _knows_its_precision(faults: list[Fault]) -> bool:
    """Whether what is wrong with a recipe leaves no doubt in which precision it was meant to train."""
    return all(fault.is_of_a_value and fault.place[-1] != "precision" for fault in faults)


def _nearest(word: str, known: Iterable[str]) -> str:
    """Without its full stop: more faults may follow."""
    return nearest(word, known, listed=True).removesuffix(".")
