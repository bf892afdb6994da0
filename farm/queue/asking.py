"""Requests from submitters, who may write nothing, to a clerk (farm.queue.clerk)."""

import time
from typing import Literal
from uuid import uuid4

from pydantic import Field
from redis import Redis

from farm import errors
from farm.errors import FarmError, Refused, Unreachable
from farm.queue.values import Put
from farm.site.client import translate_errors
from farm.study.recipe import Frozen
from farm.study.run import Evaluating, State

CLERK_SECONDS = 5.0  # for a clerk to be there: it comes back within seconds after a restart of Redis
ANSWER_SECONDS = 60.0  # for it to answer: 10,000 runs take it two
Verb = Literal["put", "cancel", "evaluate"]
KEPT_SECONDS = 60  # what was asked for, and the answer


class Ask(Frozen):
    """A request from a user who may write nothing (farm.queue.clerk)."""

    token: str = Field(pattern="^[0-9a-f]{32}$", description="of this asking alone; where the answer will be")
    verb: Verb
    name: str = Field(description="a run id, a whole study as JSON, or the study that wants scores")
    leaving: tuple[str, ...] = ()
    since: str = Field("*", description="the edition of the study that this one was made from; *: whichever")
    jobs: tuple[Evaluating, ...] = Field((), description="what is to be scored")


class Reply(Frozen):
    """The answer: what the verb returned, or the error that it raised."""

    put: Put | None = None
    state: State | None = None
    before: dict[str, State | None] | None = Field(None, description="what an evaluate returned")
    error: str | None = Field(None, description="name of the class")
    message: str | None = None
    remedy: str | None = None


class Asking:
    """The way to the clerks of the farm under `prefix`."""

    def __init__(self, redis: Redis, prefix: str):
        self._redis = redis
        self._prefix = prefix

    @property
    def channel(self) -> str:
        """The channel on which submitters ask."""
        return f"{self._prefix}asked"

    def taken_key(self, ask: Ask) -> str:
        """The key that marks a request as taken by a clerk."""
        return f"{self._prefix}taken:{ask.token}"

    def answer_key(self, ask: Ask) -> str:
        """The key that holds the answer."""
        return f"{self._prefix}said:{ask.token}"

    def ask(
        self,
        refused: Refused,
        verb: Verb,
        name: str,
        leaving: tuple[str, ...] = (),
        jobs: tuple[Evaluating, ...] = (),
        since: str = "*",
    ) -> Reply:
        """Have a clerk carry out a request.

        Raises: Refused: this user may not even ask. Unreachable: no clerk is there, or it did not answer. And what the
        verb raises.
        """
        ask = Ask(token=uuid4().hex, verb=verb, name=name, leaving=leaving, jobs=jobs, since=since)
        until, pause = time.monotonic() + CLERK_SECONDS, 0.002
        try:
            while not self._publish(ask):
                if time.monotonic() > until:
                    raise Unreachable(
                        "no farm that accepts submitters' requests is up.", remedy="Start it, or ask its owner to."
                    )
                time.sleep(0.1)
        except Refused:
            raise refused from None
        until = time.monotonic() + ANSWER_SECONDS
        while (text := self._answer(ask)) is None:
            if time.monotonic() > until:
                raise Unreachable(
                    "the farm did not answer, but it may have carried out the request.",
                    remedy="Check with farm status, then try again.",
                )
            time.sleep(pause)
            pause = min(2 * pause, 0.1)
        said = Reply.model_validate_json(text)
        if said.error:
            kind = getattr(errors, said.error, FarmError)
            raise kind(said.message, remedy=said.remedy)
        return said

    def _publish(self, ask: Ask) -> bool:
        with translate_errors(self._redis):
            return bool(self._redis.publish(self.channel, ask.model_dump_json()))

    def _answer(self, ask: Ask) -> str | None:
        with translate_errors(self._redis):
            return self._redis.get(self.answer_key(ask))  # type: ignore[return-value]
