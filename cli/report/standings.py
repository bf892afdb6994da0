"""The charts of a ranking: how far each arm is from the baseline, and what it costs."""

from collections.abc import Sequence

from cli.report.figure import (
    COLOURS,
    NEUTRAL,
    ROW_PIXELS,
    SYMBOLS,
    VERDICT_COLOURS,
    VERDICT_SYMBOLS,
    Chart,
    Numbers,
    figure,
    legend_above,
    lines_of_text,
    straight,
    text,
)
from farm.study.arms import BASELINE
from farm.verdict.row import Row

COSTS = {"hours": "hours of one run", "usd": "$ of one run"}


def forest(id_: str, rows: Sequence[Row], machine: str, unit: str) -> Chart | None:
    """The differences to the baseline of one machine, each with its interval, in the order of `rows`."""
    judged = [row for row in rows if row.delta is not None and row.arm != BASELINE]
    if not judged:
        return None
    traces = []
    for row in judged:
        delta = row.delta or 0.0
        low, high = (delta if end is None else end for end in (row.ci_low, row.ci_high))
        symbol = "circle-open" if row.aside else VERDICT_SYMBOLS.get(row.verdict, "circle")
        traces.append(
            {
                "type": "scatter",
                "mode": "markers",
                "x": [delta],
                "y": [text(row.arm)],
                "marker": {"size": 11, "color": VERDICT_COLOURS[row.verdict], "symbol": symbol},
                "error_x": {"array": [high - delta], "arrayminus": [delta - low], "symmetric": False, "thickness": 2},
                "hovertext": text(f"{row.arm}: {delta:+.4f}, {row.aside or row.verdict or 'not judged'}"),
                "hoverinfo": "text",
                "name": text(row.arm),
            }
        )
    shapes = [straight(x=0.0)]
    if margin := next((row.margin for row in judged if row.margin), None):
        band = {"type": "rect", "x0": -margin, "x1": margin, "y0": 0, "y1": 1, "yref": "paper", "layer": "below"}
        shapes.append(band | {"fillcolor": NEUTRAL, "opacity": 0.15, "line": {"width": 0}})
    drawn = figure(
        traces,
        90 + ROW_PIXELS * len(judged),
        f"difference to the baseline ({unit})",
        yaxis=lines_of_text([row.arm for row in judged]),
        shapes=shapes,
    )
    where = f"left of the line is {'better' if judged[0].direction == 'lower' else 'worse'}"
    grey = f"; the grey band is the margin of ±{margin:g}" if margin else ""
    said = "; ".join(f"{row.arm} {row.delta:+.4f}" for row in judged)
    name = f"Differences to the baseline on {machine}"
    return Chart(id_, name, drawn, f"{name}, with their 95 % intervals; {where}{grey}: {said}.")


def pareto(id_: str, rows: Sequence[Row], cost: str) -> Chart | None:
    """The score against what one run costs, all machines of one evaluation together; None where fewer than two arms
    know it, or it is nothing."""
    known = [row for row in rows if getattr(row, cost) is not None and not row.aside]
    if len(known) < 2 or not any(getattr(row, cost) for row in known):
        return None
    machines = list(dict.fromkeys(row.machine for row in known))
    most = max(getattr(row, cost) for row in known)
    traces = []
    for at, machine in enumerate(machines):
        here = sorted((row for row in known if row.machine == machine), key=lambda row: row.mean)
        best = min if here[0].direction == "lower" else max
        named = (best(here, key=lambda row: row.mean).arm, BASELINE)  # more names would lie on each other
        names = [row.arm if row.arm in named else "" for row in here]
        traces.append(
            {
                "type": "scatter",
                "mode": "markers+text",
                "x": [getattr(row, cost) for row in here],
                "y": [row.mean for row in here],
                "text": [text(name) for name in names],
                "textposition": [f"middle {'left' if getattr(row, cost) > most / 2 else 'right'}" for row in here],
                "cliponaxis": False,
                "hovertext": [text(f"{row.arm}: {row.mean:.4f} for {getattr(row, cost):.4g}") for row in here],
                "hoverinfo": "text",
                "name": text(machine),
                "showlegend": True,
                "marker": {
                    "size": [15 if row.pareto else 9 for row in here],
                    "symbol": ["star" if row.pareto else SYMBOLS[at % len(SYMBOLS)] for row in here],
                    "color": COLOURS[at % len(COLOURS)],
                },
            }
        )
    drawn = figure(
        traces,
        420,
        COSTS[cost],
        f"{known[0].score} ({known[0].unit})",
        xaxis={"range": [0, most * 1.1]},  # from 0: a tenth more must not look like twice as much
        showlegend=len(machines) > 1,
        legend=legend_above(),
    )
    stars = ", ".join(f"{row.arm} on {row.machine}" for row in known if row.pareto)
    name = f"{known[0].score} against {COSTS[cost]}"
    told = f"{name}. Stars mark the arms that no other on the same machine beats in both: {stars}."
    numbers = [[row.arm, row.machine, f"{getattr(row, cost):.4g}", f"{row.mean:.4f}"] for row in known]
    return Chart(id_, name, drawn, told, Numbers(("arm", "machine", COSTS[cost], known[0].score), numbers))
