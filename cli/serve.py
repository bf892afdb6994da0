"""`farm serve`"""

import logging
import signal
import threading
from typing import Annotated

import typer

from cli.offers import units
from cli.options import Cpus, DashboardPort, Host, Offers
from cli.render import say
from farm import serving
from farm import settings as settings_
from farm.errors import Conflict
from farm.serving import Facts

Attach = Annotated[
    str | None,
    typer.Option("--attach", metavar="ADDRESS", help="Dispatch for the Ray that runs at ADDRESS; offer nothing here."),
]


def serve(
    machine: Offers = None,
    cpus: Cpus = None,
    host: Host = "127.0.0.1",
    dashboard_port: DashboardPort = None,
    attach: Attach = None,
) -> None:
    """Run a farm on this machine in the foreground, until Ctrl-C.

    SIGTERM and Ctrl-C stop it alike: running runs write a checkpoint and go back to the queue.
    """
    settings = settings_.load()
    if (facts := serving.facts(settings)) is not None:
        raise Conflict(f"a farm is up at {settings.home} already, process {facts.pid}.", remedy="Stop it: farm down")
    offered = units(machine, settings)
    from workers.serve import serve as run

    logging.basicConfig(level=logging.INFO, format="%(message)s")
    stop, interrupted = threading.Event(), threading.Event()

    def interrupt(*_: object) -> None:
        interrupted.set()
        stop.set()

    def ready(facts: Facts) -> None:
        signal.signal(signal.SIGTERM, lambda *_: stop.set())  # only now: Ray sets its own while it starts
        signal.signal(signal.SIGINT, interrupt)
        _say_ready(facts)

    options = {"units": offered, "cpus": cpus, "host": host, "dashboard_port": dashboard_port, "attach": attach}
    run(settings, **options, ready=ready, stop=stop)  # type: ignore[arg-type]
    raise typer.Exit(130 if interrupted.is_set() else 0)


def _say_ready(facts: Facts) -> None:
    offered = ", ".join(f"{name} x {count}" for name, count in facts.units.items())
    say(f"up: {offered or 'no machine class'}; dashboard {facts.dashboard}; storage {facts.storage}; Ctrl-C stops it")
