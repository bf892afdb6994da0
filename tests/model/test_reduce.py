"""Gradients over microbatches and ranks: the right sum, in one round, and for canonical in one order."""

from collections.abc import Callable
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.profiler import ProfilerActivity, profile
from worlds import BATCH, CONTEXT, VOCAB, canonical, in_world, planned, shared, tiny

from farm.study.planner import Plan
from farm.study.run import Run
from model import reduce
from model.group import join
from model.init import initialise
from model.reduce import reducer

NOWHERE = Path("/nowhere")


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    """Unlike shards: the first ranks get one token over and over, the last ones random tokens and ignored targets."""
    tokens = torch.randint(0, VOCAB, (BATCH, CONTEXT + 1), generator=torch.Generator().manual_seed(2))
    tokens[: BATCH // 2] = 3
    x_BT, y_BT = tokens[:, :-1], tokens[:, 1:].clone()
    y_BT[-1, :5] = -100
    return x_BT, y_BT


def objective(gpt: Callable[..., torch.Tensor], first: int, count: int) -> torch.Tensor:
    x_BT, y_BT = batch()
    return gpt(x_BT[first : first + count], y_BT[first : first + count])


def reduced(run: Run, plan: Plan, double: bool, bucket_mib: float = 0.001, piece: int = 100) -> list[np.ndarray]:
    """The gradients of the whole batch, after two steps, so that nothing may be left over from the first."""
    reduce.BUCKET_MIB, reduce.PIECE = bucket_mib, piece  # smaller than some tensors, larger than others
    group = join(plan)
    gpt = initialise(run.recipe.model, 1)
    gpt = gpt.double() if double else gpt
    ours = reducer(run.recipe, plan, group, gpt)
    for _ in range(2):
        gpt.zero_grad(set_to_none=True)
        for turn in range(plan.share(group.rank)):
            with ours.turn(turn):
                objective(ours.forward, plan.first(group.rank) + turn, 1).backward()
        ours.finish()
    return [parameter.grad.numpy() for parameter in gpt.parameters()]


@pytest.mark.parametrize("kind", [tiny, canonical])
def test_on_2_and_4_workers_gradients_are_those_of_one_backward_pass(kind):
    run = kind(NOWHERE, model={"dropout": 0.0})
    gpt = initialise(run.recipe.model, 1).double()
    expected = torch.autograd.grad(objective(gpt, 0, BATCH), list(gpt.parameters()))
    for world in (1, 2, 4):
        for found in in_world(world, reduced, run, planned(run, world), True):
            for one, other in zip(found, expected, strict=True):
                np.testing.assert_allclose(one, other, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", [tiny, canonical])
def test_every_rank_has_the_same_bits(kind):
    run = kind(NOWHERE, model={"dropout": 0.0})
    ranks = in_world(4, reduced, run, planned(run, 4), False)
    for found in ranks[1:]:
        assert all(np.array_equal(one, other) for one, other in zip(found, ranks[0], strict=True))


def test_canonical_has_the_same_bits_on_1_2_4_and_8_workers():
    run = canonical(NOWHERE, model={"dropout": 0.0})
    one = reduced(run, planned(run, 1), False)
    for world in (2, 4, 8):
        for piece in (17, 100, 10**6):  # numbers that travel together; the largest tensor has 1072
            found = in_world(world, reduced, run, planned(run, world), False, 0.001, piece)[0]
            assert all(np.array_equal(a, b) for a, b in zip(found, one, strict=True)), (world, piece)


def test_canonical_adds_a_number_of_microbatches_that_is_no_power_of_two():
    run = canonical(NOWHERE, model={"dropout": 0.0}, train={"batch": 6})
    gpt = initialise(run.recipe.model, 1).double()
    expected = torch.autograd.grad(objective(gpt, 0, 6), list(gpt.parameters()))
    for one, other in zip(reduced(run, planned(run, 1), True), expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-12, atol=1e-12)


def splits(batch: int, world: int) -> list[tuple[int, ...]]:
    """Every way to share `batch` microbatches among `world` ranks, none of them idle."""
    return [shares for shares in product(range(1, batch + 1), repeat=world) if sum(shares) == batch]


def unlike_sums(run: Run, world: int, one: list[np.ndarray]) -> list[tuple[int, ...]]:
    """The shares under which this rank ends with other bits than `one`."""
    found = {shares: reduced(run, shared(run, *shares), False) for shares in splits(run.recipe.train.batch, world)}
    return [s for s, sums in found.items() if not all(np.array_equal(a, b) for a, b in zip(sums, one, strict=True))]


@pytest.mark.parametrize("batch", [7, 8])
def test_canonical_has_the_same_bits_under_every_split_of_the_batch(batch):
    """All 63 splits of 8 microbatches over 2, 3 and 4 ranks, and all 41 of 7, a tree that is no power of two."""
    run = canonical(NOWHERE, model={"dropout": 0.0}, train={"batch": batch})
    one = reduced(run, planned(run, 1), False)
    for world in (2, 3, 4):
        assert in_world(world, unlike_sums, run, world, one) == [[]] * world


def test_fast_has_the_right_sum_under_unequal_shares():
    run = tiny(NOWHERE, model={"dropout": 0.0})
    gpt = initialise(run.recipe.model, 1).double()
    expected = torch.autograd.grad(objective(gpt, 0, BATCH), list(gpt.parameters()))
    for shares in ((5, 3), (1, 7), (3, 3, 2)):
        for found in in_world(len(shares), reduced, run, shared(run, *shares), True):
            for one, other in zip(found, expected, strict=True):
                np.testing.assert_allclose(one, other, rtol=1e-12, atol=1e-12)


def rounds(run: Run, plan: Plan, bucket_mib: float) -> list[int]:
    """What travels in a step: the number of floats of every all-reduce that the profiler saw."""
    reduce.BUCKET_MIB = bucket_mib
    group = join(plan)
    gpt = initialise(run.recipe.model, 1)
    ours = reducer(run.recipe, plan, group, gpt)
    with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as seen:
        for turn in range(plan.share(group.rank)):
            with ours.turn(turn):
                objective(ours.forward, turn, 1).backward()
        ours.finish()
    return [event.input_shapes[0][0] for event in seen.events() if event.name == "gloo:all_reduce"]


def test_fast_sends_each_gradient_once_a_step_however_many_microbatches_there_are():
    run = tiny(NOWHERE, model={"dropout": 0.0})
    plan = planned(run, 2)
    one_bucket, several = (in_world(2, rounds, run, plan, size)[0] for size in (25.0, 0.004))
    assert plan.accumulation == 4
    assert one_bucket == [run.recipe.model.parameters]
    assert sum(several) == run.recipe.model.parameters
    assert len(several) > 3


def test_fast_sends_each_gradient_once_a_step_under_unequal_shares():
    run = tiny(NOWHERE, model={"dropout": 0.0})
    assert in_world(3, rounds, run, shared(run, 5, 2, 1), 25.0) == [[run.recipe.model.parameters]] * 3
