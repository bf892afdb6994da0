"""Curves from the ledger's lines: the one of a run in Redis, and the validation curve in its result."""

from collections.abc import Sequence
from itertools import accumulate
from math import isfinite

from farm.queue.queue import Queue
from farm.queue.values import Point
from farm.record.ledger import Line, Validation, validations
from farm.record.result import Validated
from farm.stats import thin_out
from farm.study.run import Lease

POINTS_AT_ONCE = 1000
RESULT_POINTS = 100  # of a validation curve, at most: a result is read whole, and thousands of them for a table


def point(line: Line, tokens_per_step: int) -> Point | None:
    """A step as a curve shows it; None where the ledger alone can: a skipped one."""
    if not isfinite(line.loss_sum):
        return None
    return Point(
        step=line.step,
        loss=line.loss_sum / line.tokens,
        lr=line.lr,
        grad_norm=line.grad_norm,
        tokens_per_second=tokens_per_step / max(line.seconds, 1e-9),
        validation_loss=_loss(line.validation),
    )


def _loss(validation: Validation | None) -> float | None:
    """Nats per token, if there was a validation and its loss is finite."""
    return validation.loss_sum / validation.tokens if validation and isfinite(validation.loss_sum) else None


def complete(queue: Queue, lease: Lease, lines: Sequence[Line], tokens_per_step: int) -> int:
    """Send the points behind the newest that the curve has; returns how many.

    Raises: LeaseLost, Unreachable
    """
    curve = queue.listing.curve(lease.run_id)
    newest = curve[-1].step if curve else 0
    found = [made for line in lines if line.step > newest and (made := point(line, tokens_per_step))]
    for first in range(0, len(found), POINTS_AT_ONCE):
        queue.record(lease, found[first : first + POINTS_AT_ONCE])
    return len(found)


def validation_curve(lines: Sequence[Line]) -> tuple[Validated, ...]:
    """The validation curve of a run, thinned out evenly to RESULT_POINTS; the last point stays."""
    tokens = list(accumulate(line.tokens for line in lines))  # up to step i + 1, for a run has every step once
    seconds = list(accumulate(line.seconds for line in lines))
    found = [
        Validated(step=line.step, tokens=tokens[line.step - 1], seconds=seconds[line.step - 1], loss=loss)
        for line, validation in validations(list(lines))
        if (loss := _loss(validation)) is not None
    ]
    return tuple(thin_out(found, RESULT_POINTS))
