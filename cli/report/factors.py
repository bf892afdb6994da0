"""The charts of effects: which are more than noise, and how interventions act together."""

from collections.abc import Iterator, Sequence

from cli.cells import chance
from cli.report.figure import COLOURS, DIVERGING, NEUTRAL, Chart, Numbers, figure, legend_above, lines_of_text, text
from farm.verdict.effects import Effect, Effects, pseudo_error

PLOTS = 4  # interactions that are drawn, the largest
LEVEL = 0.05
SYMBOL_OF = {-1: "circle", 1: "square"}  # without, with


def name(effect: Effect) -> str:
    """An effect for people."""
    return " with ".join(effect.of)


def half_normal(id_: str, found: Effects, machine: str, unit: str) -> Chart | None:
    """The sizes of the effects against those of noise alone (Daniel 1959, Technometrics 1:311).

    What is nothing but noise lies on a line through 0; what stands out on the right is an effect.
    """
    from scipy.special import ndtri

    effects = sorted(found.effects, key=lambda one: abs(one.size))
    if len(effects) < 3:
        return None
    count = len(effects)
    quantiles = [float(ndtri(0.5 + 0.5 * (rank + 0.5) / count)) for rank in range(count)]
    edge = abs(effects[-1].size)
    surely = [one.p is not None and one.p < LEVEL for one in effects]
    points = {
        "type": "scatter",
        "mode": "markers+text",
        "x": [abs(one.size) for one in effects],
        "y": quantiles,
        "text": [text(name(one)) if sure else "" for one, sure in zip(effects, surely, strict=True)],
        "textposition": ["middle right" if abs(one.size) < edge / 2 else "middle left" for one in effects],
        "cliponaxis": False,
        "hovertext": [text(f"{name(one)}: {one.size:+.4f}, {chance(one.p)}") for one in effects],
        "hoverinfo": "text",
        "marker": {
            "size": 10,
            "color": [COLOURS[1] if sure else NEUTRAL for sure in surely],
            "symbol": ["diamond" if sure else "circle-open" for sure in surely],
        },
    }
    spread = pseudo_error([one.size for one in effects])
    line = {
        "type": "scatter",
        "mode": "lines",
        "x": [0.0, spread * quantiles[-1]],
        "y": [0.0, quantiles[-1]],
        "line": {"color": NEUTRAL, "dash": "dash", "width": 1},
        "hoverinfo": "skip",
    }
    drawn = figure([line, points], 400, f"size of the effect, without its sign ({unit})", "half-normal quantile")
    drawn["layout"]["xaxis"]["rangemode"] = "tozero"
    largest = ", ".join(name(one) for one in reversed(effects[-3:]))
    sure = ", ".join(name(one) for one in reversed(effects) if one.p is not None and one.p < LEVEL) or "none"
    told = (
        f"Half-normal plot of {count} effects on {machine}. The largest: {largest}. Diamonds are beyond noise: {sure}."
        " If most effects are nothing, those lie along the dashed line, whose slope is Lenth's pseudo standard error."
    )
    return Chart(id_, f"Half-normal plot on {machine}", drawn, told)


def heat_map(id_: str, found: Effects, machine: str, unit: str) -> Chart | None:
    """The effects of pairs, those of single interventions on the diagonal."""
    sizes = {frozenset(one.of): one.size for one in found.effects if len(one.of) <= 2}
    names = list(dict.fromkeys(one for of in sorted(sizes, key=lambda of: (len(of), sorted(of))) for one in sorted(of)))
    if len(names) < 2 or not any(len(of) == 2 for of in sizes):
        return None
    grid = [[sizes.get(frozenset({one, other})) for one in names] for other in names]
    limit = max(abs(size) for size in sizes.values())
    written = [["" if size is None else f"{size:+.4f}" for size in line] for line in grid]
    trace = {"type": "heatmap", "z": grid, "x": [*map(text, names)], "y": [*map(text, names)], "zmin": -limit}
    trace |= {
        "zmax": limit,
        "colorscale": DIVERGING,
        "textfont": {"color": "#1a1a1a"},
        "text": written,
        "texttemplate": "%{text}",
    }
    trace |= {"hoverongaps": False, "colorbar": {"title": {"text": text(unit), "side": "right"}}}
    trace |= {"hovertemplate": "%{y} with %{x}: %{z:+.4f}<extra></extra>"}
    drawn = figure([trace], 160 + 48 * len(names), "", yaxis=lines_of_text(names), xaxis={"tickangle": -30})
    name_ = f"Effects of pairs of interventions on {machine}"
    told = f"{name_}, in {unit}; on the diagonal those of each alone."
    return Chart(
        id_, name_, drawn, told, Numbers(["", *names], [[n, *line] for n, line in zip(names, written, strict=True)])
    )


def interaction_plots(id_: str, found: Effects, machine: str, unit: str) -> Iterator[Chart]:
    """For the largest interactions: what one intervention does without the other, and with it. Parallel lines mean that
    they do not act on each other."""
    alone = {one.of[0]: one.size for one in found.effects if len(one.of) == 1}
    pairs = [one for one in found.effects if len(one.of) == 2 and set(one.of) <= alone.keys()]
    for at, pair in enumerate(pairs[:PLOTS]):
        yield _interaction(f"{id_}-{at}", pair, [alone[of] for of in pair.of], machine, unit)


def _interaction(id_: str, pair: Effect, alone: Sequence[float], machine: str, unit: str) -> Chart:
    """From the estimates, which are averages over all other interventions: a cell is half the sum of its signed
    effects, here less that of the cell with neither."""
    one, other = pair.of

    def cell(x: int, y: int) -> float:
        return (alone[0] * x + alone[1] * y + pair.size * x * y) / 2

    neither = cell(-1, -1)
    traces, rows = [], []
    for level, with_ in ((-1, "without"), (1, "with")):
        ends = [cell(-1, level) - neither, cell(1, level) - neither]
        style = {"color": COLOURS[max(0, level)], "dash": "solid" if level < 0 else "dash", "width": 2}
        traces.append(
            {
                "type": "scatter",
                "mode": "lines+markers",
                "x": [text(f"without {one}"), text(f"with {one}")],
                "y": ends,
                "name": text(f"{with_} {other}"),
                "line": style,
                "marker": {"size": 9, "symbol": SYMBOL_OF[level]},
            }
        )
        rows.append([f"{with_} {other}", *(f"{end:+.4f}" for end in ends)])
    drawn = figure(
        traces,
        340,
        "",
        f"less that of neither ({unit})",
        showlegend=True,
        legend=legend_above(),
        xaxis={"type": "category", "range": [-0.4, 1.4]},
    )
    acts = f"{one} adds {alone[0] - pair.size:+.4f} without {other} and {alone[0] + pair.size:+.4f} with it"
    name_ = f"{one} and {other} on {machine}"
    told = f"{name_}: {acts}; interaction {pair.size:+.4f}, {chance(pair.p)}."
    return Chart(id_, name_, drawn, told, Numbers(("", f"without {one}", f"with {one}"), rows))
