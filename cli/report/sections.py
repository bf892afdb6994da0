"""The sections of a report, in the order in which a reader asks."""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

from cli import cells, render
from cli.noise import hardware_line
from cli.report import factors, lines, provenance, spoken, standings, variation
from cli.report.figure import Chart
from cli.report.lines import Curves, Drawn, Stop
from cli.report.material import Material
from cli.report.parts import Part, Section, bullets, chart, controls, folded, heading, table, text
from cli.report.words import answer, answer_of_run
from farm.record.score import NATS
from farm.study.run import Attempt
from farm.verdict.row import Cell, Row

RANKING = ("#", "arm", "n", "score", "SD", "vs baseline", "95 % interval", "p", "verdict", "time a run", "$ a run")
EFFECTS = ("effect", "size", "95 % interval", "p", "or else")
EVALUATIONS = ("evaluation", "unit", "better", "items", "scored on", "how")
SHOWN = 8  # arms that are missing


class Made(NamedTuple):
    """The sections, and what turns steps into other things in their charts."""

    sections: list[Section]
    clocks: list[dict[str, Any]]

    @property
    def charts(self) -> list[Chart]:
        return [part["chart"] for section in self.sections for part in section.parts if part["kind"] == "chart"]


def of(material: Material) -> Made:
    """The sections of a study or, if the material is of one, of a run. Those without parts are not shown."""
    drawn = list(_to_draw(material))
    curves = lines.curves(drawn) if drawn else Curves({}, [])
    parts: list[tuple[str, str, Iterator[Part]]] = [
        ("answer", "The answer", _answer(material)),
        ("ranking", "The ranking", iter(()) if material.run else _ranking(material)),
        ("curves", "Curves", _curves(material, drawn, curves)),
        ("effects", "Effects and interactions", _effects(material)),
        ("noise", "Noise and hardware", _noise(material)),
        ("cost", "What a loss costs", iter(()) if material.run else _cost(material)),
        ("samples", "Samples", spoken.parts(material)),
        ("scores", "Scores", _scores(material)),
        ("provenance", "Where the numbers come from", provenance.parts(material)),
    ]
    return Made([Section(id_, words, list(found)) for id_, words, found in parts], curves.clocks)


def _answer(material: Material) -> Iterator[Part]:
    if material.run:
        yield bullets(answer_of_run(material))
        return
    for words, found in answer(material):
        if words:
            yield heading(words)
        yield bullets(found)


# --- the ranking -----------------------------------------------------------------------------------------------------


def _cohorts(material: Material) -> Iterator[tuple[str, str, list[Row]]]:
    rows = material.table.rows
    for evaluation, machine in dict.fromkeys((row.evaluation, row.machine) for row in rows):
        yield evaluation, machine, [row for row in rows if (row.evaluation, row.machine) == (evaluation, machine)]


def _ranking(material: Material) -> Iterator[Part]:
    for at, (evaluation, machine, here) in enumerate(_cohorts(material)):
        yield heading(f"{cells.machine(machine)}, by {evaluation}")
        caption = f"Ranking on {machine} by {here[0].score}; {here[0].direction} is better"
        yield table(caption, RANKING, [_cells(row) for row in here], [bool(row.stale or row.aside) for row in here])
        if grey := [f"{cells.arm(row)}: {row.aside or f'out of date: {row.stale}'}" for row in here if _is_grey(row)]:
            yield text("Grey in the table, and why:")
            yield bullets(grey)
        yield from chart(standings.forest(f"forest-{at}", here, machine, _unit(here[0])))
    if material.remarks:
        yield heading("Remarks")
        yield bullets(material.remarks)


def _is_grey(row: Row) -> bool:
    return bool(row.stale or row.aside)


def _unit(row: Row) -> str:
    return "nats" if row.unit == NATS else row.unit


