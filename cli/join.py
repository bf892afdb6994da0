"""`farm join HEAD`"""

from typing import Annotated

import typer

from cli.offers import units
from cli.render import say
from farm import settings as settings_

Head = Annotated[str, typer.Argument(metavar="HEAD", help="host:port of the farm's Ray head, e.g. 10.0.0.5:6379.")]
Offer = Annotated[
    str | None, typer.Option("--machine", metavar="CLASS[=UNITS]", help="Join as this class. Left out: what is found.")
]


def join(head: Head, machine: Offer = None) -> None:
    """Let this machine train for the farm whose head is HEAD.

    Stays until Ctrl-C. FARM_REDIS_URL must name the farm's Redis, and FARM_STORAGE the storage that every node sees.
    """
    settings = settings_.load()
    name, count = next(iter((units([machine] if machine else None, settings) or {}).items()), (None, 1))
    from workers.join import join as run

    say(f"joining {head} as {name or 'what this machine is'}; Ctrl-C leaves")
    raise typer.Exit(run(settings, head, name, count))
