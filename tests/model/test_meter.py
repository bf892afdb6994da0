"""A step's numbers over all ranks: tokens weigh, not microbatches or ranks."""

import math
from pathlib import Path

import pytest
import torch
from worlds import canonical, in_world, planned

from farm.record.ledger import Line
from model.group import join
from model.meter import Meter, Signal, StepTotals, Sums, exact_sum

NOWHERE = Path("/nowhere")
LOSSES = [(10.0, 4), (0.5, 1), (1e-9, 64), (7.25, 3), (0.1, 5), (0.2, 6), (0.3, 7), (900.0, 8)]


def metered(world: int, signal: Signal = Signal.CONTINUE, news: bool = False) -> StepTotals:
    """One step of eight microbatches that are as unlike as LOSSES, in their number of targets too."""
    plan = planned(canonical(NOWHERE), world)
    group = join(plan)
    meter = Meter(plan, group)
    for turn in range(plan.accumulation):
        loss, tokens = LOSSES[group.rank * plan.accumulation + turn]
        meter.add(torch.tensor(loss, dtype=torch.float64), tokens)
    mine = group.leads
    return meter.total(torch.tensor(3.0 + group.rank), signal if mine else Signal.CONTINUE, news and mine)


def test_loss_and_tokens_are_sums_over_all_ranks_to_the_last_bit():
    expected = (math.fsum(loss for loss, _ in LOSSES), sum(tokens for _, tokens in LOSSES))
    for world in (1, 2, 4, 8):
        found = in_world(world, metered, world)
        assert {(totals.loss_sum, totals.tokens) for totals in found} == {expected}, world
    assert expected[0] / expected[1] != pytest.approx(sum(loss / tokens for loss, tokens in LOSSES) / 8, rel=0.1)


@pytest.mark.parametrize("signal", list(Signal))
def test_what_rank_0_was_told_reaches_every_rank_on_the_same_all_reduce(signal):
    found = in_world(2, metered, 2, signal, True)
    assert [(totals.signal, totals.news, totals.gradient_norm) for totals in found] == [(signal, True, 3.0)] * 2


def test_a_meter_starts_the_next_step_from_nothing():
    plan = planned(canonical(NOWHERE), 1)
    meter = Meter(plan, join(plan))
    for _ in range(2):
        for loss, tokens in LOSSES:
            meter.add(torch.tensor(loss, dtype=torch.float64), tokens)
        totals = meter.total(torch.tensor(1.0), Signal.CONTINUE, False)
    assert totals.tokens == sum(tokens for _, tokens in LOSSES)


def test_a_sum_is_rounded_once_and_knows_no_order():
    values = [1e16, 1.0, -1e16, 1.0, 3e-9]
    assert exact_sum(values) == exact_sum(values[::-1]) == 2.000000003
    assert math.isnan(exact_sum([1.0, math.inf]))
    assert math.isnan(exact_sum([1.0, math.nan]))


@pytest.mark.parametrize("bad", [{"loss_sum": math.nan}, {"gradient_norm": math.inf}, {"gradient_norm": math.nan}])
def test_a_step_is_finite_if_its_loss_and_its_gradients_are(bad):
    good = StepTotals(1.0, 1, 1.0, Signal.CONTINUE, False)
    assert good.is_finite
    assert not good._replace(**bad).is_finite


def test_a_skipped_step_is_in_no_average():
    sums = Sums()
    sums.add(Line(1, 10, 25.0, 0.1, 1.0, True, False, 0.5))
    sums.add(Line(2, 10, math.nan, 0.1, None, False, True, 0.5))
    sums.add(Line(3, 10, 30.0, 0.1, 1.0, False, False, 0.5))
    expected = Sums(tokens=20, loss_sum=55.0, skipped=1, clipped=1, seconds=1.5, best_loss=2.5, best_step=1)
    assert sums == expected
