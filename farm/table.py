"""Results -> ranked rows: every arm against the baseline of its own machine, and nothing left out.

Losses of different evaluations are never ranked together. The verdict is still open: see `Row.verdict`.
"""

from collections.abc import Iterable, Sequence
from itertools import combinations, groupby
from math import ceil, log10

from pydantic import Field

from farm.machine import Price, is_mixed
from farm.queue import Status
from farm.recipe import Frozen, digest
from farm.result import Result
from farm.run import State
from farm.stats import mean, sd
from farm.study import BASELINE

HASH_LENGTH = 12  # hex digits of a fingerprint that a row shows


class Row(Frozen):
    """An arm on a machine, over its seeds. Repetitions of one seed are averaged first: they are no new evidence."""

    evaluation: str = Field(description="version behind the losses")
    machine: str
    mixed: bool = Field(description="trained over several machine classes at once: says nothing about any of them")
    rank: int = Field(description="1 is the lowest mean test loss of its evaluation and machine")
    arm: str
    n: int = Field(description="different seeds")
    test_loss_mean: float = Field(description="nats per token")
    test_loss_sd: float | None = Field(description="over seeds, divided by n - 1; None when n is 1")
    delta: float | None = Field(description="mean less the baseline's on this machine; None when that has no result")
    verdict: str | None = None
    tokens_per_second: float = Field(description="mean over runs")
    hours: float = Field(description="wall clock of one run, all its attempts, mean over runs")
    usd: float | None = Field(description="of one run, mean over runs; None when a price is unknown")
    prices: tuple[Price, ...] = Field((), description="behind `usd`: whose, and of which date")
    init_hash: str = Field(description="short digest of the runs' first weights: equal for arms that began alike")
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

    @property
    def evaluations(self) -> list[str]:
        return sorted({row.evaluation for row in self.rows})


def rank(results: Iterable[Result], statuses: Iterable[Status] = ()) -> Table:
    """Rank `results` by mean test loss within each evaluation and machine; list the `statuses` without one."""
    results = sorted(results, key=lambda r: (r.evaluation, r.machine))
    cohorts = [list(cohort) for _, cohort in groupby(results, key=lambda r: (r.evaluation, r.machine))]
    return Table(
        rows=tuple(row for cohort in cohorts for row in _ranked(cohort)),
        twins=tuple(_twins(cohorts)),
        unfinished=tuple(_unfinished(status) for status in statuses if status.result is None),
    )


def _ranked(cohort: Sequence[Result]) -> list[Row]:
    """The rows of one evaluation on one machine, best first."""
    arms: dict[str, list[Result]] = {}
    for result in cohort:
        arms.setdefault(result.arm, []).append(result)
    losses = {arm: _by_seeds(members) for arm, members in arms.items()}
    reference = mean(losses[BASELINE]) if BASELINE in losses else None
    order = sorted(arms, key=lambda arm: (mean(losses[arm]), arm))
    return [_row(place, arms[arm], losses[arm], reference) for place, arm in enumerate(order, start=1)]


def _by_seeds(members: Sequence[Result]) -> list[float]:
    """One loss for each pair of seeds."""
    groups: dict[str, list[float]] = {}
    for result in members:
        groups.setdefault(str(result.seeds), []).append(result.test_loss)
    return [mean(losses) for losses in groups.values()]


def _row(place: int, members: Sequence[Result], losses: list[float], reference: float | None) -> Row:
    first = members[0]
    hashes = sorted({result.fingerprints.initial for result in members})
    prices = [result.usd for result in members if result.usd is not None]
    return Row(
        evaluation=first.evaluation,
        machine=first.machine,
        mixed=is_mixed(first.machine),
        rank=place,
        arm=first.arm,
        n=len(losses),
        test_loss_mean=mean(losses),
        test_loss_sd=sd(losses),
        delta=None if reference is None else mean(losses) - reference,
        tokens_per_second=mean([result.tokens_per_second for result in members]),
        hours=mean([result.seconds for result in members]) / 3600,
        usd=mean(prices) if len(prices) == len(members) else None,
        prices=tuple(dict.fromkeys(price for result in members for price in result.prices)),
        init_hash=(hashes[0] if len(hashes) == 1 else digest(hashes))[:HASH_LENGTH],
        runs=tuple(sorted(result.run_id for result in members)),
    )


def _twins(cohorts: Sequence[Sequence[Result]]) -> Iterable[Twins]:
    """Mixed groups have none: what differs there is no one machine's doing."""
    for left, right in combinations([cohort for cohort in cohorts if not is_mixed(cohort[0].machine)], 2):
        if left[0].evaluation != right[0].evaluation:
            continue
        there = {_twin_key(result): result for result in right}
        pairs = [_pair(result, there[key]) for result in left if (key := _twin_key(result)) in there]
        if pairs:
            machines = (left[0].machine, right[0].machine)
            pairs.sort(key=lambda pair: (pair.arm, pair.seeds, pair.runs))
            yield Twins(evaluation=left[0].evaluation, machines=machines, pairs=tuple(pairs))


def _twin_key(result: Result) -> tuple[str, str, int]:
    return result.recipe.digest, str(result.seeds), result.rerun


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
