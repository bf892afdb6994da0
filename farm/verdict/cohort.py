"""Which results may be compared: those that were tested on the same tokens in the same way, and trained on the tokens
that their recipes say; on one machine, those that were trained with the same batch, reduction and kernels, too, and
compiled or not. What the table ranks and what `farm compare` subtracts follow from this one page.
"""

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Generic, NamedTuple, TypeVar

from farm.record.imported import ImportedRun
from farm.record.result import Result
from farm.stats import mean
from farm.study.arms import BASELINE, Arm
from farm.study.differences import differences
from farm.study.recipe import Seeds, canonical_json
from farm.study.run import Run

SHORT = 12  # hex digits of a fingerprint that a person is shown


class Use(NamedTuple):
    """A use of tokens: those that a recipe names for it, and the fingerprint of those that were there."""

    data: Callable[[Result], dict[str, Any]]
    tokens: Callable[[Result], str]


TEST = Use(lambda result: result.definition, lambda result: result.items)
TRAINING = Use(lambda result: result.recipe.trained, lambda result: result.fingerprints.tokens.trained)
BEGINNING = Use(lambda result: result.recipe.begun, lambda result: result.fingerprints.tokens.head)
USES = (TEST, TRAINING, BEGINNING)

# The arms of one machine must share this: how a step is cut and added up, which is not what is being studied.
# The names are those of a recipe's fields, which say what was asked for; of kernels and of compilation the result says
# what they were.
CONDITIONS: dict[str, Callable[[Result], str]] = {
    "batch": lambda result: f"{result.recipe.train.batch:,}",
    "reduction": lambda result: result.recipe.train.reduction,
    "kernels": lambda result: " and ".join(result.kernels),
    "compile": lambda result: " and ".join("true" if on else "false" for on in result.compiled),
}


Kind = TypeVar("Kind", bound=Result)
Block = TypeVar("Block", bound=Hashable)
Told = TypeVar("Told")


class Sorted(NamedTuple, Generic[Kind]):
    """Results of one evaluation: those that may be ranked together, and run id -> why another may not."""

    together: list[Kind]
    aside: dict[str, str]


def sort(results: Sequence[Kind]) -> Sorted[Kind]:
    """Tell the results that may be ranked together from those that saw other tokens though their recipes say the same,
    and from those that trained under other conditions than the baseline of their machine.

    `results` are of one evaluation. What the baseline was tested and trained on is right; where its own runs disagree,
    what most of them had, and of two that are equally frequent the newer.
    """
    together, aside = list(results), dict[str, str]()
    for use in USES:
        aside |= _strangers(together, use)
        together = [result for result in together if result.run_id not in aside]
    for name, of in CONDITIONS.items():
        aside |= _otherwise(together, name, of)
        together = [result for result in together if result.run_id not in aside]
    return Sorted(together, aside)


def by_evaluation(results: Sequence[Kind]) -> Iterator[tuple[str, list[Kind]]]:
    """Each evaluation with those of its results that may be ranked together."""
    for evaluation in dict.fromkeys(result.evaluation for result in results):
        yield evaluation, sort([result for result in results if result.evaluation == evaluation]).together


def apart(first: Result, second: Result) -> str | None:
    """Why the test losses of two results may not be compared; None if they may."""
    if first.evaluation != second.evaluation:
        return f"tested differently: {unlike(first.definition, second.definition)}"
    for use in USES:
        if use.data(first) == use.data(second) and use.tokens(first) != use.tokens(second):
            return _other_tokens(use.data(first), [(use.tokens(result), [result]) for result in (first, second)])
    for name, of in CONDITIONS.items() if first.machine == second.machine else ():
        if of(first) != of(second):
            return f"trained with other {name}: {of(first)} and {of(second)}"
    return None


def unlike(one: Mapping[str, Any], other: Mapping[str, Any]) -> str:
    """How two evaluations differ, in words; empty if they do not."""
    return ", ".join(f"{key} {its} and {theirs}" for key, its, theirs in differences(one, other))


def find_other_tests(arms: Iterable[Arm]) -> dict[str, str]:
    """The arms that the baseline's test cannot be compared with -> how theirs differs."""
    baseline, *others = arms
    found = {arm.name: unlike(baseline.recipe.tested, arm.recipe.tested) for arm in others}
    return {name: difference for name, difference in found.items() if difference}


