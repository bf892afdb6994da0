"""The way in: settings, the queue behind them, and what a person may call a run or a study."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from difflib import get_close_matches

from farm import serving
from farm import settings as settings_
from farm.errors import NotFound
from farm.machine import BUILT_IN, Machine
from farm.queue import Queue, Status
from farm.server import session, translated
from farm.settings import Settings


@contextmanager
def queue(settings: Settings | None = None) -> Iterator[Queue]:
    """The queue of this farm; the embedded Redis is started if nobody else did.

    Raises: Unreachable, Refused: also when Redis goes away in between.
    """
    with session(settings or settings_.load()) as redis, translated(redis):
        yield Queue(redis)


def machines(settings: Settings, queue: Queue | None) -> dict[str, Machine]:
    """The machine classes known here: built in, declared in farm.toml, registered by nodes; the last wins."""
    registered = queue.machines() if queue else {}
    return BUILT_IN | settings.machines | registered


def is_study(queue: Queue, name: str) -> bool:
    """Whether `name` is a submitted study."""
    return name in queue.studies()


def select(queue: Queue, name: str) -> list[Status]:
    """The runs of the study `name`, or the one run whose id starts with it.

    Raises: NotFound: neither. Conflict: several runs start so.
    """
    studies = queue.studies()
    if name in studies:
        return queue.statuses(name)
    try:
        return [queue.status(name)]
    except NotFound as error:
        close = get_close_matches(name, studies, n=1)
        if close:
            raise NotFound(f"There is no run or study {name!r}.", remedy=f"Did you mean {close[0]!r}?") from None
        raise error


def newest_study(queue: Queue) -> str | None:
    """The study that queued a run last, or None. Says on stderr which one that is, and what others there are."""
    from cli.render import say

    newest_first = list(dict.fromkeys(status.study for status in reversed(queue.statuses())))
    names = [*newest_first, *(name for name in queue.studies() if name not in newest_first)]
    if names:
        others = ", ".join(names[1:6]) + (", ..." if len(names) > 6 else "")
        say(f"study {names[0]}" + (f" (others: {others})" if others else ""))
    return names[0] if names else None


def offered(settings: Settings, queue: Queue) -> dict[str, int]:
    """Machine class -> living nodes that train it; classes without any are left out."""
    nodes = {name: len(nodes) for name, nodes in queue.nodes().items() if nodes}
    up = serving.facts(settings)
    return (dict.fromkeys(up.units, 1) if up else {}) | nodes


def complete_study(incomplete: str) -> list[str]:
    """Study names, for the shell; only from a Redis that runs already."""
    return [name for name in _names(runs=False) if name.startswith(incomplete)]


def complete_any(incomplete: str) -> list[str]:
    """Study names and run ids, for the shell."""
    return [name for name in _names(runs=True) if name.startswith(incomplete)]


def _names(runs: bool) -> list[str]:
    with suppress(Exception):  # a shell that completes must not print errors
        settings = settings_.load()
        if settings.redis_url or serving.facts(settings):
            with queue(settings) as found:
                ids = [status.run.id for status in found.statuses()] if runs else []
                return [*found.studies(), *ids]
    return []
