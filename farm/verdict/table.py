"""Results -> ranked rows: every arm against the baseline of its own machine, and nothing left out.

They are ranked by one score, the test loss or another (see seen.py). Where higher is better, all is turned round for
the ranking, which takes less for better, and back again in the rows.

What may not be compared is not ranked: other evaluations have a table of their own, and runs that saw other tokens than
their recipes' namesakes are set aside, with the reason (see cohort.py). inference.py says what a difference is
worth; ranks are shared where the noise allows no other. Imported losses are ranked among themselves, with an error rate
of their own: nothing tells whether they may be compared with those of the farm's runs.
"""

from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations, groupby
from math import ceil, log10
from typing import Any, NamedTuple

from pydantic import Field

from farm.queue.values import Status
from farm.record.imported import EVALUATION as IMPORTED
from farm.record.imported import ImportedRun
from farm.record.reference import Reference
from farm.record.result import Result
from farm.record.score import NATS, Direction, Score, block_sizes
from farm.stats import mean, sd
from farm.study.arms import BASELINE
from farm.study.looks import Looks
from farm.study.machine import Price, is_mixed
from farm.study.recipe import TEST, Frozen, Seeds, digest
from farm.study.run import State
from farm.verdict import sequential
from farm.verdict.cohort import SHORT, by_arm, by_block, by_seeds, seeds_asked, sort, unlike
from farm.verdict.cost import frontier
from farm.verdict.inference import Check, Comparison, Losses, Method, Word, judge
from farm.verdict.items import averaged, items_error
from farm.verdict.needs import Cost, Needs, needs
from farm.verdict.noise import Hardware, SeedsRung, hardware, seeds_rung
from farm.verdict.noise import Run as Twin
from farm.verdict.ranks import ranks
from farm.verdict.references import ReferenceRow, beside, gap_closed, nearest
from farm.verdict.seen import ANOTHER_VERSION, Seen, seen
from farm.verdict.unpaired import one_run_resolves


class Cell(Frozen):
    """What an arm is worth by one evaluation, over its seeds."""

    evaluation: str
    unit: str
    direction: Direction
    mean: float
    sd: float | None
    n: int = Field(description="different seeds that have it")
    stale: str | None = Field(None, description="in what its evaluation is another than the study has now")


