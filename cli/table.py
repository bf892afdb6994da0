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
from farm.study import BASELINE
from farm.table import Row, Table, Twins, rank


def _machine(name: str) -> str:
    """A machine class for people; a mixed group says that it is one."""
    return f"{name} (mixed)" if is_mixed(name) else name


def _init(same: bool | None) -> str:
    """Whether an arm began from the baseline's weights, for people."""
    return render.UNKNOWN if same is None else "same" if same else "other"


HEAD = (
    Column("rank", "#", render.count, is_number=True),
    Column("arm", "arm"),
    Column("machine", "machine", _machine),
)
LOSSES = (
    Column("test_loss_mean", "test loss", render.loss, is_number=True, digits=6),
    Column("test_loss_sd", "SD", render.loss, is_number=True, digits=6),
    Column("delta", "vs baseline", render.signed, is_number=True, digits=6),
    Column("pairs", "pairs", render.count, is_number=True),
    Column("tokens_per_second", "tokens/s", render.whole, is_number=True, is_spare=True, digits=0),
)
COLUMNS = (
    *HEAD,
    Column("seeds", "n", is_number=True),
    *LOSSES,
    Column("hours", "time/run", render.known(lambda hours: render.duration(hours * 3600)), True, is_spare=True),
    Column("usd", "$/run", render.dollars, is_number=True, is_spare=True),
    Column("same_init", "init", _init, is_spare=True),
)
# What machines read; JSON has every field, each in full.
ALL = (
    *HEAD,
    Column("n", "n"),
    Column("asked", "asked"),
    *LOSSES,
    Column("hours", "hours", digits=4),
    Column("usd", "$/run", digits=4),
    Column("same_init", "init"),
    Column("init_hash", "init hash"),
    Column("mixed", "mixed"),
    Column("evaluation", "evaluation"),
    Column("aside", "not ranked because"),
    Column("runs", "runs", render.listing),
)


def table(
    context: typer.Context,
    study: StudyName = None,
    form: Annotated[Format | None, typer.Option("--format", help="How to print it.")] = None,
    as_json: Json = False,
) -> None:
    """Rank the arms of a study by test loss.

    Each machine has its own ranking against its own baseline. SD is over seeds, divided by n - 1. A difference to the
    baseline is the mean over the pairs of seeds that both have. Runs that were tested or trained on other tokens than
    the baseline's, though their recipes say the same, are not ranked. -v lists every pair of hardware twins.
    """
    every = context.find_root().obj["verbose"]
    with queue() as open_queue:
        name = study or newest_study(open_queue)
        if name is None:
            say("no study yet: farm submit STUDY, or see it all at work: farm demo")
            _show(None, rank([]), form, as_json)
            return
        show_table(open_queue, name, form, as_json=as_json, every=every)


def show_table(
    queue: Queue, study: str, form: Format | None = None, *, as_json: bool = False, every: bool = False
) -> None:
    """Print the table of a study; `every` pair of hardware twins on a line of its own. Raises: NotFound."""
    queue.study(study)
    statuses = queue.statuses(study)
    ranked = rank([status.result for status in statuses if status.result], statuses)
    if not ranked.rows:
        say(f"{study}: no run has finished yet")
    _show(study, ranked, form, as_json, every)


def _show(study: str | None, ranked: Table, form: Format | None, as_json: bool, every: bool = False) -> None:
    """For people one table an evaluation, with the remarks below it; for machines one table, the remarks on stderr."""
    if as_json or form is Format.JSON:
        more = {"study": study, "twins": [_twins(t) for t in ranked.twins], "unfinished": ranked.unfinished}
        render.emit_json("farm.table/1", ranked.rows, differences=ranked.differences, **more)
        return
    for_people = form in (Format.MD, Format.LATEX) or (form is None and render.is_terminal())
    if for_people:
        for evaluation in ranked.evaluations:
            rows = [row for row in ranked.rows if row.evaluation == evaluation]
            render.emit(_sheet(COLUMNS, rows, f"{study}: {evaluation}"), form)
        render.write_lines(list(remarks(ranked, every)), form)
        return
    render.emit(_sheet(ALL, ranked.rows), form)
    for remark in remarks(ranked, every):
        say(render.line(remark))


