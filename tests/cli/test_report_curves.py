"""The curves of a report: thinned without losing an extreme, smoothed by a plain mean, and marked where they jump."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cli.report.curves import extremes, moving_mean, of_ledger, of_points, spikes
from cli.report.variation import noise_ladder
from farm.queue.values import Point
from farm.record.ledger import Line, Validation
from farm.verdict.noise import Rung

LOSSES = st.lists(st.floats(-1e3, 1e3) | st.just(float("nan")), min_size=1, max_size=200)


@given(LOSSES, st.integers(1, 20))
def test_thinning_keeps_both_ends_and_the_extremes_of_every_stretch(losses: list[float], buckets: int) -> None:
    values = np.array(losses)
    there = np.flatnonzero(np.isfinite(values))
    kept = extremes(values, buckets)
    assert list(kept) == sorted(set(kept))
    assert set(kept) <= set(there)
    if len(there) <= 2 * buckets:
        assert list(kept) == list(there)
        return
    assert {there[0], there[-1]} <= set(kept)
    assert len(kept) <= 2 * buckets + 2
    for part in np.array_split(there, buckets):
        of_part = values[np.intersect1d(part, kept)]
        assert (of_part.min(), of_part.max()) == (values[part].min(), values[part].max())


@given(LOSSES, st.integers(1, 30))
def test_smoothing_is_the_mean_of_the_last_values(losses: list[float], over: int) -> None:
    found = moving_mean(np.array(losses), over)
    for at, value in enumerate(found):
        last = [x for x in losses[max(0, at + 1 - over) : at + 1] if np.isfinite(x)]
        assert value == pytest.approx(sum(last) / len(last), abs=1e-6) if last else np.isnan(value)


def test_a_jump_is_marked_and_noise_is_not() -> None:
    loss = 4 + np.random.default_rng(0).normal(0, 0.1, 1000)
    loss[700] += 2
    assert list(spikes(loss)) == [700]
    assert list(spikes(np.full(100, 3.0))) == []


def test_a_ledger_gives_its_steps_and_the_queue_its_points() -> None:
    lines = [Line(1, 100, 400.0, 1e-3, None, False, False, 1.8), Line(2, 100, 300.0, 1e-3, 2.0, False, True, 1.8)]
    lines[1] = lines[1]._replace(validation=Validation("v", 10, 35.0, 0.1))
    whole = of_ledger(lines)
    assert (list(whole.step), list(whole.loss), list(whole.skipped)) == ([1, 2], [4, 3], [False, True])
    assert list(whole.hours) == pytest.approx([0.0005, 0.001])
    assert (np.isnan(whole.grad_norm[0]), whole.grad_norm[1]) == (True, 2)
    assert (np.isnan(whole.validation[0]), whole.validation[1]) == (True, 3.5)
    points = [Point(step=step, loss=3.0, lr=1e-3, tokens_per_second=50.0) for step in (10, 30)]
    assert list(of_points(points, 100).hours) == pytest.approx([20 / 3600, 60 / 3600])


def test_an_interval_of_noise_that_reaches_0_is_drawn_down_to_0() -> None:
    chart = noise_ladder("noise", [Rung(rung="rerun", sd=0.02, ci_low=0.0, ci_high=0.05)], "test_loss")
    assert chart
    (trace,) = chart.figure["data"]
    error = trace["error_x"]
    assert (error["arrayminus"], error["array"]) == ([0.02], [pytest.approx(0.03)])
