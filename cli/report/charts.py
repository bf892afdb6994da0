"""The charts of a report, drawn by plotly. Names in them are text: what looks like markup is shown as it is.

Charts say what they show in `meta`, which page.js reads: the kind of a line, its arm, machine and seeds, and what turns
its steps into tokens, hours and dollars.
"""

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from itertools import cycle
from typing import Any, NamedTuple

from cli.report.curves import Curve, extremes, moving_mean, spikes
from farm.study.arms import BASELINE
from farm.verdict.effects import Effects
from farm.verdict.noise import Rung
from farm.verdict.row import Row
from farm.verdict.seen import Seen

# Okabe and Ito's colours, which the colour-blind tell apart, as Wong (2011, Nature Methods 8:441) printed them; without
# black and yellow, which a dark or a white page would swallow.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
NEUTRAL = "#808080"  # legible on white and on black
DASHES = ("solid", "dash", "dot", "dashdot", "longdash")
VERDICT_COLOURS = {"better": "#009E73", "worse": "#D55E00", "same": "#0072B2", "unresolved": NEUTRAL, None: NEUTRAL}


class Chart(NamedTuple):
    """A figure, and what it says to whoever cannot see it."""

    id: str
    figure: Any
    text: str
    has_curves: bool = False  # lines over steps, which can be drawn over tokens, hours or dollars


class Drawn(NamedTuple):
    """A run of which a curve is drawn."""

    arm: str
    machine: str
    seeds: str
    tokens_per_step: int
    usd_per_hour: float | None
    clip: float | None  # the limit of the gradient norm
    resumed: tuple[int, ...]  # steps at which a later attempt went on
    curve: Curve


def _figure(height: int, x: str, y: str = "") -> Any:
    import plotly.graph_objects as go

    axis = {"gridcolor": "rgba(128,128,128,0.25)", "zerolinecolor": "rgba(128,128,128,0.6)", "automargin": True}
    layout = {
        "template": "none",
        "height": height,
        "margin": {"l": 10, "r": 10, "t": 10, "b": 40},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "font": {"color": NEUTRAL, "family": "system-ui, sans-serif", "size": 13},
        "hoverlabel": {"align": "left"},
        "colorway": COLOURS,  # page.js takes them from there
        "legend": {"orientation": "h", "y": -0.2, "groupclick": "togglegroup"},
        "modebar": {"bgcolor": "rgba(0,0,0,0)", "color": NEUTRAL},
        "xaxis": axis | {"title": {"text": x}},
        "yaxis": axis | {"title": {"text": y}},
    }
    return go.Figure(layout=layout)


# --- the ranking -----------------------------------------------------------------------------------------------------


def forest(id_: str, rows: Sequence[Row], machine: str, unit: str) -> Chart:
    """The differences to the baseline of one machine, each with its interval, the best on top."""
    import plotly.graph_objects as go

    judged = [row for row in rows if row.delta is not None and row.arm != BASELINE]
    figure = _figure(90 + 34 * len(judged), f"difference to the baseline ({escape(unit)})")
    for row in reversed(judged):
        delta = row.delta or 0.0
        low, high = (delta if end is None else end for end in (row.ci_low, row.ci_high))
        figure.add_trace(
            go.Scatter(
                x=[row.delta],
                y=[escape(row.arm)],
                mode="markers",
                marker={"size": 10, "color": VERDICT_COLOURS[row.verdict]},
                error_x={"array": [high - delta], "arrayminus": [delta - low], "thickness": 2},
                hovertext=f"{escape(row.arm)}: {row.delta:+.4f}, {row.verdict or 'not judged'}",
                hoverinfo="text",
                showlegend=False,
            )
        )
    figure.add_vline(x=0, line={"color": NEUTRAL, "width": 1})
    if margin := next((row.margin for row in judged if row.margin), None):
        figure.add_vrect(x0=-margin, x1=margin, fillcolor=NEUTRAL, opacity=0.15, line_width=0)
    said = "; ".join(f"{row.arm} {row.delta:+.4f}" for row in judged)
    return Chart(id_, figure, f"Differences to the baseline on {machine}, with their 95 % intervals: {said}.")


