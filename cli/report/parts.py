"""What the sections of a report are made of: text, lists, tables and charts, as the template takes them."""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from cli.report.figure import Chart

Part = dict[str, Any]


class Section(NamedTuple):
    """A part of the page with a place in its contents; nothing is shown of one without parts."""

    id: str
    heading: str
    parts: Sequence[Part]


def bullets(lines: Iterable[str]) -> Part:
    return {"kind": "list", "lines": list(lines)}


def text(words: str) -> Part:
    return {"kind": "text", "text": words}


def heading(words: str) -> Part:
    return {"kind": "heading", "text": words}


def code(words: str, label: str) -> Part:
    return {"kind": "code", "text": words, "label": label}


def folded(summary: str, parts: Iterable[Part]) -> Part:
    """Shown on demand, and in print."""
    return {"kind": "folded", "summary": summary, "parts": list(parts)}


def table(caption: str, headings: Sequence[str], rows: Iterable[Sequence[str]], faint: Sequence[bool] = ()) -> Part:
    lines = [{"cells": row, "faint": at < len(faint) and faint[at]} for at, row in enumerate(rows)]
    return {"kind": "table", "caption": caption, "headings": headings, "rows": lines}


def controls(arms: Sequence[tuple[str, str]], machines: Sequence[str], has_seeds: bool) -> Part:
    """How curves are drawn; `arms` with their colours."""
    return {"kind": "controls", "arms": arms, "machines": machines, "has_seeds": has_seeds}


def chart(drawn: Chart | None) -> Iterable[Part]:
    """None is nothing to draw."""
    if drawn:
        numbers = drawn.numbers and table(f"Numbers: {drawn.name}", *drawn.numbers)
        yield {"kind": "chart", "chart": drawn, "numbers": numbers}
