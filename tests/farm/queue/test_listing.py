"""Q9: what anybody may ask.

Longer than other files, since every answer is asked of the same queue.
"""

import json
import time
from collections.abc import Callable
from typing import Any

import pytest
from claims import checkpoint_at, claimed, cpu_seconds, crash, lapse, listed, points, started, study_of
from redis import Redis
from results import result, study_text, tiny_study

from farm.errors import Conflict, NotFound
from farm.queue import live, studies
from farm.queue.live import Scope
from farm.queue.news import News
from farm.queue.queue import Queue
from farm.queue.scripts import TRIES
from farm.queue.spelling import FIELDS, StatusRow, read_study
from farm.queue.values import Point
from farm.study.run import State
from farm.study.study import Study


def test_q9_statuses_are_in_the_order_of_submission(queue: Queue) -> None:
    one, two = tiny_study("one", init=(3, 1)), tiny_study("two", init=(1, 2))
    queue.put(one)
    queue.put(two)
    assert [status.run for status in queue.listing.statuses("one")] == one.runs()
    assert [status.run for status in queue.listing.statuses("two")] == two.runs()
    assert [status.run for status in queue.listing.statuses()][:6] == one.runs()


def test_q9_conservation_holds_after_every_event(queue: Queue) -> None:
    study = study_of(queue)
    everything = [
        lambda: queue.put(study),
        lambda: crash(queue, 1),
        lambda: queue.release(started(queue).lease, "drained"),
        lambda: queue.pause(started(queue).lease, "gone", "a node"),
        lambda: (claim := started(queue), queue.finish(claim.lease, result(claim.run, 3.0, epoch=claim.lease.epoch))),
        lambda: queue.cancel(study.runs()[1].id),
        lambda: queue.retry(study.runs()[1].id),
        lambda: lapse(queue, started(queue).lease),
        lambda: queue.fail(started(queue).lease, "x", "y", 1, False),
    ]
    for event in everything:
        event()
        assert sum(queue.listing.counts().values()) == queue.listing.put_count() == 3
        everything_now = queue.listing.statuses()
        assert queue.listing.unfinished() == [status for status in everything_now if not status.state.is_final]
        assert queue.listing.overview() == (listed(queue), {})
    assert queue.listing.counts() == {
        State.QUEUED: 1,
        State.RUNNING: 0,
        State.SUCCEEDED: 1,
        State.FAILED: 1,
        State.CANCELLED: 0,
    }


def test_q9_ten_thousand_runs_are_listed_quickly(queue: Queue, redis: Redis) -> None:
    """In time of the processor, on either side: others may keep it busy."""
    queue.put(tiny_study(init=tuple(range(3333))))
    ours, theirs = time.process_time(), cpu_seconds(redis)
    assert len(queue.listing.statuses()) == 9999
    assert time.process_time() - ours < 4
    assert cpu_seconds(redis) - theirs < 2


def test_q9_running_lists_only_those_that_hold_a_lease(queue: Queue) -> None:
    study_of(queue)
    claim = started(queue)
    assert queue.listing.running() == [queue.listing.status(claim.run.id)]


def test_q9_training_reads_the_first_that_hold_a_lease_and_counts_the_rest(queue: Queue, redis: Redis) -> None:
    one, two = tiny_study("one", init=(1, 2)), tiny_study("two", init=(3,))
    queue.put(one)
    queue.put(two)
    claims = [started(queue) for _ in range(8)]
    validated = points(2)[0].model_copy(update={"validation_loss": 3.0})
    queue.record(claims[0].lease, [*points(1), validated, *points(3)])
    queue.renew(claims[0].lease, 3, seconds=90)  # its deadline is the last now; its place is not
    found = queue.live.training(Scope("all"), 2)
    assert (found.total, [run.status.run for run in found.first]) == (8, one.runs()[:2])
    assert found.first[0][1:] == (points(3)[0], validated)
    assert found.first[1][1:] == (None, None)
    assert found.first[0].status == queue.listing.status(claims[0].run.id)
    assert [run.status.run for run in queue.live.training(Scope("study", "two"), 9).first] == two.runs()[:2]
    assert [run.status.run for run in queue.live.training(Scope("one", two.runs()[0].id), 9).first] == two.runs()[:1]
    redis.hset(f"farm:run:{one.runs()[0].id}", "spec", "{}")
    found = queue.live.training(Scope("study", "one"), 2)
    assert (found.total, list(found.flaws), len(found.first)) == (6, [one.runs()[0].id], 1)


