"""The verdicts of a study in a few lines of text, for a message: what farm table says, without its columns."""

from collections.abc import Iterator

from farm.record.score import NATS
from farm.study.arms import BASELINE
from farm.verdict.row import Row
from farm.verdict.table import Table

WORDS = ("better", "worse", "same", "unresolved")


def lines(table: Table) -> Iterator[str]:
    """A line for each machine's baseline and for each arm with a verdict: what was found first, then what was not."""
    rows = [row for row in table.rows if not row.aside]
    for row in rows:
        if row.arm == BASELINE:
            spread = "" if row.sd is None else f" (SD {row.sd:.4f})"
            yield f"baseline on {row.machine}: {row.score} {row.mean:.4f}{_unit(row)}{spread}, {_seeds(row.n)}"
    for word in WORDS:
        yield from (_line(row) for row in rows if row.verdict == word)


def _line(row: Row) -> str:
    where = f"{row.arm} on {row.machine}"
    if row.delta is None:
        return f"{row.verdict}: {where}, which shares no seed pair with the baseline"
    sure = "" if row.ci_low is None else f", 95 % interval {row.ci_low:+.4f} to {row.ci_high:+.4f}"
    chance = "" if row.p is None else f", p {'< 0.001' if row.p < 0.001 else f'= {row.p:.3f}'}"
    within = f" within {row.margin:g}{_unit(row)}" if row.verdict == "same" else ""
    return f"{row.verdict}{within}: {where}, {row.delta:+.4f}{_unit(row)}{sure}{chance}, {_seeds(row.pairs)}"


def _unit(row: Row) -> str:
    return " nats" if row.unit == NATS else f" {row.unit}"


def _seeds(count: int) -> str:
    return f"{count} seed pair{'s' * (count != 1)}"
