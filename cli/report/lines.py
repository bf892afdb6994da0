"""The charts of curves: a line for each run, a band over the seeds of an arm, and marks where something happened.

Lines say what they are in `meta`, which page.js reads: their kind, arm, machine and seeds, and the clock that turns
their steps into tokens, hours and dollars.
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import cycle
from typing import Any, NamedTuple

from cli.report.curves import Curve, extremes, moving_mean, spikes
from cli.report.figure import COLOURS, DASHES, Chart, Numbers, figure, packed, straight, text

QUANTITIES = {  # of a curve -> its heading, and the axis it has
    "loss": ("Training loss", "nats per token"),
    "validation": ("Validation loss", "nats per token"),
    "lr": ("Learning rate", ""),
    "grad_norm": ("Gradient norm", "L2 norm, before clipping"),
    "clipped": ("Clipped gradients", "share, over a tenth of a run"),
    "tokens_per_second": ("Tokens per second", "tokens/s"),
}
EVENED = {"loss": 50, "grad_norm": 50, "clipped": 10}  # shown as a moving mean, of which so many make up a run
RAW = ("loss", "grad_norm")  # and every step of these on demand
KNOTS = 64  # of a clock
BAND_POINTS = 120
LEGEND_PIXELS = 20  # of a line of a legend, which holds three names or more
COLUMNS = 8  # of a table of numbers
HEIGHTS = {"x": 0.03, "triangle-up": 0.08, "line-ns-open": 0.13}  # share of a chart: where marks lie
MARKS = 40  # of a kind for a run


class Stop(NamedTuple):
    """An attempt's end or another's beginning, at a step of a run's curve."""

    step: int
    text: str


class Drawn(NamedTuple):
    """A run of which a curve is drawn."""

    arm: str
    machine: str
    seeds: str
    tokens_per_step: int
    usd_per_hour: float | None
    clip: float | None  # the limit of the gradient norm
    stops: Sequence[Stop]
    curve: Curve


class Curves(NamedTuple):
    """Charts by heading, and the clocks that their lines name by number."""

    charts: dict[str, Chart]
    clocks: list[dict[str, Any]]


class _Style(NamedTuple):
    colour: str
    dash: str


def curves(runs: Sequence[Drawn]) -> Curves:
    """A chart for each quantity that any of the runs has."""
    import numpy as np

    colours = dict(zip(dict.fromkeys(run.arm for run in runs), cycle(COLOURS), strict=False))
    dashes = dict(zip(dict.fromkeys(run.machine for run in runs), cycle(DASHES), strict=False))
    styles = {run[:2]: _Style(colours[run.arm], dashes[run.machine]) for run in runs}
    numbered = list(enumerate(runs))
    found: dict[str, Chart] = {}
    for quantity, (heading, unit) in QUANTITIES.items():
        drawn = [(at, run) for at, run in numbered if np.isfinite(_values(run, quantity)).any()]
        if not drawn:
            continue
        traces = [trace for group in _groups(drawn) for trace in _group(quantity, group, styles[group[0][1][:2]])]
        limits = sorted({run.clip for _, run in drawn if run.clip}) if quantity == "grad_norm" else []
        found[heading] = _chart(quantity, [run for _, run in drawn], traces, unit, limits)
    return Curves(found, [_clock(run) for run in runs])


def _values(run: Drawn, quantity: str) -> Any:
    """Nothing is clipped where there is no limit, and that is no share of 0."""
    import numpy as np

    values = getattr(run.curve, quantity)
    return np.full(len(values), np.nan) if quantity == "clipped" and run.clip is None else values


def _groups(runs: Sequence[tuple[int, Drawn]]) -> Iterator[list[tuple[int, Drawn]]]:
    """The runs of each arm on each machine."""
    for key in dict.fromkeys(run[:2] for _, run in runs):
        yield [(at, run) for at, run in runs if run[:2] == key]


