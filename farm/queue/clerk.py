"""Carries out submitters' requests: put, cancel and evaluate.

Redis gives a script no more rights than its caller has, so who may call the verbs that write may write the same keys by
hand. A submitter's user may therefore write nothing at all. It publishes what it asks for (`Queue.put`,
`Queue.cancel` and `Evaluations.put` do, where they are refused, through farm.queue.asking); the clerk of `farm serve`
reads that as it would a stranger's file, calls the verb with the farm's own rights, and leaves the answer where the
submitter may read it.
"""

import logging
import threading
from contextlib import suppress

from pydantic import ValidationError
from redis.exceptions import RedisError

from farm.errors import BadStudy, FarmError, first_line
from farm.queue.asking import KEPT_SECONDS, Ask, Reply
from farm.queue.queue import Queue
from farm.site.client import translate_errors
from farm.study.schema import unstamp
from farm.study.study import Study

TURN_SECONDS = 0.5
AGAIN_SECONDS = 1.0  # after Redis was away

log = logging.getLogger("farm")


def listen(queue: Queue, stop: threading.Event) -> None:
    """Answer requests until `stop` is set, across restarts of Redis."""
    while not stop.is_set():
        with suppress(RedisError, FarmError), queue.redis.pubsub(ignore_subscribe_messages=True) as line:
            line.subscribe(queue.asking.channel)
            while not stop.is_set():
                if message := line.get_message(timeout=TURN_SECONDS):
                    answer(queue, str(message["data"]))
        stop.wait(0 if stop.is_set() else AGAIN_SECONDS)


def answer(queue: Queue, text: str) -> None:
    """Carry out one request and publish its outcome; only one of several clerks does. Other messages are ignored.

    Raises: FarmError: Redis went away. The submitter then asks again.
    """
    try:
        ask = Ask.model_validate_json(text)
    except ValidationError:
        log.warning("ignored a request of a kind that submitters never send")
        return
    with translate_errors(queue.redis):
        if not queue.redis.set(queue.asking.taken_key(ask), 1, nx=True, ex=KEPT_SECONDS):
            return
    try:
        said = _carry_out(queue, ask)
    except FarmError as error:
        said = Reply(error=type(error).__name__, message=error.message, remedy=error.remedy)
    with translate_errors(queue.redis):
        queue.redis.set(queue.asking.answer_key(ask), said.model_dump_json(), ex=KEPT_SECONDS)


def _carry_out(queue: Queue, ask: Ask) -> Reply:
    if ask.verb == "put":
        return Reply(put=queue.put(_study(ask), ask.leaving, ask.since))
    if ask.verb == "evaluate":
        return Reply(before=queue.evaluations.put(ask.name, ask.jobs))
    return Reply(state=queue.cancel(ask.name))


def _study(ask: Ask) -> Study:
    """Raises: BadStudy: it is not a study, or is of another version of farm. Unreadable"""
    try:
        return Study.model_validate_json(unstamp(ask.name))
    except ValidationError as error:
        raise BadStudy(
            f"the farm cannot read that study: {first_line(error)}.", remedy="Install the head's version of farm here."
        ) from None
