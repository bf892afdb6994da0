"""(step, sample) -> tokens: a pure function, so that a resume needs only the number of the step.

Sequence i of a corpus is tokens[i * context : i * context + context + 1]: `context` inputs, and the same shifted by one
as targets. Sample n of a run is sequence n of the order; step k trains on samples k * batch .. (k + 1) * batch - 1.
Shapes: B sequences of T = context tokens.
"""

import hashlib
from collections.abc import Iterator

import numpy as np

from farm.errors import BadCorpus
from farm.study.planner import Plan
from farm.study.recipe import Recipe, Seeds

ROUNDS = 8


def count_sequences(count_of_tokens: int, context: int) -> int:
    """How many whole sequences a corpus holds; the last token of each is the first of the next."""
    return (count_of_tokens - 1) // context


def microbatch_slice(plan: Plan, rank: int, turn: int) -> slice:
    """The batch positions of the microbatch that `rank` trains in its `turn`, both from 0."""
    first = (plan.first(rank) + turn) * plan.microbatch
    return slice(first, first + plan.microbatch)


class Batches:
    """The microbatches of a run, by step."""

    def __init__(self, tokens: np.ndarray, recipe: Recipe, seeds: Seeds):
        self.tokens, self.recipe, self.seeds = tokens, recipe, seeds
        self.count_of_sequences = count_sequences(len(tokens), recipe.model.context)

    def microbatch(self, step: int, plan: Plan, rank: int, turn: int) -> tuple[np.ndarray, np.ndarray]:
        """x_BT and y_BT, int64, of one forward pass of step `step`, from 0.

        Every sequence comes once per epoch.

        Raises: BadCorpus: the corpus is used up and data.repeat is not set.
        """
        samples = _samples(self.recipe, step)[microbatch_slice(plan, rank, turn)]
        indices = _sequences(self.recipe, self.seeds, samples, self.count_of_sequences)
        return _gather(self.tokens, indices, self.recipe.model.context)


def evaluation_batches(
    tokens: np.ndarray, recipe: Recipe, rank: int, world: int, size: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The share of `rank` in the evaluation slice: x_BT and y_BT, int64, B = `size` but for the last of all.

    The batches are the same for every world and are dealt out in turn.
    """
    context, sequences = recipe.tested_context, recipe.evaluation.sequences
    slice_ = tokens[recipe.evaluation.offset :]
    for first in range(rank * size, sequences, world * size):
        yield _gather(slice_, np.arange(first, min(first + size, sequences)), context)


def _samples(recipe: Recipe, step: int) -> np.ndarray:
    return np.arange(step * recipe.train.batch, (step + 1) * recipe.train.batch)


def _sequences(recipe: Recipe, seeds: Seeds, samples: np.ndarray, count: int) -> np.ndarray:
    epochs, within = np.divmod(samples, count)
    if epochs[-1] > 0 and not recipe.data.repeat:
        raise BadCorpus(
            f"sample {samples[-1]:,} of a corpus of {count:,} sequences.",
            remedy="Set data.repeat = true, lower train.tokens, or train on a longer corpus.",
        )
    if recipe.data.order == "sequential":
        return within
    indices = np.empty_like(within)
    for epoch in np.unique(epochs):
        now = epochs == epoch
        indices[now] = permute(within[now], count, _keys(seeds, int(epoch)))
    return indices


def _gather(tokens: np.ndarray, indices: np.ndarray, context: int) -> tuple[np.ndarray, np.ndarray]:
    """Inputs and targets of the sequences `indices`: one read where they follow each other, else one each."""
    if (np.diff(indices) == 1).all():
        block = tokens[indices[0] * context : (indices[-1] + 1) * context + 1].astype(np.int64)
        return block[:-1].reshape(-1, context), block[1:].reshape(-1, context)
    rows = np.stack([tokens[i * context : (i + 1) * context + 1] for i in indices]).astype(np.int64)
    return np.ascontiguousarray(rows[:, :-1]), np.ascontiguousarray(rows[:, 1:])  # else pinning would copy them again


def permute(positions: np.ndarray, count: int, keys: np.ndarray) -> np.ndarray:
    """Where a keyed permutation of range(count) sends `positions`: a bijection that needs no table.

    A balanced Feistel network permutes the smallest range of 4**k numbers that holds `count`; a number that lands
    outside is sent on until it lands inside, which is a permutation again ("cycle walking": Black & Rogaway, Ciphers
    with arbitrary finite domains, CT-RSA 2002). Four rounds of a pseudorandom function suffice in theory (Luby &
    Rackoff 1988); eight make up for the short blocks.
    """
    half = np.uint64(max(2, (max(count - 1, 1).bit_length() + 1) // 2))
    moved = _feistel(positions.astype(np.uint64), half, keys)
    while (outside := moved >= count).any():
        moved[outside] = _feistel(moved[outside], half, keys)
    return moved.astype(np.int64)


def _feistel(numbers: np.ndarray, half: np.uint64, keys: np.ndarray) -> np.ndarray:
    mask = (np.uint64(1) << half) - np.uint64(1)
    left, right = numbers >> half, numbers & mask
    for key in keys:
        left, right = right, left ^ (_mix(right + key) & mask)
    return left << half | right


def _mix(numbers: np.ndarray) -> np.ndarray:
    """The finaliser of SplitMix64 (Steele, Lea & Flood 2014), as the round function; it wraps at 2**64."""
    numbers = (numbers ^ numbers >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
    numbers = (numbers ^ numbers >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
    return numbers ^ numbers >> np.uint64(31)


def _keys(seeds: Seeds, epoch: int) -> np.ndarray:
    """uint64 [ROUNDS], from the seed of the data order and the epoch."""
    return np.frombuffer(hashlib.sha512(f"farm order {seeds.train} {epoch}".encode()).digest(), "<u8", count=ROUNDS)