def find_other_training(arms: Iterable[Arm]) -> dict[str, str]:
    """The arms that will not be ranked with the baseline because of how they train -> how they differ."""
    baseline, *others = arms
    found: dict[str, str] = {}
    for arm in others:
        both = {name: [getattr(one.recipe.train, name) for one in (baseline, arm)] for name in CONDITIONS}
        differ = [f"{name} {_show(one)} and {_show(other)}" for name, (one, other) in both.items() if one != other]
        found |= {arm.name: ", ".join(differ)} if differ else {}
    return found


def _show(value: bool | int | str) -> str:
    return str(value).lower() if isinstance(value, bool) else f"{value:,}" if isinstance(value, int) else value


def means(values: Iterable[tuple[Block, float]]) -> dict[Block, float]:
    """The mean of each block, whose repetitions are no new evidence."""
    groups: dict[Block, list[float]] = {}
    for block, value in values:
        groups.setdefault(block, []).append(value)
    return {block: mean(found) for block, found in groups.items()}


def by_seeds(results: Iterable[Result]) -> dict[Seeds, float]:
    """The test loss of each pair of seeds."""
    return means((result.seeds, result.test_loss) for result in results)


def by_block(runs: Iterable[ImportedRun]) -> dict[Seeds | str, float]:
    """The same of imported runs; one whose seeds are not known stands for itself."""
    return means((run.block, run.test_loss) for run in runs)


def sides(arms: Mapping[str, Mapping[Block, Told]]) -> tuple[Mapping[Block, Told], dict[str, Mapping[Block, Told]]]:
    """The baseline's, and those of every other arm."""
    return arms.get(BASELINE, {}), {name: its for name, its in arms.items() if name != BASELINE}


def count_seeds(runs: Iterable[Run | Result]) -> dict[tuple[str, str], int]:
    """(arm, machine) -> different seeds that have a run, finished or not."""
    seeds: dict[tuple[str, str], set[Seeds]] = {}
    for run in runs:
        seeds.setdefault((run.arm, run.machine), set()).add(run.seeds)
    return {key: len(found) for key, found in seeds.items()}


def by_arm(results: Iterable[Kind]) -> dict[str, list[Kind]]:
    arms: dict[str, list[Kind]] = {}
    for result in results:
        arms.setdefault(result.arm, []).append(result)
    return arms


def _strangers(results: Sequence[Result], use: Use) -> dict[str, str]:
    """Run id -> why, for the results whose tokens are not those that others of the same data had."""
    groups: dict[str, list[Result]] = {}
    for result in results:
        groups.setdefault(canonical_json(use.data(result)), []).append(result)
    found: dict[str, str] = {}
    for group in groups.values():
        usual = _most([result for result in group if result.arm == BASELINE] or group, use.tokens)
        had = {usual: [result for result in group if use.tokens(result) == usual]}
        for result in group:
            had.setdefault(use.tokens(result), []).append(result)
        for tokens, members in had.items():
            if tokens != usual:
                why = _other_tokens(use.data(members[0]), [(tokens, members), (usual, had[usual])], ", not ")
                found |= {result.run_id: why for result in members}
    return found


def _otherwise(results: Sequence[Result], name: str, of: Callable[[Result], str]) -> dict[str, str]:
    """Run id -> why, for the results that trained otherwise than the baseline of their machine."""
    machines: dict[str, list[Result]] = {}
    for result in results:
        machines.setdefault(result.machine, []).append(result)
    found: dict[str, str] = {}
    for group in machines.values():
        usual = _most([result for result in group if result.arm == BASELINE] or group, of)
        found |= {
            result.run_id: f"trained with other {name}: {of(result)}, not {usual}"
            for result in group
            if of(result) != usual
        }
    return found


def _most(results: Sequence[Result], of: Callable[[Result], str]) -> str:
    """The value that most of `results` had; of two that are equally frequent the newer."""
    count = Counter(map(of, results))
    newest = {of(result): result.ended for result in sorted(results, key=lambda result: result.ended)}
    return max(count, key=lambda had: (count[had], newest[had]))


def _other_tokens(data: dict[str, Any], had: Sequence[tuple[str, Sequence[Result]]], between: str = " and ") -> str:
    """That a split held other tokens for some results than for others, with both fingerprints and their dates."""
    seen = between.join(f"{tokens[:SHORT]} ({_dates(results)})" for tokens, results in had)
    return f"the {data['split']} split of {data['source']} held other tokens: {seen}"


def _dates(results: Iterable[Result]) -> str:
    days = sorted({datetime.fromtimestamp(result.started, UTC).date().isoformat() for result in results})
    return days[0] if len(days) == 1 else f"{days[0]} to {days[-1]}"
