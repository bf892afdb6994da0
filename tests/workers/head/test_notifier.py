"""People are told what happens: once each, whatever restarts, and without a word of whom.

Longer than other files, since all of it needs a head, a service and news.
"""

import logging
import os
import platform
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from claims import claimed, started
from redis import Redis
from results import result, tiny_study
from waiting import wait_until
from webhook import SECRETS, Webhook, webhook

from farm.errors import BadSetting, Unreachable
from farm.queue.node import Head, Node
from farm.queue.queue import Queue
from farm.record.result import Provenance
from farm.record.store import Store
from farm.reindex import reindex
from farm.site import serving
from farm.site.process import identity
from farm.site.serving import Facts, Health
from farm.site.settings import NOTIFY_URLS, Notify, Settings
from farm.study.machine import Machine
from farm.study.study import Study
from workers.head import facts, messenger, notifier
from workers.head.facts import Watch
from workers.head.messenger import Message, Service, plain, services
from workers.head.notifier import Teller, notifying

Telling = Callable[[], Teller]


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every look is a look, and nothing waits for seconds."""
    for module, name in ((facts, "LOOK_SECONDS"), (facts, "BUDGET_SECONDS"), (notifier, "LOOK_SECONDS")):
        monkeypatch.setattr(module, name, 0.0)
    monkeypatch.setattr(notifier, "TURN_SECONDS", 0.01)
    monkeypatch.setattr(notifier, "FIRST_REST_SECONDS", 0.01)


@pytest.fixture
def hook() -> Iterator[Webhook]:
    with webhook() as hook:
        yield hook


@pytest.fixture
def here(tmp_path: Path, queue: Queue, redis_url: str) -> Settings:
    """A farm with an index, at a home of its own."""
    reindex(Store(tmp_path / "storage"), queue, is_own=True)
    rented = {"cpu": Machine(name="cpu", usd_per_hour=1.0)}
    return Settings(home=tmp_path, storage=tmp_path / "storage", redis_url=redis_url, machines=rented)


@pytest.fixture
def telling(here: Settings, queue: Queue, hook: Webhook) -> Telling:
    """A dispatcher that has just started, and has begun to tell; those before it have stopped."""
    tellers: list[Teller] = []

    def start() -> Teller:
        for before in tellers:
            queue.news.stop(before._name, before._token)
        tellers.append(Teller(Service(0, hook.url), queue, Watch(here, queue), "marker"))
        tellers[-1].turn()
        return tellers[-1]

    return start


def fail(queue: Queue, count: int = 1) -> None:
    for _ in range(count):
        queue.fail(claimed(queue).lease, "nonfinite", "the loss is nan\nat once", 5, retryable=False)


def finish_all(queue: Queue) -> None:
    base = {"baseline": 3.69, "remove-dropout": 3.14, "gradient-clipping": 3.70}
    while any(queue.listing.backlog().values()):
        claim = started(queue)
        queue.finish(claim.lease, result(claim.run, base[claim.run.arm] + claim.run.seeds.init / 1000))


def rejoin(queue: Queue, *nodes: Node) -> None:
    """These nodes are seen now, and no others."""
    queue.redis.delete(f"{queue.prefix}seen", f"{queue.prefix}sightings")
    queue.roster.sight(nodes, 60)


def node(name: str, **changes: object) -> Node:
    values = {"id": f"ray-{name}", "name": name, "host": name, "address": "10.0.0.5", "units": {"cpu": 2}}
    return Node.model_validate(values | changes)


def test_a_failure_is_told_once_whatever_restarts(queue: Queue, telling: Telling, hook: Webhook) -> None:
    queue.put(tiny_study(init=(42,)))
    fail(queue)
    teller = telling()
    teller.turn()
    assert hook.taken == [], "what happened before is no news"
    fail(queue)
    teller.turn()
    teller.turn()
    again = telling()
    again.turn()
    assert hook.titles == ["a run of tiny failed for good"]
    (said,) = hook.taken
    assert said["title"].startswith(f"farm on {platform.node()}: ")
    assert said["type"] == "failure"
    assert "at step 5 of 10: nonfinite: the loss is nan\n\n" in said["message"], "the first line of the cause"
    assert "farm retry tiny" in said["message"]


def test_a_run_that_was_tried_again_and_failed_again_is_news(queue: Queue, telling: Telling, hook: Webhook) -> None:
    queue.put(tiny_study(init=(42,)))
    teller = telling()
    fail(queue)
    teller.turn()
    (failed,) = [status.id for status in queue.listing.statuses() if status.state == "failed"]
    queue.retry(failed)
    queue.fail(claimed(queue).lease, "nonfinite", "again", 5, retryable=False)
    telling().turn()  # a new process, which waits for no ten minutes of quiet
    assert hook.titles == ["a run of tiny failed for good"] * 2


def test_many_failures_at_once_are_one_message(
    queue: Queue, telling: Telling, hook: Webhook, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notifier, "LOOK_SECONDS", 0.2)
    queue.put(tiny_study(init=tuple(range(67))))
    teller = telling()
    order = [status.id for status in queue.listing.statuses()]
    fail(queue, 3)
    teller.turn()
    assert hook.taken == [], "more may fail"
    fail(queue, 197)
    wait_until(lambda: teller.turn() or hook.taken, "it is told")
    assert hook.titles == ["200 runs of tiny failed for good"]
    assert f"The first of them: {order[0]}, at step 5" in hook.taken[0]["message"]
    fail(queue)
    for _ in range(2):  # seen, and settled
        teller.turn()
        time.sleep(0.3)
    teller.turn()
    assert len(hook.taken) == 2, "the study is done"
    assert hook.titles[1] == "tiny is done", "the one more failure waits for others"


def test_a_study_that_is_done_is_told_with_its_verdicts(queue: Queue, telling: Telling, hook: Webhook) -> None:
    queue.put(tiny_study())
    teller = telling()
    finish_all(queue)
    teller.turn()
    telling().turn()
    (said,) = hook.taken
    assert (hook.titles, said["type"]) == (["tiny is done"], "success")
    text = said["message"]
    assert text.startswith("9 runs: 9 succeeded.\nbaseline on cpu: test_loss 3.7337 nats (SD 0.0225), 3 seed pairs\n")
    assert "\nbetter: remove-dropout on cpu, -0.5500 nats, 95 % interval -0.55" in text
    assert "\nunresolved: gradient-clipping on cpu, +0.0100 nats" in text or "\nworse: gradient-clipping" in text
    assert text.endswith("See farm table tiny")
    queue.put(tiny_study(init=(42, 22, 67, 5)))
    teller.turn()
    finish_all(queue)
    telling().turn()
    assert hook.titles == ["tiny is done"] * 2, "more seeds, and done again"
    queue.forget([status.id for status in queue.listing.statuses() if status.run.seeds.init == 5], "tiny")
    telling().turn()
    assert len(hook.taken) == 2, "fewer runs are not more news"


def test_a_study_is_not_done_while_its_models_are_scored(queue: Queue, telling: Telling, hook: Webhook) -> None:
    from farm.queue.unscored import find_unscored

    study = tiny_study(init=(42,))
    queue.put(study)
    teller = telling()
    finish_all(queue)
    jobs = find_unscored(study, queue.listing.statuses(), {}, ["test_loss"]).jobs
    queue.evaluations.put("tiny", [job for job, _ in jobs.values()])
    teller.turn()
    assert hook.taken == []
    for job in jobs:
        queue.cancel(job)
    teller.turn()
    assert hook.titles == ["tiny is done"]


def test_a_budget_is_told_at_80_and_at_100_per_cent(queue: Queue, telling: Telling, hook: Webhook) -> None:
    tables = tiny_study(init=(42,)).model_dump(mode="json", exclude_unset=True)

    def limit(usd: float) -> None:
        queue.put(Study.build(tables | {"policy": {"usd_limit": usd}}))

    limit(10.0)
    teller, run = telling(), tiny_study(init=(42,)).runs()[0].id
    for hours in (7.9, 8.1, 9.0, 10.5, 11.0):
        queue.redis.hset(f"farm:run:{run}", "held", round(hours * 3_600_000))
        teller.turn()
    telling().turn()
    assert hook.titles == ["tiny has spent 80 % of its budget", "tiny has spent its budget"]
    assert [said["message"].partition(".")[0] + said["message"].partition(".")[2][:20] for said in hook.taken]
    assert hook.taken[0]["message"] == "$8.10 spent of $10.00."
    assert "raise its limit under [policy]" in hook.taken[1]["message"]
    limit(12.0)
    teller = telling()
    assert hook.titles[2:] == ["tiny has spent 80 % of its budget"], "of the limit that was raised"


def test_machines_that_join_and_are_lost_are_told_by_name(
    queue: Queue, telling: Telling, hook: Webhook, here: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, software = Store(here.storage), Provenance(farm="0", code="c" * 64, python="3.11", torch="2")
    queue.roster.publish(
        Head(host="head", ray="r", software=software, sources="/", storage=store.uri, marker=store.mark())
    )
    teller = telling()
    rejoin(queue, node("head"), node("attic", joined="token"), node("cellar", joined="token"))
    teller.turn()
    assert sorted(hook.titles) == ["a machine joined"] * 2, "the head's own is none that joined"
    assert "attic at 10.0.0.5 (Ray node ray-atti): cpu x 2" in {said["message"] for said in hook.taken}
    rejoin(queue, node("head"), node("attic", id="ray-new", joined="token"))
    teller.turn()
    queue.roster.drain("ray-new", "by me")
    teller.turn()
    telling().turn()
    assert len(hook.taken) == 2, "a machine with a new Ray is the same; and one that was just seen is not lost"
    rejoin(queue, node("head"))
    monkeypatch.setattr(facts, "LOST_SECONDS", 0.0)
    teller = telling()
    teller.turn()
    assert hook.titles[2:] == ["a machine is lost"] * 2
    assert {said["message"].partition(" is lost")[0] for said in hook.taken[2:]} == {"attic", "cellar"}


def test_a_machine_that_left_after_a_drain_is_told_so(
    queue: Queue, telling: Telling, hook: Webhook, monkeypatch: pytest.MonkeyPatch
) -> None:
    teller = telling()
    rejoin(queue, node("attic", joined="token"))
    queue.roster.drain("ray-attic", "spot notice")
    teller.turn()
    rejoin(queue)
    monkeypatch.setattr(facts, "LOST_SECONDS", 0.0)
    teller.turn()
    assert hook.titles == ["a machine joined", "a machine left"]
    assert hook.taken[1]["message"].endswith("has left after it was drained: spot notice.")


def degrade(here: Settings, *missing: str) -> None:
    """What the keeper says of the farm that this process is."""
    known = {"redis": "r", "dashboard": "d", "units": {}, "storage": "s", "started": 1.0, "log": "l"}
    serving.announce(here, Facts(pid=os.getpid(), process=identity(os.getpid()) or "", **known))
    serving.report(here, Health(pid=os.getpid(), looked=time.time(), missing=missing))


def test_a_degraded_farm_is_told_once_even_if_the_process_is_replaced_or_redis_away(
    here: Settings, queue: Queue, telling: Telling, hook: Webhook, monkeypatch: pytest.MonkeyPatch
) -> None:
    teller = telling()
    degrade(here, "the GCS (process 7) has ended")
    teller.turn()
    degrade(here, "the GCS (process 8) has ended")
    teller.turn()
    again = telling()
    again.turn()
    assert [said["message"].partition("\n")[0] for said in hook.taken] == ["the GCS (process 7) has ended"]
    monkeypatch.setattr(facts, "WELL_SECONDS", 0.0)
    serving.well(here)
    again.turn()
    degrade(here, "Redis has ended; it is started again")
    monkeypatch.setattr(facts, "WELL_SECONDS", 600.0)

    def away(*_: object) -> None:
        raise Unreachable("no Redis")

    with monkeypatch.context() as patched:
        patched.setattr(queue.scripts, "call", away)
        for _ in range(2):
            with pytest.raises(Unreachable):
                again.turn()
    assert len(hook.taken) == 2, "it needs no Redis"
    again.turn()
    assert hook.titles == ["the farm is degraded"] * 2
    telling().turn()
    assert len(hook.taken) == 2


def test_a_service_that_refuses_is_asked_again_later_and_later(
    queue: Queue, telling: Telling, hook: Webhook, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notifier, "FIRST_REST_SECONDS", 0.05)
    queue.put(tiny_study(init=(42,)))
    teller = telling()
    hook.answers = [500, 503]
    fail(queue)
    start = time.monotonic()
    wait_until(lambda: teller.turn() or hook.taken, "it is told")
    assert time.monotonic() - start > 0.05 + 0.1
    assert (hook.asked, len(hook.taken)) == (3, 1)
    said = [record.getMessage() for record in caplog.records if "did not take a message" in record.getMessage()]
    assert [text.rpartition("in ")[2] for text in said] == ["0.05 s", "0.1 s"]
    assert "error=500" in said[0]


def test_a_failure_that_was_not_taken_is_told_by_the_next_process(
    queue: Queue, telling: Telling, hook: Webhook
) -> None:
    queue.put(tiny_study(init=(42,)))
    teller = telling()
    hook.answers = [500]
    fail(queue)
    teller.turn()
    assert hook.taken == []
    telling().turn()
    assert hook.titles == ["a run of tiny failed for good"]


def test_one_that_hangs_delays_neither_another_nor_the_end(
    here: Settings, queue: Queue, hook: Webhook, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(messenger, "SEND_SECONDS", 0.3)
    queue.put(tiny_study(init=(42,)))
    with webhook() as slow:
        slow.answers = [None] * 9
        both = here.model_copy(update={"notify": Notify(urls=(slow.url, hook.url))})
        with notifying(both, queue, "marker"):
            wait_until(lambda: len(queue.redis.keys("farm:announced:*")) == 2, "both have begun")
            fail(queue)
            wait_until(lambda: hook.taken, "the other is told", 10)
            wait_until(lambda: slow.asked > 1, "it is asked again", 10)
            end = time.monotonic()
        assert time.monotonic() - end < 2
    assert "notify.urls[0] (json://...) did not take a message: it has not answered within 0.3 s" in caplog.text
    assert not queue.redis.keys(f"farm:announcing:{notifier.fingerprint(hook.url, 'marker')}"), "it is left to others"


def test_of_two_dispatchers_one_tells(here: Settings, queue: Queue, hook: Webhook) -> None:
    queue.put(tiny_study(init=(42,)))
    one = here.model_copy(update={"notify": Notify(urls=(hook.url,))})
    with notifying(one, queue, "marker"), notifying(one, queue, "marker"):
        wait_until(lambda: queue.redis.keys("farm:announced:*"), "it has begun")
        fail(queue)
        wait_until(lambda: hook.taken, "it is told")
        time.sleep(0.1)
    assert hook.titles == ["a run of tiny failed for good"]


def test_another_takes_over_where_a_dispatcher_died(
    queue: Queue, telling: Telling, hook: Webhook, here: Settings
) -> None:
    queue.put(tiny_study(init=(42,)))
    telling()
    other = Teller(Service(0, hook.url), queue, Watch(here, queue), "marker")
    fail(queue)
    other.turn()
    assert hook.taken == [], "the first may live"
    (hold,) = queue.redis.keys("farm:announcing:*")
    assert 0 < queue.redis.pttl(hold) <= 60_000
    queue.redis.pexpire(hold, 1)
    wait_until(lambda: other.turn() or hook.taken, "it takes over")


def test_a_redis_that_was_emptied_brings_no_old_news(
    queue: Queue, telling: Telling, hook: Webhook, here: Settings, redis: Redis
) -> None:
    queue.put(tiny_study(init=(42,)))
    teller = telling()
    fail(queue, 3)
    teller.turn()
    assert len(hook.taken) == 2
    redis.flushdb()
    teller.turn()
    queue.put(tiny_study(init=(42,)))
    fail(queue, 3)  # as the records bring them back
    teller.turn()
    assert len(hook.taken) == 2, "nothing is told before the records are read"
    reindex(Store(here.storage), queue, is_own=True)
    teller.turn()
    telling().turn()
    assert len(hook.taken) == 2


def test_news_of_the_day_before_yesterday_is_none(queue: Queue, telling: Telling, hook: Webhook) -> None:
    queue.put(tiny_study(init=(42,)))
    teller = telling()
    fail(queue, 3)
    for status in queue.listing.statuses():
        queue.redis.hincrby(f"farm:run:{status.id}", "ended", -2 * 86_400_000)
    teller.turn()
    telling().turn()
    assert hook.taken == []


def test_no_secret_of_a_url_is_shown_anywhere(
    here: Settings,
    queue: Queue,
    redis: Redis,
    hook: Webhook,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    caplog.set_level(logging.INFO)
    queue.put(tiny_study(init=(42,)))
    hook.answers = [500, 400]
    one = here.model_copy(update={"notify": Notify(urls=(hook.url,))})
    with notifying(one, queue, "marker"):
        wait_until(lambda: redis.keys("farm:announced:*"), "it has begun")
        fail(queue)
        wait_until(lambda: hook.taken, "it is told")
    assert hook.taken[0]["title"]
    shown = [caplog.text, *capfd.readouterr(), repr(one), str(one), repr(Service(0, hook.url))]
    shown += [f"{key} {redis.dump(key)!r}" for key in redis.scan_iter()]
    shown += [f"{thread.name}" for thread in threading.enumerate()]
    assert [secret for secret in SECRETS for text in shown if secret in text] == []
    refused = f"slack://{SECRETS[0]}/{SECRETS[1]}"
    for urls in ([refused], [SECRETS[0]], [f"{SECRETS[2]}://x"], [f"https://{SECRETS[0]}.org/{SECRETS[1]}"]):
        with pytest.raises(BadSetting) as caught:
            services(urls)
        told = "\n".join(caught.value.lines)
        assert not any(secret in told for secret in SECRETS[:2]), told


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("slak://a/b/c", r"notify.urls\[0\] \(slak://...\) .* did you mean 'slack'\?"),
        ("slack://a", r"notify.urls\[0\] \(slack://...\) .*: what follows its scheme is not complete"),
        ("https://example.org/hook", "a webhook of your own begins with json:// or jsons://"),
        ("token", r"notify.urls\[0\] \(no SCHEME://\) is not a service that apprise understands\. Write it as https"),
    ],
)
def test_a_url_that_apprise_does_not_understand_is_named_with_the_remedy(url: str, words: str) -> None:
    with pytest.raises(BadSetting, match=words):
        services([url])


def test_every_wrong_url_is_named() -> None:
    with pytest.raises(BadSetting) as caught:
        services(["slack://a", "json://127.0.0.1", "token"])
    assert [line.partition(" ")[0] for line in caught.value.lines] == ["notify.urls[0]", "notify.urls[2]"]


def test_without_apprise_it_says_what_to_install_and_the_farm_serves(
    here: Settings, queue: Queue, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "apprise", None)
    with pytest.raises(BadSetting, match=r"apprise, .*, is not installed\. .*pip install apprise"):
        services(["json://127.0.0.1"])
    assert services([]) == []
    with notifying(here.model_copy(update={"notify": Notify(urls=("json://127.0.0.1",))}), queue, "marker"):
        pass
    assert "nobody is notified: " in caplog.text


def test_markup_and_control_characters_stay_text(hook: Webhook) -> None:
    text = "\x1b[31m<b>&amp;</b>\x07 \u202e*[x](y)* @everyone a@b\u2028 :smile: \\n"
    assert Service(0, hook.url).send(Message(text, f"{text}\nnext")) is None
    (said,) = hook.taken
    clean = "<b>&amp;</b> *[x](y)* @\u200beveryone a@\u200bb :smile: \\n"
    assert (said["title"], said["message"]) == (clean, f"{clean}\nnext")
    assert plain("é ü 漢 🙂") == "é ü 漢 🙂"


def test_what_the_head_starts_does_not_inherit_whom_it_notifies(here: Settings, hook: Webhook) -> None:
    from farm.site.settings import secrets_of_head, to_environment

    one = here.model_copy(update={"notify": Notify(urls=(hook.url, "ntfy://topic"))})
    assert not any(secret in value for secret in SECRETS for value in to_environment(one).values())
    assert Settings.load(to_environment(one) | secrets_of_head(one), ()).notify == one.notify
    assert [*secrets_of_head(one)] == [NOTIFY_URLS]
