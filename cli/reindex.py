"""`farm reindex`"""

from cli import render
from cli.access import queue
from cli.options import Json
from cli.render import Column, Sheet, say
from farm import settings as settings_
from farm.store import Store

COLUMNS = (
    Column("storage", "storage", render.text),
    Column("brought_back", "brought back", render.count, is_number=True),
    Column("runs", "runs known", render.count, is_number=True),
)


def reindex(as_json: Json = False) -> None:
    """Bring back into Redis every run whose directory is in the storage.

    For a Redis that was lost. What it still knows stays as it is, so that it can be done again at any time. A run that
    was training is queued again, under a new epoch.
    """
    settings = settings_.load()
    store = Store(settings.storage)
    with queue(settings) as open_queue:
        count = store.reindex(open_queue)
        known = sum(open_queue.counts().values())
    row = {"storage": store.uri, "brought_back": count, "runs": known}
    render.emit(Sheet("farm.reindex/1", COLUMNS, [row]), as_json=as_json)
    if not known:
        say(f"there is no run under {store.uri}. Is FARM_STORAGE the farm's storage?")
