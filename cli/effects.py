"""`farm effects [STUDY]`"""

from collections.abc import Iterator, Sequence
from itertools import combinations
from typing import Any

from cli import render
from cli.access import load_results, queue
from cli.options import Json, StudyName
from cli.render import Column, Sheet, say
from farm.record.score import NATS
from farm.study.arms import BASELINE
from farm.study.study import Study
from farm.verdict.cohort import by_evaluation, by_seeds
from farm.verdict.effects import Effects, estimate
from farm.verdict.seen import Seen

MOST = 12  # interventions of which all combinations are listed: 4,096
SHOWN = 8  # of the arms that are missing
COLUMNS = (
    Column("effect", "effect"),
    Column("machine", "machine"),
    Column("size", "nats", render.or_unknown(lambda size: f"{size:+.4f}"), is_number=True, digits=6),
    Column("ci_low", "95 % from", render.or_unknown(lambda edge: f"{edge:+.4f}"), is_number=True, digits=6),
    Column("ci_high", "to", render.or_unknown(lambda edge: f"{edge:+.4f}"), is_number=True, digits=6),
    Column("p", "p", render.probability, is_number=True, figures=4),
    Column("aliases", "or else", render.listing),
)


def effects(study: StudyName = None, as_json: Json = False) -> None:
    """Estimate the effect of each intervention, and of each pair of them, averaged over all others.

    An effect is the mean of study.score (the test loss, unless it names another) of the arms with an intervention less
    that of the arms without. That of a pair is half of what one adds to the effect of the other: below 0 they help each
    other, if lower is better. Intervals and p hold together for all effects on a machine. "or else" names the effects
    that the design cannot tell apart from this one; a study with design = "fraction" and resolution = 5, or
    "factorial", tells all pairs apart.
    """
    with queue() as open_queue:
        found, results, passed = load_results(open_queue, study)
    members = dict(cohorts(results))
    told = {key: effects_of(found, together) for key, together in members.items()}
    rows = [row for key, seen in told.items() for row in _rows(key, seen)]
    if as_json:
        methods = [
            {"evaluation": key[0], "machine": key[1], "method": seen.method, "df": seen.df, "noise": seen.noise}
            | {"missing": missing(found, members[key])}
            for key, seen in told.items()
        ]
        render.emit_json("farm.effects/1", rows, study=found.name, methods=methods, unreadable=passed.every)
        passed.end()
        return
    unit = next((result.unit for result in results if result.unit != NATS), None)
    columns = tuple(one._replace(heading=unit) if unit and one.key == "size" else one for one in COLUMNS)
    render.emit(Sheet("farm.effects/1", columns, rows, title=found.name))
    for remark in _remarks(found, told):
        say(remark)
    for (_, machine), together in members.items():
        if lacking := missing(found, together):
            say(_lacking(found, machine, lacking))
    passed.end()


def cohorts(results: Sequence[Seen]) -> Iterator[tuple[tuple[str, str], list[Seen]]]:
    """(evaluation, machine) -> the results that may be compared."""
    for evaluation, together in by_evaluation(results):
        for machine in sorted({result.machine for result in together}):
            yield (evaluation, machine), [result for result in together if result.machine == machine]


def effects_of(study: Study, results: list[Seen]) -> Effects:
    crossed = {arm.name: arm.changes for arm in study.arms() if study.interventions.keys() >= set(arm.changes)}
    members = {name: [result for result in results if result.arm == name] for name in crossed}
    return estimate(
        crossed, {name: by_seeds(found) for name, found in members.items() if found}, list(study.interventions)
    )


def missing(study: Study, results: list[Seen]) -> list[str]:
    """The arms that the results of a machine lack: of a fraction those of its design, else of all combinations."""
    arms, there = study.arms(), {result.arm for result in results}
    names_of = {frozenset(arm.changes): arm.name for arm in arms}
    trained = {frozenset(arm.changes) for arm in arms if arm.name in there}
    if study.study.design == "fraction":
        wanted = [arm.changes for arm in arms if study.interventions.keys() >= set(arm.changes)]
    else:
        names = list(study.interventions)[:MOST]
        wanted = [of for size in range(len(names) + 1) for of in combinations(names, size)]
    lacking = [of for of in wanted if frozenset(of) not in trained]
    return [names_of.get(frozenset(of), ".".join(of) or BASELINE) for of in lacking]


def _lacking(study: Study, machine: str, lacking: list[str]) -> str:
    more = f" and {len(lacking) - SHOWN:,} more" if len(lacking) > SHOWN else ""
    arms = f"{len(lacking):,} arm{'s' * (len(lacking) != 1)} missing: {', '.join(lacking[:SHOWN])}{more}"
    if study.study.design in ("fraction", "factorial"):
        return f"{machine}: {arms}; without that some effects are less certain, or aliased with others"
    return (
        f'{machine}: no factorial, since design = "{study.study.design}", {arms}. Effects are those of the trained'
        ' arms; design = "factorial" or "fraction" trains combinations'
    )


def _rows(key: tuple[str, str], seen: Effects) -> Iterator[dict[str, Any]]:
    for effect in seen.effects:
        shown = effect.model_dump(mode="json")
        yield {"effect": ":".join(effect.of), "evaluation": key[0], "machine": key[1], **shown}


def _remarks(study: Study, told: dict[tuple[str, str], Effects]) -> Iterator[str]:
    if not any(seen.effects for seen in told.values()):
        yield "no effect yet: it needs results of arms with an intervention and of arms without it"
    for (_, machine), seen in told.items():
        if seen.method == "least-squares":
            yield f"{machine}: noise of one run {seen.noise:.4f}, from {seen.df:g} degrees of freedom"
        elif seen.method == "lenth":
            yield (
                f"{machine}: no run is left to estimate the noise, so Lenth's pseudo standard error, {seen.noise:.4f},"
                " is used: it assumes that most effects are zero"
            )
        elif seen.effects:
            yield f"{machine}: the noise cannot be estimated; add seed pairs"
    if study.sweeps:
        yield "sweeps are not crossed with anything, and not shown here: see farm table"
