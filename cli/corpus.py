"""A look at the data of a study before anything is queued."""

from collections.abc import Collection, Iterable, Iterator

from cli.render import say
from farm.errors import BadCorpus
from farm.site.settings import Settings
from farm.study.arms import Arm
from farm.study.recipe import Recipe
from farm.study.study import Study
from farm.verdict.cohort import find_other_tests

NAMED = 4  # arms in a line


def check(study: Study, settings: Settings, arms: Collection[Arm]) -> None:
    """Check the data of `arms` as far as this machine can see it, and say what it cannot.

    Raises: BadCorpus: no run could train on it. Of several faults the last is raised; the others are printed.
    """
    from model.corpus.look import View, look

    views: dict[str, View] = {}
    faults: dict[str, list[str]] = {}
    pages: dict[str, str | None] = {}
    remarks: dict[str, None] = {}
    for arm, recipe in _read(study, arms):
        key = _what_counts(recipe)
        if key not in views:
            views[key] = look(recipe, settings.home / "cache", trains_here=settings.redis_url is None)
        for fault in views[key].faults:
            names, pages[str(fault)] = faults.setdefault(str(fault), []), fault.page
            names += [] if arm in names else [arm]  # several evaluations of it may lack one corpus
        remarks |= dict.fromkeys(views[key].remarks)
    for remark in remarks:
        say(f"data: {remark}")
    for difference, names in _find_other_tests(study, arms).items():
        say(
            f"warning: {_name(names, study)}: tested differently from the baseline ({difference}), so the table will"
            " not rank them with it; evaluation.source and evaluation.context of the baseline give all arms one test"
        )
    lines = [f"{_name(names, study)}: {fault}" for fault, names in faults.items()]
    for line in lines[:-1]:
        say(f"error: {line}")
    if lines:
        raise BadCorpus(lines[-1], page=pages[[*faults][-1]])


def of_runs(study: Study, ids: Iterable[str]) -> list[Arm]:
    """The arms to which the runs `ids` of a study belong."""
    wanted = {*ids}
    names = {run.arm for run in study.runs() if run.id in wanted}
    return [arm for arm in study.arms() if arm.name in names]


def _find_other_tests(study: Study, arms: Collection[Arm]) -> dict[str, list[str]]:
    """How a test differs from the baseline's -> those of `arms` with that test."""
    found: dict[str, list[str]] = {}
    wanted = {arm.name for arm in arms}
    for name, difference in find_other_tests(study.arms()).items():
        if name in wanted:
            found.setdefault(difference, []).append(name)
    return found


def _read(study: Study, arms: Collection[Arm]) -> Iterator[tuple[str, Recipe]]:
    """The names of `arms` with the recipes whose data each reads: its own, and one for each further evaluation."""
    for arm in arms:
        yield arm.name, arm.recipe
        for further in study.evaluations.values():
            yield arm.name, arm.recipe.with_test(further)


def _what_counts(recipe: Recipe) -> str:
    """The part of a recipe that its data must suit, so that arms which agree in it are checked once."""
    model, train = recipe.model, recipe.train
    return repr((recipe.data, recipe.evaluation, model.context, model.vocab, train.batch, recipe.steps))


def _name(names: list[str], study: Study) -> str:
    if len(names) == len(study.arms()):
        return "every arm"
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return f"arm{'s' if len(names) > 1 else ''} {', '.join(names[:NAMED])}{more}"
