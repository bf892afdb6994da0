"""`farm table [STUDY]`"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Annotated, Any

import typer

from cli import render
from cli.access import newest_study, queue
from cli.cells import MACHINE, MEAN, RANK, VERDICT, arm, difference, seeds
from cli.options import Json, StudyName
from cli.ranking import passed_over, shown_ranking
from cli.remarks import remarks
from cli.render import Column, Format, Sheet, say
from cli.unread import NOTHING, Unread
from farm.queue.queue import Queue
from farm.study.recipe import TEST
from farm.verdict.references import ReferenceRow
from farm.verdict.row import Row
from farm.verdict.seen import find_name
from farm.verdict.table import Table, rank
from farm.verdict.twins import Twins


def _init(same: bool | None) -> str:
    """Whether an arm began from the baseline's weights, for people."""
    return render.UNKNOWN if same is None else "same" if same else "other"


def _mark(is_so: bool | None) -> str:
    return "*" if is_so else ""


SD = Column("sd", "SD", render.loss, is_number=True, is_spare=True, digits=6)
GAP = Column("gap_closed", "gap closed %", render.or_unknown(lambda gap: f"{gap:.1f}"), True, is_spare=True, digits=3)
PAIRS = Column("pairs", "pairs", render.count, is_number=True, is_spare=True)
SPEED = Column("tokens_per_second", "tokens/s", render.whole, is_number=True, is_spare=True, digits=0)
COLUMNS = (
    RANK,
    Column("label", "arm"),
    MACHINE,
    Column("seeds", "n", is_number=True),
    MEAN,
    SD,
    Column("difference", "vs baseline", is_number=True),
    VERDICT,
    Column("p", "p", render.probability, is_number=True, is_spare=True),
    PAIRS,
    SPEED,
    Column("hours", "time/run", render.or_unknown(lambda hours: render.duration(hours * 3600)), True, is_spare=True),
    Column("usd", "$/run", render.dollars, is_number=True, is_spare=True),
    Column("pareto", "pareto", _mark, is_spare=True),
    Column("same_init", "init", _init, is_spare=True),
)
# Columns for machines; JSON has every field, each in full.
ALL = (
    RANK,
    Column("arm", "arm"),
    MACHINE,
    Column("n", "n"),
    Column("asked", "asked"),
    Column("test_loss_mean", "test loss", digits=6),
    Column("test_loss_sd", "SD of test loss", digits=6),
    Column("score", "score"),
    MEAN,
    SD,
    Column("delta", "delta", digits=6),
    Column("ci_low", "ci low", digits=6),
    Column("ci_high", "ci high", digits=6),
    Column("seed_error", "error from seeds", digits=6),
    Column("test_set_error", "error from the test set", digits=6),
    Column("p", "p", figures=4),
    VERDICT,
    Column("method", "method"),
    Column("rung", "tested against"),
    Column("margin", "margin"),
    Column("needs_seeds", "needs seeds"),
    Column("needs_hours", "needs hours", digits=4),
    Column("needs_usd", "needs $", digits=4),
    PAIRS,
    SPEED,
    Column("hours", "hours", digits=4),
    Column("usd", "$/run", digits=4),
    Column("pareto", "pareto"),
    Column("kwh", "kWh/run", digits=6),
    Column("usd_per_hundredth", "$ per 0.01 nats gained", digits=4),
    Column("same_init", "init"),
    Column("init_hash", "init hash"),
    Column("mixed", "mixed"),
    Column("imported", "imported"),
    Column("evaluation", "evaluation"),
    Column("stale", "out of date because"),
    Column("aside", "not ranked because"),
    Column("runs", "runs", render.listing),
)
# More columns for machines, where there is a reference.
TO_REFERENCES = (GAP, Column("gap_to", "gap to"), Column("reference", "reference"))
AT = "Rank by the validation loss that so much training bought."
TARGET = "Show what it cost to reach this validation loss, and how much sooner than the baseline."