class Row(Frozen):
    """An arm on a machine, over its seeds. Repetitions of one seed are averaged first: they are no new evidence."""

    imported: bool = Field(False, description="trained elsewhere; what its source does not say is None")
    evaluation: str = Field(description="version behind the losses")
    machine: str
    mixed: bool = Field(description="trained over several machine classes at once: says nothing about any of them")
    rank: int | None = Field(
        description="1 is the best of its evaluation and machine; shared within the noise; None: set aside"
    )
    arm: str
    n: int = Field(description="different seeds")
    asked: int = Field(description="different seeds that the study asks for")
    score: str = Field(description="the evaluation that arms are ranked by")
    unit: str
    direction: Direction = Field(description="of the score: which is better")
    mean: float = Field(description="of the score, over seeds")
    sd: float | None = Field(description="of the score over seeds, divided by n - 1; None when n is 1")
    stale: str | None = Field(None, description="in what its evaluation is another than the study has now")
    scores: dict[str, Cell] = Field({}, description="every score of the arm, by evaluation; the test loss too")
    test_loss_mean: float = Field(description="nats per token; the score, where that is the test loss")
    test_loss_sd: float | None = Field(description="over seeds, divided by n - 1; None when n is 1")
    delta: float | None = Field(
        description="score less the baseline's: over the shared seeds, or of both means, as `method` says"
    )
    seed_error: float | None = Field(None, description="standard error of delta over the seeds")
    test_set_error: float | None = Field(
        None, description="standard error of delta that is due to the finite test set; None without its items' values"
    )
    ci_low: float | None = Field(None, description="95 % interval of delta, simultaneous over the table's comparisons")
    ci_high: float | None = None
    p: float | None = Field(None, description="of no difference, adjusted for the table's comparisons")
    method: Method | None = Field(None, description="how delta was tested; None: nothing tells the noise")
    rung: SeedsRung | None = Field(
        None, description="the noise that delta was tested against: of which seeds; None: not tested, or seeds unknown"
    )
    margin: float | None = Field(
        None, description="study.margin: the smallest difference that matters, in the unit of the score"
    )
    gap_closed: float | None = Field(
        None, description="delta as a percentage of the gap between the baseline's mean and `gap_to`; negative: away"
    )
    gap_to: str | None = Field(
        None, description="the reference model behind gap_closed: of those better than the baseline the nearest to it"
    )
    verdict: Word | None = Field(None, description="None: the baseline, or nothing to compare with")
    needs_seeds: int | None = Field(
        None, description="seed pairs to add, to find a difference as large as delta with a power of 80 %"
    )
    needs_runs: int | None = Field(None, description="the runs of arm and baseline that these pairs lack")
    needs_hours: float | None = Field(None, description="of the machine, for these runs")
    needs_usd: float | None = Field(None, description="for these runs; None when a price is unknown")
    check: Check | None = Field(None, description="bootstrap and sign flips, unadjusted, from six pairs")
    one_run_resolves: float | None = Field(
        None, description="of the baseline: how far one more of its runs lies from its mean in 95 of 100 cases"
    )
    pareto: bool | None = Field(
        None, description="whether no arm has both a better rank and no higher train hours; None: set aside"
    )
    pairs: int = Field(description="seeds that the baseline on this machine has too")
    tokens_per_second: float | None = Field(description="mean over runs; None where it is unknown of one")
    hours: float | None = Field(description="wall clock of one run, all its attempts, mean over runs; None: unknown")
    usd: float | None = Field(description="of one run, mean over runs; None when a price is unknown")
    kwh: float | None = Field(None, description="of one run, all its attempts, mean over runs; None: no meter told it")
    usd_per_hundredth: float | None = Field(
        None, description="of an arm that is better: what a run costs for each hundredth of a nat that it gains"
    )
    prices: tuple[Price, ...] = Field((), description="behind `usd`: whose, and of which date")
    same_init: bool | None = Field(description="began from the baseline's weights, seed by seed; None without any")
    init_hash: str | None = Field(description="short digest of the runs' first weights; None: imported")
    aside: str | None = Field(None, description="why it is not ranked")
    runs: tuple[str, ...]


class Unfinished(Frozen):
    """A run of the study that has no result, and why."""

    run: str
    arm: str
    machine: str
    seeds: str
    state: State
    step: int
    steps: int
    cause: str | None = None


class Pair(Frozen):
    """One recipe with the same seeds on two machines."""

    arm: str
    seeds: str
    runs: tuple[str, str]
    test_losses: tuple[float, float]

    @property
    def difference(self) -> float:
        return self.test_losses[1] - self.test_losses[0]


class Twins(Frozen):
    """What the hardware alone does: every pair of twins that two machines share."""

    evaluation: str
    machines: tuple[str, str]
    pairs: tuple[Pair, ...]
    hardware: Hardware = Field(
        description="the effect of the machine, with its interval, and whether arms differ in it"
    )

    @property
    def max_difference(self) -> float:
        return max(abs(pair.difference) for pair in self.pairs)

    @property
    def agreement(self) -> str:
        """In words: identical to the bit, to which power of ten they agree, or how far apart they are."""
        worst = self.max_difference
        if worst == 0:
            return "identical to the bit"
        return f"agree to 1e{ceil(log10(worst))}" if worst <= 1e-3 else f"differ by up to {worst:.4f}"


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
    sighted = [one if isinstance(one, Seen) else seen([one]).results[0] for one in results]
    if any(one.direction == "higher" for one in sighted):
        turned = [one.model_copy(update={"test_loss": -one.test_loss}) for one in sighted]
        table = _turned(_rank(turned, statuses, margin, looks))
    else:
        table = _rank(sighted, statuses, margin, looks)
    table = _with_references(table, sighted, references, by)
    more = {"rows": (*table.rows, *_imported_rows(imported, margin))}
    return table.model_copy(update=more | {"twins": (*table.twins, *_imported_twins(imported))})


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
    asked = seeds_asked([*(status.run for status in statuses), *results])
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
        twins += _twins(machines)
        samples.append((cohort.together or aside)[0])
    judged = _judged(rankings, margin, looks)
    rows = [
        row
        for ranking, seen, apart in zip(rankings, judged, below, strict=True)
        for row in [*_ranked(ranking, seen, margin), *apart]
    ]
    return Table(
        rows=tuple(rows),
        twins=tuple(twins),
        unfinished=tuple(_unfinished(status) for status in statuses if status.result is None),
        differences=tuple(_difference(samples[0], sample) for sample in samples[1:]),
    )


