"""Tells people what happened, one thread for each service, so that one that is slow or away delays nothing else.

What a service was told is kept in Redis (farm.queue.news, which says why a message may come twice and none is lost). A
service that does not take a message gets it again, later and later. When a farm first tells a service, or its Redis was
emptied, what has happened until then is not told; nor is, ever, what is older than a day.
"""

import hashlib
import logging
import platform
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import NamedTuple
from uuid import uuid4

from farm.errors import BadSetting, FarmError
from farm.queue.queue import Queue
from farm.queue.waiting import cut
from farm.site.settings import Settings
from farm.study.run import State
from workers.head.facts import LOOK_SECONDS, Fact, Facts, Watch
from workers.head.messenger import SEND_SECONDS, Message, Service, Tone, services

TURN_SECONDS = 1.0
HOLD_SECONDS = SEND_SECONDS + 30.0  # without a sign of life, and another dispatcher tells the service
FIRST_REST_SECONDS, MOST_REST_SECONDS = 5.0, 600.0  # after a service did not take a message; twice as long each time
SETTLE_SECONDS = 30.0  # runs that fail one after another are waited for, at most
QUIET_SECONDS = 600.0  # between two messages on failed runs of one study
OLD_SECONDS = 24 * 3600.0
MOST_LINES = 15  # of verdicts
SINCE = "since"  # in the record of a service: it was told of first

log = logging.getLogger("farm")


class News(NamedTuple):
    """A message, the facts that it tells, and the names of those that are over."""

    message: Message
    tells: dict[str, int]
    over: tuple[str, ...] = ()


@contextmanager
def notifying(here: Settings, queue: Queue, marker: str) -> Iterator[None]:
    """While the block runs, the services of [notify] are told what happens. `marker`: of the farm's storage."""
    over, threads = threading.Event(), list[threading.Thread]()
    try:
        watch, told = Watch(here, queue), services(here.notify.urls)
    except BadSetting as error:  # `farm up` and `farm serve` refuse it; whatever it is now, it ends no farm
        log.warning("nobody is notified: %s", error)
        told = []
    for service in told:
        teller = Teller(service, queue, watch, marker)
        threads.append(threading.Thread(target=teller.run, args=(over,), name=service.name, daemon=True))
        threads[-1].start()
    try:
        yield
    finally:
        over.set()
        for thread in threads:
            thread.join(TURN_SECONDS)  # one that waits for its service ends with the process


