"""Results -> ranked rows: every arm against the baseline of its own machine, and nothing left out.

They are ranked by one score, the test loss or another (see seen.py). Where higher is better, all is turned round for
the ranking, which takes less for better, and back again in the rows.

What may not be compared is not ranked: other evaluations have a table of their own, and runs that saw other tokens than
their recipes' namesakes are set aside, with the reason (see cohort.py). inference.py says what a difference is
worth; ranks are shared where the noise allows no other. Imported losses are ranked among themselves, with an error rate
of their own: nothing tells whether they may be compared with those of the farm's runs.
"""

from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from typing import Any, NamedTuple

from pydantic import Field

from farm.queue.values import Status
from farm.record.imported import ImportedRun
from farm.record.reference import Reference
from farm.record.result import Result
from farm.record.score import NATS, block_sizes
from farm.stats import mean
from farm.study.arms import BASELINE
from farm.study.looks import Looks
from farm.study.recipe import TEST, Frozen, Seeds
from farm.verdict import sequential
from farm.verdict.cohort import by_arm, by_block, by_seeds, count_seeds, sides, sort, unlike
from farm.verdict.cost import frontier
from farm.verdict.inference import Contrast, Losses, Method, judge
from farm.verdict.items import average, items_error
from farm.verdict.needs import Cost, Needs, needs
from farm.verdict.noise import SeedsRung, seeds_rung
from farm.verdict.ranks import ranks
from farm.verdict.references import ReferenceRow, beside, gap_closed, nearest
from farm.verdict.row import Row, Unfinished, imported_row, row_of, unfinished_of
from farm.verdict.seen import ANOTHER_VERSION, Seen, see
from farm.verdict.twins import Pair, Twins, imported_twins, twins_of
from farm.verdict.unpaired import one_run_resolves


class Table(Frozen):
    """All that a study's runs say so far."""

    rows: tuple[Row, ...]
    twins: tuple[Twins, ...] = ()
    unfinished: tuple[Unfinished, ...] = ()
    references: tuple[ReferenceRow, ...] = Field((), description="models that others trained, by the same evaluation")
    outdated: dict[str, str] = Field({}, description="reference -> why it does not stand beside the rows")
    differences: tuple[str, ...] = Field((), description="in what each further evaluation differs from the first")

    @property
    def evaluations(self) -> list[str]:
        """Their names, that of the baseline first, imported rows last."""
        return list(dict.fromkeys(row.evaluation for row in self.rows))


class _Ranking(NamedTuple):
    """The arms of one evaluation on one machine by name: a row for each, not ranked yet, and its losses."""

    rows: dict[str, Row]
    losses: Mapping[str, Losses]
    runs: Mapping[str, Sequence[Seen]]  # of imported arms there are none


def rank(
    results: Iterable[Result],
    statuses: Iterable[Status] = (),
    margin: float | None = None,
    imported: Sequence[ImportedRun] = (),
    looks: Looks | None = None,
    references: Sequence[Reference] = (),
    by: str = TEST,
) -> Table:
    """Rank `results` by test loss, or as an evaluation has `seen` them, within each evaluation and machine; list the
    `statuses` without one.

    The order is that of the differences to the baseline over shared seeds, so that an arm that lacks a seed is neither
    favoured nor punished for it. All comparisons of the table share one error rate. `margin` is the smallest difference
    that matters. After `looks` (of farm resolve) the verdicts are those that hold over all of them.
    `imported` runs come last, ranked within each machine. `references` that the evaluation `by` has scored as it scored
    the results stand beside the rows.
    """
    sighted = [one if isinstance(one, Seen) else see([one]).results[0] for one in results]
    if any(one.direction == "higher" for one in sighted):
        turned = [one.model_copy(update={"test_loss": -one.test_loss}) for one in sighted]
        table = _turn(_rank(turned, statuses, margin, looks))
    else:
        table = _rank(sighted, statuses, margin, looks)
    table = _with_references(table, sighted, references, by)
    more = {"rows": (*table.rows, *_imported_rows(imported, margin))}
    return table.model_copy(update=more | {"twins": (*table.twins, *imported_twins(imported))})


def _with_references(table: Table, results: Sequence[Seen], references: Sequence[Reference], by: str) -> Table:
    """`table` with the reference models that were scored like its ranked rows, and how far these have come to one."""
    aside = {run_id for row in table.rows if row.aside for run_id in row.runs}
    tested: dict[str, set[str]] = {}
    for result in results:
        if result.run_id not in aside:
            tested.setdefault(result.evaluation, set()).add(result.items)
    found = beside(references, by, tested)
    baselines = {(row.evaluation, row.machine): row for row in table.rows if row.arm == BASELINE and not row.aside}
    rows = [_with_gap(row, baselines.get((row.evaluation, row.machine)), found.rows) for row in table.rows]
    return table.model_copy(update={"rows": tuple(rows), "references": found.rows, "outdated": found.outdated})


