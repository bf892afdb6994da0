"""`farm table --at` and `--target`: arms at equal cost, by their validation curves."""

from collections.abc import Iterator, Sequence
from typing import Any

from cli import render
from cli.access import trained_study
from cli.cells import RANK, VERDICT, difference, list_rows, machine, seeds
from cli.remarks import Compared, method_lines
from cli.render import Column, Format, Sheet
from cli.unread import Unread, unread
from farm.errors import BadStudy
from farm.queue.queue import Queue
from farm.study.arms import BASELINE
from farm.study.recipe import TEST
from farm.study.study import Study
from farm.verdict.equal import Allowance, Bought, CostRow, Reached, at, budget, target, to

AMOUNTS = {"hours": "{:g} h of training", "usd": "${:,.2f} of training", "tokens": "{:,.0f} tokens"}


def question_of(at: str | None, loss: str | None, score: str | None, scores: str | None) -> Allowance | float | None:
    """The question asked by --at or --target, if any.

    Raises: BadStudy: not a valid budget or loss; both are given; or a score, which is not computed mid-run.
    """
    if at is not None and loss is not None:
        raise BadStudy("--at and --target cannot be used together.", remedy="Use one at a time.")
    given = [option for option, value in (("--score", score), ("--scores", scores)) if value is not None]
    if given and (at is not None or loss is not None):
        question = "--at" if at is not None else "--target"
        raise BadStudy(
            f"{question} uses the validation loss, the only one that is measured while a run trains;"
            f" {given[0]} asks for scores of finished models.",
            remedy=f"Leave out {given[0]}, or {question}.",
        )
    return budget(at) if at is not None else target(loss) if loss is not None else None


def show(queue: Queue, study: str, question: Allowance | float, form: Format | None, *, as_json: bool) -> Unread:
    """Print the study's arms at that cost, or their cost to reach that loss. Returns what it left out because it cannot
    be read, and says so. Raises: NotFound, Unreadable.
    """
    asks = trained_study(queue, study)
    margin = asks.study.margin if asks.study.score == TEST else None  # of another score it is no number of nats
    statuses = (picture := queue.listing.picture(study)).statuses
    passed = unread(picture, study)
    more: dict[str, Any] = {"study": study, "unreadable": passed.every}
    results = [status.result for status in statuses if status.result]
    runs = [status.run for status in statuses]
    unfinished = len(statuses) - len(results)
    if isinstance(question, Allowance):
        bought = at(results, runs, question, margin, asks.looks)
        title = f"{study}: validation loss after {_amount(question)}"
        data = [row.model_dump(mode="json") for row in bought]
        sheet = Sheet("farm.table-at/1", AT, data, more=more | {"at": question._asdict()}, title=title)
        lines = [*passed.lines, *_budget_remarks(bought, question), *_common(bought, unfinished, asks)]
        _emit(sheet, ALL_AT, lines, form, as_json)
    else:
        reached = to(results, runs, question, asks.looks)
        title = f"{study}: until validation loss {question:g}"
        data = [row.model_dump(mode="json") for row in reached]
        sheet = Sheet("farm.table-target/1", TO, data, more=more | {"target": question}, title=title)
        lines = [*passed.lines, *_target_remarks(reached), *_common(reached, unfinished, asks)]
        _emit(sheet, ALL_TO, lines, form, as_json)
    return passed


def _emit(sheet: Sheet, every: Sequence[Column], remarks: Sequence[str], form: Format | None, as_json: bool) -> None:
    """For people the sheet as it is, for machines with `every` column; in JSON without remarks."""
    if as_json or form is Format.JSON:
        render.emit(sheet, as_json=True)
        return
    columns = sheet.columns if render.is_for_people(form) else every
    rows = [row | {"seeds": seeds(row["n"], row["asked"])} | _against_baseline(row) | _flat(row) for row in sheet.data]
    render.emit(sheet._replace(columns=columns, data=rows), form)
    render.write_lines(remarks, form)


# --- cells -----------------------------------------------------------------------------------------------------------


def _against_baseline(row: dict[str, Any]) -> dict[str, str]:
    """How it compares with the baseline: a difference of losses, or a ratio of costs."""
    return {"difference": difference(row)} if "delta" in row else {"ratio": _ratio(row)}


def _ratio(row: dict[str, Any]) -> str:
    """A speed-up with its interval; or with what is known of it."""
    if (value := row.get("speedup")) is not None:
        ends = f" ({row['ci_low']:.2f} to {row['ci_high']:.2f})" if row["ci_low"] is not None else ""
        return f"{value:.2f}x{ends}"
    least, most = row.get("speedup_at_least"), row.get("speedup_at_most")
    bounds = [f"{sign} {bound:.2f}x" for sign, bound in ((">", least), ("<", most)) if bound is not None]
    return " and ".join(bounds) or render.UNKNOWN


def _span(show: Any) -> Any:
    """A cost for people: its value, or the bound that is known."""

    def show_end(span: dict[str, float | None] | None) -> str:
        if span is None:
            return render.UNKNOWN
        if span["value"] is not None:
            return show(span["value"])
        bounds = [f"{sign} {show(span[key])}" for sign, key in ((">", "at_least"), ("<", "at_most")) if span[key]]
        return " and ".join(bounds) or render.UNKNOWN

    return show_end


def _flat(row: dict[str, Any]) -> dict[str, Any]:
    """A cost in three cells, for TSV and CSV."""
    spans = {key: row[key] or {} for key in ("steps", "tokens", "hours", "usd") if key in row}
    return {f"{key}_{part}": span.get(part) for key, span in spans.items() for part in ("value", "at_least", "at_most")}


