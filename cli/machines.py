"""`farm machines`"""

from cli import render
from cli.connect import machines as known_machines
from cli.connect import offered, queue
from cli.options import Json
from cli.render import Column, Sheet
from farm import settings as settings_
from farm.settings import Settings

COLUMNS = (
    Column("machine", "machine"),
    Column("accelerator", "accelerator"),
    Column("accelerators", "count", render.count, is_number=True),
    Column("memory_bytes", "GiB each", render.gib, is_number=True),
    Column("usd_per_hour", "$/h", render.dollars, is_number=True),
    Column("tokens_per_second", "tokens/s", render.known(lambda value: f"{value:,.0f}"), is_number=True),
    Column("nodes", "nodes up", render.count, is_number=True),
    Column("queued", "queued", render.count, is_number=True),
    Column("source", "known from"),
)


def machines(as_json: Json = False) -> None:
    """The machine classes that are known, and what they offer now."""
    settings = settings_.load()
    with queue(settings) as open_queue:
        known = known_machines(settings, open_queue)
        registered = open_queue.machines().keys()
        waiting, nodes = open_queue.queued(), offered(settings, open_queue)
    rows = [
        {
            "machine": name,
            "accelerator": machine.accelerator,
            "accelerators": machine.accelerators,
            "memory_bytes": machine.memory,
            "usd_per_hour": machine.usd_per_hour,
            "tokens_per_second": machine.tokens_per_second,
            "nodes": nodes.get(name, 0),
            "queued": waiting.get(name, 0),
            "source": _source(name, settings, name in registered),
        }
        for name, machine in sorted(known.items())
    ]
    render.emit(Sheet("farm.machines/1", COLUMNS, rows), as_json=as_json)


def _source(name: str, settings: Settings, is_registered: bool) -> str:
    if is_registered:
        return "its nodes"
    return "farm.toml" if name in settings.machines else "built in"