class Teller:
    """turn() tells one service what it has not been told; call it again and again."""

    def __init__(self, service: Service, queue: Queue, watch: Watch, marker: str):
        self.service, self._queue, self._watch = service, queue, watch
        self._name = fingerprint(service.url, marker)
        self._token = uuid4().hex
        self._told: dict[str, int] = {}  # as Redis said it last
        self._unrecorded: dict[str, int] = {}  # told since then
        self._rest_seconds, self._rests_until = FIRST_REST_SECONDS, 0.0
        self._failing: dict[
            str, tuple[int, float, float]
        ] = {}  # study -> failed runs, since when so many, since when any
        self._quiet_until: dict[str, float] = {}  # study -> until when its failed runs are collected

    def run(self, over: threading.Event) -> None:
        """Until `over` is set."""
        while not over.wait(TURN_SECONDS):
            try:
                self.turn()
            except FarmError:
                continue  # whoever else needs Redis says so
            except Exception:
                log.exception("%s could not be told what happened; trying again", self.service.name)
                over.wait(FIRST_REST_SECONDS)
        with suppress(FarmError):
            self._queue.news.stop(self._name, self._token)

    def turn(self) -> None:
        """Raises: FarmError: Redis is away, and there is nothing to tell without it."""
        if time.monotonic() < self._rests_until:
            return
        try:
            facts = self._watch.look()
            is_ours, told = self._queue.news.begin(self._name, self._token, HOLD_SECONDS)
            if self._unrecorded:
                self._queue.news.told(self._name, self._unrecorded)
        except FarmError:  # it may be for the lack of Redis that the farm is degraded
            self._tell_degraded()
            raise
        told = self._told = told | self._unrecorded
        self._unrecorded = {}
        if not self._tell_degraded() or facts is None or not is_ours:
            return
        if SINCE not in told:
            numbers = {name: fact.number for name, fact in facts.by_name.items()}
            self._queue.news.told(self._name, numbers | {SINCE: 1})
            return
        for news in self._news(facts, told):
            if not self._send(news):
                return
            self._queue.news.told(self._name, news.tells, news.over)
        if over := [name for name in told if self._is_over(name, facts)]:
            self._queue.news.told(self._name, {}, over)
            self._told = {name: number for name, number in told.items() if name not in over}

    def _tell_degraded(self) -> bool:
        """What this dispatcher alone knows, whoever tells the rest; False: the service did not take it."""
        fact = self._watch.degraded()
        if fact and fact.name not in self._told:
            if not self._send(_degraded(fact)):
                return False
            self._told[fact.name] = self._unrecorded[fact.name] = fact.number
            with suppress(FarmError):  # at once: this process may be about to be replaced
                self._queue.news.told(self._name, self._unrecorded)
                self._unrecorded = {}
        return True

    def _send(self, news: News) -> bool:
        why = self.service.send(news.message)
        if why is None:
            self._rest_seconds = FIRST_REST_SECONDS
            return True
        log.warning("%s did not take a message: %s; trying again in %g s", self.service.name, why, self._rest_seconds)
        self._rests_until = time.monotonic() + self._rest_seconds
        self._rest_seconds = min(MOST_REST_SECONDS, 2 * self._rest_seconds)
        return False

    def _is_over(self, name: str, facts: Facts) -> bool:
        """Whether a fact that was told holds no more, without anything to say of that."""
        kind, _, about = name.partition(":")
        if kind == "degraded":
            return about == self._watch.own and self._watch.degraded() is None
        return name != SINCE and kind != "machine" and name not in facts.by_name

    def _news(self, facts: Facts, told: dict[str, int]) -> Iterator[News]:
        new = [fact for fact in facts.by_name.values() if fact.number > told.get(fact.name, 0)]
        if old := [fact for fact in new if fact.at is not None and time.time() - fact.at > OLD_SECONDS]:
            self._queue.news.told(self._name, {fact.name: fact.number for fact in old})
        kinds: dict[str, list[Fact]] = {}
        for fact in new:
            if fact not in old:
                kinds.setdefault(fact.kind, []).append(fact)
        yield from (_joined(fact) for fact in kinds.get("machine", ()))
        if facts.has_seen_machines:
            gone = [name for name in told if name.startswith("machine:") and name not in facts.by_name]
            yield from (self._lost(name) for name in gone)
        yield from (_spent(fact) for fact in kinds.get("budget", ()))
        yield from self._failures(kinds.get("failed", ()))
        yield from (self._done(fact) for fact in kinds.get("done", ()))

    def _lost(self, name: str) -> News:
        about = name.partition(":")[2]
        node = self._watch.machine(about)
        drained = node is not None and node.drained is not None
        what = f"{node or about.rpartition('@')[0]} {'has left after it was drained' if drained else 'is lost'}"
        why = f": {node.drained}." if node is not None and node.drained else ": no sign of it for a while."
        body = what + why + ("" if drained else " What it trained goes on elsewhere from the newest checkpoints.")
        return News(_message("a machine left" if drained else "a machine is lost", body, "warning"), {}, (name,))

    def _failures(self, failed: Sequence[Fact]) -> Iterator[News]:
        """A message for each study whose failures have settled: many may fail at once."""
        now, studies = time.monotonic(), dict[str, list[Fact]]()
        for fact in failed:
            studies.setdefault(fact.study, []).append(fact)
        self._failing = {study: seen for study, seen in self._failing.items() if study in studies}
        for study, runs in studies.items():
            count, changed, first = self._failing.get(study, (0, now, now))
            if count != len(runs):
                changed = now
            self._failing[study] = len(runs), changed, first
            has_settled = now - changed >= LOOK_SECONDS or now - first >= SETTLE_SECONDS
            if has_settled and now >= self._quiet_until.get(study, 0.0):
                yield self._failed(study, runs)
                self._quiet_until[study] = now + QUIET_SECONDS
                self._failing.pop(study)

    def _failed(self, study: str, runs: Sequence[Fact]) -> News:
        first = min(runs, key=lambda fact: (fact.at or 0.0, fact.about))
        more = f"The first of them: {first.about}" if len(runs) > 1 else first.about
        with suppress(FarmError):
            status = self._queue.listing.status(first.about)
            last = status.causes[-1] if status.causes else None
            more += f", at step {status.step:,} of {status.run.recipe.steps:,}"
            more += f": {last.cause}: {cut(last.message)}" if last else ""
        count = f"{len(runs):,} runs" if len(runs) > 1 else "a run"
        body = f"{more}\n\nSee farm runs {study}. To try again: farm retry {study}"
        message = _message(f"{count} of {study} failed for good", body, "failure")
        return News(message, {fact.name: fact.number for fact in runs})

    def _done(self, fact: Fact) -> News:
        states = [status.state for status in self._queue.listing.statuses(fact.study)]
        counted = ", ".join(f"{states.count(state):,} {state}" for state in State if state in states)
        body = [f"{len(states):,} run{'s' * (len(states) != 1)}: {counted}."]
        try:
            found = list(_verdicts(self._queue, fact.study))
            body += found[:MOST_LINES] + ([f"and {len(found) - MOST_LINES} more"] if len(found) > MOST_LINES else [])
        except FarmError as error:
            body.append(f"It cannot be ranked: {error}")
        tone: Tone = "success" if set(states) <= {State.SUCCEEDED} else "warning"
        message = _message(f"{fact.study} is done", "\n".join([*body, "", f"See farm table {fact.study}"]), tone)
        return News(message, {fact.name: fact.number})


