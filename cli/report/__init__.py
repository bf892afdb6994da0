"""`farm report [STUDY|RUN]`: a study or a run as one page for people who were not there."""

from pathlib import Path
from typing import Annotated, Any

import typer

from cli import render
from cli.access import queue, study_or_newest
from cli.options import Json, _names
from cli.render import say
from cli.report.gather import gather
from cli.report.material import Material
from cli.report.pictures import Format
from farm.errors import StorageUnusable
from farm.files import write_whole
from farm.site.settings import Settings

Name = Annotated[
    str | None,
    typer.Argument(
        metavar="STUDY|RUN",
        help="A study, or a run's id or its start; default: the newest study.",
        autocompletion=_names,
    ),
]


def report(
    name: Name = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", help="The file to write, or with --format the folder; default: NAME.html, NAME-charts."
        ),
    ] = None,
    form: Annotated[
        Format | None, typer.Option("--format", help="Write the charts as files instead; needs a Chrome or Chromium.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Write a study or a run as one page: the answer in words, charts, and where every number comes from.

    The page is a single file that asks for nothing from a network: send it to a colleague as it is. Curves are read
    from the ledgers where the storage can be reached from here, and else from the queue, which keeps fewer points.
    """
    settings = Settings.load()
    with queue(settings) as open_queue:
        material = gather(settings, open_queue, name or study_or_newest(open_queue, None))
    own = material.run.id if material.run else material.name
    target = output or Path(f"{own}-charts" if form else f"{own}.html")
    try:
        told = _pictures(target, material, form) if form else _page(target, material)
    except OSError as error:
        what = "folder" if form else "file"
        raise StorageUnusable(f"{target}: {error.strerror}.", remedy=f"Name another {what} with -o.") from None
    _tell(material, told, as_json)


def _page(target: Path, material: Material) -> dict[str, Any]:
    from cli.report.page import page

    document = page(material).encode()
    write_whole(target, document)
    return {"file": str(target), "bytes": len(document)}


def _pictures(target: Path, material: Material, form: Format) -> dict[str, Any]:
    from cli.report import pictures, sections

    charts = sections.of(material).charts
    files = pictures.write(target, charts, form) if charts else []
    return {"files": [str(path) for path in files], "bytes": sum(path.stat().st_size for path in files)}


def _tell(material: Material, told: dict[str, Any], as_json: bool) -> None:
    finished, runs = sum(status.result is not None for status in material.statuses), len(material.statuses)
    if as_json:
        of = {"study": material.name, "run": material.run.id if material.run else None}
        counts = {"finished": finished, "runs": runs, "whole_curves": material.are_whole}
        render.emit_json("farm.report/1", of | told | counts, unreadable=material.passed.every)
        material.passed.end()
        return
    what = told["file"] if "file" in told else f"{len(told['files']):,} charts"
    for path in told.get("files", ()):
        say(path)
    say(f"{what}: {finished:,} of {runs:,} run{'s' * (runs != 1)} finished, {told['bytes'] / 1e6:.1f} MB")
    if not material.table.rows and not material.run:
        say(f"{material.name}: {material.passed.none_finished}, so there is no ranking")
    for line in material.passed.lines:
        say(line)
    material.passed.end()
