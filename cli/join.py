"""`farm join HEAD`"""

from typing import Annotated

import typer

from cli.offers import split
from farm import settings as settings_

Head = Annotated[str, typer.Argument(metavar="HEAD", help="host:port of the farm's Ray head, e.g. 10.0.0.5:6379.")]
Offer = Annotated[
    str | None, typer.Option("--machine", metavar="CLASS[=UNITS]", help="Join as this class. Left out: what is found.")
]
Name = Annotated[str | None, typer.Option("--name", help="What the farm calls this machine. Left out: its host name.")]
Reached = Annotated[
    str | None, typer.Option("--host", help="Address by which the head reaches this machine. Left out: what is found.")
]


def join(head: Head, machine: Offer = None, name: Name = None, host: Reached = None) -> None:
    """Let this machine train for the farm whose head is HEAD.

    Stays until Ctrl-C, SIGTERM, `farm drain` or a cloud's notice that it will be taken away; then what trains saves a
    checkpoint and goes back to the queue. FARM_REDIS_URL must name the farm's Redis, FARM_STORAGE the storage that
    every node sees, and RAY_AUTH_TOKEN_PATH a copy of the head's token.
    """
    offered, units = split(machine) if machine else (None, 1)
    from workers.embedded import member

    member(settings_.load(), head, machine=offered, units=units, name=name, host=host)
