"""The charts of a report as files, drawn by kaleido in a Chrome or Chromium of this machine."""

import asyncio
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Any

from cli.report.figure import Chart, Figure, text
from farm.errors import FarmError
from farm.files import write_whole

WIDTH, SCALE = 1000, 2  # pixels, and how many of a screen's are one: 2 for print


class Format(StrEnum):
    """The values of `--format`."""

    PNG = "png"
    SVG = "svg"
    PDF = "pdf"


INSTALL = "On Debian and Ubuntu: apt-get install chromium; elsewhere: plotly_get_chrome. BROWSER_PATH names another."


def write(folder: Path, charts: Sequence[Chart], form: Format) -> list[Path]:
    """A file for each chart, named after it. Returns their paths.

    Raises: FarmError: kaleido or a browser is missing, or cannot draw. OSError
    """
    try:
        from kaleido.errors import BrowserFailedError, ChromeNotFoundError, JavascriptError, KaleidoError
    except ImportError:
        raise FarmError(
            f"--format {form} needs kaleido, which is not installed here.", remedy="Try: pip install 'farm[report]'"
        ) from None
    try:
        drawn = asyncio.run(_draw([_on_paper(chart) for chart in charts], form))
    except ChromeNotFoundError:
        raise FarmError(f"--format {form} needs Chrome or Chromium, and none was found here.", remedy=INSTALL) from None
    except (BrowserFailedError, JavascriptError, KaleidoError, TimeoutError) as error:
        raise FarmError(f"the browser could not draw the charts: {error}.", remedy=INSTALL) from error
    folder.mkdir(exist_ok=True)
    paths = [folder / f"{chart.id}.{form}" for chart in charts]
    for path, content in zip(paths, drawn, strict=True):
        write_whole(path, content)
    return paths


async def _draw(figures: Sequence[Figure], form: Format) -> list[bytes]:
    from kaleido import Kaleido

    async with Kaleido(mathjax=False) as browser:  # which would be fetched from the network
        return [await browser.calc_fig(one, _options(one, form)) for one in figures]


def _options(figure: Figure, form: Format) -> dict[str, Any]:
    scale = SCALE if form is Format.PNG else 1
    return {"format": str(form), "width": WIDTH, "height": figure["layout"]["height"], "scale": scale}


def _on_paper(chart: Chart) -> Figure:
    """Black on white, with its name."""
    layout = chart.figure["layout"]
    title = {"text": text(chart.name), "x": 0.02, "font": {"size": 16}}
    paper = {"paper_bgcolor": "#fff", "plot_bgcolor": "#fff", "font": layout["font"] | {"color": "#1a1a1a"}}
    margin = layout["margin"] | {"t": 90, "r": 20}
    return chart.figure | {"layout": layout | paper | {"title": title, "margin": margin, "height": chart.height + 80}}
