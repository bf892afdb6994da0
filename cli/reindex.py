"""`farm reindex`"""

import typer

from cli import render
from cli.access import queue
from cli.options import Json
from cli.render import Column, Sheet, say
from farm import reindex as records
from farm.record.store import Store
from farm.site.settings import Settings

COLUMNS = (
    Column("storage", "storage", render.text),
    Column("brought_back", "brought back", render.count, is_number=True),
    Column("runs", "runs known", render.count, is_number=True),
)


def reindex(as_json: Json = False) -> None:
    """Bring back into Redis every run whose directory is in the storage.

    Use after losing Redis, or restoring it from an older copy. Runs that it knows in full are left alone, so it is safe
    to repeat. A run that was training is queued again, under a new epoch. From then on this Redis is the storage's
    index, and any earlier index starts no more runs. Forgotten runs stay forgotten. Records that cannot be read are
    named, with exit code 1; all others are brought back.
    """
    settings = Settings.load()
    store = Store(settings.storage)
    with queue(settings) as open_queue:
        done = records.reindex(store, open_queue)
        known = sum(open_queue.listing.counts().values())
    row = {"storage": store.uri, "brought_back": done.brought, "runs": known}
    render.emit(Sheet("farm.reindex/1", COLUMNS, [row], more={"unread": list(done.unread)}), as_json=as_json)
    for what in done.unread:
        say(f"not read: {what}")
    if not known:
        say(f"there is no run under {store.uri}. Is FARM_STORAGE the farm's storage?")
    if done.unread:
        raise typer.Exit(1)
