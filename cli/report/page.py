"""The page: sections in the order in which a reader asks, laid out by a template that escapes all text."""

import time
from collections.abc import Iterable, Iterator, Sequence
from importlib.metadata import version
from importlib.resources import files
from typing import Any

from cli import cells, render
from cli.report import charts
from cli.report.charts import Chart, Drawn
from cli.report.material import Material
from cli.report.words import answer
from farm.queue.values import Status
from farm.study.arms import BASELINE
from farm.study.differences import differences
from farm.verdict.row import Row

Part = dict[str, Any]
RANKING = ("#", "arm", "n", "score", "SD", "vs baseline", "95 % interval", "p", "verdict", "time a run", "$ a run")
ATTEMPTS = ("run", "attempt", "how it ended", "on", "from step", "why")
RUNS = (
    "run",
    "arm",
    "machine",
    "seeds",
    "state",
    "score",
    "hardware",
    "torch",
    "first weights",
    "tokens",
    "last weights",
)


def page(material: Material) -> str:
    """The whole document: one file that asks for nothing else."""
    from jinja2 import Environment
    from plotly.offline import get_plotlyjs

    here = files("cli.report")
    environment = Environment(autoescape=True, finalize=_clean)
    template = environment.from_string((here / "page.html").read_text(encoding="utf-8"))
    sections = [
        {"id": id_, "heading": heading, "parts": parts}
        for id_, heading, found in _sections(material)
        if (parts := list(found))
    ]
    return template.render(
        title=f"Study {material.name}",
        when=time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(material.when)),
        version=version("farm"),
        sections=sections,
        style=(here / "page.css").read_text(encoding="utf-8"),
        plotly=get_plotlyjs(),
        script=(here / "page.js").read_text(encoding="utf-8"),
    )


def _clean(value: Any) -> Any:
    """Foreign text without control characters; what is HTML already, as it is."""
    return render.clean(value) if type(value) is str else value


def _sections(material: Material) -> Iterator[tuple[str, str, Iterable[Part]]]:
    yield "answer", "The answer", [_list(answer(material))]
    yield "ranking", "The ranking", _ranking(material)
    yield "curves", "Curves", _curves(material)
    yield "effects", "Effects and noise", _effects(material)
    yield "scores", "Scores", _scores(material)
    yield "provenance", "Where the numbers come from", _provenance(material)


# --- parts -----------------------------------------------------------------------------------------------------------


def _list(lines: Iterable[str]) -> Part:
    return {"kind": "list", "lines": list(lines)}


def _text(text: str) -> Part:
    return {"kind": "text", "text": text}


def _heading(text: str) -> Part:
    return {"kind": "heading", "text": text}


def _code(text: str) -> Part:
    return {"kind": "code", "text": text}


def _table(caption: str, headings: Sequence[str], rows: Iterable[Sequence[str]], faint: Sequence[bool] = ()) -> Part:
    lines = [{"cells": row, "faint": at < len(faint) and faint[at]} for at, row in enumerate(rows)]
    return {"kind": "table", "caption": caption, "headings": headings, "rows": lines}


def _chart(chart: Chart | None) -> Iterator[Part]:
    if chart:
        from plotly.io import to_html

        settings = {"displaylogo": False, "responsive": True}
        drawn = to_html(chart.figure, settings, include_plotlyjs=False, full_html=False, div_id=chart.id)
        yield {"kind": "chart", "chart": chart, "drawn": drawn}


# --- sections --------------------------------------------------------------------------------------------------------


def _ranking(material: Material) -> Iterator[Part]:
    rows = material.table.rows
    for at, (evaluation, machine) in enumerate(dict.fromkeys((row.evaluation, row.machine) for row in rows)):
        here = [row for row in rows if (row.evaluation, row.machine) == (evaluation, machine)]
        yield _heading(f"{cells.machine(machine)}, by {evaluation}")
        caption = f"Ranking on {machine} by {here[0].score}; {here[0].direction} is better"
        faint = [bool(row.stale or row.aside) for row in here]
        yield _table(caption, RANKING, [_ranking_cells(row) for row in here], faint)
        if any(row.delta is not None and row.arm != BASELINE for row in here):
            yield from _chart(charts.forest(f"forest-{at}", here, machine, here[0].unit))
        for cost in ("hours", "usd"):
            yield from _chart(charts.pareto(f"pareto-{cost}-{at}", here, machine, cost))
    if material.remarks:
        yield _heading("Remarks")
        yield _list(material.remarks)


def _ranking_cells(row: Row) -> list[str]:
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


def _curves(material: Material) -> Iterator[Part]:
    drawn = list(_to_draw(material))
    if not drawn:
        return
    if not material.are_whole:
        yield _text(
            "The storage cannot be read from the machine that made this page, so the curves are those that the queue"
            " keeps: fewer points, without skipped steps, and with estimated hours."
        )
    yield _text(
        "Bands reach from the lowest to the highest of an arm's seeds. A click on a name in a legend hides an arm."
        " Long curves are thinned out: of every stretch the lowest and the highest value are kept. A cross"
        " marks a step that fp16 skipped, a triangle a loss far above those before it, a bar where an attempt resumed."
    )
    for heading, chart in charts.curves(drawn).items():
        yield _heading(heading)
        yield from _chart(chart)


