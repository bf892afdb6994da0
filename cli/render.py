"""How things look: a rich table on a terminal, TSV in a pipe, JSON, Markdown, CSV or LaTeX when asked.

Data goes to stdout, everything else to stderr. Text from elsewhere (names, causes, logs) is shown as it is, never as
markup, and its control characters are dropped.
"""

import csv
import io
import json
import os
import re
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import StrEnum
from itertools import chain, islice, repeat
from types import MappingProxyType
from typing import Any, NamedTuple

from farm.study.machine import Price

UNKNOWN = "-"
PROSE_CHARACTERS = 30  # that a column of prose gets at least
_CONTROL = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]|[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
_FORMULA = tuple("=+-@＝＋－＠")  # noqa: RUF001  # a spreadsheet takes the wide ones for the others
_NUMBER = re.compile(r"[+-]?[\d,]+(\.\d+)?([eE][+-]?\d+)?|[+-]?(inf|nan)")
_LATEX = {c: f"\\{c}" for c in "&%$#_{}"} | {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
}


class Format(StrEnum):
    """The values of `--format`."""

    MD = "md"
    CSV = "csv"
    JSON = "json"
    LATEX = "latex"
    TSV = "tsv"


class Column(NamedTuple):
    """A column: its key in the data, its heading, and how people see its values. Programs get them raw."""

    key: str
    heading: str
    show: Callable[[Any], str] = str
    is_number: bool = False
    is_spare: bool = False  # left out of a terminal that is too narrow, the last one first
    is_prose: bool = False  # folded on a terminal before anything is left out
    digits: int | None = None  # decimals in TSV; JSON and CSV have all
    figures: int | None = None  # significant ones in TSV, instead: of what may be tiny, but is never nothing


class Sheet(NamedTuple):
    """Rows to print. `data` holds JSON values; keys without a column appear in JSON only."""

    schema: str
    columns: Sequence[Column]
    data: Sequence[dict[str, Any]]
    more: Mapping[str, Any] = MappingProxyType({})
    title: str = ""
    shown: int | None = None  # rows on a terminal, at most
    faint: Sequence[bool] = ()  # which rows are grey on a terminal; none where it is left out


def emit(sheet: Sheet, wanted: Format | None = None, *, as_json: bool = False) -> None:
    """Write `sheet` to stdout, in the form asked for or the one that suits where stdout goes."""
    if as_json or wanted is Format.JSON:
        emit_json(sheet.schema, sheet.data, **sheet.more)
    elif wanted is None and is_terminal():
        _rich_table(sheet)
    else:
        sys.stdout.write(_TEXT[wanted or Format.TSV](sheet))


def emit_json(schema: str, data: Any, **more: Any) -> None:
    """One JSON document on one line; `data` may hold models."""
    sys.stdout.write(json.dumps({"schema": schema, "data": data} | more, default=_jsonable, allow_nan=False) + "\n")


def write_lines(lines: Sequence[str], form: Format | None) -> None:
    """Remarks on a table: for people below it, a list in Markdown, comments in LaTeX; else on stderr."""
    if not is_for_people(form):
        for remark in lines:
            say(line(remark))
        return
    mark, escaped = _REMARKS.get(form, ("", str))
    body = "".join(f"{mark}{escaped(line(remark))}\n" for remark in lines)
    sys.stdout.write(f"\n{body}" if body and form is Format.MD else body)


def _jsonable(value: Any) -> Any:
    return value.model_dump(mode="json") if hasattr(value, "model_dump") else str(value)


def is_terminal() -> bool:
    """Whether a person reads stdout."""
    return sys.stdout.isatty()


def is_for_people(form: Format | None) -> bool:
    """Whether a table in this form is read by people, not by a program."""
    return form in (Format.MD, Format.LATEX) or (form is None and is_terminal())


def say(text: str) -> None:
    """A remark to the person, on stderr."""
    sys.stderr.write(clean(text) + "\n")


def say_next(*commands: str) -> None:
    """The commands to type next: at most three lines."""
    for command in commands[:3]:
        say(f"  {command}")


def clean(text: str) -> str:
    """`text` without control characters, so that foreign text cannot move the cursor or colour the screen."""
    return _CONTROL.sub("", text)


def line(text: str) -> str:
    """`text` on one line."""
    return text if text.isprintable() else clean(re.sub(r"[\t\r\n]+", " ", text))  # of most texts all is printable


# --- how people see values -------------------------------------------------------------------------------------------


def or_unknown(show: Callable[[Any], str]) -> Callable[[Any], str]:
    """`show`, and '-' for what is unknown."""
    return lambda value: UNKNOWN if value is None else show(value)


text = or_unknown(lambda value: line(str(value)))
count = or_unknown(lambda value: f"{value:,}")
loss = or_unknown(lambda value: f"{value:.4f}")
whole = or_unknown(lambda value: f"{value:,.0f}")
probability = or_unknown(lambda p: "<0.001" if p < 0.001 else f"{p:.3f}")
signed = or_unknown(lambda value: "0.0000" if round(value, 4) == 0 else f"{value:+.4f}")  # a sign is a claim
dollars = or_unknown(lambda value: f"{value:,.2f}")
gib = or_unknown(lambda value: f"{value / 2**30:.1f}")
listing = or_unknown(lambda values: line(", ".join(map(str, values))) or UNKNOWN)


def _hours(value: float) -> str:
    return f"{value:,.2f}" if value >= 0.1 else f"{value:.2g}"


hours = or_unknown(_hours)


def _clock(value: float) -> str:
    for unit, size, below in (("s", 1 / 3600, 90), ("min", 1 / 60, 90), ("h", 1.0, 48)):
        if value / size < below:
            return f"{_round(value / size)} {unit}"
    return f"{_round(value / 24)} days"


def _round(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0") if value < 20 else f"{value:,.0f}"


clock = or_unknown(_clock)  # hours as a person says them: 31 s, 45 min, 9.5 h, 4.4 days


def prices(prices: Iterable[Price]) -> str:
    """Each price with its source and date."""
    return ", ".join(f"${price.usd_per_hour:,.2f}/h {price}" for price in prices)


def _duration(seconds: float) -> str:
    seconds = max(0, round(seconds))
    for unit, size, below, part in (("d", 86400, "h", 3600), ("h", 3600, "m", 60), ("m", 60, "s", 1)):
        if seconds >= size:
            rest = seconds % size // part
            return f"{seconds // size}{unit}{rest}{below}" if rest else f"{seconds // size}{unit}"
    return f"{seconds}s"


duration = or_unknown(_duration)


def ago(moment: float | None) -> float | None:
    """Seconds from a Unix time until now."""
    return None if moment is None else max(0.0, time.time() - moment)


def sparkline(values: Sequence[float], width: int = 60) -> str:
    """A line of `width` blocks from the lowest to the highest value; each block is the mean of its share."""
    if not values:
        return ""
    width = min(width, len(values))
    shares = [values[i * len(values) // width : (i + 1) * len(values) // width] for i in range(width)]
    means = [sum(share) / len(share) for share in shares]
    low, high = min(means), max(means)
    blocks = "▁▂▃▄▅▆▇█"
    return "".join(blocks[int((value - low) / (high - low) * 7.999)] if high > low else blocks[0] for value in means)


# --- forms -----------------------------------------------------------------------------------------------------------


def console(stderr: bool = False) -> Any:
    """A rich console that never reads text as markup."""
    from rich.console import Console

    colours = None if os.environ.get("NO_COLOR") else "auto"  # rich would still print bold
    return Console(stderr=stderr, markup=False, highlight=False, emoji=False, color_system=colours)  # type: ignore[arg-type]


def _rich_table(sheet: Sheet) -> None:
    screen, columns = console(), list(sheet.columns)
    spare = [column for column in columns if column.is_spare]
    while (is_narrow := _width(sheet, columns) > screen.width) and spare:
        columns.remove(spare.pop())
    screen.print(_lay_out(sheet, columns, may_fold=is_narrow))
    if left_out := [column.heading for column in sheet.columns if column not in columns]:
        say(f"too narrow for: {', '.join(left_out)}; all of it: --json")
    if sheet.shown is not None and len(sheet.data) > sheet.shown:
        say(f"and {len(sheet.data) - sheet.shown:,} more")


def _width(sheet: Sheet, columns: Sequence[Column]) -> int:
    """Characters that a table needs so that nothing but prose is folded."""
    wide = console()
    wide.width = 10_000
    return wide.measure(_lay_out(sheet, columns, prose=PROSE_CHARACTERS)).maximum


def _lay_out(sheet: Sheet, columns: Sequence[Column], *, may_fold: bool = False, prose: int | None = None) -> Any:
    """A rich table, at most `prose` characters for a column of prose. Other text folds if it `may`, numbers never."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    title = Text(sheet.title) if sheet.title else None
    has_head = any(column.heading for column in columns)
    style = box.SIMPLE_HEAD if has_head else None
    table = Table(
        box=style, title=title, title_justify="left", pad_edge=False, collapse_padding=True, show_header=has_head
    )
    for column in columns:
        is_rigid = column.is_number or not (column.is_prose or may_fold)
        table.add_column(
            Text(column.heading),
            justify="right" if column.is_number else "left",
            no_wrap=is_rigid,
            overflow="fold",
            max_width=prose if column.is_prose else None,
        )
    rows = islice(_show_cells(sheet._replace(columns=columns)), sheet.shown)
    for row, is_faint in zip(rows, chain(sheet.faint, repeat(False)), strict=False):
        table.add_row(*map(Text, row), style="dim" if is_faint else None)
    return table


def _show_cells(sheet: Sheet) -> Iterable[list[str]]:
    return ([clean(column.show(row[column.key])) for column in sheet.columns] for row in sheet.data)


def raw(value: Any, digits: int | None = None) -> str:
    """A value for machines: numbers to `digits` decimals, if that is said; nothing for unknown, lists with commas."""
    if value is None:
        return ""
    if isinstance(value, (list, tuple)):
        return ",".join(map(raw, value))
    if isinstance(value, float) and digits is not None:
        return str(round(value, digits or None) + 0)  # + 0: no -0.0
    return line(str(value))


def _figures(value: Any, column: Column) -> Any:
    return float(f"{value:.{column.figures}g}") if column.figures and isinstance(value, float) else value


def _tsv(sheet: Sheet) -> str:
    rows = [[column.key for column in sheet.columns]]
    rows += [
        [_safe(_figures(row[column.key], column), column.digits) for column in sheet.columns] for row in sheet.data
    ]
    return "".join("\t".join(row) + "\n" for row in rows)


def _csv(sheet: Sheet) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([column.key for column in sheet.columns])
    writer.writerows([_safe(row[column.key]) for column in sheet.columns] for row in sheet.data)
    return out.getvalue()


def _safe(value: Any, digits: int | None = None) -> str:
    """A cell that no spreadsheet takes for a formula; a negative number stays a number, also one that is a text."""
    shown = raw(value, digits)
    is_formula = shown.lstrip()[:1] in _FORMULA and not _NUMBER.fullmatch(shown)
    return f"'{shown}" if is_formula else shown


def _markdown(sheet: Sheet) -> str:
    head = [column.heading for column in sheet.columns]
    rule = ["---:" if column.is_number else "---" for column in sheet.columns]
    body = [[_escape_markdown(cell) for cell in row] for row in _show_cells(sheet)]
    return "".join(f"| {' | '.join(row)} |\n" for row in [head, rule, *body])


def _escape_markdown(cell: str) -> str:
    return re.sub(r"([\\`*_\[\]<>|])", r"\\\1", cell)


def _latex(sheet: Sheet) -> str:
    """A booktabs tabular."""
    layout = "".join("r" if column.is_number else "l" for column in sheet.columns)
    head = " & ".join(_escape_latex(column.heading) for column in sheet.columns)
    body = "".join(" & ".join(map(_escape_latex, row)) + " \\\\\n" for row in _show_cells(sheet))
    return f"\\begin{{tabular}}{{{layout}}}\n\\toprule\n{head} \\\\\n\\midrule\n{body}\\bottomrule\n\\end{{tabular}}\n"


def _escape_latex(cell: str) -> str:
    return "".join(_LATEX.get(character, character) for character in cell)


_TEXT = {Format.TSV: _tsv, Format.CSV: _csv, Format.MD: _markdown, Format.LATEX: _latex}
_REMARKS: dict[Format | None, tuple[str, Callable[[str], str]]] = {
    Format.MD: ("- ", _escape_markdown),
    Format.LATEX: ("% ", str),
}
