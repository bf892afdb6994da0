"""`farm eval STUDY --reference FOLDER`: a model that others trained, scored here by a study's evaluations."""

import platform
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cli import render
from cli.access import queue
from cli.progress import bars
from cli.render import Column, Sheet, say
from cli.storage import recording
from farm.errors import Conflict, FarmError, NotFound
from farm.queue.queue import Queue
from farm.record.reference import Reference, References, ReferenceScore
from farm.record.score import standard_error
from farm.record.store import Store
from farm.site.settings import Settings
from farm.study.machine import is_name
from farm.study.recipe import TEST, Recipe
from farm.study.study import Study

if TYPE_CHECKING:
    from model.reference import Opened

COLUMNS = (
    Column("reference", "reference"),
    Column("evaluation", "evaluation"),
    Column("value", "nats per token", render.loss, is_number=True, digits=6),
    Column("standard_error", "standard error", render.loss, is_number=True, digits=6),
    Column("count", "sequences", render.count, is_number=True),
    Column("now", "now"),
    Column("weights", "weights", is_spare=True),
)
SECONDS_BETWEEN_LINES = 10.0


def score(study: str, names: Callable[[Study], list[str]], folder: Path, name: str | None, *, as_json: bool) -> None:
    """Score the GPT-2 in `folder` by the evaluations `names` of a study, and record that.

    An evaluation by which it is scored already is not computed again.

    Raises: NotFound, Conflict, Refused, StorageUnusable, CheckpointInvalid, Nonfinite
    """
    settings, called = Settings.load(), _name(folder, name)
    with queue(settings) as open_queue:
        found = open_queue.studies.one(study)
        recipes = _recipes(found, names(found), called)
        store = recording(settings)
        there = store.studies.references(study)
        open_queue.studies.refer(there)  # whoever may not write learns so before anything is computed
        _refuse_without_torch()
        from model import reference

        opened = reference.load(folder)
        for recipe in recipes.values():
            reference.check(opened.shape, recipe, folder)
        bare = Reference(name=called, weights=opened.weights, shape=opened.shape)
        known = there.join(bare).find(called)
        assert known
        missing = known.lacks([recipe.evaluation_id(one) for one, recipe in recipes.items()])
        for one, recipe in recipes.items():
            if recipe.evaluation_id(one) in missing:
                scored = _score(opened, one, recipe, settings.home / "cache")
                there = _keep(store, open_queue, study, bare.model_copy(update={"scores": (scored,)}))
    rows = list(_rows(there, called, recipes, missing))
    render.emit(Sheet("farm.eval-reference/1", COLUMNS, rows, more={"study": study}), as_json=as_json)
    if not missing:
        say(f"nothing to score: {called} has its scores already")
    if not as_json:
        render.say_next(f"farm table {study}")


def _name(folder: Path, name: str | None) -> str:
    """Raises: NotFound: the folder. FarmError: not a valid name for a table."""
    if not folder.is_dir():
        raise NotFound(f"{folder} is not a folder.", remedy="Name one with config.json and model.safetensors.")
    called = name or folder.resolve().name.lower()
    if not is_name(called):
        raise FarmError(f"{called!r} is not a valid name for a table.", remedy="Use a-z, 0-9, '.', '_', '-': --name")
    return called


def _recipes(study: Study, names: Sequence[str], called: str) -> dict[str, Recipe]:
    """How the baseline is tested, by evaluation. Raises: Conflict: an arm is called so."""
    arms = study.arms()
    if called in [arm.name for arm in arms]:
        raise Conflict(f"{study.study.name!r} has an arm {called!r}.", remedy="Give the reference another --name.")
    own = arms[0].recipe
    return {name: own if name == TEST else own.with_test(study.evaluations[name]) for name in names}


def _refuse_without_torch() -> None:
    if find_spec("torch") is None:
        raise FarmError(
            "torch is not installed here, and a reference model is scored on this machine.",
            remedy="Run this where the farm trains: pip install farm[node].",
        )


def _score(opened: "Opened", name: str, recipe: Recipe, cache: Path) -> ReferenceScore:
    from farm.record.result import Exam
    from model import reference
    from model.corpus.checks import items
    from workers.node.hardware import code_digest

    exam = Exam(name=name, recipe=recipe, items=items(recipe, cache))
    with _progress(name, reference.batches(recipe)) as advanced:
        found = reference.score(opened, exam, cache, advanced)
    return ReferenceScore(
        name=name,
        evaluation=recipe.evaluation_id(name),
        value=found.value,
        count=len(found.values),
        standard_error=standard_error(found.values),
        items=exam.items,
        precision=recipe.evaluation.precision,
        code=code_digest(),
        host=platform.node(),
        accelerator=reference.accelerator(),
        when=time.time(),
    )


def _keep(store: Store, queue: Queue, study: str, scored: Reference) -> References:
    """Write the record first, then the queue; both are read again, since others may have scored meanwhile."""
    whole = store.studies.references(study).join(scored)
    store.studies.keep_references(whole)
    queue.studies.refer(whole)
    return whole


@contextmanager
def _progress(name: str, batches: int) -> Iterator[Callable[[], None]]:
    """A function to call before each batch: a bar on a terminal, else a line now and then. Both on stderr."""
    if render.console(stderr=True).is_terminal:
        with bars() as progress:
            task = progress.add_task(name, total=batches, note="batches")
            yield lambda: progress.advance(task)
        return
    begun, said = 0, time.monotonic()
    say(f"{name}: {batches:,} batch{'es' * (batches != 1)}")

    def advance() -> None:
        nonlocal begun, said
        if time.monotonic() - said >= SECONDS_BETWEEN_LINES:
            said = time.monotonic()
            say(f"{name}: {begun:,} of {batches:,} batches")
        begun += 1

    yield advance


def _rows(
    there: References, called: str, recipes: dict[str, Recipe], missing: Sequence[str]
) -> Iterator[dict[str, Any]]:
    one = there.find(called)
    assert one
    for name, recipe in recipes.items():
        made = next(score for score in one.scores if score.evaluation == recipe.evaluation_id(name))
        yield {
            "reference": one.name,
            "evaluation": name,
            "value": made.value,
            "standard_error": made.standard_error,
            "count": made.count,
            "now": "scored" if made.evaluation in missing else "known",
            "weights": one.weights,
            "evaluation_id": made.evaluation,
            "parameters": one.shape.parameters,
        }
