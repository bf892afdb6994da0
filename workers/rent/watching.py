"""The thread of `farm serve` in which the landlord looks after what is rented."""

import logging
import threading

from farm.errors import FarmError, first_line
from farm.queue.queue import Queue
from farm.record.result import Provenance
from farm.site.settings import Settings
from workers.rent import api_key, arrival
from workers.rent.lambda_cloud import Lambda
from workers.rent.landlord import Landlord

TURN_SECONDS = 2.0  # between looks at the records

log = logging.getLogger("farm")


def of(here: Settings, queue: Queue, software: Provenance) -> Landlord:
    """The one for the farm of `here`, whose rented machines get the same `software`."""
    return Landlord(
        queue,
        here.home,
        lambda: Lambda(*api_key.kept(here.home)),
        lambda one, user, address: arrival.bring(one, user, address, here.home, software),
    )


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
