"""What a study has cost, and when it has spent what it may."""

import pytest
from redis import Redis
from results import result, tiny_study
from waiting import wait_until

from farm.queue.budget import Spending, cost, dollars, find_exhausted, find_unpriced, price, spending
from farm.queue.queue import Queue
from farm.study.machine import BUILT_IN, Machine
from farm.study.recipe import Recipe
from farm.study.study import Study
from farm.verdict.forecast import least_hours, least_limit

SCALE = Recipe().model.flops_per_token / tiny_study().arms()[0].recipe.model.flops_per_token  # of a declared speed
RENTED = {  # a cent a second, and nothing
    "rented": Machine(name="rented", accelerator="cpu", usd_per_hour=36.0),
    "free": Machine(name="free"),
}


def limited(usd: float | None, machines: tuple[str, ...] = ("rented",)) -> Study:
    """The tiny study of one seed with a limit."""
    tables = tiny_study(machines=machines, init=(42,)).model_dump(mode="json", exclude_unset=True)
    return Study.build(tables | ({"policy": {"usd_limit": usd}} if usd else {}))


def held(queue: Queue, study: Study, seconds: float) -> None:
    """Every run of `study` was under a lease for `seconds`, and is queued again."""
    for run in study.runs():
        queue.redis.hset(f"farm:run:{run.id}", "held", round(seconds * 1000))


def test_time_under_leases_is_what_counts(queue: Queue) -> None:
    study = limited(1.0)
    queue.put(study)
    held(queue, study, 33.4)
    assert find_exhausted([study], queue.listing.statuses(), RENTED, now=0.0).keys() == {"tiny"}, (
        "3 runs x 33.4 s x $0.01"
    )
    held(queue, study, 33.3)
    assert find_exhausted([study], queue.listing.statuses(), RENTED, now=0.0) == {}


def test_a_run_that_trains_counts_up_to_now(queue: Queue) -> None:
    queue.put(limited(1.0))
    claim = queue.claim("rented", "worker", 60)
    assert claim is not None
    status = queue.listing.status(claim.run.id)
    assert status.started is not None
    assert cost(status, 36.0, now=status.started + 50) == pytest.approx(0.5)
    queue.release(claim.lease, "drained")
    assert cost(queue.listing.status(claim.run.id), 36.0, now=status.started + 50) < 0.5, (
        "a lease that is over costs no more"
    )


def test_a_result_says_itself_what_it_cost(queue: Queue) -> None:
    queue.put(tiny_study())
    claim = queue.claim("cpu", "worker", 60)
    assert claim is not None
    queue.finish(claim.lease, result(claim.run, 3.0, usd=7.5))
    assert cost(queue.listing.status(claim.run.id), 36.0, now=0.0) == 7.5


def test_the_limit_is_that_of_the_study_as_submitted_last(queue: Queue) -> None:
    study = limited(0.5)
    queue.put(study)
    held(queue, study, 20)
    assert find_exhausted(queue.studies.all().values(), queue.listing.statuses(), RENTED, now=0.0)
    queue.put(limited(5.0))
    assert find_exhausted(queue.studies.all().values(), queue.listing.statuses(), RENTED, now=0.0) == {}


def test_without_a_limit_nothing_is_ever_exhausted(queue: Queue) -> None:
    study = limited(None)
    queue.put(study)
    held(queue, study, 1e6)
    assert find_exhausted([study], queue.listing.statuses(), RENTED, now=0.0) == {}


def test_classes_without_a_price_are_not_seen_by_a_limit() -> None:
    assert find_unpriced(limited(1.0, machines=("rented", "free", "cpu")), BUILT_IN | RENTED) == ["free"]


def test_a_run_never_gets_cheaper_by_finishing(queue: Queue) -> None:
    """Its result leaves out what came before its first attempt; a study over its limit would start runs again."""
    study = limited(1.0)
    queue.put(study)
    claim = queue.claim("rented", "worker", 60)
    assert claim is not None
    queue.finish(
        claim.lease, result(claim.run.model_copy(update={"machine": "cpu"}), 3.0, usd=0.5, run_id=claim.run.id)
    )
    held(queue, study, 90)
    assert cost(queue.listing.status(claim.run.id), 36.0, now=0.0) == pytest.approx(0.9)


def test_a_result_that_somebody_else_paid_for_costs_nothing(queue: Queue) -> None:
    """As one that was taken over: the run has it, and never had a lease."""
    (run, *_) = tiny_study().runs()
    queue.put(tiny_study())
    paid = queue.listing.status(run.id).model_copy(update={"result": result(run, 3.0, usd=7.5)})
    assert cost(paid, 36.0, now=0.0) == 0.0


def test_failures_and_releases_are_paid_for(queue: Queue, redis: Redis) -> None:
    queue.put(limited(1.0))
    for end in (
        lambda lease: queue.release(lease, "drained"),
        lambda lease: queue.fail(lease, "worker-died", "killed", 1, True),
        lambda lease: queue.fail(lease, "nonfinite", "nan", 1, False),
    ):
        claim = wait_until(lambda: queue.claim("rented", "worker", 60), "a run can be claimed")
        redis.hincrby(f"farm:run:{claim.run.id}", "started", -10_000)  # it has trained for 10 s
        end(claim.lease)
    assert spending([limited(1.0)], queue.listing.statuses(), RENTED, now=0.0)["tiny"].usd == pytest.approx(
        0.3, abs=0.02
    )