def _difference(first: Seen, other: Seen) -> str:
    """In what the evaluation of `other` differs from that of `first`."""
    how = unlike(first.definition, other.definition) or other.stale or first.stale or ANOTHER_VERSION
    return f"{other.evaluation}: {how}"


def _turned(table: Table) -> Table:
    """With the numbers as they were before they were turned round, since higher is better."""
    twins = [one.model_copy(update={"pairs": tuple(_turned_pair(pair) for pair in one.pairs)}) for one in table.twins]
    return table.model_copy(update={"rows": tuple(map(_turned_row, table.rows)), "twins": tuple(twins)})


def _turned_row(row: Row) -> Row:
    check = row.check and row.check.model_copy(update=_turned_ends(row.check.ci_low, row.check.ci_high))
    update = {"mean": -row.mean, "delta": _negative(row.delta), "check": check}
    return row.model_copy(update=update | _turned_ends(row.ci_low, row.ci_high))


def _turned_ends(low: float | None, high: float | None) -> dict[str, float | None]:
    return {"ci_low": _negative(high), "ci_high": _negative(low)}


def _turned_pair(pair: Pair) -> Pair:
    return pair.model_copy(update={"test_losses": tuple(-loss for loss in pair.test_losses)})


def _negative(value: float | None) -> float | None:
    return None if value is None else 0.0 - value  # no -0.0


def _ranking(cohort: Sequence[Seen], asked: Mapping[tuple[str, str], int]) -> _Ranking:
    arms = by_arm(cohort)
    rows = {name: _row(members, arms.get(BASELINE, []), asked) for name, members in arms.items()}
    return _Ranking(rows, {name: by_seeds(members) for name, members in arms.items()}, arms)


def _imported_rows(runs: Sequence[ImportedRun], margin: float | None) -> list[Row]:
    """The rows of each machine, best first; all of them share an error rate."""
    machines: dict[str, dict[str, list[ImportedRun]]] = {}
    for run in runs:
        machines.setdefault(run.machine, {}).setdefault(run.arm, []).append(run)
    rankings = [_imported_ranking(machines[name]) for name in sorted(machines)]
    judged = judge([_sides(ranking) for ranking in rankings], margin)
    return [row for ranking, seen in zip(rankings, judged, strict=True) for row in _ranked(ranking, seen, margin)]


def _imported_ranking(arms: Mapping[str, Sequence[ImportedRun]]) -> _Ranking:
    losses = {name: by_block(members) for name, members in arms.items()}
    baseline = losses.get(BASELINE, {})
    return _Ranking({name: _imported_row(arms[name], losses[name], baseline) for name in arms}, losses, {})


def _imported_row(members: Sequence[ImportedRun], losses: Losses, baseline: Losses) -> Row:
    first = members[0]
    shared = [losses[block] - baseline[block] for block in losses if block in baseline]
    return Row(
        imported=True,
        evaluation=IMPORTED,
        machine=first.machine,
        mixed=is_mixed(first.machine),
        rank=None,
        arm=first.arm,
        n=len(losses),
        asked=len(losses),
        score=TEST,
        unit=NATS,
        direction="lower",
        mean=mean(list(losses.values())),
        sd=sd(list(losses.values())),
        test_loss_mean=mean(list(losses.values())),
        test_loss_sd=sd(list(losses.values())),
        delta=mean(shared) if shared else None,
        pairs=len(shared),
        tokens_per_second=_mean_of_all([run.tokens_per_second for run in members]),
        hours=_mean_of_all([run.hours for run in members]),
        usd=_mean_of_all([run.usd for run in members]),
        same_init=None,
        init_hash=None,
        runs=tuple(sorted(run.id for run in members)),
    )


def _mean_of_all(values: Sequence[float | None]) -> float | None:
    """Their mean; None where one is unknown."""
    known = [value for value in values if value is not None]
    return mean(known) if len(known) == len(values) else None