def test_q9_the_front_of_the_queue_has_every_class_in_turn_and_says_how_many_are_ahead(queue: Queue) -> None:
    both = tiny_study("both", machines=("cpu", "1xrtx3090"), init=(1, 2))
    other = tiny_study("other", init=(3,))
    queue.put(both)
    queue.put(other)
    found = queue.live.front(Scope("all"), 4)
    assert [status.run.machine for status in found.first] == ["cpu", "1xrtx3090"] * 2
    assert list(found.ahead.values()) == [0, 0, 1, 1]
    theirs = queue.live.front(Scope("study", "other"), 2)
    assert [status.run for status in theirs.first] == other.runs()[:2]
    assert list(theirs.ahead.values()) == [6, 7]
    assert list(queue.live.front(Scope("study", "other"), 2, barred=["both"]).ahead.values()) == [0, 1]
    last = other.runs()[2].id
    assert queue.live.front(Scope("one", last), 2).ahead == {last: 8}
    queue.fail(started(queue).lease, "x", "y", 1, True)
    assert queue.live.front(Scope("all"), 99).ahead.keys() == {status.run.id for status in queue.listing.statuses()}, (
        "those that back off, too"
    )


def test_q9_a_tally_counts_the_runs_of_a_study(queue: Queue) -> None:
    study_of(queue)
    queue.put(tiny_study("other", init=(7,)))
    claim = started(queue)
    queue.finish(claim.lease, result(claim.run, 3.0))
    assert queue.live.tally(claim.study) == {State.SUCCEEDED: 1, State.QUEUED: 2}
    assert queue.live.tally("none") == {}


def test_a_trace_has_means_over_equal_shares_of_the_steps(queue: Queue) -> None:
    study_of(queue)
    claim = started(queue)
    assert queue.live.trace(claim.run.id, 3) == []
    losses = {1: 8.0, 2: 6.0, 4: 2.0, 9: 1.0}
    queue.record(claim.lease, [Point(step=step, loss=loss, lr=1, tokens_per_second=1) for step, loss in losses.items()])
    assert queue.live.trace(claim.run.id, 3) == [7.0, 2.0, 1.0]


def test_a_status_is_found_by_the_beginning_of_its_id(queue: Queue) -> None:
    study_of(queue)
    assert queue.listing.status("cpu-base").run.arm == "baseline"
    with pytest.raises(Conflict, match=r"3 runs begin with 'cpu-': cpu-baseline-s42.*Write more of the id"):
        queue.listing.status("cpu-")
    with pytest.raises(NotFound, match=r"no run 'cpu-baselin-s42\.23'; did you mean 'cpu-baseline-s42\.23-"):
        queue.listing.status("cpu-baselin-s42.23")
    for verb in (queue.listing.status, queue.cancel, queue.retry):
        with pytest.raises(NotFound):
            verb("nothing")
    with pytest.raises(NotFound):
        queue.listing.status("")


def test_events_tell_the_story_of_a_run(queue: Queue, redis: Redis) -> None:
    study_of(queue)
    claim = claimed(queue)
    queue.renew(claim.lease, 0, node="node-1")
    queue.checkpoint(claim.lease, checkpoint_at(4))
    queue.finish(claim.lease, result(claim.run, 3.0))
    events = queue.listing.events(claim.run.id)
    assert [(event.event, event.epoch, event.detail) for event in events] == [
        ("queued", 0, "tiny"),
        ("claimed", 1, "worker"),
        ("started", 1, "node-1"),
        ("checkpoint", 1, "step 4"),
        ("succeeded", 1, "step 10"),
    ]
    assert abs(events[-1].at - redis.time()[0]) < 5
    assert queue.listing.events(claim.run.id, count=2) == events[-2:]


