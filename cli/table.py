"""`farm table [STUDY]`"""

from collections import Counter
from collections.abc import Iterator
from typing import Annotated

import typer

from cli import render
from cli.access import newest_study, queue
from cli.options import Json, StudyName
from cli.render import Column, Format, Sheet, say
from farm.machine import is_mixed
from farm.queue import Queue
from farm.run import State
from farm.table import Row, Table, Twins, rank


def _machine(name: str) -> str:
    """A machine class for people; a mixed group says that it is one."""
    return f"{name} (mixed)" if is_mixed(name) else name


COLUMNS = (
    Column("rank", "#", render.count, is_number=True),
    Column("arm", "arm"),
    Column("machine", "machine", _machine),
    Column("n", "n", render.count, is_number=True),
    Column("test_loss_mean", "test loss", render.loss, is_number=True),
    Column("test_loss_sd", "SD", render.loss, is_number=True),
    Column("delta", "vs baseline", render.signed, is_number=True),
    Column("tokens_per_second", "tokens/s", render.known(lambda value: f"{value:,.0f}"), is_number=True, is_spare=True),
    Column("hours", "h/run", render.hours, is_number=True, is_spare=True),
    Column("usd", "$/run", render.dollars, is_number=True, is_spare=True),
    Column("init_hash", "init", is_spare=True),
)
# What only machines read: all of it is in JSON, TSV and CSV.
ALL = (
    *COLUMNS,
    Column("verdict", "verdict", render.text),
    Column("mixed", "mixed"),
    Column("evaluation", "evaluation"),
    Column("runs", "runs", render.listing),
)


def table(
    study: StudyName = None,
    form: Annotated[Format | None, typer.Option("--format", help="How to print it.")] = None,
    as_json: Json = False,
) -> None:
    """Rank the arms of a study by test loss.

    Each machine has its own ranking against its own baseline. SD is over seeds, divided by n - 1.
    """
    with queue() as open_queue:
        name = study or newest_study(open_queue)
        if name is None:
            say("no study yet: farm submit STUDY, or see it all at work: farm demo")
            _show(None, rank([]), form, as_json)
            return
        show_table(open_queue, name, form, as_json=as_json)


def show_table(queue: Queue, study: str, form: Format | None = None, *, as_json: bool = False) -> None:
    """Print the table of a study. Raises: NotFound."""
    queue.study(study)
    statuses = queue.statuses(study)
    ranked = rank([status.result for status in statuses if status.result], statuses)
    if not ranked.rows:
        say(f"{study}: no run has finished yet")
    _show(study, ranked, form, as_json)


def _show(study: str | None, ranked: Table, form: Format | None, as_json: bool) -> None:
    """For people one table an evaluation, with the remarks below it; for machines one table, the remarks on stderr."""
    if as_json or form is Format.JSON:
        more = {"study": study, "twins": [_twins(t) for t in ranked.twins], "unfinished": ranked.unfinished}
        render.emit_json("farm.table/1", ranked.rows, **more)
        return
    for_people = form in (Format.MD, Format.LATEX) or (form is None and render.is_terminal())
    if for_people:
        for evaluation in ranked.evaluations:
            rows = [row for row in ranked.rows if row.evaluation == evaluation]
            render.emit(_sheet(COLUMNS, rows, f"{study}: {evaluation}"), form)
        render.write_lines(list(remarks(ranked)), form)
        return
    render.emit(_sheet(ALL, ranked.rows), form)
    for remark in remarks(ranked):
        say(render.line(remark))


def _sheet(columns: tuple[Column, ...], rows: list[Row] | tuple[Row, ...], title: str = "") -> Sheet:
    return Sheet("farm.table/1", columns, [row.model_dump(mode="json") for row in rows], title=title)


def _twins(twins: Twins) -> dict:
    shown = twins.model_dump(mode="json") | {"max_difference": twins.max_difference, "agreement": twins.agreement}
    shown["pairs"] = [pair.model_dump(mode="json") | {"difference": pair.difference} for pair in twins.pairs]
    return shown


def remarks(ranked: Table) -> Iterator[str]:
    """What the rows do not say: mixed evaluations, the hardware's own effect, and every run without a result."""
    if len(ranked.evaluations) > 1:
        yield f"{len(ranked.evaluations)} evaluations, never ranked together: {', '.join(ranked.evaluations)}"
    for name in sorted({row.machine for row in ranked.rows if row.mixed}):
        yield f"mixed: {name} trains one run over several machine classes; its rows are ranked among themselves only"
    for name in sorted({row.machine for row in ranked.rows if row.usd}):
        prices = dict.fromkeys(price for row in ranked.rows if row.machine == name for price in row.prices)
        yield f"$ of {name}: {render.prices(prices) or 'the price behind them is not on record'}"
    for twins in ranked.twins:
        yield from _twin_lines(twins)
    for run in ranked.unfinished:
        if run.state is not State.QUEUED:
            cause = f": {run.cause}" if run.cause else ""
            yield f"{run.state}: {run.run} at step {run.step:,}/{run.steps:,}{cause}"
    waiting = Counter((run.arm, run.machine) for run in ranked.unfinished if run.state is State.QUEUED)
    for (arm, machine), count in waiting.items():
        yield f"queued: {count} of {arm} on {machine}"


def _twin_lines(twins: Twins) -> Iterator[str]:
    left, right = twins.machines
    count = f"{len(twins.pairs)} pair{'s' * (len(twins.pairs) != 1)} of runs"
    yield f"hardware twins: {left} and {right}, {count}: {twins.agreement} (max |Δ| {twins.max_difference:.3g})"
    for pair in twins.pairs:
        yield f"  {pair.arm} s{pair.seeds}: {right} - {left} = {pair.difference:+.3g}"
