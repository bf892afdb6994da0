"""The answer of a study or a run in sentences: what is better or worse, by how much, how surely, and at what cost."""

from collections import Counter
from collections.abc import Iterator, Sequence

from cli import render
from cli.cells import chance, interval
from cli.remarks import needs
from cli.report.material import Material
from farm.queue.values import Status
from farm.record.score import NATS
from farm.study.arms import BASELINE
from farm.study.recipe import TEST
from farm.study.run import State
from farm.verdict.inference import Word
from farm.verdict.row import Row
from farm.verdict.seen import Seen

VERDICTS: tuple[Word, ...] = ("better", "worse", "same", "unresolved")


def answer(material: Material) -> Iterator[tuple[str, list[str]]]:
    """The verdicts, those of the table and no others, machine by machine; then what it cost and what is missing.

    Each with its heading; the first may have none.
    """
    rows = material.table.rows
    if not rows:
        yield "", [f"No run of {material.name} has finished yet, so there is nothing to compare."]
    for evaluation, machine in dict.fromkeys((row.evaluation, row.machine) for row in rows if not row.aside):
        here = [row for row in rows if (row.evaluation, row.machine) == (evaluation, machine)]
        yield f"On {machine}, by {evaluation}", list(_of_machine(here))
    aside = [row for row in rows if row.aside]
    missing = [f"{_count(len(aside), 'arm')} cannot be compared and so {_is(aside)} not ranked."] if aside else []
    yield "What it cost, and what is missing", [*_cost(material), *missing, *_missing(material)]


def _is(found: Sequence[Row]) -> str:
    return "is" if len(found) == 1 else "are"


def _of_machine(rows: Sequence[Row]) -> Iterator[str]:
    machine, baseline = rows[0].machine, next((row for row in rows if row.arm == BASELINE), None)
    if baseline is None:
        yield f"On {machine} no baseline has finished, so no arm can be judged there."
        return
    judged = [row for row in rows if row.verdict and not row.aside]
    of = "" if not any(row.stale for row in rows) else ", by an evaluation that is out of date"
    yield f"On {machine} the baseline reaches {_value(baseline)} over {_count(baseline.n, 'seed pair')}{of}."
    counts = Counter(row.verdict for row in judged)
    if len(judged) > 1:
        told = ", ".join(f"{counts[word]} {word}" for word in VERDICTS if counts[word])
        yield f"Of {len(judged)} arms, compared with it: {told}."
    for word in VERDICTS:
        for row in judged:
            if row.verdict == word:
                yield sentence(row)
    if judged and counts["unresolved"] == len(judged):
        yield f"On {machine} no arm can be told from the baseline yet."


def sentence(row: Row) -> str:
    """The verdict on an arm, by how much and how surely."""
    where = f"{row.arm} on {row.machine}"
    pairs = _count(row.pairs, "shared seed pair")
    sure = f"95 % interval {interval(row.ci_low, row.ci_high)}, {chance(row.p)}, {pairs}"
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
    if trained:
        yield f"The {_count(len(trained), 'finished run')} took {_spent(list(trained))} in all."


def _spent(results: Sequence[Seen]) -> str:
    hours = sum(one.seconds for one in results) / 3600
    dollars, kwh = [one.usd for one in results], [one.kwh for one in results]
    usd = f", ${sum(x or 0 for x in dollars):,.2f}" if None not in dollars else ""
    energy = f", {sum(x or 0 for x in kwh):.3g} kWh" if None not in kwh else ""
    return f"{render.clock(hours)} of machine time{usd}{energy}"


def _missing(material: Material) -> Iterator[str]:
    left = [status for status in material.statuses if status.state is not State.SUCCEEDED]
    if left:
        states = {state: sum(one.state is state for one in left) for state in State}
        listed = ", ".join(f"{count} {state}" for state, count in states.items() if count)
        yield f"No result yet from {len(left):,} of {_count(len(material.statuses), 'run')}: {listed}."


# --- one run ---------------------------------------------------------------------------------------------------------


def answer_of_run(material: Material) -> Iterator[str]:
    """What became of it, what its model is worth, what it cost, and where its arm stands."""
    status = material.run
    assert status is not None
    run = status.run
    again = f", repetition {run.rerun}" if run.rerun else ""
    seeds = f"seeds {run.seeds.init} (weights) and {run.seeds.train} (data and dropout){again}"
    yield f"A run of arm {run.arm} of study {material.name} on {run.machine}, {seeds}."
    yield _state(status)
    for result in material.results:
        yield from _result(result)
    for row in material.table.rows:
        if row.aside:
            yield f"{row.arm} on {row.machine} is not ranked: {row.aside}."
        elif row.verdict:
            yield sentence(row)


def _state(status: Status) -> str:
    reached = f"step {status.step:,} of {status.run.recipe.steps:,}"
    last = status.causes[-1] if status.causes else None
    if status.state is State.FAILED and last:
        return f"It failed at step {last.step:,} of {status.run.recipe.steps:,}, for good: {last.cause}: {last.message}"
    if status.state is State.SUCCEEDED and status.result and status.result.adopted:
        return f"It took the result of {status.result.adopted}: the same recipe, seeds and machine."
    words = {State.QUEUED: "It waits", State.RUNNING: "It is training", State.CANCELLED: "It was cancelled"}
    return f"{words.get(status.state, 'It succeeded')}, at {reached}."


def _result(result: Seen) -> Iterator[str]:
    score = result.score
    error = score.standard_error if score else None
    sure = "" if error is None else f", standard error {error:.4f} for lack of more test items"
    name = score.name if score else TEST
    yield f"Its model reaches {name} {result.test_loss:.4f} {_unit(result)} ({result.evaluation}{sure})."
    yield f"It took {_spent([result])}, at {result.tokens_per_second:,.0f} tokens/s while it trained."
    if result.skipped_steps or result.clipped_steps:
        yield f"Of {result.steps:,} steps {result.skipped_steps:,} were skipped and {result.clipped_steps:,} clipped."


def _value(row: Row) -> str:
    spread = "" if row.sd is None else f" (SD {row.sd:.4f})"
    return f"{row.score} {row.mean:.4f} {_unit(row)}{spread}"


def _unit(row: Row | Seen) -> str:
    return "nats" if row.unit == NATS else row.unit


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'s' * (number != 1)}"