ARM = (Column("arm", "arm"), Column("machine", "machine", machine))
LOSS = Column("validation_loss_mean", "validation loss", render.loss, is_number=True, digits=6)
SD = Column("validation_loss_sd", "SD", render.loss, is_number=True, is_spare=True, digits=6)
P = Column("p", "p", render.probability, is_number=True, is_spare=True, figures=4)
N, ASKED = Column("n", "n"), Column("asked", "asked")
LOW, HIGH = Column("ci_low", "ci low", digits=6), Column("ci_high", "ci high", digits=6)
END = (Column("evaluation", "evaluation"), Column("aside", "not compared because"), Column("runs", "runs"))
AT = (
    RANK,
    *ARM,
    Column("seeds", "n", is_number=True),
    LOSS,
    SD,
    Column("difference", "vs baseline", is_number=True),
    VERDICT,
    P,
)
DELTA = Column("delta", "delta", digits=6)
METHOD = Column("method", "method")
SHORT = Column("short", "ended before")
ALL_AT = (RANK, *ARM, N, ASKED, LOSS, SD, DELTA, LOW, HIGH, P, VERDICT, METHOD, SHORT, *END)
TO = (
    *ARM,
    Column("seeds", "n", is_number=True),
    Column("reached", "reached", is_number=True),
    Column("steps", "steps", _span(render.whole), is_number=True),
    Column("tokens", "tokens", _span(lambda value: f"{value:.3g}"), is_number=True, is_spare=True),
    Column("hours", "time", _span(render.clock), is_number=True),
    Column("usd", "$", _span(render.dollars), is_number=True, is_spare=True),
    Column("ratio", "speed-up", is_number=True),
    VERDICT,
)
ALL_TO = (
    *ARM,
    N,
    ASKED,
    Column("reached", "reached"),
    *(
        Column(f"{key}_{part}", f"{key} {part}", digits=4)
        for key in ("steps", "tokens", "hours", "usd")
        for part in ("value", "at_least", "at_most")
    ),
    Column("speedup", "speed-up", digits=4),
    Column("speedup_at_least", "speed-up at least", digits=4),
    Column("speedup_at_most", "speed-up at most", digits=4),
    LOW,
    HIGH,
    P,
    VERDICT,
    METHOD,
    *END,
)


# --- remarks ---------------------------------------------------------------------------------------------------------


def _amount(question: Allowance) -> str:
    return AMOUNTS[question.kind].format(question.amount)


def _budget_remarks(rows: Sequence[Bought], question: Allowance) -> Iterator[str]:
    yield "loss on held-out tokens that are not the test's, linear between validations; no run is extrapolated"
    for row in rows:
        if row.short:
            yield f"never reached {_amount(question)}: {row.arm} on {row.machine}: {_runs(row.short)}"
        if row.early:
            yield f"first validated after {_amount(question)}: {row.arm} on {row.machine}: {_runs(row.early)}"
        if row.unpriced:
            yield f"price unknown: {row.arm} on {row.machine}: {_runs(row.unpriced)}"
    yield from _methods([row for row in rows if row.method], "±", "is the half-width of a 95 % interval")


def _target_remarks(rows: Sequence[Reached]) -> Iterator[str]:
    yield "geometric means over seeds, of training alone: lost work, waiting, checkpoints and validations do not count"
    for row in rows:
        if row.reached < row.n:
            yield f"never reached it: {row.n - row.reached} of {row.n} seed pairs of {row.arm} on {row.machine}"
    for row in rows:
        if any(span and span.at_most for span in (row.hours, row.steps)):
            yield f"reached before the first validation: some runs of {row.arm} on {row.machine}"
    withheld = [row for row in rows if row.verdict and not row.method]
    if withheld:
        yield (
            f"no interval for {list_rows(withheld)}: it takes two seed pairs or more (after farm resolve as many as at"
            " its first look), on the side of the arm and of the baseline, that all reached the loss after a validation"
            " above it; runs that did not are neither left out nor guessed"
        )
    told = [row for row in rows if row.method]
    yield from _methods(told, "in brackets", "is a 95 % interval of the speed-up, from the logarithms of the hours")


def _methods(rows: Sequence[Compared], mark: str, says: str) -> Iterator[str]:
    if rows:
        yield f"{mark} {says}{f', for all {len(rows)} comparisons at once' if len(rows) > 1 else ''}"
    yield from method_lines(rows)


def _common(rows: Sequence[CostRow], unfinished: int, asks: Study) -> Iterator[str]:
    if asks.study.score != TEST:
        without = ", and without study.margin, which is for that score" if asks.study.margin else ""
        yield (
            f"by the validation loss, not by {asks.study.score}{without}: only the validation loss is measured while a"
            " run trains; farm table ranks finished runs by the study's score"
        )
    for reason in dict.fromkeys(row.aside for row in rows if row.aside):
        yield f"not compared: {list_rows([row for row in rows if row.aside == reason])}: {reason}"
    for key in dict.fromkeys((row.evaluation, row.machine) for row in rows):
        here = [row for row in rows if (row.evaluation, row.machine) == key and not row.aside and row.n]
        if here and not any(row.arm == BASELINE for row in here):
            yield f"no baseline on {key[1]} to compare {list_rows(here)} with"
    if unfinished:
        yield (
            f"{unfinished} run{'s' * (unfinished != 1)} without a result {'is' if unfinished == 1 else 'are'} not in"
            " it: farm table lists them"
        )


def _runs(ids: Sequence[str]) -> str:
    return ", ".join(ids[:3]) + (f" and {len(ids) - 3} more" if len(ids) > 3 else "")