def test_the_stream_of_events_is_bounded(queue: Queue, redis: Redis) -> None:
    study_of(queue)
    claim = started(queue)
    for step in range(1, 700):
        queue.checkpoint(claim.lease, checkpoint_at(step))
    assert redis.xlen(f"farm:events:{claim.run.id}") < 400


def test_q9_open_has_the_runs_that_are_not_final_and_paid_by_those_of_who_submitted_them_first(queue: Queue) -> None:
    queue.put(tiny_study("one"))
    queue.put(tiny_study("two"))  # the same runs: they count against the first
    queue.put(tiny_study("three", init=(7,)))
    assert queue.listing.studies() == ["three", "one"]
    claim = started(queue)
    queue.finish(claim.lease, result(claim.run, 3.0))
    running = started(queue).run.id
    everything = queue.listing.statuses()
    assert queue.listing.unfinished() == [status for status in everything if not status.state.is_final]
    assert running in {status.id for status in queue.listing.unfinished()}
    assert queue.listing.paid_by("one").statuses == queue.listing.statuses("two")
    assert queue.listing.paid_by("two").statuses == []


def test_q9_what_is_read_in_pages_has_every_run_once(queue: Queue) -> None:
    def listed(which: str, study: str = "", most: int = 2) -> list[str]:
        texts = queue.scripts.at_once("statuses", which, study, FIELDS, most=most)
        return [StatusRow(*json.loads(text)).id for text in texts]

    study = study_of(queue)
    claims = [started(queue), started(queue)]
    ids = [run.id for run in study.runs()]
    assert listed("all") == listed("study", "tiny") == listed("open", most=1) == listed("paid", "tiny") == ids
    assert queue.listing.ids("tiny") == ids
    assert listed("running", most=1) == sorted(claim.run.id for claim in claims)


def claim_and_finish(queue: Queue) -> None:
    claim = started(queue)
    queue.finish(claim.lease, result(claim.run, 3.0))


def forget(queue: Queue) -> None:
    last = queue.listing.ids("other")[-1]
    queue.cancel(last)
    queue.forget([last], "other")


MEANWHILE: dict[str, Callable[[Queue], object]] = {
    "claimed": started,
    "claimed and finished": claim_and_finish,
    "cancelled": lambda queue: queue.cancel(queue.listing.ids("tiny")[-1]),
    "put": lambda queue: queue.put(tiny_study("more", init=(7,))),
    "forgotten": forget,
}


def test_q9_endings_are_gone_over_again_whenever_a_run_has_moved(queue: Queue) -> None:
    def fail(queue: Queue) -> None:
        queue.fail(started(queue).lease, "x", "y", 1, retryable=False)

    def lift(queue: Queue) -> None:
        run = next(status.run for status in queue.listing.statuses() if status.state is State.SUCCEEDED)
        assert queue.index.restore(run, "tiny", State.QUEUED, epoch=9)

    def retry(queue: Queue) -> None:
        queue.retry(next(status.id for status in queue.listing.statuses() if status.state is State.FAILED))

    study_of(queue)
    queue.put(tiny_study("other", init=(9,)))
    for change in (lambda _: None, fail, claim_and_finish, forget, lift, retry):
        change(queue)
        assert queue.news.endings() == News(queue.scripts).endings()
        assert len(queue.scripts.call("endings", queue.news._endings[0])) == 1, "nothing moved, and it was gone over"
    queue.redis.hset(f"{queue.prefix}storage", "name", "the index of a Redis that was emptied meanwhile")
    assert len(queue.scripts.call("endings", queue.news._endings[0])) > 1