def _with_gap(row: Row, baseline: Row | None, references: Sequence[ReferenceRow]) -> Row:
    if baseline is None or row.aside or row.delta is None:
        return row
    to = nearest(baseline.mean, [one for one in references if one.evaluation == row.evaluation], row.direction)
    if to is None:
        return row
    return row.model_copy(update={"gap_closed": gap_closed(row.delta, baseline.mean, to), "gap_to": to.name})


def _rank(results: list[Seen], statuses: Iterable[Status], margin: float | None, looks: Looks | None) -> Table:
    statuses = list(statuses)
    asked = count_seeds([*(status.run for status in statuses), *results])
    first = {result.evaluation for result in results if result.arm == BASELINE}
    fresh = {result.evaluation for result in results if not result.stale}
    results.sort(key=lambda r: (r.evaluation not in first & fresh, r.evaluation not in first, r.evaluation, r.machine))
    twins: list[Twins] = []
    samples: list[Seen] = []
    rankings: list[_Ranking] = []
    below: list[list[Row]] = []  # what is set aside, ranking by ranking
    for _, members in groupby(results, key=lambda r: r.evaluation):
        cohort = sort(list(members))
        machines = [list(group) for _, group in groupby(cohort.together, key=lambda r: r.machine)]
        aside = [result for result in results if result.run_id in cohort.aside]
        for machine in dict.fromkeys(result.machine for result in [*cohort.together, *aside]):
            rankings.append(_ranking([r for r in cohort.together if r.machine == machine], asked))
            below.append(_set_aside([r for r in aside if r.machine == machine], cohort.aside, asked))
        twins += twins_of(machines)
        samples.append((cohort.together or aside)[0])
    judged = _judge(rankings, margin, looks)
    rows = [
        row
        for ranking, seen, apart in zip(rankings, judged, below, strict=True)
        for row in [*_rank_rows(ranking, seen, margin), *apart]
    ]
    return Table(
        rows=tuple(rows),
        twins=tuple(twins),
        unfinished=tuple(unfinished_of(status) for status in statuses if status.result is None),
        differences=tuple(_difference(samples[0], sample) for sample in samples[1:]),
    )


def _difference(first: Seen, other: Seen) -> str:
    """In what the evaluation of `other` differs from that of `first`."""
    how = unlike(first.definition, other.definition) or other.stale or first.stale or ANOTHER_VERSION
    return f"{other.evaluation}: {how}"


def _turn(table: Table) -> Table:
    """With the numbers as they were before they were turned round, since higher is better."""
    twins = [one.model_copy(update={"pairs": tuple(_turn_pair(pair) for pair in one.pairs)}) for one in table.twins]
    return table.model_copy(update={"rows": tuple(map(_turn_row, table.rows)), "twins": tuple(twins)})


def _turn_row(row: Row) -> Row:
    check = row.check and row.check.model_copy(update=_turn_ends(row.check.ci_low, row.check.ci_high))
    update = {"mean": -row.mean, "delta": _negative(row.delta), "check": check}
    return row.model_copy(update=update | _turn_ends(row.ci_low, row.ci_high))


def _turn_ends(low: float | None, high: float | None) -> dict[str, float | None]:
    return {"ci_low": _negative(high), "ci_high": _negative(low)}


def _turn_pair(pair: Pair) -> Pair:
    return pair.model_copy(update={"test_losses": tuple(-loss for loss in pair.test_losses)})


def _negative(value: float | None) -> float | None:
    return None if value is None else 0.0 - value  # no -0.0


def _ranking(cohort: Sequence[Seen], asked: Mapping[tuple[str, str], int]) -> _Ranking:
    arms = by_arm(cohort)
    rows = {name: row_of(members, arms.get(BASELINE, []), asked) for name, members in arms.items()}
    return _Ranking(rows, {name: by_seeds(members) for name, members in arms.items()}, arms)


def _imported_rows(runs: Sequence[ImportedRun], margin: float | None) -> list[Row]:
    """The rows of each machine, best first; all of them share an error rate."""
    machines: dict[str, dict[str, list[ImportedRun]]] = {}
    for run in runs:
        machines.setdefault(run.machine, {}).setdefault(run.arm, []).append(run)
    rankings = [_imported_ranking(machines[name]) for name in sorted(machines)]
    judged = judge([sides(ranking.losses) for ranking in rankings], margin)
    return [row for ranking, seen in zip(rankings, judged, strict=True) for row in _rank_rows(ranking, seen, margin)]


def _imported_ranking(arms: Mapping[str, Sequence[ImportedRun]]) -> _Ranking:
    losses = {name: by_block(members) for name, members in arms.items()}
    baseline = losses.get(BASELINE, {})
    return _Ranking({name: imported_row(arms[name], losses[name], baseline) for name in arms}, losses, {})


def _judge(rankings: Sequence[_Ranking], margin: float | None, looks: Looks | None) -> list[dict[str, Contrast]]:
    machines = [next((row.machine for row in one.rows.values()), "") for one in rankings]
    return sequential.judge_all([sides(ranking.losses) for ranking in rankings], machines, margin, looks)


