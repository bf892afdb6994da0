"""The curve of a run as columns, thinned out so that no extreme is lost."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from farm.queue.values import Point
from farm.record.ledger import Line

BUCKETS = 100  # of a curve on the page: two points each
SPIKE = 8.0  # robust standard deviations above the steps around it


class Curve(NamedTuple):
    """The record of a run, one value a step: arrays of one length, steps ascending. nan: not recorded."""

    step: Any
    hours: Any  # of training alone, since the first step
    loss: Any  # nats per token
    lr: Any
    grad_norm: Any
    tokens_per_second: Any
    validation: Any  # nats per token of the held-out slice, after the steps that were followed by one
    skipped: Any  # whether fp16 skipped the update
    clipped: Any  # whether the gradient was clipped, 0 or 1


def of_ledger(lines: Sequence[Line]) -> Curve:
    """Every step of a run."""
    import numpy as np

    seconds, tokens = _column(lines, lambda line: line.seconds), _column(lines, lambda line: line.tokens)
    with np.errstate(divide="ignore", invalid="ignore"):
        speed, loss = tokens / seconds, _column(lines, lambda line: line.loss_sum) / tokens
    return Curve(
        step=_column(lines, lambda line: line.step),
        hours=np.cumsum(seconds) / 3600,
        loss=loss,
        lr=_column(lines, lambda line: line.lr),
        grad_norm=_column(lines, lambda line: line.grad_norm),
        tokens_per_second=speed,
        validation=_column(lines, lambda line: line.validation and line.validation.loss_sum / line.validation.tokens),
        skipped=_column(lines, lambda line: line.skipped).astype(bool),
        clipped=_column(lines, lambda line: line.clipped),
    )


def of_points(points: Sequence[Point], tokens_per_step: int) -> Curve:
    """The points that the queue kept of a run: fewer than its steps, and without what only the ledger knows.

    Hours are estimated from the speed at each point.
    """
    import numpy as np

    step, speed = _column(points, lambda point: point.step), _column(points, lambda point: point.tokens_per_second)
    took = np.diff(step, prepend=0) * tokens_per_step / np.where(speed > 0, speed, np.nan)
    return Curve(
        step=step,
        hours=np.nancumsum(took) / 3600,
        loss=_column(points, lambda point: point.loss),
        lr=_column(points, lambda point: point.lr),
        grad_norm=_column(points, lambda point: point.grad_norm),
        tokens_per_second=speed,
        validation=_column(points, lambda point: point.validation_loss),
        skipped=np.zeros(len(points), dtype=bool),
        clipped=np.full(len(points), np.nan),
    )


def _column(records: Sequence[Any], of: Callable[[Any], float | None]) -> Any:
    """nan where there is none."""
    import numpy as np

    return np.array([of(record) for record in records], dtype=np.float64)


def extremes(values: Any, buckets: int = BUCKETS) -> Any:
    """Indices of the values to draw: of each bucket the lowest and the highest, in order; all of a short curve.

    A line through them covers the same pixels as one through all values, so no spike is lost and none is invented.
    Values that are not finite are left out.
    """
    import numpy as np

    there = np.flatnonzero(np.isfinite(values))
    if len(there) <= 2 * buckets:
        return there
    ends = [part[[values[part].argmin(), values[part].argmax()]] for part in np.array_split(there, buckets)]
    return np.unique(np.concatenate([*ends, there[[0, -1]]]))


def moving_mean(values: Any, over: int) -> Any:
    """The mean of the last `over` values at each, of fewer at the beginning. Only finite values count."""
    import numpy as np

    there = np.isfinite(values)
    sums, counts = (np.concatenate([[0.0], np.cumsum(part)]) for part in (np.where(there, values, 0.0), there))
    ends = np.arange(1, len(values) + 1)
    begins = np.maximum(0, ends - over)
    with np.errstate(invalid="ignore"):
        return (sums[ends] - sums[begins]) / (counts[ends] - counts[begins])


def spikes(loss: Any) -> Any:
    """Indices of the steps whose loss stands out from the mean of those before it: 50, or a twentieth of a short run.

    By more than `SPIKE` times the median absolute deviation, scaled to a normal SD (Rousseeuw & Croux 1993, JASA
    88:1273, section 1).
    """
    import numpy as np

    if len(loss) < 20:
        return np.array([], dtype=int)
    before = np.concatenate([[np.nan], moving_mean(loss, min(50, len(loss) // 20))[:-1]])
    left = loss - before
    spread = 1.4826 * np.nanmedian(np.abs(left - np.nanmedian(left)))
    if not spread > 0:
        return np.array([], dtype=int)
    return np.flatnonzero(left > SPIKE * spread)
