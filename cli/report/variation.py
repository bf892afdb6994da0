"""The charts of noise: how much one run varies by itself, and what the hardware does."""

from collections.abc import Iterable

from cli.report.figure import COLOURS, NEUTRAL, ROW_PIXELS, Chart, figure, lines_of_text, straight, text
from farm.verdict.noise import Rung
from farm.verdict.twins import Twins


def noise_ladder(id_: str, rungs: Iterable[Rung], evaluation: str) -> Chart | None:
    """The SD of one run for each thing that may change, with its interval."""
    known = [rung for rung in rungs if rung.sd is not None]
    if not known:
        return None
    sds = [rung.sd or 0.0 for rung in known]
    lows = [sd if rung.ci_low is None else rung.ci_low for rung, sd in zip(known, sds, strict=True)]
    highs = [sd if rung.ci_high is None else rung.ci_high for rung, sd in zip(known, sds, strict=True)]
    trace = {
        "type": "scatter",
        "mode": "markers",
        "x": sds,
        "y": [rung.rung for rung in known],
        "marker": {"size": 10, "color": COLOURS[0]},
        "error_x": {
            "array": [high - sd for high, sd in zip(highs, sds, strict=True)],
            "arrayminus": [sd - low for low, sd in zip(lows, sds, strict=True)],
            "symmetric": False,
            "thickness": 2,
        },
        "hovertemplate": "%{y}: SD %{x:.4f}<extra></extra>",
    }
    names = [rung.rung for rung in reversed(known)]  # a ladder: its first rung at the bottom
    drawn = figure(
        [trace],
        90 + ROW_PIXELS * len(known),
        "SD of one run",
        yaxis=lines_of_text(names),
        xaxis={"rangemode": "tozero"},
    )
    said = "; ".join(f"{rung.rung} {rung.sd:.4f}" for rung in known)
    name = f"Noise by {evaluation}"
    told = f"{name}: SD of one run when only this changes, with its 95 % interval: {said}."
    return Chart(id_, name, drawn, told)


def twins(id_: str, found: Twins) -> Chart:
    """The difference between two machine classes, of each pair of runs that are alike in all else, arm by arm."""
    left, right = found.machines
    arms = list(dict.fromkeys(pair.arm for pair in found.pairs))
    trace = {
        "type": "scatter",
        "mode": "markers",
        "x": [pair.difference for pair in found.pairs],
        "y": [text(pair.arm) for pair in found.pairs],
        "marker": {"size": 10, "symbol": "diamond", "color": COLOURS[0], "opacity": 0.7},
        "hovertext": [text(f"{pair.arm}, seeds {pair.seeds}: {pair.difference:+.3g}") for pair in found.pairs],
        "hoverinfo": "text",
    }
    shapes = [straight(x=0.0)]
    effect = found.hardware
    if effect.ci_low is not None and effect.ci_high is not None:
        band = {"type": "rect", "x0": effect.ci_low, "x1": effect.ci_high, "y0": 0, "y1": 1, "yref": "paper"}
        shapes.append(band | {"layer": "below", "fillcolor": NEUTRAL, "opacity": 0.2, "line": {"width": 0}})
    drawn = figure(
        [trace], 90 + ROW_PIXELS * len(arms), f"{right} less {left}", yaxis=lines_of_text(arms), shapes=shapes
    )
    told = (
        f"Hardware twins: {right} less {left}, one point for each of {len(found.pairs)} pairs of runs with the same"
        f" recipe and seeds. The mean is {effect.difference:+.4f}"
    )
    edges = "" if effect.ci_low is None else ", the grey band its 95 % interval"
    return Chart(id_, f"Hardware twins of {left} and {right}", drawn, f"{told}{edges}.")
