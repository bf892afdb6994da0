"""The page: sections laid out by a template that escapes all text, with the script that draws its charts."""

import time
from importlib.metadata import version
from importlib.resources import files
from typing import Any

from cli import render
from cli.report import sections
from cli.report.figure import COLOURS
from cli.report.material import Material
from cli.report.parts import Section


def page(material: Material) -> str:
    """The whole document: one file that asks for nothing else."""
    from jinja2 import Environment
    from plotly.offline import get_plotlyjs

    here = files("cli.report")
    environment = Environment(autoescape=True, finalize=_clean, trim_blocks=True, lstrip_blocks=True)
    environment.policies["json.dumps_kwargs"] = {"allow_nan": False, "separators": (",", ":")}
    template = environment.from_string((here / "page.html").read_text(encoding="utf-8"))
    made = sections.of(material)
    return template.render(
        title=material.title,
        question=material.question,
        when=time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(material.when)),
        version=version("farm"),
        sections=[_with_ids(section) for section in made.sections if section.parts],
        clocks=made.clocks,
        colours=" ".join(COLOURS),
        style=(here / "page.css").read_text(encoding="utf-8"),
        plotly=get_plotlyjs(),
        script=(here / "page.js").read_text(encoding="utf-8"),
    )


def _with_ids(section: Section) -> dict[str, Any]:
    """A place of its own for each heading, and the list of them for the contents."""
    headings = [part for part in section.parts if part["kind"] == "heading"]
    for number, part in enumerate(headings, 1):
        part["id"] = f"{section.id}-{number}"
    return section._asdict() | {"headings": headings}


def _clean(value: Any) -> Any:
    """Foreign text without control characters; what is HTML already, as it is."""
    return render.clean(value) if type(value) is str else value