def pareto(id_: str, rows: Sequence[Row], machine: str, cost: str) -> Chart | None:
    """Loss against what one run costs; `cost` is hours or usd. None where fewer than two arms know it."""
    import plotly.graph_objects as go

    known = [row for row in rows if getattr(row, cost) is not None and not row.aside]
    if len(known) < 2:
        return None
    unit = "hours of one run" if cost == "hours" else "$ of one run"
    figure = _figure(380, unit, escape(f"{known[0].score} ({known[0].unit})"))
    for row in known:
        figure.add_trace(
            go.Scatter(
                x=[getattr(row, cost)],
                y=[row.mean],
                mode="markers+text",
                text=[escape(row.arm)],
                textposition="top center",
                marker={
                    "size": 11,
                    "symbol": "star" if row.pareto else "circle",
                    "color": VERDICT_COLOURS[row.verdict],
                },
                showlegend=False,
                hoverinfo="x+y+text",
            )
        )
    best = ", ".join(row.arm for row in known if row.pareto)
    return Chart(
        id_, figure, f"Loss against {unit} on {machine}. Stars mark the arms that nothing beats in both: {best}."
    )


# --- effects and noise -----------------------------------------------------------------------------------------------


def half_normal(id_: str, found: Effects, machine: str) -> Chart | None:
    """The sizes of the effects against those of noise alone (Daniel 1959, Technometrics 1:311).

    What is nothing but noise lies on a line through 0; what stands out on the right is an effect.
    """
    import plotly.graph_objects as go
    from scipy.special import ndtri

    effects = sorted(found.effects, key=lambda one: abs(one.size))
    if len(effects) < 3:
        return None
    count = len(effects)
    quantiles = [float(ndtri(0.5 + 0.5 * (rank + 0.5) / count)) for rank in range(count)]
    names = [" with ".join(one.of) for one in effects]
    surely = [one.p is not None and one.p < 0.05 for one in effects]
    figure = _figure(380, "size of the effect, without its sign (nats)", "half-normal quantile")
    figure.add_trace(
        go.Scatter(
            x=[abs(one.size) for one in effects],
            y=quantiles,
            mode="markers+text",
            text=[escape(name) if sure else "" for name, sure in zip(names, surely, strict=True)],
            textposition="middle left",
            hovertext=[f"{escape(name)}: {one.size:+.4f}" for name, one in zip(names, effects, strict=True)],
            hoverinfo="text",
            marker={"size": 9, "color": [COLOURS[1] if sure else NEUTRAL for sure in surely]},
            showlegend=False,
        )
    )
    largest = ", ".join(reversed(names[-3:]))
    return Chart(id_, figure, f"Half-normal plot of {count} effects on {machine}; the largest: {largest}.")


def interactions(id_: str, found: Effects, machine: str) -> Chart | None:
    """A heat map of the effects of pairs, those of single interventions on its diagonal."""
    import plotly.graph_objects as go

    sizes = {frozenset(one.of): one.size for one in found.effects if len(one.of) <= 2}
    names = sorted({name for of in sizes for name in of})
    if len(names) < 2 or not any(len(of) == 2 for of in sizes):
        return None
    grid = [[sizes.get(frozenset({one, other})) for one in names] for other in names]
    limit = max(abs(size) for size in sizes.values())
    labels = [escape(name) for name in names]
    figure = _figure(150 + 44 * len(names), "")
    text = [["" if size is None else f"{size:+.3f}" for size in line] for line in grid]
    figure.add_trace(
        go.Heatmap(
            z=grid, x=labels, y=labels, zmin=-limit, zmax=limit, colorscale="RdBu_r", text=text, texttemplate="%{text}"
        )
    )
    return Chart(id_, figure, f"Effects of pairs of interventions on {machine}; on the diagonal those of each alone.")