def table(
    context: typer.Context,
    study: StudyName = None,
    score: Annotated[
        str | None, typer.Option("--score", help="The evaluation to rank by; default: study.score.", metavar="NAME")
    ] = None,
    scores: Annotated[
        str | None,
        typer.Option("--scores", help="Other evaluations, as columns: names with commas, or all.", metavar="NAMES"),
    ] = None,
    at: Annotated[str | None, typer.Option(metavar="hours=N|usd=N|tokens=N", help=AT)] = None,
    target: Annotated[str | None, typer.Option(metavar="LOSS", help=TARGET)] = None,
    form: Annotated[Format | None, typer.Option("--format", help="Output format.")] = None,
    as_json: Json = False,
) -> None:
    """Rank the arms of a study by test loss, or by another evaluation that the study names.

    Each machine has its own ranking against its own baseline. A difference to the baseline has its 95 % interval, and a
    verdict: better, worse, same (within study.margin) or unresolved, with what would resolve it. Intervals and verdicts
    hold together for all comparisons of the table; arms that the noise cannot tell apart share a rank. SD is over
    seeds, divided by n - 1. Runs that were tested or trained on other tokens than the baseline's, though their recipes
    say the same, are not ranked; a score by an older form of the evaluation is out of date, and never ranked with
    current ones. Where the error of the test set is larger than that of the seeds, the table says so. A * marks the
    arms that nothing beats in both loss and training time. Reference models (farm eval --reference) stand below the
    arms, unranked, and `gap closed %` says how far from the baseline towards one an arm has come. -v lists every pair
    of hardware twins.
    """
    question = None
    if at is not None or target is not None:
        from cli import equal  # only then: an import that other tables need not wait for

        question = equal.question_of(at, target, score, scores)
    every = context.find_root().obj["verbose"]
    with queue() as open_queue:
        name = study or newest_study(open_queue)
        if name is None:
            say("no study yet: farm submit STUDY, or see it all at work: farm demo")
            _show(None, rank([]), form, as_json, NOTHING)
            return
        if question:
            passed = equal.show(open_queue, name, question, form, as_json=as_json)
        else:
            passed = show_table(open_queue, name, form, as_json=as_json, every=every, score=score, beside=scores)
    passed.end()


def show_table(
    queue: Queue,
    study: str,
    form: Format | None = None,
    *,
    as_json: bool = False,
    every: bool = False,
    score: str | None = None,
    beside: str | None = None,
) -> Unread:
    """Print the table of a study by `score`, with the scores `beside` as columns; `every` pair of hardware twins on a
    line of its own. Returns what it left out because it cannot be read; the table says so.

    Raises: NotFound: also of an unknown evaluation. Unreadable: the study itself.
    """
    found, evaluations = shown_ranking(queue, study, score)
    ranked, passed = found.table, passed_over(study, found)
    names = found.evaluations if beside == "all" else [one for one in (beside or "").split(",") if one]
    columns = [one for name in names if (one := find_name(name, found.evaluations)) != found.by]
    if not ranked.rows and not passed.runs:
        say(f"{study}: {passed.none_finished if not found.unscored else f'no run has a score by {found.by} yet'}")
    lines = [*_unscored_lines(study, found.by, found.unscored), *remarks(ranked, every), *_out_of_date(study, ranked)]
    _show(study, ranked, form, as_json, passed, lines, columns)
    for line in evaluations:
        say(line)
    return passed


def _show(
    study: str | None,
    ranked: Table,
    form: Format | None,
    as_json: bool,
    passed: Unread,
    told: Sequence[str] = (),
    beside: Sequence[str] = (),
) -> None:
    """For people one table an evaluation, with the remarks below it; for machines one table, the remarks on stderr."""
    if as_json or form is Format.JSON:
        more: dict[str, Any] = {
            "study": study,
            "twins": [_twins(t) for t in ranked.twins],
            "unfinished": ranked.unfinished,
            "unreadable": passed.every,
        }
        more |= {"references": ranked.references, "references_out_of_date": ranked.outdated}
        render.emit_json("farm.table/1", ranked.rows, differences=ranked.differences, **more)
        return
    more_columns = tuple(Column(f"score:{name}", name, render.text, is_number=True, is_spare=True) for name in beside)
    if render.is_for_people(form):
        for evaluation in ranked.evaluations:
            rows = [row for row in ranked.rows if row.evaluation == evaluation]
            old = ", out of date" if all(row.stale for row in rows) else ""
            references = [one for one in ranked.references if one.evaluation == evaluation]
            columns = _people_columns(rows[0], (*((GAP,) if references else ()), *more_columns))
            render.emit(_sheet(columns, rows, references, f"{study}: {evaluation}{old}"), form)
    else:
        columns = (*ALL, *(TO_REFERENCES if ranked.references else ()), *more_columns)
        render.emit(_sheet(columns, ranked.rows, ranked.references, for_people=False), form)
    render.write_lines([*passed.lines, *told], form)


