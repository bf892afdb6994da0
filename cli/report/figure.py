"""What the charts of a report have in common: their frame, their colours, and how their numbers get into a page.

A figure is what plotly takes as one, written out as plain data: plotly's classes check each value anew, which took most
of a report's time. Text in it is text: what looks like markup is shown as it is.
"""

import base64
from collections.abc import Sequence
from html import escape
from typing import Any, NamedTuple

from cli import render

# Okabe and Ito's colours, which the colour-blind tell apart, as Wong (2011, Nature Methods 8:441) printed them; without
# black and yellow, which a dark or a white page would swallow; and two of Tol's (2021, SRON/EPS/TN/09-002) behind them.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#AA3377", "#999933")
NEUTRAL = "#767676"  # 4.5 times as dark as white, and 3.9 times as light as the dark page
DASHES = ("solid", "dash", "dot", "dashdot", "longdash")
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "pentagon")
VERDICT_COLOURS = {"better": "#009E73", "worse": "#D55E00", "same": "#0072B2", "unresolved": NEUTRAL, None: NEUTRAL}
VERDICT_SYMBOLS = {"better": "triangle-left", "worse": "triangle-right", "same": "circle", None: "circle-open"}
DIVERGING = [[0.0, "#56B4E9"], [0.5, "#FFFFFF"], [1.0, "#E69F00"]]  # black text is legible on all of it
ROW_PIXELS = 34  # of a line of text beside a bar, at least

Figure = dict[str, Any]


class Numbers(NamedTuple):
    """A chart as a table, for those who cannot see it or want to know."""

    headings: Sequence[str]
    rows: Sequence[Sequence[str]]


class Chart(NamedTuple):
    """A figure, and what it says to whoever cannot see it."""

    id: str
    name: str
    figure: Figure
    text: str
    numbers: Numbers | None = None  # None: they are in a table of the page already
    has_curves: bool = False  # lines over steps, which can be drawn over tokens, hours or dollars

    @property
    def height(self) -> int:
        return int(self.figure["layout"]["height"])


def figure(traces: Sequence[dict[str, Any]], height: int, x: str, y: str = "", **layout: Any) -> Figure:
    """`x` and `y` are the axes' titles, which may be foreign text."""
    axis = {
        "gridcolor": "rgba(128,128,128,0.25)",
        "zerolinecolor": "rgba(128,128,128,0.6)",
        "automargin": True,
        "exponentformat": "power",
    }
    frame = {
        "height": height,
        "margin": {"l": 10, "r": 10, "t": 10, "b": 40},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "font": {"color": NEUTRAL, "family": "system-ui, sans-serif", "size": 13},
        "hoverlabel": {"align": "left"},
        "showlegend": False,
        "xaxis": axis | {"title": {"text": text(x)}} | layout.pop("xaxis", {}),
        "yaxis": axis | {"title": {"text": text(y)}} | layout.pop("yaxis", {}),
    }
    return {"data": list(traces), "layout": frame | layout}


def legend_above() -> dict[str, Any]:
    return {"orientation": "h", "y": 1.02, "yanchor": "bottom"}


def lines_of_text(names: Sequence[str]) -> dict[str, Any]:
    """An axis with a line for each name, the first on top."""
    return {"type": "category", "categoryorder": "array", "categoryarray": [text(name) for name in reversed(names)]}


def text(foreign: str) -> str:
    """Foreign text for a chart: no control characters, no markup."""
    return escape(render.clean(foreign))


def straight(color: str = NEUTRAL, dash: str = "solid", **ends: float) -> dict[str, Any]:
    """A line across the whole chart at `x` or at `y`."""
    ((axis, at),) = ends.items()
    other = "y" if axis == "x" else "x"
    place = {f"{axis}0": at, f"{axis}1": at, f"{other}0": 0, f"{other}1": 1, f"{other}ref": "paper"}
    return {"type": "line", "line": {"color": color, "width": 1, "dash": dash}, "layer": "below"} | place


def packed(values: Any) -> dict[str, str]:
    """Numbers as plotly takes them most briefly: their bytes, as 32-bit floats."""
    import numpy as np

    return {"dtype": "f4", "bdata": base64.b64encode(np.asarray(values, dtype="<f4").tobytes()).decode()}