def _rank_rows(ranking: _Ranking, seen: Mapping[str, Contrast], margin: float | None) -> list[Row]:
    """The rows of one evaluation on one machine, best first."""
    rows = dict(ranking.rows)
    if BASELINE in rows:
        rows = {name: _with_verdict(row, rows[BASELINE], ranking, seen, margin) for name, row in rows.items()}
        rows[BASELINE] = _with_noise(rows[BASELINE])
    reference = rows[BASELINE].mean if BASELINE in rows else 0.0
    place = {name: row.mean if row.delta is None else reference + row.delta for name, row in rows.items()}
    order = sorted(rows, key=lambda name: (place[name], name))
    looked = any(one.method == "sequential" for one in seen.values())
    words = {name: row.verdict for name, row in rows.items()}
    ranked = ranks(order, BASELINE, ranking.losses, words, is_looked=looked)
    order.sort(key=lambda name: ranked[name])
    cost = {name: mean([result.train_seconds for result in members]) for name, members in ranking.runs.items()}
    front = frontier({name: (ranked[name], cost[name]) for name in order if name in cost})  # of imported ones none is
    return [rows[name].model_copy(update={"rank": ranked[name], "pareto": name in front}) for name in order]


def _with_noise(baseline: Row) -> Row:
    spread = baseline.sd
    resolves = None if spread is None else one_run_resolves(spread, baseline.n)
    return baseline.model_copy(update={"one_run_resolves": resolves})


def _with_verdict(
    row: Row, baseline: Row, ranking: _Ranking, seen: Mapping[str, Contrast], margin: float | None
) -> Row:
    """`row` with what its comparison with the baseline says, if it is not the baseline itself."""
    if row.arm == BASELINE:
        return row
    found = seen.get(row.arm)
    if found is None:
        error = _items_error(ranking, row.arm, is_paired=True)
        return row.model_copy(update={"verdict": "unresolved", "margin": margin, "test_set_error": error})
    update = {name: getattr(found, name) for name in ("delta", "ci_low", "ci_high", "p", "method", "check")}
    update |= {"verdict": found.word, "margin": margin, "seed_error": found.error}
    update |= {"rung": _rung(found.method, ranking.losses[row.arm], ranking.losses[BASELINE])}
    update |= {"test_set_error": _items_error(ranking, row.arm, is_paired=found.method.startswith("paired"))}
    if found.word == "better" and row.usd is not None and row.unit == NATS:
        update["usd_per_hundredth"] = row.usd / (-found.delta / 0.01)
    if found.word == "unresolved":
        update |= _needs(row, baseline, ranking, found)
    return row.model_copy(update=update)


def _rung(method: Method, arm: Losses, baseline: Losses) -> SeedsRung | None:
    """Which seeds change among the runs that the noise of a comparison comes from."""
    if method == "welch":
        return seeds_rung(arm, baseline)
    if method == "prediction":
        return seeds_rung(arm if len(arm) > len(baseline) else baseline)
    shared = [block for block in arm if block in baseline]
    return seeds_rung(shared if len(shared) > 1 else baseline)  # a single run borrows the noise of the others' pairs


def _items_error(ranking: _Ranking, name: str, *, is_paired: bool) -> float | None:
    """The part of the error of an arm's difference that is the test set's, from the blocks of the scores."""
    arm, baseline = ranking.runs.get(name, ()), ranking.runs.get(BASELINE, ())
    counts = {one.score.count if one.score else 0 for one in (*arm, *baseline)}
    if len(counts) != 1 or 0 in counts:
        return None
    return items_error(_blocks(arm), _blocks(baseline), block_sizes(counts.pop()), is_paired=is_paired)


def _blocks(results: Iterable[Seen]) -> dict[Seeds, list[float]]:
    groups: dict[Seeds, list[Sequence[float]]] = {}
    for result in results:
        if result.score:
            groups.setdefault(result.seeds, []).append(result.score.blocks)
    return {seeds: average(runs) for seeds, runs in groups.items()}


def _needs(row: Row, baseline: Row, ranking: _Ranking, found: Contrast) -> dict[str, Any]:
    own, other = Cost(row.hours, row.usd), Cost(baseline.hours, baseline.usd)
    arm, others = (_with_seeds(ranking.losses[name]) for name in (row.arm, BASELINE))
    more: Needs | None = needs(found, arm, others, own, other)
    if more is None:
        return {}
    return {"needs_seeds": more.pairs, "needs_runs": more.runs, "needs_hours": more.hours, "needs_usd": more.usd}


def _with_seeds(losses: Losses) -> Losses:
    """Those that a run of the same seeds can join: not of a run whose seeds are not known."""
    return {block: loss for block, loss in losses.items() if isinstance(block, Seeds)}


def _set_aside(results: Sequence[Seen], reasons: Mapping[str, str], asked: Mapping[tuple[str, str], int]) -> list[Row]:
    """Rows that are compared with nothing, each with the reason."""
    return [
        row_of(members, [], asked).model_copy(update={"aside": reasons[members[0].run_id]})
        for members in by_arm(results).values()
    ]