def _people_columns(row: Row, more: tuple[Column, ...]) -> tuple[Column, ...]:
    """With the score's own name over its column, and others behind the verdict."""
    mean = MEAN if row.score == TEST else MEAN._replace(heading=row.score)
    at = COLUMNS.index(VERDICT) + 1
    columns = (*COLUMNS[:at], *more, *COLUMNS[at:])
    return tuple(mean if column is MEAN else column for column in columns)


def _sheet(
    columns: tuple[Column, ...],
    rows: Sequence[Row],
    references: Sequence[ReferenceRow],
    title: str = "",
    for_people: bool = True,
) -> Sheet:
    cells = [{"label": arm(row)} | _cells(row, columns, for_people) for row in rows]
    data = [row.model_dump(mode="json") | more for row, more in zip(rows, cells, strict=True)]
    data = [
        row | {"seeds": seeds(row["n"], row["asked"]), "difference": difference(row), "reference": False}
        for row in data
    ]
    data += [_reference(one, columns, for_people) for one in references]
    return Sheet("farm.table/1", columns, data, title=title, faint=[row.stale is not None for row in rows])


def _reference(one: ReferenceRow, columns: Iterable[Column], for_people: bool) -> dict[str, Any]:
    """A reference model as a row: one model without seeds has no more than its value."""
    data: dict[str, Any] = {column.key: None for column in columns}
    data |= {"label": f"{one.name} (reference)", "arm": one.name, "mean": one.value, "reference": True}
    if for_people:
        data |= {"seeds": render.UNKNOWN, "difference": render.UNKNOWN}
    return data | {"score": one.score, "evaluation": one.evaluation}


def _cells(row: Row, columns: Iterable[Column], for_people: bool) -> dict[str, Any]:
    """The scores beside that of the ranking; for people one that is out of date is in parentheses."""
    found: dict[str, Any] = {}
    for name in (column.key.partition(":")[2] for column in columns if column.key.startswith("score:")):
        cell = row.scores.get(name)
        value = row.test_loss_mean if name == TEST and not cell else cell and cell.mean
        text = None if value is None else f"({value:.4f})" if cell and cell.stale else f"{value:.4f}"
        found[f"score:{name}"] = text if for_people else value
    return found


def _unscored_lines(study: str, by: str, unscored: Sequence[tuple[str, str]]) -> Iterator[str]:
    """The finished runs that the evaluation of the ranking has not scored."""
    if unscored:
        arms = ", ".join(f"{count} of {arm} on {machine}" for (arm, machine), count in Counter(unscored).items())
        yield f"no score by {by}: {arms}; to score them: farm eval {study} {by}"


def _out_of_date(study: str, ranked: Table) -> Iterator[str]:
    """The scores by another evaluation than the study has now, and how that differs."""
    why: dict[tuple[str, str], list[str]] = {}
    for row in ranked.rows:
        old = {name: cell.stale for name, cell in row.scores.items()} | {row.score: row.stale}
        for name, reason in old.items():
            if reason:
                why.setdefault((name, reason), []).append(f"{row.arm} on {row.machine}")
    for name, reason in ranked.outdated.items():
        again = f"farm eval {study} --reference FOLDER --name {name}"
        yield f"reference {name} is not shown: {reason}; to score it again: {again}"
    for (name, reason), rows in why.items():
        yield f"out of date: {name} of {', '.join(rows)}: {reason}"
    if why:
        yield f"  to score them again: farm eval {study} --stale"


def _twins(twins: Twins) -> dict:
    shown = twins.model_dump(mode="json") | {"max_difference": twins.max_difference, "agreement": twins.agreement}
    shown["pairs"] = [pair.model_dump(mode="json") | {"difference": pair.difference} for pair in twins.pairs]
    return shown
