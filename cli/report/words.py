"""The answer of a study in sentences: which arms are better or worse, by how much, how surely, and at what cost."""

from collections.abc import Iterator, Sequence

from cli import render
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
    sure = f"95 % interval {_interval(row)}, p = {render.probability(row.p)}, {_count(row.pairs, 'shared seed pair')}"
    if row.verdict == "same":
        return f"{where} is the same as the baseline to within {row.margin:g} {_unit(row)} ({sure})."
    if row.verdict in ("better", "worse"):
        assert row.delta is not None
        return f"{where} is {row.verdict} than the baseline by {abs(row.delta):.4f} {_unit(row)} ({sure})."
    if row.delta is None:
        return f"{where} is unresolved: it shares no seed pair with the baseline."
    if row.ci_low is None:
        return f"{where} is unresolved: it differs by {row.delta:+.4f} {_unit(row)}, and one run shows no noise."
    more = "" if row.needs_seeds is None else f" {_needs(row)}"
    return f"{where} is unresolved: it differs by {row.delta:+.4f} {_unit(row)} ({sure}).{more}"


def _needs(row: Row) -> str:
    hours = "unknown hours" if row.needs_hours is None else render.clock(row.needs_hours)
    usd = "unknown dollars" if row.needs_usd is None else f"${render.dollars(row.needs_usd)}"
    many = _count(row.needs_seeds or 0, "more seed pair")
    return f"{many} ({hours}, {usd}) would show a difference as large as this with 80 % power."


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


def _interval(row: Row) -> str:
    return "unknown" if row.ci_low is None else f"{row.ci_low:+.4f} to {row.ci_high:+.4f}"


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'s' * (number != 1)}"
