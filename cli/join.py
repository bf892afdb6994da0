"""`farm join HEAD`"""

from typing import Annotated

import typer

from cli.offers import split
from farm.site import invitation
from farm.site.settings import Settings

Head = Annotated[
    str,
    typer.Argument(
        metavar="INVITATION|HEAD",
        help="The invitation of `farm up --shared`, a file or - for standard input; or a Ray head, e.g. 10.0.0.5:6379.",
    ),
]
Offer = Annotated[
    str | None, typer.Option("--machine", metavar="CLASS[=UNITS]", help="Join as this class. Default: what is found.")
]
Name = Annotated[str | None, typer.Option("--name", help="This machine's name in the farm. Default: its host name.")]
Reached = Annotated[
    str | None, typer.Option("--host", help="Address by which the head reaches this machine. Default: what is found.")
]


def join(head: Head, machine: Offer = None, name: Name = None, host: Reached = None) -> None:
    """Let this machine train for a farm that another machine shares.

    Stays until Ctrl-C, SIGTERM, `farm drain`, `farm down` there or a cloud's notice that it will be taken away; then
    running runs save a checkpoint and go back to the queue. Set FARM_STORAGE if the storage that every node sees has
    another name here. With a HEAD, FARM_REDIS_URL must name the farm's Redis, and RAY_AUTH_TOKEN_PATH a copy of the
    head's token.
    """
    offered, units = split(machine) if machine else (None, 1)
    secret = None
    if invitation.is_one(head):
        there = invitation.read(head)
        settings = Settings.load(under={"storage": there.storage}, over={"redis_url": there.redis})
        head, secret = there.ray, there.token
    else:
        settings = Settings.load()
    from workers.head.embedded import member

    member(settings, head, secret, machine=offered, units=units, name=name, host=host)