@pytest.mark.parametrize("which", ["all", "open", "study", "paid", "running"])
@pytest.mark.parametrize("change", MEANWHILE)
def test_q9_what_is_read_in_pages_is_of_one_instant(queue: Queue, monkeypatch, change: str, which: str) -> None:
    """Whatever happens between two of them, and before what has happened is asked for."""
    study_of(queue)
    queue.put(tiny_study("other", init=(9,)))
    started(queue)
    started(queue)
    call, changes = queue.scripts.call, [MEANWHILE[change]] * 2

    def eventful(verb: str, *arguments: Any) -> Any:
        answer = call(verb, *arguments)
        if verb == "statuses" and changes:
            with monkeypatch.context() as calm:
                calm.setattr(queue.scripts, "call", call)
                changes.pop()(queue)
        return answer

    monkeypatch.setattr(queue.scripts, "call", eventful)
    found = queue.scripts.at_once("statuses", which, "tiny", FIELDS, most=1)
    monkeypatch.undo()
    assert not changes
    assert sorted(found) == sorted(queue.scripts.at_once("statuses", which, "tiny", FIELDS))


def test_q9_a_tally_is_of_one_instant(queue: Queue, monkeypatch) -> None:
    """A run that was counted as running ends before the next page is counted."""
    study_of(queue)
    claims = [started(queue), started(queue)]
    call, ends = queue.scripts.call, claims[:1]

    def eventful(verb: str, *arguments: Any) -> Any:
        answer = call(verb, *arguments)
        if verb == "tally" and ends:
            claim = ends.pop()
            queue.finish(claim.lease, result(claim.run, 3.0))
        return answer

    monkeypatch.setattr(queue.scripts, "call", eventful)
    monkeypatch.setattr(live, "COUNTED", 1)
    assert queue.live.tally("tiny") == {State.SUCCEEDED: 1, State.RUNNING: 1, State.QUEUED: 1}
    assert not ends


def test_q9_a_tally_of_what_changes_all_the_while_is_taken_in_one_call(queue: Queue, monkeypatch) -> None:
    study_of(queue)
    call, seeds = queue.scripts.call, iter(range(100, 200))

    def restless(verb: str, *arguments: Any) -> Any:
        with monkeypatch.context() as calm:
            calm.setattr(queue.scripts, "call", call)
            queue.put(tiny_study("more", init=(next(seeds),)))
        return call(verb, *arguments)

    monkeypatch.setattr(queue.scripts, "call", restless)
    monkeypatch.setattr(live, "COUNTED", 1)
    assert queue.live.tally("tiny") == {State.QUEUED: 3}
    assert next(seeds) == 100 + 4 * TRIES + 1, "four pages each time, the last without a run, then one"


def test_an_overview_reads_no_recipe_and_no_result(queue: Queue, redis: Redis) -> None:
    study_of(queue)
    claim_and_finish(queue)
    whole = queue.listing.overview()
    for run in queue.listing.ids("tiny"):
        redis.hset(f"farm:run:{run}", "spec", "spoilt")
    assert redis.delete(*redis.keys("farm:result:*")) == 1
    assert queue.listing.overview() == whole


def test_an_overview_has_what_an_older_farm_put_and_finished(queue: Queue, redis: Redis) -> None:
    """It did not write down the steps and the losses beside the run."""
    study_of(queue)
    claim_and_finish(queue)
    claim_and_finish(queue)
    whole, (one, other, _) = queue.listing.overview(), queue.listing.ids("tiny")
    for run in queue.listing.ids("tiny"):
        assert redis.hdel(f"farm:run:{run}", "steps", "losses")
    assert queue.listing.overview() == whole
    redis.set(f"farm:result:{one}", "spoilt")
    redis.hset(f"farm:run:{other}", "step", "spoilt")
    found = queue.listing.overview()
    assert found.statuses == whole.statuses[2:]
    assert found.flaws.keys() == {one, other}


def test_q9_what_changes_all_the_while_is_read_in_one_call(queue: Queue, monkeypatch) -> None:
    study_of(queue)
    call, seeds = queue.scripts.call, iter(range(100, 200))

    def restless(verb: str, *arguments: Any) -> Any:
        answer = call(verb, *arguments)
        if verb == "statuses":
            with monkeypatch.context() as calm:
                calm.setattr(queue.scripts, "call", call)
                queue.put(tiny_study("more", init=(next(seeds),)))
        return answer

    before = len(queue.listing.statuses())
    monkeypatch.setattr(queue.scripts, "call", restless)
    assert len(queue.scripts.at_once("statuses", "study", "tiny", FIELDS, most=1)) == before


