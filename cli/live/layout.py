"""The lines of the live view: a picture, a width and a height in, lines of text out. No terminal is needed."""

import time
from collections.abc import Sequence
from itertools import zip_longest
from typing import NamedTuple

from rich.cells import cell_len, set_cell_size
from rich.text import Text

from cli.cells import MACHINE, MEAN, RANK, VERDICT
from cli.live.picture import Bar, Picture, Standing
from cli.progress import label
from cli.render import UNKNOWN, Column, count, dollars, duration, line, loss, sparkline, whole
from farm.study.run import Run, State

KEYS = "↑↓ select  l log  c cancel  d drain  b dashboard  q quit"
TABLE = (
    RANK,
    Column("label", "arm"),
    MACHINE,
    Column("seeds", "n", is_number=True),
    MEAN,
    Column("difference", "vs baseline", is_number=True),
    VERDICT,
)
GAP = 2
NAME_CELLS = 24  # that a run's name gets at least
PROSE_CELLS = 24  # likewise the reason why it waits
BAR_CELLS = 10
TRACE_CELLS = 10
NOTICES = 3  # lines of what was said last
WARNINGS = 2  # named; the rest are counted


class Words(NamedTuple):
    """What the view says besides the picture: a question to be answered, and what was said last."""

    question: str | None = None
    notices: Sequence[str] = ()


class Page(NamedTuple):
    """A screen: its lines, the ids of the runs on it from top to bottom, and which of them is selected."""

    lines: list[Text]
    runs: list[str]
    cursor: str | None


class Cells(NamedTuple):
    """A column of cells under a heading."""

    heading: str
    cells: Sequence[str]
    is_number: bool = False
    spare: int = 0  # left out where it is too narrow, the highest first; 0: never
    least: int | None = None  # may be cut to so many characters; None: never


class Block(NamedTuple):
    """A part of the screen: a title, then columns; `total` says how many rows there are, shown or not."""

    title: str
    columns: Sequence[Cells]
    total: int
    remedy: str  # where the rest is
    ids: Sequence[str] = ()
    has_head: bool = True

    @property
    def height(self) -> int:
        """Lines that it takes whole."""
        return 1 + self.has_head + self.total


