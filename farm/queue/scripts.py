"""The Lua scripts: composed, loaded and called; the answers that all verbs share are raised as errors."""

import json
from collections.abc import Iterator, Sequence
from functools import cache
from hashlib import sha1
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from redis import Redis
from redis.exceptions import NoScriptError

from farm.errors import Cancelled, Conflict, LeaseLost, NotFound, Refused, Unreadable, nearest
from farm.site.client import translate_errors
from farm.study.run import Lease

PAGE = 100  # runs that a call goes over: 4 to 7 ms of Redis' only core
EVERY = 2**31  # more than there are
TRIES = 3
NEAR = 200  # ids that one may have meant
_SCRIPTS = Path(__file__).parent / "lua"
SHARED = (
    "keys",
    "guards",
    "lists",
    "rows",
    "erasing",
    "curves",
    "moves",
    "failures",
    "leases",
)  # each may call what is before it


class Scripts:
    """The scripts of lua/, for the keys under `prefix` of a Redis (a client from `farm.site.client.connect`)."""

    def __init__(self, redis: Redis, prefix: str):
        self.redis = redis
        self.prefix = prefix

    def install(self) -> None:
        """Load every script, so that a client that may not load any can call them."""
        with translate_errors(self.redis):
            for path in sorted(_SCRIPTS.glob("*.lua")):
                self.redis.script_load(_script(path.stem).text)

    def call(self, verb: str, *arguments: Any) -> Any:
        """Call a verb; where a key of a wrong type is in its way, that is put aside first."""
        try:
            return self._say(verb, *arguments)
        except Unreadable as unreadable:
            try:
                self.mend()
            except Refused:  # a submitter's; the farm's own dispatcher may
                raise unreadable from None
            return self._say(verb, *arguments)

    def call_under(self, lease: Lease, verb: str, *arguments: Any) -> list[Any]:
        """Call a verb that needs a live lease."""
        answer = self.call(verb, lease.run_id, lease.epoch, *arguments)
        match answer[0]:
            case "lost":
                raise LeaseLost(f"epoch {lease.epoch} of {lease.run_id} is over: nothing was written.")
            case "cancelled":
                raise Cancelled(f"{lease.run_id} was cancelled.")
            case "conflict" if verb == "finish":
                raise Conflict(f"{lease.run_id} already has another result, which was kept.")
            case "conflict":
                raise Conflict(f"{lease.run_id} was not cancelled.")
        return answer

    def pages(self, verb: str, *arguments: Any, most: int = PAGE) -> Iterator[Any]:
        """The answers of a verb that goes over many runs, `most` of them a call: Redis does nothing else meanwhile.

        Each page is as things stand at one instant, and what is listed all the while is on one page.
        """
        place = ""
        while True:
            place, *found = self.call(verb, *arguments, place, most)
            yield from found
            if place == "":
                return

    def at_once(self, verb: str, *arguments: Any, most: int = PAGE) -> list[str]:
        """As `pages`, of a verb that can tell what has changed since: all as it stands at one instant (Q9).

        Runs that moved between two pages are asked for again, together. Where the lists themselves changed, all pages
        are read again; and if they change all the while, all is read in one call.
        """
        for _ in range(TRIES):
            found, first, last = self._read(verb, arguments, most)
            if first == last:
                return found
            _, _, moved, *news = self.call(verb, *arguments, f"@{first}", most)
            ids = json.loads(moved)
            if ids is not False:
                rows = {json.loads(text)[0]: text for text in found} | dict.fromkeys(ids, "")
                rows |= {json.loads(text)[0]: text for text in news}
                return [text for text in rows.values() if text]
        return self._read(verb, arguments, EVERY)[0]

    def unmoved(self, verb: str, *arguments: Any, most: int = PAGE) -> list[Any]:
        """As `at_once`, of a verb whose pages only add up: if anything changed between them, all are read again."""
        for size in (*[most] * TRIES, EVERY):
            found, first, last = self._read(verb, arguments, size)
            if first == last:
                break
        return found

    def _read(self, verb: str, arguments: Sequence[Any], most: int) -> tuple[list[Any], str, str]:
        """All pages, and the number of the last change at the first and at the last of them."""
        place, first, found = "", "", list[Any]()
        while True:
            place, last, _, *page = self.call(verb, *arguments, place, most)
            first, found = first or last, found + page
            if place == "":
                return found, first, last

    def refuse_unknown(self, run_id: str) -> NoReturn:
        raise NotFound(f"no run {run_id!r}{nearest(run_id, self.near(run_id))}", remedy="See `farm runs`.")

    def near(self, run_id: str) -> list[str]:
        """Run ids that begin as this one does, as far as some do."""
        return self.call("near", run_id, NEAR)

    def mend(self) -> list[str]:
        """Put keys of a wrong type aside, and have what is counted and listed agree with the runs that are there again.

        Returns what was put aside.
        """
        return self._say("mend")

    def _say(self, verb: str, *arguments: Any) -> Any:
        script = _script(verb)
        with translate_errors(self.redis):
            try:
                return self.redis.evalsha(script.sha, 1, self.prefix, *arguments)
            except NoScriptError:  # Redis forgets its scripts when it restarts; submitters may not load theirs
                self._install_anew()
                return self.redis.evalsha(script.sha, 1, self.prefix, *arguments)

    def _install_anew(self) -> None:
        try:
            self.install()
        except Refused:
            raise Refused(
                "this farm has not loaded this version's scripts, and this user may not load them.",
                remedy="Start `farm serve` there, and install the head's version here.",
            ) from None


def pieces(ids: Sequence[str], most: int) -> Iterator[Sequence[str]]:
    """`ids`, at most so many a call."""
    return (ids[start : start + most] for start in range(0, len(ids), most))


class _Script(NamedTuple):
    text: str
    sha: str


@cache
def _script(verb: str) -> _Script:
    paths = [*(_SCRIPTS / "shared" / f"{name}.lua" for name in SHARED), _SCRIPTS / f"{verb}.lua"]
    text = "\n".join(path.read_text(encoding="utf-8") for path in paths)
    return _Script(text, sha1(text.encode(), usedforsecurity=False).hexdigest())