def noise_ladder(id_: str, rungs: Iterable[Rung], evaluation: str) -> Chart | None:
    """The SD of one run for each thing that may change, with its interval."""
    import plotly.graph_objects as go

    known = [rung for rung in rungs if rung.sd is not None]
    if not known:
        return None
    figure = _figure(100 + 36 * len(known), "SD of one run")
    sds = [rung.sd or 0.0 for rung in known]
    lows = [sd if rung.ci_low is None else rung.ci_low for rung, sd in zip(known, sds, strict=True)]
    highs = [sd if rung.ci_high is None else rung.ci_high for rung, sd in zip(known, sds, strict=True)]
    figure.add_trace(
        go.Scatter(
            x=sds,
            y=[rung.rung for rung in known],
            mode="markers",
            marker={"size": 10, "color": COLOURS[0]},
            error_x={
                "array": [high - sd for high, sd in zip(highs, sds, strict=True)],
                "arrayminus": [sd - low for low, sd in zip(lows, sds, strict=True)],
            },
            showlegend=False,
        )
    )
    said = "; ".join(f"{rung.rung} {rung.sd:.4f}" for rung in known)
    return Chart(id_, figure, f"Noise by {evaluation}: SD of one run when only this changes: {said}.")


# --- curves ----------------------------------------------------------------------------------------------------------

QUANTITIES = {  # of a curve -> its heading, and the axis it has
    "loss": ("Training loss", "nats per token"),
    "validation": ("Validation loss", "nats per token"),
    "lr": ("Learning rate", ""),
    "grad_norm": ("Gradient norm", ""),
    "tokens_per_second": ("Tokens per second", "tokens/s"),
}


def curves(runs: Sequence[Drawn]) -> dict[str, Chart]:
    """A chart for each quantity that any of the runs has, by its heading."""
    import numpy as np

    found: dict[str, Chart] = {}
    colours = dict(zip(dict.fromkeys(run.arm for run in runs), cycle(COLOURS), strict=False))
    dashes = dict(zip(dict.fromkeys(run.machine for run in runs), cycle(DASHES), strict=False))
    for quantity, (heading, unit) in QUANTITIES.items():
        drawn = [run for run in runs if np.isfinite(getattr(run.curve, quantity)).any()]
        if drawn:
            figure = _figure(460, "steps", unit)
            figure.add_traces(list(_lines(quantity, drawn, colours, dashes)))
            limits = sorted({run.clip for run in drawn if run.clip}) if quantity == "grad_norm" else []
            for limit in limits:
                figure.add_hline(
                    y=limit, line={"color": NEUTRAL, "dash": "dash"}, annotation_text=f"clipped at {limit:g}"
                )
            text = (
                f"{heading} of {len(drawn)} runs of {len(colours)} arms. The numbers are in the table of the ranking."
            )
            found[heading] = Chart(f"curve-{quantity.replace('_', '-')}", figure, text, has_curves=True)
    return found


def _lines(
    quantity: str, runs: Sequence[Drawn], colours: Mapping[str, str], dashes: Mapping[str, str]
) -> Iterable[Any]:
    """A band over seeds for each arm on each machine; each run's values, of the loss smoothed as well; its marks."""
    for arm, machine in dict.fromkeys((run.arm, run.machine) for run in runs):
        together = [run for run in runs if (run.arm, run.machine) == (arm, machine)]
        style = {"color": colours[arm], "dash": dashes[machine]}
        if len(together) > 1:
            yield from _band(quantity, together, style)
        for run in together:
            yield from _run_lines(quantity, run, style, is_first=run is together[0])