def test_q9_of_more_changes_than_are_remembered_all_count(queue: Queue, redis: Redis, monkeypatch) -> None:
    """A thousand are, so that they take no room; who asks for older ones reads all pages again."""
    study = tiny_study(init=tuple(range(350)))
    queue.put(study)
    call, ids = queue.scripts.call, [run.id for run in study.runs()]

    def eventful(verb: str, *arguments: Any) -> Any:
        answer = call(verb, *arguments)
        if verb == "statuses" and ids:
            with monkeypatch.context() as calm:
                calm.setattr(queue.scripts, "call", call)
                while ids:
                    queue.cancel(ids.pop(0))
        return answer

    monkeypatch.setattr(queue.scripts, "call", eventful)
    assert {status.state for status in queue.listing.statuses()} == {State.CANCELLED}
    assert redis.zcard(f"{queue.prefix}moves") <= 1000


def test_the_lists_of_runs_are_rebuilt_from_the_runs(queue: Queue, redis: Redis) -> None:
    study = study_of(queue)
    claim = started(queue)
    queue.finish(claim.lease, result(claim.run, 3.0))
    unfinished = queue.listing.unfinished()
    redis.delete("farm:unfinished", "farm:ids")
    assert queue.listing.unfinished() == queue.listing.names("runs", "cpu") == []
    queue.scripts.mend()
    assert queue.listing.unfinished() == unfinished
    assert queue.listing.names("runs", "cpu") == sorted(run.id for run in study.runs())


def test_speeds_are_those_of_trainings_and_go_to_who_adopted_a_result_that_is_forgotten(queue: Queue) -> None:
    study = study_of(queue)
    for speed in (1000.5, 1001.5, 1002.5):
        claim = started(queue)
        queue.finish(claim.lease, result(claim.run, 3.0, tokens_per_second=speed))
    speeds, trained = queue.listing.speeds(), [run.id for run in study.runs()]
    assert [(one.run_id, one.tokens_per_second) for one in speeds] == list(
        zip(trained, (1000.5, 1001.5, 1002.5), strict=True)
    )
    assert [(one.machine, one.recipe) for one in speeds] == [(run.machine, run.recipe) for run in study.runs()]
    ((heir, origin),) = queue.put(
        Study.parse(study_text("two", init=(42,)).replace("remove-dropout", "renamed"))
    ).adopted.items()
    assert queue.listing.speeds() == speeds, "what was adopted was not trained"
    assert queue.listing.namesakes([origin]) == [heir]
    queue.forget([origin], "tiny")
    assert {one.run_id for one in queue.listing.speeds()} == {*trained, heir} - {origin}


def test_states_are_of_the_runs_that_are_there(queue: Queue) -> None:
    study = study_of(queue)
    claim = started(queue)
    ids = [run.id for run in study.runs()]
    assert queue.listing.states([*ids, "nothing"]) == {
        run_id: State.RUNNING if run_id == claim.run.id else State.QUEUED for run_id in ids
    }
    assert [status.id for status in queue.listing.these([*ids, "nothing"]).statuses] == ids


def test_of_studies_without_a_limit_no_more_is_read_than_that(queue: Queue, redis: Redis, monkeypatch) -> None:
    study_of(queue)
    dear = Study.parse(study_text("dear") + "[policy]\nusd_limit = 2.0\n")
    slow = Study.parse(study_text("slow", init=(7,)) + "[policy]\nhours_limit = 2.0\n")
    queue.put(slow)
    queue.put(dear)
    redis.hset("farm:studies", mapping={"spoilt": "spoilt", "newer": '{"schema":99,"policy":"of another form"}'})
    reads: list[str] = []
    monkeypatch.setattr(studies, "read_study", lambda text: reads.append(text) or read_study(text))
    assert list(queue.studies.limited().items()) == [("dear", dear), ("slow", slow)]
    assert len(reads) == 4, "and those whose policy cannot be read"