def lay_out(picture: Picture, width: int, height: int, cursor: str | None = None, words: Words | None = None) -> Page:
    """The screen of `width` by `height` characters; the run `cursor` is selected, or else the first on it."""
    head = _head(picture, width)
    foot = _foot(words or Words(), width)
    room = max(0, height - len(head) - len(foot))
    detail_lines = min(3, max(0, (height - 10) // 4))
    blocks = [_running(picture), _waiting(picture), *([_table(picture.standing)] if picture.standing else [])]
    given = share(room - detail_lines, [block.height for block in blocks])
    seen = [(block, lines) for block, lines in zip(blocks, given, strict=True) if lines]
    shown = [run for block, lines in seen for run in block.ids[: _rows(block, lines)]]
    cursor = cursor if cursor in shown else next(iter(shown), None)
    hidden = [block.title.partition(",")[0] for block, lines in zip(blocks, given, strict=True) if not lines]
    low = f"; too low for: {', '.join(hidden)}" if hidden else ""
    body = [
        text
        for block, lines in seen
        for text in _block(block, lines, width, cursor, low if block is seen[0][0] else "")
    ]
    body += [Text()] * (room - detail_lines - len(body))
    body += _detail(picture, cursor, width, detail_lines)
    return Page([*head, *body, *foot][:height], shown, cursor)


def share(lines: int, wants: Sequence[int]) -> list[int]:
    """Divide `lines` among blocks that want so many: a line to each in turn. A block with less than a title and a row
    gets none.
    """
    given = [0] * len(wants)
    while sum(given) < lines and any(has < want for has, want in zip(given, wants, strict=True)):
        for i, want in enumerate(wants):
            if given[i] < want and sum(given) < lines:
                given[i] += 1
    few = [i for i, has in enumerate(given) if has < min(3, wants[i])]
    return share(lines, [0 if i == few[-1] else want for i, want in enumerate(wants)]) if few else given


def fit(columns: Sequence[Cells], width: int) -> tuple[list[tuple[Cells, int]], list[str]]:
    """The columns that `width` has room for, each with its own width; and the headings of those left out."""
    kept = list(columns)
    while _least_width(kept) > width and any(column.spare for column in kept):
        kept.remove(max(kept, key=lambda column: column.spare))
    spare = width - _least_width(kept)
    widths = []
    for column in kept:
        more = min(max(0, spare), _natural(column) - _least(column))
        spare -= more
        widths.append(_least(column) + more)
    return list(zip(kept, widths, strict=True)), [one.heading for one in columns if one not in kept]


def _natural(column: Cells) -> int:
    return max(map(cell_len, (column.heading, *column.cells)), default=0)


def _least(column: Cells) -> int:
    return _natural(column) if column.least is None else min(_natural(column), column.least)


def _least_width(columns: Sequence[Cells]) -> int:
    return sum(map(_least, columns)) + GAP * (len(columns) - 1)


def cut(text: str, width: int) -> str:
    """`text` on one line of at most `width` characters; one that is cut says so by its last."""
    text = line(text)
    return text if cell_len(text) <= width else f"{set_cell_size(text, max(0, width - 1))}…" if width else ""


def _pad(text: str, width: int, is_number: bool) -> str:
    text = cut(text, width)
    space = " " * (width - cell_len(text))
    return space + text if is_number else text + space


def wrap(text: str, width: int, lines: int) -> list[str]:
    """`text` over at most so many lines of `width`; what is left out is marked."""
    words, found = line(text).split(), [""]
    while words:
        word = words.pop(0)
        longer = f"{found[-1]} {word}".strip()
        if cell_len(longer) <= width or not found[-1]:
            found[-1] = longer
        elif len(found) < lines:
            found.append(word)
        else:
            found[-1] = f"{longer} {' '.join(words)}"
            break
    return [cut(one, width) for one in found[:lines]]


# --- from top to bottom ----------------------------------------------------------------------------------------------


def _head(picture: Picture, width: int) -> list[Text]:
    told = ", ".join(f"{count:,} {state}" for state, count in picture.counts.items() if count) or "no runs"
    clock = time.strftime("%H:%M:%S", time.localtime(picture.at))
    left = cut(f"{picture.title}: {told}", max(0, width - len(clock) - GAP))
    lines = [Text(cut(_pad(left, max(0, width - len(clock)), False) + clock, width), style="bold")]
    warnings = [*([picture.away] if picture.away else []), *picture.warnings[:WARNINGS]]
    if more := len(picture.warnings[WARNINGS:]):
        warnings.append(f"and {more:,} more that cannot be read: farm doctor")
    return lines + [Text(text, style="bold yellow") for warning in warnings for text in wrap(warning, width, 2)]


def _foot(words: Words, width: int) -> list[Text]:
    """What was said last, then the question or the keys."""
    if words.question:
        return [Text(text, style="bold yellow") for text in wrap(f"{words.question} y/n", width, 3)]
    said = [text for notice in words.notices for text in wrap(notice, width, NOTICES)]
    return [*(Text(text, style="yellow") for text in said[-NOTICES:]), Text(cut(KEYS, width), style="dim")]


def _running(picture: Picture) -> Block:
    bars = picture.running
    columns = (
        Cells("run", [label(bar.status.run) for bar in bars], least=NAME_CELLS),
        Cells("", [_bar(bar) for bar in bars]),
        Cells("loss", [loss(bar.loss) for bar in bars], is_number=True, spare=1),
        Cells("val loss", [loss(bar.validation_loss) for bar in bars], is_number=True, spare=3),
        Cells("tokens/s", [whole(bar.tokens_per_second) for bar in bars], is_number=True, spare=5),
        Cells("lr", [_lr(bar.lr) for bar in bars], is_number=True, spare=7),
        Cells("MFU", [_share(bar.mfu) for bar in bars], is_number=True, spare=8),
        Cells("$", [dollars(bar.usd) for bar in bars], is_number=True, spare=6),
        Cells("left", [duration(bar.seconds_left) for bar in bars], is_number=True, spare=2),
        Cells("curve", [sparkline(bar.trace, TRACE_CELLS) for bar in bars], spare=4),
    )
    ids = [bar.status.run.id for bar in bars]
    return Block(f"{picture.running_count:,} running", columns, picture.running_count, "farm runs", ids)


def _waiting(picture: Picture) -> Block:
    names = [label(waiting.status.run) for waiting in picture.waiting]
    columns = (
        Cells("run", names, least=NAME_CELLS),
        Cells("why", [waiting.why for waiting in picture.waiting], least=PROSE_CELLS),
    )
    ids = [waiting.status.run.id for waiting in picture.waiting]
    queued = max(picture.counts.get(State.QUEUED, 0), len(ids))
    return Block(f"{queued:,} queued", columns, queued, "farm runs", ids, has_head=False)


def _table(standing: Standing) -> Block:
    columns = [
        Cells(one.heading, [one.show(row[one.key]) for row in standing.rows], one.is_number, *_room(one))
        for one in TABLE
    ]
    columns[TABLE.index(MEAN)] = columns[TABLE.index(MEAN)]._replace(heading=standing.score)
    title = f"table of {standing.study}, {standing.finished:,} of {standing.of:,} runs finished"
    return Block(title, columns, len(standing.rows), f"farm table {standing.study}", has_head=bool(standing.rows))


def _room(column: Column) -> tuple[int, int | None]:
    """How a column of the table gives way: the name is cut, then the machine and the number of seeds go."""
    return {"label": (0, 12), "machine": (2, None), "seeds": (1, None)}.get(column.key, (0, None))


def _rows(block: Block, lines: int) -> int:
    """How many rows of a block stand on so many lines: one counts the rest, where they are not all."""
    room = max(0, lines - 1 - block.has_head)
    shown = min(room, max((len(column.cells) for column in block.columns), default=0))
    return shown if shown == block.total else max(0, min(shown, room - 1))


def _block(block: Block, lines: int, width: int, cursor: str | None, low: str = "") -> list[Text]:
    """A block on so many lines; its title ends with `low`."""
    rows = _rows(block, lines)
    cells = [column._replace(cells=column.cells[:rows]) for column in block.columns]
    if block.ids:
        marked = [
            f"{'>' if run == cursor else ' '} {name}" for run, name in zip(block.ids, cells[0].cells, strict=False)
        ]
        cells[0] = cells[0]._replace(heading=f"  {cells[0].heading}", cells=marked)
    columns, left_out = fit(cells, width)
    narrow = f"; too narrow for: {', '.join(left_out)}" if left_out and rows else ""
    found = [_rule(f"{block.title}{low}{narrow}", width)]
    if block.has_head and lines > 1 and rows:
        found.append(Text(_row([one.heading for one, _ in columns], columns, width), style="dim"))
    for row, run in zip_longest(range(rows), block.ids[:rows]):
        style = "reverse" if run is not None and run == cursor else ""
        found.append(Text(_row([one.cells[row] for one, _ in columns], columns, width), style=style))
    if rows < block.total and len(found) < lines:
        found.append(Text(cut(f"  and {block.total - rows:,} more: {block.remedy}", width), style="dim"))
    return found


def _rule(title: str, width: int) -> Text:
    text = cut(f"── {title} ", width)
    return Text(text + "─" * (width - cell_len(text)), style="bold")


def _row(cells: Sequence[str], columns: Sequence[tuple[Cells, int]], width: int) -> str:
    shown = (_pad(cell, size, column.is_number) for cell, (column, size) in zip(cells, columns, strict=True))
    return cut((" " * GAP).join(shown).rstrip(), width)


def _bar(bar: Bar) -> str:
    """How far a run is; or why it does not step."""
    if bar.note:
        return cut(bar.note, BAR_CELLS + 5)
    share = bar.step / bar.status.run.recipe.steps
    full = int(share * BAR_CELLS)
    return f"{'━' * full}{'─' * (BAR_CELLS - full)} {int(100 * share):>3}%"


def _lr(lr: float | None) -> str:
    return UNKNOWN if lr is None else f"{lr:.2e}"


def _share(share: float | None) -> str:
    return UNKNOWN if share is None else f"{share:.0%}"


def _detail(picture: Picture, cursor: str | None, width: int, lines: int) -> list[Text]:
    """All that is known of the selected run, whatever was too narrow for its row."""
    told = next((_tell(bar) for bar in picture.running if bar.status.run.id == cursor), None)
    told = told or next(
        (f"{_name(one.status.run)}: {one.why}" for one in picture.waiting if one.status.run.id == cursor), ""
    )
    found = [Text(text) for text in wrap(told, width, lines)] if lines else []
    return [*found, *[Text()] * (lines - len(found))]


def _name(run: Run) -> str:
    return f"> {label(run)}"


def _tell(bar: Bar) -> str:
    status, steps = bar.status, bar.status.run.recipe.steps
    known = (
        (bar.loss, f"loss {loss(bar.loss)}"),
        (bar.validation_loss, f"validation loss {loss(bar.validation_loss)}"),
        (bar.lr, f"lr {_lr(bar.lr)}"),
        (bar.tokens_per_second, f"{whole(bar.tokens_per_second)} tokens/s"),
        (bar.mfu, f"MFU {_share(bar.mfu)}"),
        (bar.usd, f"${dollars(bar.usd)} so far"),
        (bar.seconds_left, f"{duration(bar.seconds_left)} left"),
        (bar.note, bar.note),
    )
    told = "".join(f", {text}" for value, text in known if value is not None)
    attempt = f"attempt {status.epoch}, " if status.epoch > 1 else ""
    return f"{_name(status.run)} ({status.study}): {attempt}step {count(bar.step)} of {count(steps)}{told}"
