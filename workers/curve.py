"""The curve that Redis keeps of a run: points made of the ledger's lines, and completed from them."""

from collections.abc import Sequence
from math import isfinite

from farm.ledger import Line
from farm.queue import Point, Queue
from farm.run import Lease

POINTS_AT_ONCE = 1000


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
    )


def complete(queue: Queue, lease: Lease, lines: Sequence[Line], tokens_per_step: int) -> int:
    """Send the points behind the newest that the curve has; returns how many.

    Raises: LeaseLost, Unreachable
    """
    curve = queue.curve(lease.run_id)
    newest = curve[-1].step if curve else 0
    found = [made for line in lines if line.step > newest and (made := point(line, tokens_per_step))]
    for first in range(0, len(found), POINTS_AT_ONCE):
        queue.record(lease, found[first : first + POINTS_AT_ONCE])
    return len(found)
