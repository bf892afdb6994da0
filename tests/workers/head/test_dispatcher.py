"""Which runs could start now: the pure half of the dispatcher. tests/walk/ shows the other half on a real Ray."""

from dispatching import KNOWN, LAPTOP, of, put
from results import tiny_study

from farm.queue.queue import Queue
from farm.study.machine import BUILT_IN, Machine
from farm.study.run import Lease, State
from farm.study.study import Study
from workers.head.dispatcher import Busy, Dispatcher, RayNode, Slot, cpus, free, holds, together

GPU = RayNode("gpu", 16, {"1xrtx3090": 1})


def names(nodes, busy):
    return sorted(slot.machine for slot in free(nodes, busy, KNOWN))


def test_an_idle_node_offers_every_class_it_has():
    assert free([LAPTOP], [], KNOWN) == [Slot("cpu-x1", "laptop", 1.0), Slot("cpu-x2", "laptop", 2.0)]


def test_a_run_holds_the_cpus_of_its_threads():
    assert names([LAPTOP], [Busy("cpu-x1", "laptop")]) == ["cpu-x1"]


def test_a_run_over_two_workers_fills_two_cores():
    assert names([LAPTOP], [Busy("cpu-x2", "laptop")]) == []


def test_a_class_has_as_many_runs_as_units():
    assert names([RayNode("big", 64, {"cpu-x1": 2})], [Busy("cpu-x1", "big")] * 2) == []


def test_a_run_whose_node_is_not_known_yet_counts_all_the_same():
    assert names([GPU], [Busy("1xrtx3090", None)]) == []


def test_two_runs_without_a_node_count_against_two_nodes():
    other = RayNode("other", 16, {"1xrtx3090": 1})
    assert names([GPU, other], [Busy("1xrtx3090", None)]) == ["1xrtx3090"]
    assert names([GPU, other], [Busy("1xrtx3090", None)] * 2) == []


def test_runs_that_say_where_they_are_are_placed_before_those_that_do_not():
    other = RayNode("other", 16, {"1xrtx3090": 1})
    busy = [Busy("1xrtx3090", None), Busy("1xrtx3090", "gpu")]
    assert names([GPU, other], busy) == []


def test_a_run_on_a_node_that_is_gone_holds_nothing_here():
    assert names([GPU], [Busy("1xrtx3090", "gone")]) == ["1xrtx3090"]


def test_a_gpu_run_is_counted_by_its_unit_alone():
    assert cpus(BUILT_IN["1xrtx3090"], GPU) == 0


def test_a_cpu_class_without_threads_takes_the_whole_node():
    assert cpus(Machine(name="cpu"), LAPTOP) == 2


def test_an_unknown_class_is_counted_by_its_unit():
    assert free([RayNode("n", 4, {"strange": 1})], [], KNOWN) == [Slot("strange", "n", 0.0)]


def spent_and(queue: Queue, *others: str) -> Dispatcher:
    """A dispatcher of a study that has spent its limit, and then `others`. It has nobody to submit a job to."""
    study = Study.build(
        tiny_study(init=(42,)).model_dump(mode="json", exclude_unset=True) | {"policy": {"usd_limit": 1.0}}
    )
    for each in (study, *map(tiny_study, others)):
        queue.put(each)
    queue.redis.hset(f"farm:run:{study.runs()[0].id}", "held", 3_600_000)
    rented = {"cpu": Machine(name="cpu", usd_per_hour=1.0)}
    return Dispatcher(queue, jobs=None, look=lambda: [RayNode("n", 4, {"cpu": 1})], declared=rented)


def test_no_run_starts_of_a_study_that_has_spent_its_limit(queue: Queue):
    dispatcher = spent_and(queue)
    queue.roster.register(Machine(name="cpu"), "node", 60)  # which does not know what it costs
    assert dispatcher.turn() == []
    assert dispatcher.over_budget == {"tiny"}
    assert queue.listing.counts()[State.QUEUED] == 3


def test_what_cannot_be_read_is_said_not_to_count_against_a_limit_once(queue: Queue, caplog):
    dispatcher = spent_and(queue)
    (spoilt, *_) = queue.listing.ids("tiny")
    queue.redis.hset(f"farm:run:{spoilt}", "spec", "{")
    for _ in range(2):
        dispatcher.counts_at = 0.0
        dispatcher._count_spending()
    (warning,) = [record.getMessage() for record in caplog.records]
    assert warning.startswith(f"the limit of tiny does not count a run that cannot be read: run {spoilt}: ")
    assert dispatcher.over_budget == set()


def test_a_study_that_has_spent_its_limit_lets_others_pass(queue: Queue):
    dispatcher = spent_and(queue, "other")
    dispatcher._count_spending()
    claim, slot = dispatcher._claim()
    assert (claim.study, slot.node) == ("other", "n")