def _judged(rankings: Sequence[_Ranking], margin: float | None, looks: Looks | None) -> list[dict[str, Comparison]]:
    machines = [next((row.machine for row in one.rows.values()), "") for one in rankings]
    return sequential.judged([_sides(ranking) for ranking in rankings], machines, margin, looks)


def _sides(ranking: _Ranking) -> tuple[Losses, dict[str, Losses]]:
    """The baseline's losses, and those of every other arm."""
    others = {name: losses for name, losses in ranking.losses.items() if name != BASELINE}
    return ranking.losses.get(BASELINE, {}), others


def _ranked(ranking: _Ranking, seen: Mapping[str, Comparison], margin: float | None) -> list[Row]:
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
    row: Row, baseline: Row, ranking: _Ranking, seen: Mapping[str, Comparison], margin: float | None
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
        update |= _needed(row, baseline, ranking, found)
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
    """What of the error of an arm's difference is the test set's, from the blocks of the scores."""
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
    return {seeds: averaged(runs) for seeds, runs in groups.items()}


def _cells(members: Sequence[Seen]) -> dict[str, Cell]:
    """Every score of an arm; of several evaluations of one name the one that most runs have, today's first."""
    found: dict[str, dict[str, list[tuple[Seen, Score]]]] = {}
    for member in members:
        for score in member.scores:
            found.setdefault(score.name, {}).setdefault(score.evaluation, []).append((member, score))
    return {name: _cell(max(groups.values(), key=len)) for name, groups in found.items()}


def _cell(scored: Sequence[tuple[Seen, Score]]) -> Cell:
    by_pair: dict[Seeds, list[float]] = {}
    for member, score in scored:
        by_pair.setdefault(member.seeds, []).append(score.value)
    values, (member, score) = [mean(runs) for runs in by_pair.values()], scored[0]
    return Cell(
        evaluation=score.evaluation,
        unit=score.unit,
        direction=score.direction,
        mean=mean(values),
        sd=sd(values),
        n=len(values),
        stale=member.outdated.get(score.evaluation),
    )


def _needed(row: Row, baseline: Row, ranking: _Ranking, found: Comparison) -> dict[str, Any]:
    own, other = Cost(row.hours, row.usd), Cost(baseline.hours, baseline.usd)
    arm, others = (_paired(ranking.losses[name]) for name in (row.arm, BASELINE))
    more: Needs | None = needs(found, arm, others, own, other)
    if more is None:
        return {}
    return {"needs_seeds": more.pairs, "needs_runs": more.runs, "needs_hours": more.hours, "needs_usd": more.usd}


def _paired(losses: Losses) -> Losses:
    """Those that a run of the same seeds can join: not of a run whose seeds are not known."""
    return {block: loss for block, loss in losses.items() if isinstance(block, Seeds)}


def _set_aside(results: Sequence[Seen], reasons: Mapping[str, str], asked: Mapping[tuple[str, str], int]) -> list[Row]:
    """Rows that are compared with nothing, each with the reason."""
    return [
        _row(members, [], asked).model_copy(update={"aside": reasons[members[0].run_id]})
        for members in by_arm(results).values()
    ]


def _row(members: Sequence[Seen], baseline: Sequence[Seen], asked: Mapping[tuple[str, str], int]) -> Row:
    first = members[0]
    losses, others = by_seeds(members), by_seeds(baseline)
    own = list(by_seeds(one.model_copy(update={"test_loss": one.own_test_loss}) for one in members).values())
    shared = [seeds for seeds in losses if seeds in others]
    prices = [result.usd for result in members if result.usd is not None]
    energies = [result.kwh for result in members if result.kwh is not None]
    return Row(
        evaluation=first.evaluation,
        machine=first.machine,
        mixed=is_mixed(first.machine),
        rank=None,
        arm=first.arm,
        n=len(losses),
        asked=asked[first.arm, first.machine],
        score=first.score.name if first.score else TEST,
        unit=first.unit,
        direction=first.direction,
        mean=mean(list(losses.values())),
        sd=sd(list(losses.values())),
        stale=first.stale,
        scores=_cells(members),
        test_loss_mean=mean(own),
        test_loss_sd=sd(own),
        delta=mean([losses[seeds] - others[seeds] for seeds in shared]) if shared else None,
        pairs=len(shared),
        tokens_per_second=mean([result.tokens_per_second for result in members]),
        hours=mean([result.seconds for result in members]) / 3600,
        usd=mean(prices) if len(prices) == len(members) else None,
        kwh=mean(energies) if len(energies) == len(members) else None,
        prices=tuple(dict.fromkeys(price for result in members for price in result.prices)),
        same_init=_first_weights(members, shared) == _first_weights(baseline, shared) if shared else None,
        init_hash=_short(_first_weights(members, losses)),
        runs=tuple(sorted(result.run_id for result in members)),
    )


