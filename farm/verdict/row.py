"""A row of the table: what its fields mean, and how it comes from the runs of an arm on a machine."""

from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal

from pydantic import Field

from farm.queue.values import Status
from farm.record.imported import EVALUATION as IMPORTED
from farm.record.imported import ImportedRun
from farm.record.result import Result
from farm.record.score import NATS, Direction, Score
from farm.stats import mean, sd
from farm.study.arms import BASELINE
from farm.study.machine import Price, is_mixed
from farm.study.recipe import TEST, Frozen, Seeds, digest
from farm.study.run import State
from farm.verdict.cohort import SHORT, by_seeds, means
from farm.verdict.inference import Check, Losses, Method, Word
from farm.verdict.noise import SeedsRung
from farm.verdict.seen import Seen


class Cell(Frozen):
    """The worth of an arm by one evaluation, over its seeds."""

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
    decimals: int | None = Field(
        None, description="of imported losses that have so few that noise is lost: an SD is less than the last of them"
    )
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


def row_of(members: Sequence[Seen], baseline: Sequence[Seen], asked: Mapping[tuple[str, str], int]) -> Row:
    first = members[0]
    losses, others = by_seeds(members), by_seeds(baseline)
    own = list(means((one.seeds, one.own_test_loss) for one in members).values())
    shared = [seeds for seeds in losses if seeds in others]
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
        usd=_mean_of_all([result.usd for result in members]),
        kwh=_mean_of_all([result.kwh for result in members]),
        prices=tuple(dict.fromkeys(price for result in members for price in result.prices)),
        same_init=_first_weights(members, shared) == _first_weights(baseline, shared) if shared else None,
        init_hash=_short(_first_weights(members, losses)),
        runs=tuple(sorted(result.run_id for result in members)),
    )


def _cells(members: Sequence[Seen]) -> dict[str, Cell]:
    """Every score of an arm; of several evaluations of one name the one that most runs have, today's first."""
    found: dict[str, dict[str, list[tuple[Seen, Score]]]] = {}
    for member in members:
        for score in member.scores:
            found.setdefault(score.name, {}).setdefault(score.evaluation, []).append((member, score))
    return {name: _cell(max(groups.values(), key=len)) for name, groups in found.items()}


def _cell(scored: Sequence[tuple[Seen, Score]]) -> Cell:
    values = list(means((member.seeds, score.value) for member, score in scored).values())
    member, score = scored[0]
    return Cell(
        evaluation=score.evaluation,
        unit=score.unit,
        direction=score.direction,
        mean=mean(values),
        sd=sd(values),
        n=len(values),
        stale=member.outdated.get(score.evaluation),
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


def imported_row(members: Sequence[ImportedRun], losses: Losses, baseline: Losses) -> Row:
    first = members[0]
    shared = [losses[block] - baseline[block] for block in losses if block in baseline]
    return Row(
        imported=True,
        decimals=_too_few_decimals(losses, baseline, () if first.arm == BASELINE else shared),
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


def _too_few_decimals(losses: Losses, baseline: Losses, differences: Sequence[float]) -> int | None:
    """How many decimals the losses have, where that is too few to show how much they, or their differences, scatter."""
    decimals = max(_decimals(loss) for loss in (*losses.values(), *baseline.values()))
    spreads = (sd(list(losses.values())), sd(differences))
    return decimals if any(spread is not None and spread < 10.0**-decimals for spread in spreads) else None


def _decimals(value: float) -> int:
    exponent = Decimal(repr(value)).normalize().as_tuple().exponent
    return max(0, -int(exponent))


def _mean_of_all(values: Sequence[float | None]) -> float | None:
    """Their mean; None where one is unknown."""
    known = [value for value in values if value is not None]
    return mean(known) if len(known) == len(values) else None


def unfinished_of(status: Status) -> Unfinished:
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
