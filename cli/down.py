"""`farm down`"""

from cli import render
from cli.options import Json
from cli.render import say
from farm.site import serving
from farm.site.settings import Settings


def down(as_json: Json = False) -> None:
    """Stop the farm of this machine.

    Running runs write a checkpoint and go back to the queue; `farm up` resumes them.
    """
    settings = Settings.load()
    was = serving.facts(settings)
    stopped = False
    if was is not None:
        from workers.head import embedded

        for what in serving.missing(settings, was):
            say(f"missing: {what}")
        say(f"stopping the farm of process {was.pid}; running runs save a checkpoint first")
        stopped = embedded.down(settings)
    say(f"stopped the farm of process {was.pid}" if was and stopped else f"no farm is up at {settings.home}")
    if as_json:
        render.emit_json("farm.down/1", {"stopped": stopped, "pid": was.pid if was else None})
