"""The answer of a study in sentences: which arms are better or worse, by how much, how surely, and at what cost."""

from collections.abc import Iterator, Sequence

from cli import render
from cli.cells import interval
from cli.remarks import needs
from cli.report.material import Material
from farm.record.score import NATS
from farm.study.arms import BASELINE
from farm.study.run import State
from farm.verdict.row import Row


def answer(material: Material) -> Iterator[str]:
    """The verdicts, those of the table and no others, machine by machine; then what it cost and what is missing."""
    rows = material.table.rows
    if not rows:
        yield f"No run of {material.name} has finished yet, so there is nothing to compare."
    for evaluation, machine in dict.fromkeys((row.evaluation, row.machine) for row in rows if not row.aside):
        yield from _of_machine([row for row in rows if (row.evaluation, row.machine) == (evaluation, machine)])
    if aside := [row for row in rows if row.aside]:
        yield f"{_count(len(aside), 'arm')} cannot be compared and {'is' if len(aside) == 1 else 'are'} not ranked."
    yield from _cost(material)
    yield from _missing(material)


def _of_machine(rows: Sequence[Row]) -> Iterator[str]:
    machine, baseline = rows[0].machine, next((row for row in rows if row.arm == BASELINE), None)
    if baseline is None:
        yield f"On {machine} no baseline has finished, so no arm can be judged there."
        return
    judged = [row for row in rows if row.verdict and not row.aside]
    of = "" if not any(row.stale for row in rows) else ", by an evaluation that is out of date"
    yield f"On {machine} the baseline reaches {_value(baseline)} over {_count(baseline.n, 'seed pair')}{of}."
    for word in ("better", "worse", "same", "unresolved"):
        for row in judged:
            if row.verdict == word:
                yield _sentence(row)
    if judged and all(row.verdict == "unresolved" for row in judged):
        yield f"On {machine} no arm can be told from the baseline yet."


def _sentence(row: Row) -> str:
    where = f"{row.arm} on {row.machine}"
    pairs = _count(row.pairs, "shared seed pair")
    sure = f"95 % interval {interval(row.ci_low, row.ci_high)}, p = {render.probability(row.p)}, {pairs}"
    if row.verdict == "same":
        return f"{where} is the same as the baseline to within {row.margin:g} {_unit(row)} ({sure})."
    if row.verdict in ("better", "worse"):
        assert row.delta is not None
        return f"{where} is {row.verdict} than the baseline by {abs(row.delta):.4f} {_unit(row)} ({sure})."
    by = "" if row.delta is None else f"it differs by {row.delta:+.4f} {_unit(row)}"
    seen = "" if row.ci_low is None else f" ({sure})"
    return f"{where} is unresolved: {by}{seen}{'; ' if by else ''}{needs(row)}."


def _cost(material: Material) -> Iterator[str]:
    """Of the runs that were trained here, each counted once however many arms took its result."""
    trained = {(one.adopted or one.run_id): one for one in material.results}.values()
    if not trained:
        return
    hours = sum(one.seconds for one in trained) / 3600
    dollars, kwh = [one.usd for one in trained], [one.kwh for one in trained]
    usd = f", ${sum(x or 0 for x in dollars):,.2f}" if None not in dollars else ""
    energy = f", {sum(x or 0 for x in kwh):.3g} kWh" if None not in kwh else ""
    yield f"The {_count(len(trained), 'finished run')} took {render.clock(hours)} of machine time{usd}{energy} in all."


def _missing(material: Material) -> Iterator[str]:
    left = [status for status in material.statuses if status.state is not State.SUCCEEDED]
    if left:
        states = {state: sum(one.state is state for one in left) for state in State}
        listed = ", ".join(f"{count} {state}" for state, count in states.items() if count)
        yield f"No result yet from {len(left):,} of {_count(len(material.statuses), 'run')}: {listed}."


def _value(row: Row) -> str:
    spread = "" if row.sd is None else f" (SD {row.sd:.4f})"
    return f"{row.score} {row.mean:.4f} {_unit(row)}{spread}"


def _unit(row: Row) -> str:
    return "nats" if row.unit == NATS else row.unit


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'s' * (number != 1)}"
