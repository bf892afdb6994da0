"""Remarks below a table, on what its rows do not show."""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Protocol

from cli import render
from cli.cells import Placed, list_rows
from cli.noise import hardware_line
from farm.record.imported import EVALUATION as IMPORTED
from farm.study.arms import BASELINE
from farm.study.run import State
from farm.verdict.row import Row
from farm.verdict.table import Table
from farm.verdict.twins import Twins

# The noise that a difference was tested against, for people.
RUNGS = {
    "init seed": "the noise of the init seed; the train seed never changes, so its effect is not in the intervals",
    "train seed": "the noise of the train seed; the init seed never changes, so its effect is not in the intervals",
    "both seeds": "the noise of both seeds together",
    None: "noise of an unknown kind, since the seeds of some runs are not known",
}
IMPORTS_APART = (
    "such rows are ranked among themselves, and never with runs of this farm, since nothing checks that they were"
    " trained and tested alike"
)
# How an arm was told from the baseline, for people.
METHODS = {
    "paired": "paired differences, one for each seed pair; the arms' variances pooled, Dunnett's distribution",
    "paired-own": "paired differences, one for each seed pair; each arm's own variance, since they are unequal; Holm",
    "welch": "two sets of runs that share no seed pairs: Welch's t with Cochran and Cox's critical value; Holm",
    "sequential": "paired differences at the looks of farm resolve, each arm's own variance; intervals and p hold over"
    " all looks (Lan and DeMets' spending, added up), and Holm over the arms",
    "prediction": "one run against a set of runs: a prediction interval, which assumes both equally noisy",
}


def remarks(ranked: Table, every: bool = False) -> Iterator[str]:
    """Remarks on rows that are not ranked together and why, on every run without a result, and on the hardware."""
    evaluations = [name for name in ranked.evaluations if name != IMPORTED]
    if len(evaluations) > 1:
        yield f"{len(evaluations)} evaluations, never ranked together; the first is {evaluations[0]}"
        for difference in ranked.differences:
            yield f"  {difference}"
        yield "  set evaluation.source and evaluation.context in the baseline to give all arms the same test"
    if imported := [row for row in ranked.rows if row.imported]:
        yield f"imported: {len(imported)} row{'s' * (len(imported) != 1)}, trained elsewhere; {IMPORTS_APART}"
    yield from _rounded_lines(ranked)
    yield from _reference_lines(ranked)
    for reason, rows in _aside(ranked).items():
        yield f"not ranked: {', '.join(rows)}: {reason}"
    yield from _verdict_lines(ranked)
    yield from _test_set_lines(ranked)
    for name in sorted({row.machine for row in ranked.rows if row.mixed}):
        yield f"mixed: {name} trains one run over several machine classes; its rows are ranked among themselves only"
    for name in sorted({row.machine for row in ranked.rows if row.usd and not row.imported}):
        prices = dict.fromkeys(price for row in ranked.rows if row.machine == name for price in row.prices)
        yield f"$ of {name}: {render.prices(prices) or 'the price behind them is not on record'}"
    for row in ranked.rows:
        if row.usd_per_hundredth:
            price = render.dollars(row.usd_per_hundredth)
            yield f"{row.arm} on {row.machine}: ${price} a run for each 0.01 nats gained"
    if used := [f"{row.arm} on {row.machine} {row.kwh:.3g}" for row in ranked.rows if row.kwh is not None]:
        yield f"kWh of a run, all its attempts: {', '.join(used)}"
    for run in ranked.unfinished:
        if run.state is not State.QUEUED:
            cause = f": {run.cause}" if run.cause else ""
            yield f"{run.state}: {run.run} at step {run.step:,}/{run.steps:,}{cause}"
    waiting = Counter((run.arm, run.machine) for run in ranked.unfinished if run.state is State.QUEUED)
    for (arm, machine), count in waiting.items():
        yield f"queued: {count} of {arm} on {machine}"
    for twins in ranked.twins:
        yield from _twin_lines(twins, every)


def _rounded_lines(ranked: Table) -> Iterator[str]:
    """The imported losses that were rounded until they show no noise."""
    found: dict[int, list[Row]] = {}
    for row in ranked.rows:
        if row.decimals is not None:
            found.setdefault(row.decimals, []).append(row)
    for decimals, rows in found.items():
        yield (
            f"rounded: the imported losses of {list_rows(rows)} have {decimals} decimals, and their SD, or that of the"
            " differences to the baseline, is less than the last one: intervals and verdicts that rest on so little"
            " noise are not to be believed; import these losses with more digits"
        )


def _reference_lines(ranked: Table) -> Iterator[str]:
    """The reference models, and the one to which the gap is measured."""
    for one in ranked.references:
        error = "" if one.standard_error is None else f" ± {one.standard_error:.4f} (standard error of the test set)"
        yield (
            f"reference: {one.name}: {one.value:.4f}{error}, {one.parameters:,} parameters; not trained by this study;"
            " one model without seeds has neither rank nor verdict"
        )
    gaps: dict[str, list[str]] = {}
    for row in ranked.rows:
        if row.arm == BASELINE and row.gap_to:
            gaps.setdefault(row.gap_to, []).append(row.machine)
    for name, machines in gaps.items():
        several = ", the nearest of the references better than the baseline" if len(ranked.references) > 1 else ""
        yield (
            f"gap closed on {', '.join(machines)}: the difference to the baseline, as a percentage of the way"
            f" from the baseline's mean to {name}{several}; the reference's own error is not in it"
        )
    passed = [
        row.machine
        for row in ranked.rows
        if row.arm == BASELINE
        and not (row.aside or row.imported or row.gap_to)
        and any(one.evaluation == row.evaluation for one in ranked.references)
    ]
    if passed:
        yield f"no gap to close on {', '.join(passed)}: no reference is better than the baseline"