def _to_draw(material: Material) -> Iterator[Drawn]:
    prices = {result.run_id: charts.price(result) for result in material.results}
    for status in material.statuses:
        run = status.run
        if curve := material.curves.get(run.id):
            attempts = material.attempts.get(run.id, ())
            yield Drawn(
                arm=run.arm,
                machine=run.machine,
                seeds=str(run.seeds),
                tokens_per_step=run.recipe.tokens_per_step,
                usd_per_hour=prices.get(run.id),
                clip=run.recipe.train.clip_grad_norm,
                resumed=tuple(attempt.resumed_from.step for attempt in attempts if attempt.resumed_from),
                curve=curve,
            )


def _effects(material: Material) -> Iterator[Part]:
    for at, ((evaluation, machine), found) in enumerate(material.effects.items()):
        if found.effects:
            yield _heading(f"Effects on {machine}, by {evaluation}")
            headings = ("effect", "size", "95 % interval", "p", "or else")
            rows = [
                (
                    " with ".join(one.of),
                    f"{one.size:+.4f}",
                    cells.interval(one.ci_low, one.ci_high),
                    render.probability(one.p),
                    ", ".join(one.aliases) or render.UNKNOWN,
                )
                for one in found.effects
            ]
            yield _table(f"Effects on {machine}, averaged over all other interventions", headings, rows)
            yield from _chart(charts.half_normal(f"half-normal-{at}", found, machine))
            yield from _chart(charts.interactions(f"interactions-{at}", found, machine))
    for at, (evaluation, seen) in enumerate(material.noise.items()):
        if any(rung.sd is not None for rung in seen.rungs):
            yield _heading(f"Noise, by {evaluation}")
            rungs = [
                (rung.rung, render.loss(rung.sd), cells.interval(rung.ci_low, rung.ci_high, ".4f"), rung.why or "")
                for rung in seen.rungs
            ]
            yield _table("SD of one run when only this changes", ("what changes", "SD", "95 % interval", "note"), rungs)
            yield from _chart(charts.noise_ladder(f"noise-{at}", seen.rungs, evaluation))


def _scores(material: Material) -> Iterator[Part]:
    names = list(dict.fromkeys(name for row in material.table.rows for name in row.scores))
    if len(names) > 1:
        rows = [[f"{row.arm} on {row.machine}", *(_cell(row, name) for name in names)] for row in material.table.rows]
        yield _table("Every score, mean over seeds; in parentheses: out of date", ["arm", *names], rows)


def _cell(row: Row, name: str) -> str:
    cell = row.scores.get(name)
    if cell is None:
        return render.UNKNOWN
    return f"({cell.mean:.4f})" if cell.stale else f"{cell.mean:.4f}"


def _provenance(material: Material) -> Iterator[Part]:
    if material.study:
        yield _heading("What the arms change")
        arms = {arm.name: arm.recipe.changes() for arm in material.study.arms()}
        base = arms.get(BASELINE, {})
        rows = [(name, ", ".join(_changes(recipe, base)) or "nothing") for name, recipe in arms.items()]
        yield _table("Recipes, as differences to the baseline", ("arm", "differs in"), rows)
    yield _heading("Runs")
    scores = {result.run_id: result.test_loss for result in material.results}
    yield _table("Every run", RUNS, [_run(status, scores.get(status.run.id)) for status in material.statuses])
    attempts = [
        (
            run_id,
            str(attempt.epoch),
            attempt.outcome,
            str(attempt.hardware.get("host", attempt.worker)),
            f"{attempt.resumed_from.step:,}" if attempt.resumed_from else "0",
            f"{attempt.cause}: {attempt.message}" if attempt.cause else "",
        )
        for run_id, found in material.attempts.items()
        for attempt in found
    ]
    if attempts:
        yield _table("Every attempt and how it ended", ATTEMPTS, attempts)
    if material.file:
        yield _heading("How to reproduce it")
        yield _text(f"Save this as {material.name}.toml and run: farm submit {material.name}.toml")
        yield _code(material.file)


def _changes(recipe: dict[str, Any], base: dict[str, Any]) -> Iterator[str]:
    for path, was, now in differences(base, recipe):
        yield f"{path}: {'default' if was is None else was} -> {'default' if now is None else now}"


def _run(status: Status, score: float | None) -> list[str]:
    run, result = status.run, status.result
    told = [run.id, run.arm, run.machine, str(run.seeds), str(status.state), render.loss(score)]
    if result is None:
        return told + [render.UNKNOWN] * 5
    prints, hardware = result.fingerprints, result.hardware
    what = hardware.cpu if not hardware.accelerators else f"{hardware.accelerators} x {hardware.accelerator}"
    marks = [part[:12] for part in (prints.initial, prints.tokens.trained, prints.final)]
    return [*told, f"{what} on {hardware.host}", result.provenance.torch, *marks]