def _trace(run: Drawn, kind: str, x: Any, y: Any, style: Mapping[str, str], **more: Any) -> Any:
    import numpy as np
    import plotly.graph_objects as go

    hours = np.interp(x, run.curve.step, run.curve.hours)
    label = f"{run.arm} on {run.machine}"
    meta: dict[str, Any] = {"kind": kind, "arm": escape(run.arm), "machine": escape(run.machine), "seeds": run.seeds}
    meta |= {"tokens": run.tokens_per_step, "usd": run.usd_per_hour, "hours": [float(f"{each:.4g}") for each in hours]}
    settings: dict[str, Any] = {
        "mode": "lines",
        "line": {"color": style["color"], "dash": style["dash"], "width": 2},
        "name": escape(label),
        "legendgroup": escape(label),
        "meta": meta,
        "hovertemplate": f"{escape(label)}, seeds {run.seeds}<br>%{{x}}: %{{y:.4g}}<extra></extra>",
    }
    x, y = np.asarray(x, dtype=np.float32), np.asarray(y, dtype=np.float32)
    return go.Scatter(x=x, y=y, **(settings | more))


def _run_lines(quantity: str, run: Drawn, style: Mapping[str, str], is_first: bool) -> Iterable[Any]:
    """Only the first run of an arm on a machine is in the legend."""
    import numpy as np

    values, step = getattr(run.curve, quantity), run.curve.step
    at = extremes(values)
    if quantity != "loss":
        yield _trace(run, "run", step[at], values[at], style, showlegend=is_first)
    else:
        even = moving_mean(values, max(1, len(values) // 50))
        thin = extremes(even)
        yield _trace(run, "smoothed", step[thin], even[thin], style, showlegend=is_first)
        faint = {"line": {"color": style["color"], "width": 1}, "opacity": 0.35, "showlegend": False, "visible": False}
        yield _trace(run, "raw", step[at], values[at], style, **faint)
    if quantity in ("loss", "grad_norm"):
        marks = {
            "skipped step": (np.flatnonzero(run.curve.skipped), "x"),
            "spike": (spikes(run.curve.loss), "triangle-up"),
            "resumed": (np.flatnonzero(np.isin(step, run.resumed)), "line-ns-open"),
        }
        for name, (where, symbol) in marks.items():
            if len(where):
                there = np.where(np.isfinite(values[where]), values[where], np.nanmax(values[np.isfinite(values)]))
                more: dict[str, Any] = {
                    "mode": "markers",
                    "marker": {"symbol": symbol, "size": 10, "color": style["color"]},
                    "showlegend": False,
                    "hovertemplate": f"{name} of {escape(run.arm)}, step %{{x}}<extra></extra>",
                }
                yield _trace(run, "mark", step[where], there, style, **more)


def _band(quantity: str, runs: Sequence[Drawn], style: Mapping[str, str]) -> Iterable[Any]:
    """From the lowest to the highest of the seeds, over the steps that all of them have."""
    import numpy as np

    columns = []
    for run in runs:
        values = getattr(run.curve, quantity)
        there = np.isfinite(values)
        if not there.any():
            return
        even = moving_mean(values[there], max(1, int(there.sum()) // 50)) if quantity == "loss" else values[there]
        columns.append((run.curve.step[there], even))
    end = min(step[-1] for step, _ in columns)
    begin = max(step[0] for step, _ in columns)
    if end <= begin:
        return
    x = np.linspace(begin, end, 120)
    every = np.array([np.interp(x, step, values) for step, values in columns])
    red, green, blue = (int(style["color"][at : at + 2], 16) for at in (1, 3, 5))
    shade: dict[str, Any] = {
        "fill": "toself",
        "fillcolor": f"rgba({red},{green},{blue},0.18)",
        "showlegend": False,
        "hoverinfo": "skip",
    }
    around, edge = np.concatenate([x, x[::-1]]), np.concatenate([every.max(0), every.min(0)[::-1]])
    yield _trace(runs[0], "band", around, edge, style, **shade, line={"width": 0}, hovertemplate=None)


def price(result: Seen) -> float | None:
    """Dollars an hour of its machine; None where a price is unknown."""
    if result.usd is None or not result.seconds:
        return None
    return result.usd / result.seconds * 3600
