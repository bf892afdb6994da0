"""`farm down`"""

import time
from typing import Annotated

import typer

from cli import render
from cli.access import queue
from cli.options import Json
from cli.render import say
from cli.rented import stray, strays
from farm.errors import FarmError, Guard
from farm.queue.rental import Rental, describe
from farm.site import serving
from farm.site.settings import Settings

KEPT = "rented"  # a folder of the home, which a farm that never rented a machine does not have

Keep = Annotated[bool, typer.Option("--keep-rented", help="Leave rented machines up, and paid for, until `farm up`.")]


def down(keep_rented: Keep = False, as_json: Json = False) -> None:
    """Stop the farm of this machine.

    Running runs write a checkpoint and go back to the queue; `farm up` resumes them. Rented machines are ended, unless
    --keep-rented is given; if they cannot be, the farm stays up.
    """
    settings = Settings.load()
    was = serving.facts(settings)
    stopped, left = False, _prepare(settings, keep_rented)
    if was is not None:
        from workers.head import embedded

        for what in serving.missing(settings, was):
            say(f"missing: {what}")
        say(f"stopping the farm of process {was.pid}; running runs save a checkpoint first")
        stopped = embedded.down(settings)
    say(f"stopped the farm of process {was.pid}" if was and stopped else f"no farm is up at {settings.home}")
    if left:
        _end_rented(settings, left)
    if as_json:
        render.emit_json("farm.down/1", {"stopped": stopped, "pid": was.pid if was else None})


def _prepare(settings: Settings, keep: bool) -> set[str]:
    """The names of the machines that are rented; says what they cost. With `keep`, they stay.

    Raises: Guard: they could not be ended.
    """
    if not (settings.home / KEPT).is_dir():
        return set()
    from workers.rent.names import keeper

    with queue(settings) as open_queue:
        rentals = open_queue.roster.rentals()
        live = [one for one in rentals if one.keeper == keeper(settings.home) and not one.is_over]
        for one in live:
            if one.is_kept != keep:
                open_queue.roster.change_rental(one.name, lambda now: now.model_copy(update={"is_kept": keep}))
        told = describe(live, time.time())
        if told and keep:
            say(f"{told}; they stay, and nobody watches over them until `farm up`")
        if keep or not live:
            return set()
        say(f"{told or 'a machine that is waited for'}; ended with the farm")
        _check_can_end(settings, live)
        for it in strays(settings, open_queue, rentals):
            say(stray(it))
    return {one.name for one in live}


def _check_can_end(settings: Settings, live: list[Rental]) -> None:
    from workers.node import hardware
    from workers.rent import engines

    try:
        for name in sorted({one.cloud for one in live}):
            engines.engine(name, settings, hardware.provenance).instances()
    except FarmError as error:
        raise Guard(
            f"{describe(live, time.time()) or 'machines are waited for'}, and cannot be ended now: {error}",
            remedy="Mend that, or leave them to be paid for: farm down --keep-rented",
        ) from None


def _end_rented(settings: Settings, names: set[str]) -> None:
    """End what the farm that stopped has not; it may have crashed. Raises: Unreachable: something still costs money."""
    from workers.rent.ending import end_all

    with queue(settings) as open_queue:
        end_all(settings, open_queue, "farm down")
        for one in open_queue.roster.rentals():
            if one.name in names and one.launched:
                say(f"{one.name} was ended; it cost ${one.spent(time.time()):,.2f}")