def _cells(row: Row) -> list[str]:
    verdict = row.verdict or ("not ranked" if row.aside else render.UNKNOWN)
    numbers = [
        render.loss(row.mean),
        render.loss(row.sd),
        render.signed(row.delta),
        cells.interval(row.ci_low, row.ci_high),
        render.probability(row.p),
    ]
    arm, seeds = cells.arm(row), cells.seeds(row.n, row.asked)
    return [render.count(row.rank), arm, seeds, *numbers, verdict, render.clock(row.hours), render.dollars(row.usd)]


def _cost(material: Material) -> Iterator[Part]:
    for evaluation in dict.fromkeys(row.evaluation for row in material.table.rows):
        rows = [row for row in material.table.rows if row.evaluation == evaluation]
        for cost, words in standings.COSTS.items():
            if drawn := standings.pareto(f"pareto-{cost}-{evaluation.partition('@')[2]}", rows, cost):
                yield heading(f"{evaluation} against {words}")
                yield from chart(drawn)


# --- curves ----------------------------------------------------------------------------------------------------------


def _curves(material: Material, drawn: Sequence[Drawn], curves: Curves) -> Iterator[Part]:
    if not drawn:
        return
    if not material.are_whole:
        yield text(
            "The storage cannot be read from the machine that made this page, so some curves are those that the queue"
            " keeps: fewer points, without skipped and clipped steps, and with estimated hours."
        )
    several = len({run[:2] for run in drawn}) < len(drawn)
    yield text(
        f"{_BANDS if several else ''}Long curves are thinned out: of every stretch the lowest and the highest value are"
        " kept. On the axis, a cross marks a step that fp16 skipped, a triangle a loss far above those before it, and a"
        " bar where an attempt ended or began."
    )
    colours = {trace["meta"]["arm"]: trace["line"]["color"] for one in curves.charts.values() for trace in _lines(one)}
    yield controls(list(colours.items()), list(dict.fromkeys(run.machine for run in drawn)), several)
    for words, one in curves.charts.items():
        yield heading(words)
        yield from chart(one)


_BANDS = (
    "Lines are means over the seeds of an arm, and bands reach from the lowest to the highest seed. Over hours and"
    " dollars they are placed by the speed of its first seed. "
)


def _lines(drawn: Chart) -> list[dict[str, Any]]:
    return [trace for trace in drawn.figure["data"] if trace["meta"]["kind"] in ("mean", "alone")]


def _to_draw(material: Material) -> Iterator[Drawn]:
    prices = {result.run_id: lines.price(result.usd, result.seconds) for result in material.results}
    for status in material.statuses:
        run = status.run
        if curve := material.curves.get(run.id):
            yield Drawn(
                arm=run.arm,
                machine=run.machine,
                seeds=f"{run.seeds}{f' rerun {run.rerun}' if run.rerun else ''}",
                tokens_per_step=run.recipe.tokens_per_step,
                usd_per_hour=prices.get(run.id),
                clip=run.recipe.train.clip_grad_norm,
                stops=list(_stops(material.attempts.get(run.id, ()))),
                curve=curve,
            )


def _stops(attempts: Sequence[Attempt]) -> Iterator[Stop]:
    """Where each attempt after the first went on from, and how the one before it had ended."""
    for before, attempt in pairwise(attempts):
        step = attempt.resumed_from.step if attempt.resumed_from else 0
        cause = f" ({before.cause})" if before.cause else ""
        yield Stop(step, f"attempt {before.epoch} {before.outcome}{cause}; attempt {attempt.epoch} went on")


# --- effects and noise -----------------------------------------------------------------------------------------------


