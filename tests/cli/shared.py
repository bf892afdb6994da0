"""A farm that is up and shared, as commands see it that rent machines for it."""

import os
import time

from farm.queue.node import Head
from farm.site import serving
from farm.site.process import identity
from farm.site.serving import Facts
from farm.site.settings import Settings
from workers.node import hardware

from .conftest import Farm

MARKER = "the-storage"


def share(farm: Farm, here: Settings) -> None:
    """As `farm up --shared` leaves it: this process is its dispatcher."""
    pid = os.getpid()
    facts = Facts(pid=pid, process=identity(pid) or "", redis="redis://x", dashboard="http://x", units={}, storage="s",
                  started=time.time(), log="log", shared="203.0.113.7")  # fmt: skip
    serving.announce(here, facts)
    software = hardware.provenance()
    farm.queue.roster.publish(Head(host="here", ray="ray", software=software, sources="/", storage="s", marker=MARKER))