def _sheet(columns: tuple[Column, ...], rows: list[Row] | tuple[Row, ...], title: str = "") -> Sheet:
    return Sheet(
        "farm.table/1", columns, [row.model_dump(mode="json") | {"seeds": _seeds(row)} for row in rows], title=title
    )


def _seeds(row: Row) -> str:
    """How many seeds are behind a row, and how many the study asks for where it has fewer."""
    return f"{row.n} of {row.asked}" if row.n < row.asked else str(row.n)


def _twins(twins: Twins) -> dict:
    shown = twins.model_dump(mode="json") | {"max_difference": twins.max_difference, "agreement": twins.agreement}
    shown["pairs"] = [pair.model_dump(mode="json") | {"difference": pair.difference} for pair in twins.pairs]
    return shown


def remarks(ranked: Table, every: bool = False) -> Iterator[str]:
    """What the rows do not say: what is not ranked together and why, every run without a result, and the hardware."""
    if len(ranked.evaluations) > 1:
        yield f"{len(ranked.evaluations)} evaluations, never ranked together; the first is {ranked.evaluations[0]}"
        for difference in ranked.differences:
            yield f"  {difference}"
        yield "  evaluation.source and evaluation.context of the baseline give all arms the same test"
    for reason, rows in _aside(ranked).items():
        yield f"not ranked: {', '.join(rows)}: {reason}"
    for row in ranked.rows:
        if not row.aside and not row.pairs and any(_is_baseline_of(other, row) for other in ranked.rows):
            yield f"{row.arm} on {row.machine} shares no seeds with the baseline: no difference is shown"
    for name in sorted({row.machine for row in ranked.rows if row.mixed}):
        yield f"mixed: {name} trains one run over several machine classes; its rows are ranked among themselves only"
    for name in sorted({row.machine for row in ranked.rows if row.usd}):
        prices = dict.fromkeys(price for row in ranked.rows if row.machine == name for price in row.prices)
        yield f"$ of {name}: {render.prices(prices) or 'the price behind them is not on record'}"
    for run in ranked.unfinished:
        if run.state is not State.QUEUED:
            cause = f": {run.cause}" if run.cause else ""
            yield f"{run.state}: {run.run} at step {run.step:,}/{run.steps:,}{cause}"
    waiting = Counter((run.arm, run.machine) for run in ranked.unfinished if run.state is State.QUEUED)
    for (arm, machine), count in waiting.items():
        yield f"queued: {count} of {arm} on {machine}"
    for twins in ranked.twins:
        yield from _twin_lines(twins, every)


def _aside(ranked: Table) -> dict[str, list[str]]:
    """Why rows are not ranked -> those rows."""
    found: dict[str, list[str]] = {}
    for row in ranked.rows:
        if row.aside:
            found.setdefault(row.aside, []).append(f"{row.arm} on {row.machine}")
    return found


def _is_baseline_of(other: Row, row: Row) -> bool:
    return other.arm == BASELINE and (other.evaluation, other.machine) == (row.evaluation, row.machine)


def _twin_lines(twins: Twins, every: bool) -> Iterator[str]:
    left, right = twins.machines
    count = f"{len(twins.pairs)} pair{'s' * (len(twins.pairs) != 1)} of runs"
    yield f"hardware twins: {left} and {right}, {count}: {twins.agreement} (max |Δ| {twins.max_difference:.3g})"
    for pair in twins.pairs if every else ():
        yield f"  {pair.arm} s{pair.seeds}: {right} - {left} = {pair.difference:+.3g}"