def _effects(material: Material) -> Iterator[Part]:
    for at, ((evaluation, machine), found) in enumerate(material.effects.items()):
        if not found.effects:
            continue
        unit = next((_unit(row) for row in material.table.rows if row.evaluation == evaluation), "nats")
        yield heading(f"Effects on {machine}, by {evaluation}")
        rows = [
            (
                factors.name(one),
                f"{one.size:+.4f}",
                cells.interval(one.ci_low, one.ci_high),
                render.probability(one.p),
                ", ".join(one.aliases) or render.UNKNOWN,
            )
            for one in found.effects
        ]
        yield table(f"Effects on {machine}, averaged over all other interventions ({unit})", EFFECTS, rows)
        if lacking := material.missing.get((evaluation, machine)):
            more = f" and {len(lacking) - SHOWN:,} more" if len(lacking) > SHOWN else ""
            yield text(
                f"No result yet of {', '.join(lacking[:SHOWN])}{more}: without them effects are less certain, or cannot"
                " be told from others, which the column “or else” names."
            )
        yield from chart(factors.half_normal(f"half-normal-{at}", found, machine, unit))
        yield from chart(factors.heat_map(f"interactions-{at}", found, machine, unit))
        for one in factors.interaction_plots(f"interaction-{at}", found, machine, unit):
            yield from chart(one)


def _noise(material: Material) -> Iterator[Part]:
    for at, (evaluation, seen) in enumerate(material.noise.items()):
        if any(rung.sd is not None for rung in seen.rungs):
            yield heading(f"Noise, by {evaluation}")
            rungs = [
                (rung.rung, render.loss(rung.sd), cells.interval(rung.ci_low, rung.ci_high, ".4f"), rung.why or "")
                for rung in seen.rungs
            ]
            yield table("SD of one run when only this changes", ("what changes", "SD", "95 % interval", "note"), rungs)
            yield from chart(variation.noise_ladder(f"noise-{at}", seen.rungs, evaluation))
    for at, twins in enumerate(material.table.twins):
        left, right = twins.machines
        yield heading(f"{left} and {right}, by {twins.evaluation}")
        yield text(f"{len(twins.pairs)} pairs of runs with the same recipe and seeds: {twins.agreement}.")
        if twins.max_difference:
            yield text(hardware_line(twins.hardware))
        yield from chart(variation.twins(f"twins-{at}", twins))
        pairs = [
            (pair.arm, pair.seeds, *(f"{loss:.6f}" for loss in pair.test_losses), f"{pair.difference:+.3g}")
            for pair in twins.pairs
        ]
        headings = ("arm", "seeds", left, right, "difference")
        yield folded("Every pair", [table(f"Twins on {left} and {right}", headings, pairs)])


# --- scores ----------------------------------------------------------------------------------------------------------


def _scores(material: Material) -> Iterator[Part]:
    if material.run:
        yield from _scores_of_run(material)
        return
    names = list(dict.fromkeys(name for row in material.table.rows for name in row.scores))
    if not names:
        return
    rows = [
        [f"{cells.arm(row)} on {row.machine}", *(_cell(row.scores.get(name)) for name in names)]
        for row in material.table.rows
        if row.scores
    ]
    yield table("Every score: mean over seeds ± SD; in parentheses: out of date", ["arm", *names], rows)
    yield table("What the scores are", EVALUATIONS, _evaluations(material))


def _cell(cell: Cell | None) -> str:
    if cell is None:
        return render.UNKNOWN
    told = f"{cell.mean:.4f}{'' if cell.sd is None else f' ± {cell.sd:.4f}'}"
    return f"({told})" if cell.stale else told


def _evaluations(material: Material) -> Iterator[list[str]]:
    """Each once: what its scores were made on."""
    seen = {score.evaluation: score for result in material.results for score in result.scores}
    for score in sorted(seen.values(), key=lambda score: score.name):
        how = ", ".join(f"{key} {value}" for key, value in score.definition.items() if not isinstance(value, dict))
        yield [score.evaluation, score.unit, score.direction, f"{score.count:,}", score.items[:12], how]


def _scores_of_run(material: Material) -> Iterator[Part]:
    scores = [score for result in material.results for score in result.scores]
    if scores:
        rows = [
            (
                score.name,
                score.evaluation,
                f"{score.value:.6f}",
                _error(score.standard_error),
                f"{score.count:,}",
                score.unit,
            )
            for score in scores
        ]
        headings = ("evaluation", "version", "value", "standard error of its items", "items", "unit")
        yield table("Every score of the model", headings, rows)


def _error(value: float | None) -> str:
    return render.UNKNOWN if value is None else f"{value:.6f}"