def test_a_mixed_group_takes_a_slot_of_each_class_on_nodes_of_their_own():
    attic, cellar = RayNode("attic", 2, {"cpu-x1": 2, "cpu-x2": 1}), RayNode("cellar", 2, {"cpu-x2": 1})
    assert together("cpu-x1+cpu-x2", free([attic], [], KNOWN)) is None, "both are on one node"
    assert together("cpu-x1+cpu-x2", free([cellar], [], KNOWN)) is None
    slot = together("cpu-x1+cpu-x2", free([attic, cellar], [], KNOWN))
    assert slot == Slot("cpu-x1+cpu-x2", "attic+cellar", 1.0, (Slot("cpu-x2", "cellar", 2.0),))


def test_a_mixed_run_holds_units_and_cpus_on_all_its_nodes(queue: Queue):
    attic, cellar = RayNode("attic", 2, {"cpu-x1": 2, "cpu-x2": 1}), RayNode("cellar", 2, {"cpu-x2": 1, "cpu-x1": 2})
    queue.put(tiny_study(machines=("cpu-x1+cpu-x2",), init=(42,)))
    dispatcher = Dispatcher(queue, jobs=None, look=lambda: [attic, cellar])
    for machine in ("cpu-x1", "cpu-x2"):
        queue.roster.register(KNOWN[machine], "here", 60)
    _, slot = dispatcher._claim()
    assert slot.node == "attic+cellar"
    busy = [held for status in queue.listing.running() for held in holds(status)]
    assert busy == [Busy("cpu-x1", "attic"), Busy("cpu-x2", "cellar")]
    assert free([attic, cellar], busy, KNOWN) == [Slot("cpu-x1", "attic", 1.0)]
    assert dispatcher._claim() is None, "two more are queued, and no cpu-x2 is free"


def claimed(dispatcher: Dispatcher) -> list[tuple[str, str]]:
    """Class and node of every run that the dispatcher claims now."""
    return [(claim.run.machine, slot.node) for claim, slot in iter(dispatcher._claim, None)]


def test_classes_take_turns_in_the_order_of_their_runs(queue: Queue):
    put(queue, "second", "cpu-x2")
    put(queue, "third", "cpu-x1", (7,))
    put(queue, "first", "cpu-x1", priority=1)
    assert list(queue.listing.backlog()) == ["cpu-x1", "cpu-x2"]
    node = RayNode("attic", 3, {"cpu-x1": 3, "cpu-x2": 1})
    assert claimed(of(queue, node)) == [("cpu-x1", "attic"), ("cpu-x2", "attic")]
    assert queue.listing.backlog() == {"cpu-x1": 1}


def test_a_mixed_group_waits_its_turn_and_is_kept_what_comes_free_for_it(queue: Queue):
    attic, cellar = RayNode("attic", 2, {"cpu-x1": 2}), RayNode("cellar", 2, {"cpu-x2": 1})
    dispatcher = of(queue, attic, cellar)
    put(queue, "before", "cpu-x2")
    put(queue, "group", "cpu-x1+cpu-x2")
    put(queue, "after", "cpu-x1", (42, 22))
    put(queue, "after-too", "cpu-x2", (22,))
    assert claimed(dispatcher) == [("cpu-x2", "cellar"), ("cpu-x1", "attic")], "one of attic's two units is kept"
    (before,) = [status for status in queue.listing.running() if status.study == "before"]
    lease = Lease(run_id=before.id, epoch=1, deadline=0.0, worker=before.worker or "")
    queue.cancel(before.id)
    queue.acknowledge_cancel(lease)
    assert claimed(dispatcher) == [("cpu-x1+cpu-x2", "attic+cellar")]


def test_nothing_is_kept_for_a_mixed_group_that_no_node_completes(queue: Queue):
    put(queue, "group", "cpu-x1+cpu-x2")
    put(queue, "after", "cpu-x1")
    assert claimed(of(queue, RayNode("attic", 1, {"cpu-x1": 1}))) == [("cpu-x1", "attic")]


def test_what_cannot_be_read_stops_no_dispatcher(queue: Queue):
    """Values of another type, of a newer farm, and of nobody: what is sound is counted and claimed."""
    dispatcher = spent_and(queue, "later")
    for role, name in (("machines", "cpu-x1"), ("studies", "later"), ("sightings", "node")):
        queue.redis.hset(f"farm:{role}", name, "{garbage")
    queue.redis.zadd("farm:leases", {"nobody": 1})
    queue.redis.zadd("farm:queue:cpu", {"nobody": -9e15})
    queue.redis.sadd("farm:classes", "strange")
    queue.redis.set("farm:queue:strange", "x")
    dispatcher.queue.sweep()
    dispatcher.bury()
    dispatcher._count_spending()
    claim, slot = dispatcher._claim()
    assert (claim.study, slot.node) == ("later", "n")
    assert dispatcher.over_budget == {"tiny"}