def _aside(ranked: Table) -> dict[str, list[str]]:
    """Why rows are not ranked -> those rows."""
    found: dict[str, list[str]] = {}
    for row in ranked.rows:
        if row.aside:
            found.setdefault(row.aside, []).append(f"{row.arm} on {row.machine}")
    return found


def _verdict_lines(ranked: Table) -> Iterator[str]:
    """How the verdicts were reached, and how to resolve the rows that have none."""
    judged = [row for row in ranked.rows if row.verdict]
    tested = [row for row in judged if row.method]
    if tested:
        own, imports = (sum(row.imported is of for row in tested) for of in (False, True))
        apart = f", and for all {imports} of imported losses" if own and imports else ""
        every = f", for all {own or imports} comparisons at once{apart}" if len(tested) > 1 else ""
        yield f"± is the half-width of a 95 % interval{every}"
    yield from method_lines(tested)
    for rung, text in RUNGS.items():
        rows = [row for row in tested if row.rung == rung]
        if rows:
            yield f"tested against{'' if len(rows) == len(tested) else f' for {list_rows(rows)}'}: {text}"
    for row in ranked.rows:
        if row.one_run_resolves is not None and any(_is_one_run(other, row) for other in tested):
            yield (
                f"baseline on {row.machine}: SD {row.sd:.4f} over {row.n} runs; one more of its runs lies"
                f" within {row.one_run_resolves:.4f} of its mean in 95 of 100 cases"
            )
    for row in tested:
        if row.check and (row.check.p < 0.05) != (row.p is not None and row.p < 0.05):
            yield (
                f"check of {row.arm} on {row.machine}, assuming no distribution, and for this comparison alone:"
                f" bootstrap {row.check.ci_low:+.4f} to {row.check.ci_high:+.4f},"
                f" sign flips p = {render.probability(row.check.p)}"
            )
    why: dict[str, list[Row]] = {}
    for row in judged:
        if row.verdict == "unresolved":
            why.setdefault(needs(row), []).append(row)
    for text, rows in why.items():
        yield f"unresolved: {list_rows(rows)}: {text}"
    for key in dict.fromkeys((row.evaluation, row.machine) for row in ranked.rows if not row.aside):
        arms = [row for row in ranked.rows if (row.evaluation, row.machine) == key and not row.aside]
        if not any(row.arm == BASELINE for row in arms):
            yield f"no baseline on {key[1]}: nothing to compare {list_rows(arms)} with"


class Compared(Placed, Protocol):
    """An arm that was compared with the baseline."""

    @property
    def method(self) -> str | None: ...


def method_lines(tested: Sequence[Compared]) -> Iterator[str]:
    """How the arms were told from the baseline."""
    for method, text in METHODS.items():
        rows = [row for row in tested if row.method == method]
        if rows:
            yield f"method{'' if len(rows) == len(tested) else f' for {list_rows(rows)}'}: {text}"


def _test_set_lines(ranked: Table) -> Iterator[str]:
    """Where the finite test set leaves more doubt than the seeds do: more seeds would not help there."""
    for row in ranked.rows:
        if row.test_set_error and row.seed_error is not None and row.test_set_error > row.seed_error:
            yield (
                f"test set: of {row.arm} on {row.machine}, the difference is uncertain by {row.test_set_error:.4f}"
                f" (standard error) for lack of more test items, and by {row.seed_error:.4f} for lack of more seeds:"
                " the interval holds for these items alone"
            )


def _is_one_run(row: Row, baseline: Row) -> bool:
    there = (row.evaluation, row.machine) == (baseline.evaluation, baseline.machine)
    return there and row.method == "prediction" and row.n == 1


def needs(row: Row) -> str:
    """The remedy for an unresolved row, in words."""
    if row.method is None:
        if row.delta is None:
            return "it shares no seed pair with the baseline, and neither has a second run; add seed pairs"
        return "a single seed pair shows no noise to compare the difference with; add seed pairs"
    if row.needs_seeds is None:
        return "no number of seed pairs below 1,000 would show a difference as small as this"
    many = f"{row.needs_seeds:,} more seed pair{'s' * (row.needs_seeds != 1)}"
    money = "$ unknown" if row.needs_usd is None else f"${render.dollars(row.needs_usd)}"
    runs = f"{row.needs_runs:,} run{'s' * (row.needs_runs != 1)}"
    hours = "hours unknown" if row.needs_hours is None else render.clock(row.needs_hours)
    price = f"{runs}, {hours}, {money}"
    return f"{many} would show a difference as large as this with 80 % power: {price}"


def _twin_lines(twins: Twins, every: bool) -> Iterator[str]:
    left, right = twins.machines
    count = f"{len(twins.pairs)} pair{'s' * (len(twins.pairs) != 1)} of runs"
    yield f"hardware twins: {left} and {right}, {count}: {twins.agreement} (max |Δ| {twins.max_difference:.3g})"
    if twins.max_difference and twins.hardware.ci_low is not None:
        yield hardware_line(twins.hardware)
    for pair in twins.pairs if every else ():
        yield f"  {pair.arm} s{pair.seeds}: {right} - {left} = {pair.difference:+.3g}"