def _chart(
    quantity: str, runs: Sequence[Drawn], traces: Sequence[dict[str, Any]], unit: str, limits: Sequence[float]
) -> Chart:
    heading = QUANTITIES[quantity][0]
    lines = len({run[:2] for run in runs})
    drawn = figure(
        traces,
        420 + LEGEND_PIXELS * -(-lines // 3),
        "steps",
        unit,
        showlegend=lines > 1,
        legend={"orientation": "h", "yref": "container", "y": 0, "yanchor": "bottom", "groupclick": "togglegroup"},
        yaxis2={"overlaying": "y", "range": [0, 1], "visible": False, "fixedrange": True},  # the marks'
        shapes=[straight(dash="dash", y=limit) | {"layer": "above"} for limit in limits],
        annotations=[_limit(limit) for limit in limits],
    )
    count, arms = len(runs), len({run.arm for run in runs})
    what = f"{heading}, smoothed," if quantity in RAW else heading
    told = f"{what} of {count:,} run{'s' * (count != 1)} of {arms:,} arm{'s' * (arms != 1)}"
    id_ = f"curve-{quantity.replace('_', '-')}"
    return Chart(id_, heading, drawn, f"{told}{_clipped(quantity, runs)}.", _numbers(quantity, runs), True)


def _limit(limit: float) -> dict[str, Any]:
    there = {"x": 1, "xref": "paper", "xanchor": "right", "y": limit, "yanchor": "bottom"}
    return there | {"text": f"clipped at {limit:g}", "showarrow": False}


def _clipped(quantity: str, runs: Sequence[Drawn]) -> str:
    """How many of all steps were clipped, in words."""
    import numpy as np

    if quantity not in ("grad_norm", "clipped"):
        return ""
    shares = []
    for group in _groups([*enumerate(runs)]):
        values = np.concatenate([run.curve.clipped for _, run in group if run.clip is not None] or [np.array([])])
        if np.isfinite(values).any():
            first = group[0][1]
            shares.append(f"{first.arm} on {first.machine} {np.nanmean(values):.1%}")
    return f"; clipped, of all steps: {', '.join(shares)}" if shares else ""


# --- lines -----------------------------------------------------------------------------------------------------------


def _group(quantity: str, group: Sequence[tuple[int, Drawn]], style: _Style) -> Iterator[dict[str, Any]]:
    """A band over seeds and the line in its middle; each run's values, of the loss smoothed as well; its marks."""
    band = list(_band(quantity, group, style)) if len(group) > 1 else []
    yield from band
    if band and quantity == "lr":
        return  # it is the arm's: no seed changes it
    for at, run in group:
        is_first = run is group[0][1] and not band
        yield from _run_lines(quantity, at, run, style, is_first, is_alone=not band)
        if quantity in RAW:
            yield from _marks(at, run, style)


def _trace(clock: int, run: Drawn, kind: str, x: Any, y: Any, style: _Style, **more: Any) -> dict[str, Any]:
    label = text(f"{run.arm} on {run.machine}")
    seeds = "all" if kind in ("band", "mean") else run.seeds
    line = {"color": style.colour, "dash": style.dash, "width": 2}
    return {
        "type": "scatter",
        "mode": "lines",
        "x": packed(x),
        "y": packed(y),
        "line": line,
        "name": label,
        "legendgroup": label,
        "showlegend": False,
        "meta": {"kind": kind, "arm": run.arm, "machine": run.machine, "seeds": seeds, "clock": clock},
        "hovertemplate": f"{label}, seeds {seeds}<br>%{{x}}: %{{y:.4g}}<extra></extra>",
    } | more


def _even(quantity: str, values: Any) -> Any:
    return moving_mean(values, max(1, len(values) // EVENED[quantity])) if quantity in EVENED else values


def _run_lines(
    quantity: str, at: int, run: Drawn, style: _Style, is_first: bool, is_alone: bool
) -> Iterable[dict[str, Any]]:
    """Only the first run of an arm on a machine is in the legend, and only where no band is; a run that is alone is
    drawn in any case."""
    values, step = _values(run, quantity), run.curve.step
    kind = "alone" if is_alone else "run"
    even = _even(quantity, values)
    thin = extremes(even)
    yield _trace(at, run, kind, step[thin], even[thin], style, showlegend=is_first, visible=is_alone)
    if quantity in RAW:
        thin = extremes(values)
        faint = {"line": {"color": style.colour, "width": 1}, "opacity": 0.35, "visible": False}
        yield _trace(at, run, "raw", step[thin], values[thin], style, **faint)


def _marks(at: int, run: Drawn, style: _Style) -> Iterable[dict[str, Any]]:
    """On the axis: steps that fp16 skipped, losses far above those before them, and where attempts ended and began.

    Of very many skipped steps some, evenly, and of spikes the highest.
    """
    import numpy as np

    curve = run.curve
    skipped, spiked = np.flatnonzero(curve.skipped), spikes(curve.loss)
    if len(skipped) > MARKS:
        skipped = skipped[np.linspace(0, len(skipped) - 1, MARKS).astype(int)]
    if len(spiked) > MARKS:
        spiked = np.sort(spiked[np.argsort(curve.loss[spiked])[-MARKS:]])
    stops = [min(int(np.searchsorted(curve.step, stop.step)), len(curve.step) - 1) for stop in run.stops]
    marks = {"skipped step": ("x", skipped), "spike": ("triangle-up", spiked)}
    marks |= {stop.text: ("line-ns-open", np.array([where])) for stop, where in zip(run.stops, stops, strict=True)}
    for said, (symbol, where) in marks.items():
        if len(where):
            step = curve.step[where]
            more = {
                "mode": "markers",
                "yaxis": "y2",
                "marker": {"symbol": symbol, "size": 10, "color": style.colour, "line": {"width": 2}},
                "customdata": [int(each) for each in step],
                "hovertemplate": f"{text(said)}, step %{{customdata}}<br>{text(run.arm)} on {text(run.machine)},"
                f" seeds {run.seeds}<extra></extra>",
            }
            yield _trace(at, run, "mark", step, np.full(len(where), HEIGHTS[symbol]), style, **more)


def _band(quantity: str, group: Sequence[tuple[int, Drawn]], style: _Style) -> Iterable[dict[str, Any]]:
    """From the lowest to the highest of the seeds, over the steps that all of them have, and their mean."""
    import numpy as np

    columns = []
    for _, run in group:
        values = _values(run, quantity)
        there = np.isfinite(values)
        if not there.any():
            return
        columns.append((run.curve.step[there], _even(quantity, values[there])))
    begin, end = max(step[0] for step, _ in columns), min(step[-1] for step, _ in columns)
    if end <= begin:
        return
    x = np.unique(
        np.concatenate([np.geomspace(max(begin, 1), end, BAND_POINTS // 2), np.linspace(begin, end, BAND_POINTS // 2)])
    )
    every = np.array([np.interp(x, step, values) for step, values in columns])
    red, green, blue = (int(style.colour[at : at + 2], 16) for at in (1, 3, 5))
    at, run = group[0]
    shade = {"fill": "toself", "fillcolor": f"rgba({red},{green},{blue},0.18)", "line": {"width": 0}}
    around, edge = np.concatenate([x, x[::-1]]), np.concatenate([every.max(0), every.min(0)[::-1]])
    yield _trace(at, run, "band", around, edge, style, **shade, hoverinfo="skip", hovertemplate=None)
    yield _trace(at, run, "mean", x, every.mean(0), style, showlegend=True)


def _clock(run: Drawn) -> dict[str, Any]:
    """What turns a step into tokens, hours and dollars."""
    import numpy as np

    at = np.unique(np.linspace(0, len(run.curve.step) - 1, KNOTS).round().astype(int))
    return {
        "tokens": run.tokens_per_step,
        "usd": run.usd_per_hour,
        "steps": packed(np.concatenate([[0.0], run.curve.step[at]])),
        "hours": packed(np.concatenate([[0.0], run.curve.hours[at]])),
    }


def _numbers(quantity: str, runs: Sequence[Drawn]) -> Numbers:
    """The mean over the seeds of each arm on each machine, at some of the steps."""
    import numpy as np

    last = max(run.curve.step[-1] for run in runs)
    steps = np.unique(np.geomspace(1, last, COLUMNS).round() if last > COLUMNS else np.arange(1, last + 1))
    rows = []
    for group in _groups([*enumerate(runs)]):
        columns = []
        for _, run in group:
            values = _values(run, quantity)
            there = np.isfinite(values)
            even = _even(quantity, values[there])
            columns.append(np.interp(steps, run.curve.step[there], even, left=np.nan, right=np.nan))
        means = [float(np.mean(each)) for each in np.array(columns).T]
        first = group[0][1]
        rows.append([f"{first.arm} on {first.machine}", *("-" if mean != mean else f"{mean:.4g}" for mean in means)])
    return Numbers(("mean over seeds", *(f"step {step:,.0f}" for step in steps)), rows)


def price(usd: float | None, seconds: float) -> float | None:
    """Dollars an hour of a run's machine; None where a price is unknown."""
    return None if usd is None or not seconds else usd / seconds * 3600
