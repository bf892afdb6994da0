"""The storage, as far as it can be reached from here: most commands ask Redis alone, and import none of this."""

from collections.abc import Callable
from contextlib import suppress

from cli.render import say
from farm.errors import Conflict, FarmError, StorageUnusable
from farm.queue.queue import Queue
from farm.record.bucket import BRIEF
from farm.record.store import Store
from farm.site.settings import Settings


def on_record(settings: Settings, write: Callable[[Store], None], otherwise: str) -> None:
    """Have `write` record it in the storage, too, if that can be reached from here; else warn of `otherwise`.

    A folder that is not there is another machine's. A bucket can be reached from anywhere, so it is tried.
    """
    store = within_sight(settings)
    if store is None:
        return
    try:
        write(store)
    except OSError as error:
        reason = f"{error.filename}: {error.strerror}. Set FARM_STORAGE to a writable folder."
        say(f"warning: {otherwise}: {reason}")
    except FarmError as error:
        say(f"warning: {otherwise}: {error}")


def recording(settings: Settings) -> Store:
    """The storage, for facts that are recorded nowhere else.

    Raises: StorageUnusable: it cannot be reached from here.
    """
    store = within_sight(settings)
    if store is None:
        raise StorageUnusable(
            f"the farm's storage {settings.storage} cannot be reached from this machine: nothing was changed.",
            remedy="Run this where the storage is, or set FARM_STORAGE to it.",
            page="docs/machines/laptop.md#what-needs-the-storage",
        )
    return store


def refuse_unindexed(settings: Settings, queue: Queue) -> None:
    """Raises: Conflict: this Redis was emptied, and lacks runs of the storage, if that can be reached."""
    store = within_sight(settings) if queue.index.origin() is None else None
    begun: list[str] = []
    if store:
        with suppress(FarmError, OSError):
            begun = store.runs.ids()
    known = queue.listing.states(begun)
    if store and (lost := [run_id for run_id in begun if run_id not in known]):
        raise Conflict(
            f"Redis is new or was emptied, and {store.uri} holds {len(lost)} run{'s' * (len(lost) != 1)}"
            " that it does not know: nothing was queued.",
            remedy="Run farm reindex first; farm up and farm serve do so by themselves.",
            page="docs/machines/storage.md#rebuilding-redis-farm-reindex",
        )


def within_sight(settings: Settings) -> Store | None:
    """The storage, if it can be reached from here: a missing folder belongs to another machine."""
    store = Store(settings.storage, patience=BRIEF)
    return None if settings.redis_url is not None and not (store.bucket or store.is_local) else store