def _first_weights(results: Iterable[Result], seeds: Iterable[Seeds]) -> dict[str, set[str]]:
    """The fingerprints of the first weights by pair of seeds."""
    found: dict[str, set[str]] = {str(pair): set() for pair in seeds}
    for result in results:
        if str(result.seeds) in found:
            found[str(result.seeds)].add(result.fingerprints.initial)
    return found


def _short(prints: Mapping[str, set[str]]) -> str:
    hashes = sorted(set().union(*prints.values()))
    return (hashes[0] if len(hashes) == 1 else digest(hashes))[:SHORT]


def _twins(cohorts: Sequence[Sequence[Result]]) -> Iterable[Twins]:
    """Mixed groups have none: what differs there is no one machine's doing."""
    for left, right in combinations([cohort for cohort in cohorts if not is_mixed(cohort[0].machine)], 2):
        there = {_twin_key(result): result for result in right}
        both = [(result, there[key]) for result in left if (key := _twin_key(result)) in there]
        if both:
            machines = (left[0].machine, right[0].machine)
            pairs = sorted((_pair(*two) for two in both), key=lambda pair: (pair.arm, pair.seeds, pair.runs))
            effect = _effect((one.recipe.digest, one, other) for one, other in both)
            yield Twins(evaluation=left[0].evaluation, machines=machines, pairs=tuple(pairs), hardware=effect)


def _effect(pairs: Iterable[tuple[str, Result | ImportedRun, Result | ImportedRun]]) -> Hardware:
    """What the second machine does to the loss of the first; each pair with what names its recipe."""
    runs = [
        Twin(recipe, run.machine, run.seeds, run.rerun, run.test_loss)
        for recipe, *both in pairs
        for run in both
        if run.seeds
    ]
    (found,) = hardware(runs)
    return found


def _imported_twins(runs: Sequence[ImportedRun]) -> Iterable[Twins]:
    """Imported runs of one arm and known seeds on two machines; their source says that these are one recipe."""
    machines: dict[str, dict[tuple[str, str, int], ImportedRun]] = {}
    for run in runs:
        if run.seeds and not is_mixed(run.machine):
            machines.setdefault(run.machine, {})[run.arm, str(run.seeds), run.rerun] = run
    for left, right in combinations(sorted(machines), 2):
        one, other = machines[left], machines[right]
        pairs = [
            Pair(
                arm=key[0],
                seeds=key[1],
                runs=(one[key].id, other[key].id),
                test_losses=(one[key].test_loss, other[key].test_loss),
            )
            for key in sorted(one.keys() & other.keys())
        ]
        if pairs:
            effect = _effect((key[0], one[key], other[key]) for key in one.keys() & other.keys())
            yield Twins(evaluation=IMPORTED, machines=(left, right), pairs=tuple(pairs), hardware=effect)


def _twin_key(result: Result) -> tuple[Any, ...]:
    return result.recipe.digest, result.seeds, result.rerun


def _pair(left: Result, right: Result) -> Pair:
    losses = (left.test_loss, right.test_loss)
    return Pair(arm=left.arm, seeds=str(left.seeds), runs=(left.run_id, right.run_id), test_losses=losses)


def _unfinished(status: Status) -> Unfinished:
    run, last = status.run, status.causes[-1] if status.causes else None
    return Unfinished(
        run=run.id,
        arm=run.arm,
        machine=run.machine,
        seeds=str(run.seeds),
        state=status.state,
        step=status.step,
        steps=run.recipe.steps,
        cause=f"{last.cause}: {last.message}" if last else None,
    )