def test_a_shared_run_counts_against_the_study_that_submitted_it_first(queue: Queue) -> None:
    first, second = limited(1.0), renamed(limited(0.1), "second")
    for study in (first, second):
        queue.put(study)
    held(queue, first, 30)
    statuses = queue.listing.statuses("second")
    assert {status.study for status in statuses} == {"tiny"}
    found = spending([first, second], statuses, RENTED, now=0.0)
    assert (found["tiny"].usd, found["second"].usd) == (pytest.approx(0.9), 0.0)
    assert find_exhausted([first, second], statuses, RENTED, now=0.0) == {}


def renamed(study: Study, name: str) -> Study:
    return study.model_copy(update={"study": study.study.model_copy(update={"name": name})})


def test_what_trains_says_when_the_limit_will_be_reached(queue: Queue) -> None:
    queue.put(limited(1.0))
    claims = [queue.claim("rented", "worker", 60) for _ in range(2)]
    assert all(claims)
    begun = queue.listing.running()[0].started
    assert begun is not None
    (found,) = spending([limited(1.0)], queue.listing.statuses(), RENTED, now=begun + 20).values()
    assert found.usd == pytest.approx(0.4, abs=0.01)
    assert found.usd_per_hour == 72.0
    assert found.seconds_left == pytest.approx(30, abs=1)
    assert Spending(0.4, 1.0).seconds_left == float("inf"), "nothing trains"
    assert Spending(2.0, 1.0, 36.0).seconds_left == 0


def test_what_a_dispatcher_counted_is_believed_since_it_knows_every_price(queue: Queue) -> None:
    study = limited(1.0)
    queue.put(study)
    held(queue, study, 50)
    assert find_exhausted([study], queue.listing.statuses(), {"rented": Machine(name="rented")}, now=0.0) == {}
    found = find_exhausted(
        [study], queue.listing.statuses(), {"rented": Machine(name="rented")}, now=0.0, told={"tiny": 1.5}
    )
    assert found["tiny"].usd == 1.5
    assert find_exhausted([limited(2.0)], queue.listing.statuses(), RENTED, now=0.0, told={"tiny": 1.5}) == {}, (
        "and raised since"
    )


def test_node_hours_count_every_attempt_and_every_node_of_a_group(queue: Queue) -> None:
    study = limited(None, machines=("rented+free",)).with_limits(None, 0.1)
    queue.put(study)
    held(queue, study, 30)
    found = spending([study], queue.listing.statuses(), RENTED, now=0.0)["tiny"]
    assert found.hours == pytest.approx(3 * 2 * 30 / 3600)
    assert (found.is_over, str(found)) == (False, "0.05 node hours used of 0.1")
    held(queue, study, 60)
    assert find_exhausted([study], queue.listing.statuses(), RENTED, now=0.0).keys() == {"tiny"}
    assert least_hours(study, queue.listing.statuses(), RENTED, 0.1) is None, "nothing tells how fast it is"


def test_a_mixed_group_costs_what_is_known_of_its_classes() -> None:
    study = limited(1.0, machines=("rented+free",))
    assert price(study, "rented+free", RENTED) == 36.0
    assert price(study, "nobody-knows-it", RENTED) == 0.0


def test_the_least_limit_is_what_was_spent_and_what_is_left(queue: Queue) -> None:
    """10 steps of 8 x 32 tokens at 256 a second: 10 s a run, at a cent a second."""
    known = {"rented": RENTED["rented"].model_copy(update={"tokens_per_second": 256 / SCALE})}
    study = limited(0.1)
    assert least_limit(study, [], known, 0.0) == pytest.approx(0.3, abs=0.011)
    queue.put(study)
    claim = queue.claim("rented", "worker", 60)
    assert claim is not None
    queue.renew(claim.lease, 5)
    assert least_limit(study, queue.listing.statuses(), known, 0.05) == pytest.approx(0.3, abs=0.011)
    queue.fail(claim.lease, "nonfinite", "nan", 5, False)
    assert least_limit(study, queue.listing.statuses(), known, 0.05) == pytest.approx(0.25, abs=0.011)
    assert least_limit(renamed(study, "second"), queue.listing.statuses(), known, 0.0) == 0.0, (
        "another study pays for all"
    )


def test_what_steps_have_cost_tells_what_is_left_where_no_speed_is_known(queue: Queue) -> None:
    study = limited(0.1)
    assert least_limit(study, [], RENTED, 0.0) is None
    queue.put(study)
    claim = queue.claim("rented", "worker", 60)
    assert claim is not None
    queue.renew(claim.lease, 5)
    queue.release(claim.lease, "drained")
    queue.redis.hset(f"farm:run:{claim.run.id}", "held", 10_000)
    assert least_limit(study, queue.listing.statuses(), RENTED, 0.1) == pytest.approx(0.1 + 25 * 0.02), (
        "2 s a step, 25 to go"
    )
    assert least_limit(study, queue.listing.statuses(), {}, 0.1) == pytest.approx(0.1), (
        "a class that nobody knows costs nothing"
    )


@pytest.mark.parametrize(
    ("usd", "text"),
    [(0.0, "$0.00"), (1234.5, "$1,234.50"), (0.234, "$0.23"), (0.0123, "$0.012"), (0.00001, "$0.000010")],
)
def test_small_amounts_keep_two_digits(usd: float, text: str) -> None:
    assert dollars(usd) == text