def _verdicts(queue: Queue, name: str) -> Iterator[str]:
    from farm.verdict import summary  # scipy: half a second, and only for who has a study that is done
    from farm.verdict.seen import see
    from farm.verdict.table import rank

    study, statuses = queue.studies.one(name), queue.listing.statuses(name)
    results = [status.result for status in statuses if status.result]
    by = study.study.score
    sight = see(results, queue.evaluations.scores(name, "study"), by, study.evaluations)
    yield from summary.lines(rank(sight.results, statuses, study.study.margin, looks=study.looks, by=by))


def _degraded(fact: Fact) -> News:
    return News(_message("the farm is degraded", f"{fact.text}\n\nSee farm status.", "failure"), {})


def _joined(fact: Fact) -> News:
    return News(_message("a machine joined", fact.text, "info"), {fact.name: fact.number})


def _spent(fact: Fact) -> News:
    if fact.number < 100:
        title, more = f"{fact.study} has spent {fact.number} % of its budget", ""
    else:
        title = f"{fact.study} has spent its budget"
        more = " None of its runs starts any more. To go on, raise its limit under [policy] and submit it again."
    return News(_message(title, f"{fact.text}.{more}", "warning"), {fact.name: fact.number})


def _message(title: str, body: str, tone: Tone) -> Message:
    return Message(f"farm on {platform.node()}: {title}", body, tone)


def fingerprint(url: str, salt: str) -> str:
    """What a service is called in Redis: nobody learns its URL from it, not even a password that is easily guessed."""
    return hashlib.scrypt(url.encode(), salt=salt.encode(), n=2**14, r=8, p=1, dklen=8).hex()
