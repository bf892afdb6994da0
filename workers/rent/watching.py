"""The threads of `farm serve` in which landlords look after what is rented, one for each engine: a slow one delays no
other."""

import logging
import threading
from collections.abc import Sequence

from farm.errors import FarmError, first_line
from farm.queue.queue import Queue
from farm.queue.rental import Rental
from farm.site.settings import Settings
from workers.rent import engines
from workers.rent.engine import Software
from workers.rent.landlord import Landlord

TURN_SECONDS = 2.0  # between looks at the records

log = logging.getLogger("farm")


def of(here: Settings, queue: Queue, software: Software) -> list[Landlord]:
    """Those for the farm of `here`, whose rented machines get the same `software`."""
    return [Landlord(queue, here.home, engines.engine(name, here, software)) for name in engines.NAMES]


def close(landlords: Sequence[Landlord], reason: str, name: str | None = None) -> list[Rental]:
    """End everything that is not to be kept (L4), or the machine `name`; those that may still cost money."""
    return [one for landlord in landlords for one in landlord.close(reason, name=name)]


def watch(landlord: Landlord, stop: threading.Event) -> None:
    """Turn until `stop` is set, whatever goes wrong in between: what is rented goes on costing money."""
    is_begun = False
    while not stop.wait(TURN_SECONDS):
        try:
            if not is_begun:
                landlord.begin()
                is_begun = True
            landlord.turn()
        except FarmError as error:
            log.warning("%s; trying again", first_line(error))
        except Exception:
            log.exception("the machines that are rented could not be looked after; trying again")
