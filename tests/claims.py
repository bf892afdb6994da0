"""Runs that are put, claimed and lost, as the tests of the queue need them."""

from collections.abc import Callable

from redis import Redis
from results import tiny_study
from waiting import wait_until

from farm.queue.queue import Queue
from farm.queue.values import Claim, Listed, Point
from farm.study.run import Checkpoint, Lease, State
from farm.study.study import Study

MOMENT = 0.001  # seconds: a lease that is over before anybody looks


def study_of(queue: Queue, **changes: dict) -> Study:
    """The tiny study of one seed, with `changes` to its tables, submitted."""
    tables = tiny_study(init=(42,)).model_dump(mode="json", exclude_unset=True)
    study = Study.build(tables | {key: tables.get(key, {}) | value for key, value in changes.items()})
    queue.put(study)
    return study


def claimed(queue: Queue, seconds: float = 60.0) -> Claim:
    """A claim that must succeed, once the back-offs of a millisecond are over."""
    wait_until(
        lambda: sum(queue.listing.backlog().values()) == queue.listing.counts()[State.QUEUED], "no run backs off"
    )
    return wait_until(lambda: queue.claim("cpu", "worker", seconds), "a run can be claimed")


def started(queue: Queue) -> Claim:
    """A claim whose agent has renewed it."""
    claim = claimed(queue)
    queue.renew(claim.lease, 0)
    return claim


def lapse(queue: Queue, lease: Lease, step: int = 0) -> None:
    """Let a lease run out, after a renewal at `step`, and end it."""
    queue.renew(lease, step, seconds=MOMENT)
    wait_until(lambda: lease.run_id in queue.sweep(), "the lease expires")


def listed(queue: Queue) -> list[Listed]:
    """The runs as an overview should have them, from all that is known of each."""
    return [Listed.of(status)._replace(causes=status.causes[-1:]) for status in queue.listing.statuses()]


def claimed_as(queue: Queue) -> tuple[str, str] | None:
    claim = queue.claim("cpu", "worker", 60)
    return (claim.study, claim.run.arm) if claim else None


def state(queue: Queue, claim: Claim) -> State:
    return queue.listing.status(claim.run.id).state


def picture(queue: Queue, redis: Redis) -> dict[str, object]:
    """Every key with its content."""
    readers: dict[str, Callable[[str], object]] = {
        "string": redis.get,
        "hash": redis.hgetall,
        "list": lambda key: redis.lrange(key, 0, -1),
        "zset": lambda key: redis.zrange(key, 0, -1, withscores=True),
        "set": redis.smembers,
        "stream": redis.xrange,
    }
    return {key: readers[redis.type(key)](key) for key in sorted(redis.keys(f"{queue.prefix}*"))}


def points(*steps: int) -> list[Point]:
    return [Point(step=step, loss=step / 2, lr=1e-3, grad_norm=None, tokens_per_second=10.0) for step in steps]


def checkpoint_at(step: int, epoch: int = 1) -> Checkpoint:
    return Checkpoint(step=step, epoch=epoch, path=f"runs/x/{epoch}/checkpoints/step-{step:08d}", sha256="0" * 64)


def crash(queue: Queue, step: int) -> State:
    return queue.fail(started(queue).lease, "worker-died", "killed", step, True)


def cpu_seconds(redis: Redis) -> float:
    used = redis.info("cpu")
    return used["used_cpu_user"] + used["used_cpu_sys"]
